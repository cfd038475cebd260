//! SQLite, in process. The sweeps over transactions of SQLite are in `tests/late_hooks.rs` of the crate `timebox`.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use timebox::{Timebox, timeout, with_timeout};

use crate::recipes::sqlite::{checked, guarded, look_at_scopes};
use crate::support::{AnyError, HANG, LONG, SHORT, alone, sweep, timed_out};

const ENDLESS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n";

/// Counts to `rows` one by one, so that it takes a while.
fn count(connection: &Connection, rows: i64) -> rusqlite::Result<i64> {
    let sql =
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?1) select count(*) from n";
    connection.prepare_cached(sql)?.query_row([rows], |row| row.get(0))
}

fn number(connection: &Connection, query: &str) -> rusqlite::Result<i64> {
    connection.query_row(query, [], |row| row.get(0))
}

fn is_interrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

#[test]
fn the_next_three_statements_are_never_hit() {
    let _alone = alone();
    let connection = Connection::open_in_memory().unwrap();
    let interrupt = connection.get_interrupt_handle();
    let statement = |limit| timeout(limit, || guarded(&interrupt, || count(&connection, 600)).map(drop));
    let follow_up = || {
        let hits = (0..3).filter(|_| count(&connection, 100).is_err_and(|error| is_interrupt(&error)));
        u32::try_from(hits.count()).unwrap()
    };
    sweep(3000, Duration::from_micros(300), statement, follow_up).check("SQLite, 3000 runs");
}

/// Shows that the test above can fail: a hook that outlives its statement hits a later statement, and the test notices
/// it.
#[test]
fn a_hook_that_outlives_its_statement_hits_the_next() {
    let _alone = alone();
    let connection = Connection::open_in_memory().unwrap();
    let was_hit = (0..3000).any(|_| {
        let interrupt = connection.get_interrupt_handle();
        with_timeout(Duration::from_micros(300), |scope| {
            let _outlives = scope.on_cancel(timebox::Hook::inline(move || interrupt.interrupt()));
            let own = count(&connection, 600);
            let next = (0..3).any(|_| count(&connection, 600).is_err_and(|error| is_interrupt(&error)));
            Ok::<_, AnyError>(own.is_ok() && next)
        })
        .is_ok_and(|hit| hit)
    });
    assert!(was_hit);
}

#[test]
fn a_progress_handler_sees_the_scope_and_nothing_else() {
    let _alone = alone();
    let mut connection = Connection::open_in_memory().unwrap();
    look_at_scopes(&mut connection).unwrap();
    for _ in 0..20 {
        let error = timed_out(timeout(SHORT, || checked(number(&connection, ENDLESS))));
        assert!(error.is_timeout() && error.limit() == Some(SHORT));
        // The handler ends no later statement: neither outside of all scopes, nor in a scope that is not over.
        assert_eq!(count(&connection, 1000).unwrap(), 1000);
        assert_eq!(timeout(LONG, || checked(count(&connection, 1000))).unwrap(), 1000);
    }
}

#[test]
fn a_rollback_in_a_shield_is_not_stopped() {
    let _alone = alone();
    let mut connection = Connection::open_in_memory().unwrap();
    look_at_scopes(&mut connection).unwrap();
    connection.execute_batch("create table entry (amount)").unwrap();
    let result = timeout(SHORT, || {
        connection.execute_batch("begin; insert into entry values (1)")?;
        let sum = checked(number(&connection, ENDLESS));
        assert!(sum.is_err());
        timebox::shield(HANG, || connection.execute_batch("rollback"))?;
        sum
    });
    assert!(timed_out(result).is_timeout());
    assert!(connection.is_autocommit());
    assert_eq!(number(&connection, "select count(*) from entry").unwrap(), 0);
}

/// Calls `test` with a connection to a file that another connection has locked for writing. After that, the connection
/// must still work.
fn waiting_for_the_lock(test: impl FnOnce(&Connection)) {
    let folder = tempfile::tempdir().unwrap();
    let open = || Connection::open(folder.path().join("ledger.db")).unwrap();
    let (mut owner, mut waiting) = (open(), open());
    owner.execute_batch("create table entry (amount)").unwrap();
    look_at_scopes(&mut waiting).unwrap();
    let lock = owner.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    test(&waiting);
    drop(lock);
    assert_eq!(waiting.execute("insert into entry values (1)", []).unwrap(), 1);
}

#[test]
fn waiting_for_a_lock_ends_within_the_scope() {
    let _alone = alone();
    waiting_for_the_lock(|waiting| {
        let interrupt = waiting.get_interrupt_handle();
        let mut lateness: Vec<Duration> = (0..20)
            .map(|_| {
                let start = Instant::now();
                let write = || waiting.execute("insert into entry values (2)", []);
                let error = timed_out(timeout(SHORT, || guarded(&interrupt, write)));
                assert!(error.is_timeout() && start.elapsed() >= SHORT);
                start.elapsed().saturating_sub(SHORT)
            })
            .collect();
        lateness.sort_unstable();
        // The median. Without the scope, the busy handler of `look_at_scopes` would go on for at least 5 s.
        assert!(lateness[10] < Duration::from_secs(2), "{lateness:?}");
        println!("SQLite, waiting for a lock: late {:?} {:?}", lateness[10], lateness[18]);
    });
}

#[test]
fn waiting_for_a_lock_ends_when_the_scope_is_cancelled() {
    let _alone = alone();
    waiting_for_the_lock(|waiting| {
        let (started, has_started) = channel();
        let result = Timebox::new(LONG).run(|scope| {
            let token = scope.token();
            let user = thread::spawn(move || {
                has_started.recv().unwrap();
                token.cancel();
            });
            started.send(()).unwrap();
            let result = checked(waiting.execute("insert into entry values (2)", []));
            user.join().unwrap();
            result
        });
        assert!(timed_out(result).is_cancelled());
    });
}

#[test]
fn an_error_that_is_no_interrupt_stays_what_it_is() {
    let connection = Connection::open_in_memory().unwrap();
    let interrupt = connection.get_interrupt_handle();
    let result = timeout(LONG, || guarded(&interrupt, || number(&connection, "select nonsense")));
    assert!(result.unwrap_err().is::<rusqlite::Error>());
}
