//! A pool of one connection. A query over its limit is cancelled, and its connection goes back to the pool. If the
//! query does not react to the cancel, its connection leaves the pool.
//!
//! The example starts a PostgreSQL server of its own. If this machine has none, the example says so and ends.
//!
//! ```text
//! cargo run -p timebox-databases --example pool_settle
//! ```
//!
//! The example checks each line before it prints the line. If a check fails, the example ends with a non-zero status.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool};
use timebox::{Hook, Timebox};
use tokio_postgres::{CancelToken, Config, NoTls};

use showing::{LIMIT, check, show, timed_out};
use timebox_databases::control::{AnyError, BOUND, Doubt};
use timebox_databases::pools::on_deadpool;
use timebox_databases::postgres::raw_hook;
use timebox_databases::server::Server;

#[path = "support/showing.rs"]
mod showing;

const GRACE: Duration = Duration::from_secs(5);
/// A query of two seconds. `naive` (below) drops it without a cancel. Then the next user of the connection waits until
/// the query ends.
const SLOW: &str = "select pg_sleep(2)";

fn main() -> ExitCode {
    let Some(server) = Server::postgres() else { return ExitCode::SUCCESS };
    showing::run("pool_settle", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(example(&server))
    })
}

async fn example(server: &Server) -> Result<(), AnyError> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(server.port()).user("postgres");
    let manager = Manager::from_config(config, NoTls, ManagerConfig::default());
    let pool = Pool::builder(manager).max_size(1).build()?;
    let cancel = |token: CancelToken, doubt: &Doubt| raw_hook(token, server.address(), BOUND, doubt);
    let lost = |_: CancelToken, _: &Doubt| Hook::inline(|| ());
    let pid = async || -> Result<i32, AnyError> {
        on_deadpool(&pool, cancel, async |client| {
            Ok(client.query_one("select pg_backend_pid()", &[]).await?.get(0))
        })
        .await
    };
    let first = pid().await?;

    let naive = async {
        let connection = pool.get().await?;
        connection.batch_execute(SLOW).await?;
        Ok(())
    };
    let start = Instant::now();
    let error = timed_out(Timebox::new(LIMIT).run_future(naive).await)?;
    show("a query that is just dropped", start, &error)?;
    check(!error.settled(), "it was dropped in the middle")?;
    let start = Instant::now();
    check(pid().await? == first, "the pool lent the connection that is in use")?;
    check(start.elapsed() > Duration::from_secs(1), "the query runs on")?;
    println!("  the next user of its connection waited {:.1?} for it", start.elapsed());

    let start = Instant::now();
    let query = on_deadpool(&pool, cancel, async |client| client.batch_execute(SLOW).await);
    let error = timed_out(Timebox::new(LIMIT).grace(GRACE).run_future(query).await)?;
    show("a query that is cancelled and settles", start, &error)?;
    check(error.settled(), "it was answered")?;
    let start = Instant::now();
    check(pid().await? == first, "the connection was given back")?;
    println!("  the next user of its connection waited {:.1?}", start.elapsed());

    let start = Instant::now();
    let query = on_deadpool(&pool, lost, async |client| client.batch_execute(SLOW).await);
    let error = timed_out(Timebox::new(LIMIT).grace(LIMIT).run_future(query).await)?;
    show("a query that does not react, in its grace", start, &error)?;
    check(!error.settled(), "it was cut off")?;
    let start = Instant::now();
    check(pid().await? != first, "the connection was discarded")?;
    println!(
        "  its connection has left the pool; the next user waited {:.1?} for a new one",
        start.elapsed()
    );
    Ok(())
}
