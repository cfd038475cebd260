//! SQLite under a limit, in three ways: a hook, a progress handler, and a busy handler.
//!
//! ```text
//! cargo run -p timebox-databases --example sqlite_interrupt
//! ```
//!
//! The example checks each line before it prints the line. If a check fails, the example ends with a non-zero status.

use std::error::Error as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use timebox::{TimeoutError, timeout};

use timebox_databases::sqlite::{AnyError, checked, guarded, look_at_scopes};

#[path = "support/showing.rs"]
mod showing;

use showing::{LIMIT, check, show, timed_out};

const ENDLESS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n";
const ADD: &str = "insert into entry (amount) values (40)";

fn main() -> ExitCode {
    showing::run("sqlite_interrupt", || {
        let folder = tempfile::tempdir()?;
        let open = || Connection::open(folder.path().join("ledger.db"));
        open()?.execute_batch("create table entry (amount integer)")?;
        let (mut connection, mut other) = (open()?, open()?);
        hook(&mut connection, &other)?;
        progress_handler(&mut connection)?;
        busy_handler(&connection, &mut other)
    })
}

fn number(connection: &Connection, query: &str) -> rusqlite::Result<i64> {
    connection.query_row(query, [], |row| row.get(0))
}

fn is_interrupt(error: &TimeoutError) -> bool {
    let said = error.source().and_then(|source| source.downcast_ref::<rusqlite::Error>());
    said.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::OperationInterrupted)
}

fn hook(connection: &mut Connection, other: &Connection) -> Result<(), AnyError> {
    let interrupt = connection.get_interrupt_handle();
    let start = Instant::now();
    let error = timed_out(timeout(LIMIT, || {
        let transaction = connection.transaction()?;
        transaction.execute(ADD, [])?;
        guarded(&interrupt, || number(&transaction, ENDLESS))?;
        transaction.commit()?;
        Ok(())
    }))?;
    check(is_interrupt(&error), "SQLite was interrupted in a statement")?;
    show("an endless query, by a hook", start, &error)?;

    other.busy_timeout(Duration::ZERO)?;
    other.execute_batch("begin immediate; rollback")?;
    check(number(other, "select count(*) from entry")? == 0, "nothing half-written stayed")?;
    println!("  another connection gets the write lock at once, and sees nothing half-written");
    check(number(connection, "select 42")? == 42, "the next statement is not hit")?;
    println!("  the next statement on the interrupted connection is not hit");
    Ok(())
}

fn progress_handler(connection: &mut Connection) -> Result<(), AnyError> {
    look_at_scopes(connection)?;
    let start = Instant::now();
    let error = timed_out(timeout(LIMIT, || checked(number(connection, ENDLESS))))?;
    show("an endless query, by a progress handler", start, &error)?;
    check(number(connection, "select 42")? == 42, "outside of the scope it is as if nothing had been")
}

fn busy_handler(connection: &Connection, other: &mut Connection) -> Result<(), AnyError> {
    let lock = other.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let start = Instant::now();
    let error = timed_out(timeout(LIMIT, || checked(connection.execute(ADD, []))))?;
    show("waiting for a lock, by a busy handler", start, &error)?;
    drop(lock);
    check(connection.execute(ADD, [])? == 1, "the lock is free, and it writes")?;
    println!("  the lock is free, and the same connection writes");
    Ok(())
}
