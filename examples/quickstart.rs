//! Work on a SQLite database file: first without a limit, then with one that stops it and undoes what it had begun.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! Every line it prints has been checked. The first thing that is not as the line says ends it with a non-zero status.

use std::{
    error::Error as _,
    fmt, io, iter,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, InterruptHandle, TransactionBehavior};
use timebox::{Cause, Hook, Quota, Timebox, TimeoutError, future};

/// The limit of what is to be stopped.
const SHORT: Duration = Duration::from_millis(200);
/// A limit that is not reached here.
const LONG: Duration = Duration::from_secs(60);
/// What async work that was told to stop has for ending.
const GRACE: Duration = Duration::from_secs(5);
/// The primes below this take seconds.
const MANY: u64 = 10_000_000;

/// An error type of an application: one `From<TimeoutError>` is all that the crate asks of it.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Timeout(#[from] TimeoutError),
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("blocking task: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a call was cut off in the middle, and its connection went with it")]
    NoConnection,
    #[error("not so: {0}")]
    NotSo(String),
}

type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    match quickstart() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn quickstart() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("ledger.db");
    Connection::open(&file)?.execute_batch(LEDGER)?;

    println!("{:<38}{:>7}{:>9}  came back with", "on one thread, SQLite on disk", "limit", "after");
    without_a_limit(&file)?;
    runaway_insert(&file)?;
    busy_loop()?;
    cheaper_answer(&file)?;
    outer_limit(&file)?;
    shared_quota(&file)?;

    println!("async, on one thread of tokio");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        runaway_query_async(&file).await?;
        busy_future().await?;
        cheaper_answer_async(&file).await?;
        outer_limit_async(&file).await?;
        shared_quota_async(&file).await?;
        cut_off().await
    })
}

// ===== The database =====

const LEDGER: &str = "
    create table entry (id integer primary key, amount integer not null);
    insert into entry (amount) values (10), (20), (30);";
const ADD: &str = "insert into entry (amount) values (40)";
/// These two take seconds or minutes: a limit that does not hold shows, and does not hang.
const RUNAWAY_INSERT: &str = "
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000000)
    insert into entry (amount) select i from n";
const RUNAWAY_SUM: &str = "
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000000)
    select sum(amount * i) from entry, n";
const QUICK_SUM: &str = "select sum(amount) from entry";
const STEP: &str = "
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
    select sum(i) from n";

/// A query with one number for an answer; the scope around it interrupts it.
fn number(connection: &Connection, query: &str) -> Result<i64> {
    let interrupt = connection.get_interrupt_handle();
    let hook = Hook::inline(move || interrupt.interrupt());
    Ok(timebox::interruptible(hook, || connection.query_row(query, [], |row| row.get(0)))??)
}

/// Takes the write lock at once or fails, then counts the entries: as somebody else would see them.
fn seen_by_another(file: &Path) -> Result<i64> {
    let mut other = Connection::open(file)?;
    other.busy_timeout(Duration::ZERO)?;
    let transaction = other.transaction_with_behavior(TransactionBehavior::Immediate)?;
    Ok(transaction.query_row("select count(*) from entry", [], |row| row.get(0))?)
}

fn is_locked<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
}

// ===== Synchronous =====

/// Adds an entry, and then millions. A transaction that is dropped without a commit is rolled back.
fn add_millions(connection: &mut Connection, file: &Path) -> Result<()> {
    let interrupt = connection.get_interrupt_handle();
    let transaction = connection.transaction()?;
    transaction.execute(ADD, [])?;
    check(is_locked(seen_by_another(file)), "the open transaction has the write lock")?;
    let hook = Hook::inline(move || interrupt.interrupt());
    timebox::interruptible(hook, || transaction.execute(RUNAWAY_INSERT, []))??;
    Ok(transaction.commit()?)
}

