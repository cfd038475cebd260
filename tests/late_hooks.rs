//! No late interrupt, on a real SQLite database and on real sockets: a hook dies with the call it interrupts, and
//! what is run right after that call is never hit.
#![cfg(not(miri))]

use std::error::Error;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, InterruptHandle};
use timebox::{Hook, Timebox, TimeoutError, with_timeout};

/// Runs of the sweep, and how many of them must have gone each way.
const RUNS: u32 = 3000;
const FIRED: u32 = 1000;
const ENDED: u32 = 500;

/// A limit that is never meant to pass.
const LONG: Duration = Duration::from_secs(3600);

/// How long a statement may take on the slowest, busiest machine before it counts as never interrupted.
const HANG: Duration = Duration::from_secs(40);

/// A statement that never ends by itself.
const ENDLESS: i64 = i64::MAX;

/// A mutant is switched on for the whole process, and a sweep measures time: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A database file with two connections to it.
struct Database {
    connection: Connection,
    other: Connection,
    #[expect(dead_code, reason = "the files go with it")]
    folder: tempfile::TempDir,
}

impl Database {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let connection = Connection::open(folder.path().join("accounts.db")).unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            connection.pragma_update(None, "synchronous", "off").unwrap();
            connection
        };
        let (connection, other) = (open(), open());
        connection.execute_batch("CREATE TABLE entry (amount INTEGER NOT NULL)").unwrap();
        Self { connection, other, folder }
    }

    /// The second connection gets the lock at once, and sees nothing half-written.
    fn lock_is_free_and_nothing_is_half_written(&self) {
        self.other.execute_batch("BEGIN IMMEDIATE").expect("the lock is free");
        let entries: i64 = self.other.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap();
        assert_eq!(entries, 0);
        self.other.execute_batch("ROLLBACK").unwrap();
    }

    fn connection_is_usable(&self) {
        assert_eq!(count(&self.connection, 10).unwrap(), 10);
    }
}

/// Counts to `rows`, the slow way.
fn count(connection: &Connection, rows: i64) -> rusqlite::Result<i64> {
    let sql =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT count(*) FROM n";
    connection.prepare_cached(sql)?.query_row([rows], |row| row.get(0))
}

/// Rolls back what is open.
fn end_transaction(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("ROLLBACK") }
}

fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// The statement whose interruption an error tells of.
fn is_by_interrupt(error: &TimeoutError) -> bool {
    error.source().and_then(|source| source.downcast_ref::<rusqlite::Error>()).is_some_and(is_interrupted)
}

/// As many rows as take about this long to count here and now.
fn rows_for(connection: &Connection, time: Duration) -> i64 {
    let mut rows = 1000;
    loop {
        let mut times = [(); 5].map(|()| {
            let start = Instant::now();
            count(connection, rows).unwrap();
            start.elapsed()
        });
        times.sort_unstable();
        if times[2] >= time {
            return rows;
        }
        rows += rows / 4;
    }
}

/// How a sweep went.
#[derive(Debug, Default)]
struct Sweep {
    /// Runs in which the hook fired.
    fired: u32,
    /// Runs that ended by themselves before it could.
    ended: u32,
    /// Statements interrupted that were none of the hook's business.
    hits: u32,
}

impl Sweep {
    /// Runs a statement that nobody may interrupt, until it succeeds.
    fn unhurt<T>(&mut self, statement: impl Fn() -> rusqlite::Result<T>) -> T {
        loop {
            match statement() {
                Ok(value) => return value,
                Err(error) if is_interrupted(&error) => self.hits += 1,
                Err(error) => panic!("not even an interrupt: {error}"),
            }
        }
    }
}

