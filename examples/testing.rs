//! Failure paths under test, on a real `SQLite` database file: `cargo run --features testing --example testing`.
//!
//! A transfer between two accounts has a bug that the usual tests do not see: what it does to roll back goes through
//! the same guarded call as everything else, which finds the scope over, and so the ROLLBACK is skipped. Expiry at each
//! interruption point in turn finds it; once the cleanup is shielded, it finds nothing any more.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use timebox::testing::{MockClock, Outcome, try_for_each_checkpoint};
use timebox::{TimeoutError, interruptible, shield, timeout};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A statement that no scope has to wait for. `track_caller`: a report names the lines of the callers.
#[track_caller]
fn execute(db: &Connection, sql: &str) -> Result<(), Error> {
    let handle = db.get_interrupt_handle();
    Ok(interruptible(timebox::Hook::inline(move || handle.interrupt()), || db.execute_batch(sql))??)
}

/// How a transfer that fails is undone.
type Cleanup = fn(&Connection) -> Result<(), Error>;

/// The bug: in a scope that is over this does nothing at all.
fn roll_back(db: &Connection) -> Result<(), Error> {
    execute(db, "ROLLBACK")
}

/// In here only the shield's own limit counts.
fn roll_back_shielded(db: &Connection) -> Result<(), Error> {
    shield(Duration::from_secs(5), || execute(db, "ROLLBACK"))
}

/// Moves an amount from the first account to the second.
fn transfer(db: &Connection, amount: u32, cleanup: Cleanup) -> Result<(), Error> {
    execute(db, "BEGIN IMMEDIATE")?;
    let moved = (|| {
        execute(db, &format!("UPDATE account SET balance = balance - {amount} WHERE id = 1"))?;
        execute(db, &format!("UPDATE account SET balance = balance + {amount} WHERE id = 2"))?;
        execute(db, "COMMIT")
    })();
    moved.inspect_err(|_| drop(cleanup(db)))
}

/// Two accounts with a hundred in the first, in a file.
struct Bank {
    path: PathBuf,
    db: Connection,
}

impl Bank {
    fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("bank.db");
        let db = Connection::open(&path)?;
        db.execute_batch(
            "DROP TABLE IF EXISTS account;
             CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0));
             INSERT INTO account VALUES (1, 100), (2, 0)",
        )?;
        Ok(Self { path, db })
    }

    /// As another client sees them. It asks for the lock and does not wait for it.
    fn balances(&self) -> Result<[i64; 2], Error> {
        let other = Connection::open(&self.path)?;
        other.busy_timeout(Duration::ZERO)?;
        other.execute_batch("BEGIN IMMEDIATE")?;
        let balance =
            |id: i64| other.query_row("SELECT balance FROM account WHERE id = ?", [id], |row| row.get(0));
        Ok([balance(1)?, balance(2)?])
    }
}

// The usual tests: each says what is wrong, if anything is.

fn it_moves_the_amount(bank: &Bank, cleanup: Cleanup) -> Result<(), Error> {
    timeout(Duration::from_secs(60), || transfer(&bank.db, 30, cleanup))?;
    expect(&bank.balances()?, &[70, 30])
}

fn it_fails_without_funds_and_changes_nothing(bank: &Bank, cleanup: Cleanup) -> Result<(), Error> {
    let error =
        timeout(Duration::from_secs(60), || transfer(&bank.db, 130, cleanup)).expect_err("no such funds");
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    expect(&code, &Some(ErrorCode::ConstraintViolation))?;
    expect(&bank.balances()?, &[100, 0])
}

fn it_is_not_begun_when_there_is_no_time(bank: &Bank, cleanup: Cleanup) -> Result<(), Error> {
    let error = timeout(Duration::ZERO, || transfer(&bank.db, 30, cleanup)).expect_err("no time");
    expect(&error.downcast_ref().map(TimeoutError::started), &Some(false))?;
    expect(&bank.balances()?, &[100, 0])
}

fn it_times_out_before_it_begins(bank: &Bank, cleanup: Cleanup) -> Result<(), Error> {
    let hour = Duration::from_secs(3600);
    let result = MockClock::new().run(|clock| {
        timeout(hour, || {
            clock.advance(hour);
            transfer(&bank.db, 30, cleanup)
        })
    });
    expect(&result.expect_err("no time").downcast_ref().map(TimeoutError::elapsed), &Some(hour))?;
    expect(&bank.balances()?, &[100, 0])
}

// And this one: wherever it expires, all or nothing has been moved, and nothing is locked.

fn it_is_all_or_nothing_wherever_it_expires(folder: &Path, cleanup: Cleanup) -> Result<(), Error> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let report = try_for_each_checkpoint(|| {
        let bank = Bank::open(folder).expect("a database");
        let result = timeout(Duration::from_secs(60), || transfer(&bank.db, 30, cleanup));
        let expected = if result.is_ok() { [70, 30] } else { [100, 0] };
        match bank.balances() {
            Ok(balances) => assert_eq!(balances, expected),
            Err(error) => panic!("{error}"),
        }
        result
    });
    std::panic::set_hook(quiet);
    expect(&matches!(report.unharmed(), Outcome::Returned(Ok(()))), &true)?;
    if report.failures().next().is_none() { Ok(()) } else { Err(report.to_string().into()) }
}

fn expect<T: PartialEq + std::fmt::Debug>(is: &T, should: &T) -> Result<(), Error> {
    if is == should { Ok(()) } else { Err(format!("{is:?} instead of {should:?}").into()) }
}

fn show(name: &str, result: &Result<(), impl Display>) -> bool {
    match result {
        Ok(()) => println!("  ok      {name}"),
        Err(error) => println!("  FAILED  {name}\n{}", error.to_string().trim_end()),
    }
    result.is_ok()
}

type Test = fn(&Bank, Cleanup) -> Result<(), Error>;

const USUAL: [(&str, Test); 4] = [
    ("it moves the amount", it_moves_the_amount),
    ("it fails without funds, and changes nothing", it_fails_without_funds_and_changes_nothing),
    ("it is not begun when there is no time", it_is_not_begun_when_there_is_no_time),
    ("it times out before it begins", it_times_out_before_it_begins),
];

/// Which of the usual tests pass, and whether the sweep does.
fn run(cleanup: Cleanup) -> Result<(bool, bool), Error> {
    let folder = tempfile::tempdir()?;
    let mut usual = true;
    for (name, test) in USUAL {
        let bank = Bank::open(folder.path())?;
        usual &= show(name, &test(&bank, cleanup));
    }
    let swept = it_is_all_or_nothing_wherever_it_expires(folder.path(), cleanup);
    Ok((usual, show("it is all or nothing, wherever it expires", &swept)))
}

fn main() -> Result<ExitCode, Error> {
    println!("with the bug:");
    let bug = run(roll_back)?;
    println!("\nwith the cleanup in a shield:");
    let mended = run(roll_back_shielded)?;
    // The bug is found, and by nothing but the sweep.
    let as_told = bug == (true, false) && mended == (true, true);
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