/// Nobody stops this one: whoever waits for it waits to its end, and so does who wants to write.
fn without_a_limit(file: &Path) -> Result<()> {
    let mut connection = Connection::open(file)?;
    let start = Instant::now();
    let transaction = connection.transaction()?;
    let rows = transaction.execute(RUNAWAY_INSERT, [])?;
    let taken = start.elapsed();
    check(taken > SHORT, "the insert takes longer than the limit that it is given next")?;
    check(is_locked(seen_by_another(file)), "the open transaction has the write lock")?;
    transaction.rollback()?;
    println!("{:<38}{:>7}{taken:>9.1?}  Ok({rows} rows)", "insert that takes too long", "none");
    println!("  nothing stopped it, and no other connection could write meanwhile");
    Ok(())
}

fn runaway_insert(file: &Path) -> Result<()> {
    let mut connection = Connection::open(file)?;
    let start = Instant::now();
    let result = Timebox::new(SHORT).label("add").run(|_| add_millions(&mut connection, file));
    let error = stopped_in_sqlite(result)?;
    show("the same insert, in a limit", SHORT, start, named(&error, Cause::Deadline, "add")?)?;
    println!("  the error says: {error}");

    check(seen_by_another(file)? == 3, "nothing half-written stayed")?;
    intact("a second connection gets the write lock at once and sees the 3 rows from before");

    let transaction = connection.transaction()?;
    check(transaction.execute(ADD, [])? == 1, "the interrupted connection writes")?;
    transaction.rollback()?;
    intact("the interrupted connection is usable: it added a row and rolled it back");
    Ok(())
}

/// The checkpoint is where this can be stopped.
fn count_primes(below: u64) -> Result<u64> {
    let mut primes = 0;
    for n in 2..below {
        timebox::checkpoint()?;
        primes += u64::from((2..=n.isqrt()).all(|d| n % d != 0));
    }
    Ok(primes)
}

fn busy_loop() -> Result<()> {
    let start = Instant::now();
    let error = stopped(Timebox::new(SHORT).label("primes").run(|_| count_primes(MANY)))?;
    show("loop on the CPU, with a checkpoint", SHORT, start, named(&error, Cause::Deadline, "primes")?)
}

enum Answer {
    Exact(i64),
    Estimate(i64, TimeoutError),
}

/// The exact answer if it is there within the limit, else the estimate.
fn sum(connection: &Connection, limit: Duration) -> Result<Answer> {
    Timebox::new(limit).label("exact").run_or_else(
        |_| Ok(Answer::Exact(number(connection, RUNAWAY_SUM)?)),
        |timed_out| Ok(Answer::Estimate(number(connection, QUICK_SUM)?, timed_out)),
    )
}

fn cheaper_answer(file: &Path) -> Result<()> {
    let connection = Connection::open(file)?;
    let start = Instant::now();
    let answer = Timebox::new(LONG).label("request").run(|_| sum(&connection, SHORT))?;
    show("exact sum, else a cheaper answer", SHORT, start, estimate(answer)?)
}

fn outer_limit(file: &Path) -> Result<()> {
    let connection = Connection::open(file)?;
    let start = Instant::now();
    let error = stopped(Timebox::new(SHORT).label("request").run(|_| sum(&connection, LONG)))?;
    show("the same, but the caller's limit ends", SHORT, start, named(&error, Cause::Deadline, "request")?)
}

/// Step after step, each within what its predecessors have left of the quota.
fn all_steps(connection: &Connection, quota: &Quota, pause: Duration, done: &mut u32) -> Result<()> {
    loop {
        quota.timeout(|| number(connection, STEP))?;
        *done += 1;
        timebox::sleep(pause)?; // outside of the quota
    }
}

fn shared_quota(file: &Path) -> Result<()> {
    let connection = Connection::open(file)?;
    let (quota, mut done) = (Quota::new(SHORT), 0);
    let start = Instant::now();
    let error = stopped(all_steps(&connection, &quota, Duration::from_millis(1), &mut done))?;
    let refused = stopped(quota.timeout(|| number(&connection, STEP)))?;
    check(quota.is_exhausted() && !refused.started(), "a spent quota lets nothing start")?;
    let outcome =
        format!("{} after {done} queries; the pauses between them are free", cause(&error, Cause::Quota)?);
    show("queries that share one quota", SHORT, start, outcome)
}

