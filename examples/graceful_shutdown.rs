//! A server ends on Ctrl-C or SIGTERM, and every request gets its answer.
//!
//! Three clients are being served when SIGTERM comes: one request waits, one computes on a thread for blocking work,
//! one is in a transaction there. The server stops to accept. Each request has five seconds from then on: it sees the
//! error where it stands, undoes what it has begun, and answers. None is dropped in the middle, and no thread computes
//! on.
//!
//! Run it: `cargo run --example graceful_shutdown --features tokio`. It sends itself the signal.

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use timebox::{CancellationToken, Timebox, TimeoutError, checkpoint, future};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let clients = ["wait", "compute", "order"].map(|line| tokio::spawn(ask(address, line)));
    let mut signal = None;

    // This is all of the shutdown.
    let shutdown = timebox::tokio::shutdown()?;
    let limits = Timebox::new(Duration::from_secs(30)).cancel_on(&shutdown).grace(Duration::from_secs(5));
    let mut requests = JoinSet::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        requests.spawn(limits.clone().run_future(serve(accepted?.0)));
        if requests.len() == clients.len() {
            signal = Some(tokio::spawn(terminate()));
        }
    }

    let begun = Instant::now();
    println!("The server ends by {}.", reason(&shutdown));
    for request in requests.join_all().await {
        request?;
    }
    for client in clients {
        let (line, answer) = client.await??;
        println!("{line:>8}: {answer}");
        assert!(answer.starts_with("503 SIGTERM"));
    }
    if let Some(signal) = signal {
        signal.await??;
    }
    println!("All requests were answered {:?} after the signal.", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

fn reason(token: &CancellationToken) -> String {
    token.reason().unwrap_or_default().into_owned()
}

/// A request: its error becomes an answer, since the grace leaves the time for it.
async fn serve(stream: TcpStream) -> Result<(), Failure> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let result = match line.trim() {
        "wait" => future::sleep(Duration::from_secs(20)).await.map_err(Failure::from),
        "compute" => timebox::tokio::spawn_blocking(compute).await?,
        _ => timebox::tokio::spawn_blocking(order).await?,
    };
    let answer = match result {
        Ok(()) => "200".to_owned(),
        Err(error) => match TimeoutError::find(&*error) {
            Some(ended) => {
                format!("503 {}, after {:.1?}", ended.reason().unwrap_or("timeout"), ended.elapsed())
            }
            None => format!("500 {error}"),
        },
    };
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}

/// The blocking part of a request: it sees the request's scope, and ends with it.
fn compute() -> Result<(), Failure> {
    let mut sum = 0_u64;
    for n in 0..u64::MAX {
        checkpoint()?;
        sum = sum.wrapping_add(n);
    }
    println!("{sum}");
    Ok(())
}

/// A transaction, which is rolled back when the wait in it fails.
fn order() -> Result<(), Failure> {
    let orders = Connection::open_in_memory()?;
    orders.execute_batch("CREATE TABLE orders (item TEXT)")?;
    let transaction = orders.unchecked_transaction()?;
    transaction.execute("INSERT INTO orders VALUES ('book')", [])?;
    let paid = timebox::sleep(Duration::from_secs(20)); // stands for the payment
    if paid.is_ok() {
        transaction.commit()?;
    } else {
        transaction.rollback()?;
        let left: u32 = orders.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?;
        println!("The order was rolled back; {left} rows are left.");
        assert_eq!(left, 0);
    }
    Ok(paid?)
}

/// A client: sends a line, and reads the answer.
async fn ask(address: std::net::SocketAddr, line: &'static str) -> Result<(&'static str, String), Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((line, answer))
}

/// What an orchestrator does: it sends SIGTERM. The requests get a moment to begin.
async fn terminate() -> Result<(), Failure> {
    future::sleep(Duration::from_millis(200)).await?;
    let status = Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status()?;
    if status.success() { Ok(()) } else { Err("kill failed".into()) }
}
