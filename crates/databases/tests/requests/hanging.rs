//! A tenth of the requests hang: in a query, in a mutex, in a poll that computes, or on a silent peer. The other
//! requests must not become much slower, and the requests that hung must leave nothing behind.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use deadpool_postgres::Pool;
use timebox::{checkpoint, handle, sleep};
use timebox_databases::control::Doubt;
use timebox_databases::pools::on_deadpool;
use timebox_databases::postgres::raw_hook;
use timebox_databases::server::Server;
use timebox_tower::TimeoutLayer;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use crate::support::{
    AnyError, HANG, busy_sessions, connect, get as fetch, own_answer, pool, runtime, serve, unavailable,
    wait_for,
};

const LIMIT: Duration = Duration::from_millis(50);
const REQUESTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(5);

struct Shared {
    database: SocketAddr,
    pool: Pool,
    lock: Mutex<()>,
    permits: Arc<Semaphore>,
    peer: SocketAddr,
}

fn answer(result: Result<(), AnyError>) -> Response {
    match result {
        Ok(()) => "done".into_response(),
        Err(error) => own_answer(&error),
    }
}

async fn query(shared: &Shared, seconds: f64) -> Result<(), AnyError> {
    let _permit = shared.permits.acquire().await?;
    let cancel = |token, doubt: &Doubt| raw_hook(token, shared.database, HANG, doubt);
    let sql = format!("select pg_sleep({seconds})");
    on_deadpool(&shared.pool, cancel, async |client| client.batch_execute(&sql).await).await
}

/// Waits for a lock that somebody else has. Tries again and again, since nothing can interrupt `lock()`.
fn lock(shared: &Shared) -> Result<(), AnyError> {
    while shared.lock.try_lock().is_err() {
        sleep(Duration::from_millis(1))?;
    }
    Ok(())
}

/// Computes in one poll, and does not return to its executor until its scope is over.
fn compute() -> Result<(), AnyError> {
    loop {
        checkpoint()?;
    }
}

async fn ask_the_peer(peer: SocketAddr) -> Result<(), AnyError> {
    TcpStream::connect(peer).await?.read_u8().await?;
    Ok(())
}

fn app(shared: Arc<Shared>) -> Router {
    type Shares = State<Arc<Shared>>;
    let in_mutex = async |State(shared): Shares| {
        answer(spawn_blocking(handle().wrap(move || lock(&shared))).await.expect("no panic"))
    };
    Router::new()
        .route("/quick", get(async |State(shared): Shares| answer(query(&shared, 0.005).await)))
        .route("/query", get(async |State(shared): Shares| answer(query(&shared, 3600.0).await)))
        .route("/mutex", get(in_mutex))
        .route("/compute", get(async || answer(compute())))
        .route("/peer", get(async |State(shared): Shares| answer(ask_the_peer(shared.peer).await)))
        .with_state(shared)
        .layer(TimeoutLayer::new(LIMIT).grace(HANG).respond_with(unavailable))
}

/// Sends requests at a steady rate. If `hang` is set, every tenth request hangs. Returns how long the other requests
/// took, sorted.
async fn load(address: SocketAddr, hang: bool) -> Vec<Duration> {
    let mut requests = JoinSet::new();
    for number in 0..REQUESTS {
        let path = match (hang && number % 10 == 0, number / 10 % 4) {
            (false, _) => "/quick",
            (true, 0) => "/query",
            (true, 1) => "/mutex",
            (true, 2) => "/compute",
            (true, _) => "/peer",
        };
        requests.spawn(async move {
            let start = Instant::now();
            let answer = fetch(address, path).await;
            // The answer to `/quick` may be anything: on a busy machine, even a quick request may be over its limit.
            assert!(path == "/quick" || answer.starts_with("HTTP/1.1 50"), "{path}: {answer}");
            (path == "/quick").then(|| start.elapsed())
        });
        tokio::time::sleep(PAUSE).await;
    }
    let mut taken: Vec<Duration> = requests.join_all().await.into_iter().flatten().collect();
    taken.sort_unstable();
    taken
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// The number of this process's threads, without the threads of `timebox`: they end by themselves after a while.
fn threads() -> usize {
    let is_other = |task: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm"));
        name.is_ok_and(|name| !name.starts_with("timebox"))
    };
    std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.flatten().filter(is_other).count())
}

#[test]
fn requests_that_hang_neither_slow_the_others_nor_leave_anything() {
    let Some(server) = Server::postgres() else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let observer = connect(&server).await;
        // Clients can connect, since the system keeps connections in the backlog. But nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            database: server.address(),
            pool: pool(&server, 16),
            lock: Mutex::new(()),
            permits: Arc::new(Semaphore::new(64)),
            peer: silent.local_addr().unwrap(),
        });
        let address = serve(app(Arc::clone(&shared))).await;
        load(address, false).await; // opens the pool's connections
        let metrics = tokio::runtime::Handle::current().metrics();
        wait_for("the connections end", async || metrics.num_alive_tasks() <= 20).await;
        // The pool may open more connections during the test. Each has a task and a descriptor, which do not count
        // here.
        let tasks = || metrics.num_alive_tasks() - shared.pool.status().size;
        let files = || descriptors() - shared.pool.status().size;
        let before = (tasks(), files(), threads());

        let without = load(address, false).await;
        let with = {
            // The thread `owner` holds the lock until the load has ended.
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let of_owner = Arc::clone(&shared);
            let owner = std::thread::spawn(move || {
                let _guard = of_owner.lock.lock().unwrap();
                let _ = ended.recv();
            });
            let with = load(address, true).await;
            drop(end);
            owner.join().unwrap();
            with
        };
        let p99 = |taken: &[Duration]| taken[taken.len() * 99 / 100];
        let ratio = p99(&with).as_secs_f64() / p99(&without).as_secs_f64();
        println!(
            "p99 {:?} without, {:?} with a tenth that hangs: {ratio:.2} times",
            p99(&without),
            p99(&with)
        );
        assert!(ratio < 10.0, "{ratio}");

        wait_for("no session is busy", async || busy_sessions(&observer).await == 0).await;
        let status = shared.pool.status();
        assert_eq!((status.available, status.waiting), (status.size, 0), "all connections are back");
        assert_eq!(shared.permits.available_permits(), 64);
        assert!(shared.lock.try_lock().is_ok());
        wait_for("all tasks have ended", async || tasks() <= before.0).await;
        wait_for("all descriptors are closed", async || files() <= before.1).await;
        wait_for("the threads for blocking work have ended", async || threads() <= before.2).await;
        drop(silent);
    });
    runtime.shutdown_background();
}