// ===== Async =====

/// A connection for async code: its calls run on tokio's threads for blocking work.
struct AsyncConnection {
    /// Away while a call runs. Should that call's future be dropped, it does not come back.
    connection: Option<Connection>,
    interrupt: std::sync::Arc<InterruptHandle>,
}

impl AsyncConnection {
    fn open(file: &Path) -> Result<Self> {
        let connection = Connection::open(file)?;
        let interrupt = connection.get_interrupt_handle().into();
        Ok(Self { connection: Some(connection), interrupt })
    }

    /// Makes a call, which the scope around the `await` interrupts; then it still waits for the call to return.
    async fn call<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let interrupt = self.interrupt.clone();
        let call = async {
            let connection = self.connection.take().ok_or(Error::NoConnection)?;
            let blocking = move || (work(&connection), connection);
            let (result, connection) = tokio::task::spawn_blocking(blocking).await?;
            self.connection = Some(connection);
            result.map_err(Error::from)
        };
        future::interruptible(Hook::inline(move || interrupt.interrupt()), call).await?
    }

    async fn number(&mut self, query: &'static str) -> Result<i64> {
        self.call(move |connection| connection.query_row(query, [], |row| row.get(0))).await
    }
}

/// Adds an entry, then asks for a sum that takes minutes. An interrupted query leaves the transaction open.
async fn add_and_sum(connection: &mut AsyncConnection) -> Result<i64> {
    connection.call(|connection| connection.execute_batch("begin immediate")).await?;
    let sum = async {
        connection.call(|connection| connection.execute(ADD, [])).await?;
        connection.number(RUNAWAY_SUM).await
    }
    .await;
    let end = if sum.is_ok() { "commit" } else { "rollback" };
    // In a shield, with a limit of its own: once the scope is over no call would start in it.
    future::shield(GRACE, connection.call(move |connection| connection.execute_batch(end))).await?;
    sum
}

async fn runaway_query_async(file: &Path) -> Result<()> {
    let mut connection = AsyncConnection::open(file)?;
    let start = Instant::now();
    let work = add_and_sum(&mut connection);
    let result = Timebox::new(SHORT).grace(GRACE).label("add").run_future(work).await;
    let error = stopped_in_sqlite(result)?;
    check(error.settled(), "the future came to its own end")?;
    show("query that takes too long", SHORT, start, named(&error, Cause::Deadline, "add")?)?;

    check(seen_by_another(file)? == 3, "the future rolled back")?;
    intact("it had time to roll back: a second connection gets the write lock at once");
    check(connection.number(QUICK_SUM).await? == 60, "the interrupted connection reads")
}

/// It never awaits, so the runtime's only thread is stuck in it.
async fn busy_future() -> Result<()> {
    let start = Instant::now();
    let busy = async { count_primes(MANY) };
    let error = stopped(Timebox::new(SHORT).label("primes").run_future(busy).await)?;
    show("future on the CPU, with a checkpoint", SHORT, start, named(&error, Cause::Deadline, "primes")?)
}

async fn sum_async(connection: &mut AsyncConnection, limit: Duration) -> Result<Answer> {
    let exact =
        Timebox::new(limit).grace(GRACE).label("exact").run_future(connection.number(RUNAWAY_SUM)).await;
    match exact {
        Err(Error::Timeout(error)) if error.label() == Some("exact") => {
            Ok(Answer::Estimate(connection.number(QUICK_SUM).await?, error))
        }
        other => Ok(Answer::Exact(other?)),
    }
}

async fn cheaper_answer_async(file: &Path) -> Result<()> {
    let mut connection = AsyncConnection::open(file)?;
    let start = Instant::now();
    let sum = sum_async(&mut connection, SHORT);
    let answer = Timebox::new(LONG).grace(GRACE).label("request").run_future(sum).await?;
    show("exact sum, else a cheaper answer", SHORT, start, estimate(answer)?)
}