/// Sweeps the deadline over the end of a statement, and runs another right after it.
///
/// The middle of the sweep follows the machine: a run that fired moves it later, one that ended by itself earlier, so
/// that both are about as many, whatever the speed and the load.
fn sweep(enough_hits: u32) -> Sweep {
    // The hook looks at nothing that can go: with the mutant on it may outlive the sweep.
    static FIRES: AtomicU32 = AtomicU32::new(0);
    let database = Database::new();
    let connection = &database.connection;
    let interrupt: &'static InterruptHandle = Box::leak(Box::new(connection.get_interrupt_handle()));
    let rows = rows_for(connection, Duration::from_micros(700));
    let mut middle = Duration::from_micros(700);
    let mut seen = Sweep::default();

    let (mut run, mut not_made) = (0, 0);
    while seen.fired + seen.ended < RUNS && seen.hits < enough_hits {
        run += 1;
        seen.unhurt(|| {
            // An interrupted write is rolled back by SQLite itself, and the transaction with it: both or nothing.
            end_transaction(connection)?;
            connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO entry VALUES (7)")
        });
        // From half of the middle to one and a half of it, in a scattered order.
        let limit = middle * (32 + run * 29 % 64) / 64;
        let before = FIRES.load(SeqCst);
        let mut made = false;
        let (first, second) = Timebox::new(limit)
            .run_value(|scope| {
                let hook = if run % 4 == 0 {
                    Hook::inline(move || {
                        FIRES.fetch_add(1, SeqCst);
                        interrupt.interrupt();
                    })
                } else {
                    Hook::new(move || {
                        FIRES.fetch_add(1, SeqCst);
                        // It has to be sent somewhere, and the call may end meanwhile.
                        std::thread::sleep(middle / 2);
                        interrupt.interrupt();
                    })
                };
                let first = scope.interruptible(hook, || {
                    made = true;
                    count(connection, rows)
                });
                (first, count(connection, rows))
            })
            .unwrap();
        let fired = FIRES.load(SeqCst) > before;
        seen.fired += u32::from(fired);
        seen.ended += u32::from(made && !fired);
        not_made = if made { 0 } else { not_made + 1 };
        // A call that was not made says nothing, unless there are only such.
        if fired || not_made > 8 {
            middle += middle / 100;
        } else if made {
            middle -= middle / 100;
        }
        match first {
            // An `Ok` wins even if the hook fired: the statement had just ended.
            Ok(Ok(value)) => assert_eq!(value, rows),
            Ok(Err(error)) if is_interrupted(&error) => seen.hits += 1,
            Ok(Err(error)) => panic!("not even an interrupt: {error}"),
            // Not made at all if the machine was too busy.
            Err(error) => assert!(!made || (fired && is_by_interrupt(&error)), "{error}"),
        }
        match second {
            Ok(value) => assert_eq!(value, rows),
            Err(error) => {
                assert!(is_interrupted(&error), "{error}");
                seen.hits += 1;
            }
        }
        // An interrupted read leaves the transaction to us.
        seen.unhurt(|| end_transaction(connection));
        database.lock_is_free_and_nothing_is_half_written();
        seen.unhurt(|| count(connection, 10));
    }
    seen
}

#[test]
fn a_statement_right_after_an_interrupted_one_is_never_hit() {
    let _alone = alone();
    let seen = sweep(u32::MAX);
    println!("{seen:?}");
    assert_eq!(seen.hits, 0, "{seen:?}");
    assert!(seen.fired >= FIRED && seen.ended >= ENDED, "the sweep missed the deadline: {seen:?}");
}

/// The check of the check: the same sweep sees the hits that the wait in the registration's drop prevents.
#[cfg(timebox_mutants)]
#[test]
fn without_the_wait_in_the_drop_the_same_sweep_sees_hits() {
    use timebox::mutants::{Mutant, set};

    /// On again when this is dropped, whatever the test comes to.
    struct Broken;
    impl Drop for Broken {
        fn drop(&mut self) {
            set(Mutant::NoRevoke, false);
        }
    }
    const HITS: u32 = 300;

    let _alone = alone();
    set(Mutant::NoRevoke, true);
    let _broken = Broken;
    let seen = sweep(HITS);
    println!("{seen:?}");
    assert!(seen.hits >= HITS, "{seen:?}");
}