async fn outer_limit_async(file: &Path) -> Result<()> {
    let mut connection = AsyncConnection::open(file)?;
    let start = Instant::now();
    let sum = sum_async(&mut connection, LONG);
    let error = stopped(Timebox::new(SHORT).grace(GRACE).label("request").run_future(sum).await)?;
    show("the same, but the caller's limit ends", SHORT, start, named(&error, Cause::Deadline, "request")?)
}

async fn shared_quota_async(file: &Path) -> Result<()> {
    let mut connection = AsyncConnection::open(file)?;
    let (quota, mut done) = (Quota::new(SHORT), 0);
    let start = Instant::now();
    let error = loop {
        match Timebox::new(&quota).grace(GRACE).run_future(connection.number(STEP)).await {
            Ok(_) => done += 1,
            stop => break stopped(stop)?,
        }
        future::sleep(Duration::from_millis(1)).await?; // outside of the quota
    };
    check(quota.is_exhausted(), "the quota is spent")?;
    let outcome =
        format!("{} after {done} queries; the pauses between them are free", cause(&error, Cause::Quota)?);
    show("queries that share one quota", SHORT, start, outcome)
}

async fn cut_off() -> Result<()> {
    let start = Instant::now();
    let deaf = async {
        tokio::time::sleep(LONG).await;
        Result::Ok(())
    };
    let error = stopped(Timebox::new(SHORT).grace(SHORT).label("deaf").run_future(deaf).await)?;
    check(!error.settled(), "the future was dropped")?;
    let outcome =
        format!("{}; dropped after a grace: settled() is false", named(&error, Cause::Deadline, "deaf")?);
    show("future that does not react", SHORT, start, outcome)
}

// ===== Checking and showing =====

fn check(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::NotSo(what.to_owned())) }
}

/// The error of work that had to run into a limit.
fn stopped<T>(result: Result<T>) -> Result<TimeoutError> {
    match result {
        Ok(_) => Err(Error::NotSo("the work was stopped".to_owned())),
        Err(Error::Timeout(error)) => Ok(error),
        Err(error) => Err(error),
    }
}

/// The same, for work that was in a statement: the error carries what SQLite had to say.
fn stopped_in_sqlite<T>(result: Result<T>) -> Result<TimeoutError> {
    let error = stopped(result)?;
    let interrupted = iter::successors(error.source(), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<rusqlite::Error>())
        .any(|error| error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted));
    check(interrupted, "SQLite was interrupted in a statement")?;
    Ok(error)
}

fn cause(error: &TimeoutError, cause: Cause) -> Result<String> {
    check(error.cause() == cause, "the error has the cause shown")?;
    Ok(format!("TimeoutError: {cause:?}"))
}

fn named(error: &TimeoutError, why: Cause, label: &str) -> Result<String> {
    check(error.label() == Some(label), "the error names the scope that is over")?;
    check(error.limit() == Some(SHORT) && error.elapsed() >= SHORT, "the error tells limit and time")?;
    Ok(format!("{} of {label:?}", cause(error, why)?))
}

fn estimate(answer: Answer) -> Result<String> {
    let (sum, timed_out) = match answer {
        Answer::Estimate(sum, timed_out) => (sum, timed_out),
        Answer::Exact(sum) => return Err(Error::NotSo(format!("the exact answer does not come, but {sum}"))),
    };
    check(sum == 60, "the cheaper answer is right")?;
    Ok(format!("Ok({sum}), the cheaper one, after {}", named(&timed_out, Cause::Deadline, "exact")?))
}

/// One line, if the time taken is the limit and a little more. How little depends on the machine: 5 s are plenty.
fn show(what: &str, limit: Duration, start: Instant, outcome: impl fmt::Display) -> Result<()> {
    let taken = start.elapsed();
    check(taken >= limit, "no work is stopped before its limit")?;
    check(taken < limit + Duration::from_secs(5), "work is stopped at its limit")?;
    println!("{what:<38}{limit:>7.0?}{taken:>9.1?}  {outcome}");
    Ok(())
}

/// A line for what has been checked after the last one.
fn intact(what: &str) {
    println!("  intact: {what}");
}