#[test]
fn an_interrupt_before_the_statement_starts_still_stops_it() {
    let _alone = alone();
    let database = Database::new();
    let interrupt = database.connection.get_interrupt_handle();
    for _ in 0..20 {
        let start = Instant::now();
        let fires = AtomicU32::new(0);
        let hook = Hook::inline(|| {
            fires.fetch_add(1, SeqCst);
            interrupt.interrupt();
        });
        let error = with_timeout(LONG, |scope| {
            scope.interruptible(hook, || {
                scope.token().cancel();
                // SQLite forgets an interrupt that comes while no statement runs.
                while fires.load(SeqCst) == 0 {
                    std::thread::yield_now();
                }
                count(&database.connection, ENDLESS)
            })
        })
        .unwrap_err();
        assert!(is_by_interrupt(&error), "{error}");
        assert!(start.elapsed() < HANG);
        database.connection_is_usable();
    }
}

#[test]
fn after_an_interrupted_write_the_lock_is_free_and_the_connection_usable() {
    let _alone = alone();
    let mut database = Database::new();
    let interrupt = database.connection.get_interrupt_handle();
    for _ in 0..20 {
        let error = with_timeout(LONG, |scope| {
            let transaction = database.connection.transaction()?;
            transaction.execute("INSERT INTO entry VALUES (7)", [])?;
            let sql = "INSERT INTO entry WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
            let written = scope.interruptible(Hook::inline(|| interrupt.interrupt()), || {
                scope.token().cancel();
                transaction.execute(sql, [])
            })?;
            written?;
            transaction.commit()?;
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        })
        .unwrap_err();
        assert!(is_by_interrupt(error.downcast_ref().expect("our error")), "{error}");
        database.lock_is_free_and_nothing_is_half_written();
        database.connection_is_usable();
    }
}

#[test]
fn after_an_interrupted_read_the_transaction_is_left_to_its_owner() {
    let _alone = alone();
    let mut database = Database::new();
    let interrupt = database.connection.get_interrupt_handle();
    for _ in 0..20 {
        let transaction = database.connection.transaction().unwrap();
        transaction.execute("INSERT INTO entry VALUES (7)", []).unwrap();
        let error = with_timeout(LONG, |scope| {
            scope.interruptible(Hook::inline(|| interrupt.interrupt()), || {
                scope.token().cancel();
                count(&transaction, ENDLESS)
            })
        })
        .unwrap_err();
        assert!(is_by_interrupt(&error), "{error}");
        assert!(!transaction.is_autocommit());
        drop(transaction);
        database.lock_is_free_and_nothing_is_half_written();
        database.connection_is_usable();
    }
}

#[test]
fn a_blocked_socket_read_is_an_expiry_two_hundred_times() {
    let _alone = alone();
    let limit = Duration::from_millis(3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lateness: Vec<Duration> = (0..200)
        .map(|_| {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_far, _) = listener.accept().unwrap();
            let clone = near.try_clone().unwrap();
            let start = Instant::now();
            let error = with_timeout(limit, |scope| {
                let shutdown = Hook::inline(|| clone.shutdown(Shutdown::Both)).spoils();
                scope.interruptible(shutdown, || (&near).read(&mut [0]))
            })
            .expect_err("never Ok(Ok(0))");
            let elapsed = start.elapsed();
            assert!(error.is_timeout() && error.started(), "{error}");
            assert!(elapsed >= limit && elapsed < HANG);
            elapsed.saturating_sub(limit)
        })
        .collect();
    lateness.sort_unstable();
    // A figure to read, not a gate: it depends on the machine and on what else it does.
    println!("interrupted read: lateness p50 {:?}, p90 {:?}", lateness[100], lateness[180]);
}
