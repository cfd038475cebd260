//! A future is pending, and the report says at which `await` each of its branches waits.
//!
//! A pending future is on no thread, so no debugger and no stack dump shows it. Here a request waits for three things
//! at once: a lock that somebody holds, a message that nobody sends, and a peer that does not answer. At half a second
//! the report names all three, with the chain of async functions down to the line.
//!
//! Run it: `cargo run --example stuck_future --features report`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use timebox::{Timebox, report};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

async fn update_account(account: &Mutex<u64>) {
    *account.lock().await += 1;
}

async fn next_message(inbox: &mut mpsc::Receiver<String>) -> Option<String> {
    inbox.recv().await
}

async fn read_header(peer: &mut TcpStream) -> std::io::Result<[u8; 4]> {
    let mut header = [0; 4];
    peer.read_exact(&mut header).await?;
    Ok(header)
}

async fn handle(
    account: &Mutex<u64>,
    inbox: &mut mpsc::Receiver<String>,
    peer: &mut TcpStream,
) -> Result<(), Box<dyn Error>> {
    let ((), message, header) = tokio::join!(update_account(account), next_message(inbox), read_header(peer));
    println!("{message:?} {:?}", header?);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    report::Policy::new().warn_after(Duration::from_millis(500)).to(report::Stderr).install()?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut peer = TcpStream::connect(listener.local_addr()?).await?;
    let account = Arc::new(Mutex::new(0));
    let _held = Arc::clone(&account).lock_owned().await;
    let (_sender, mut inbox) = mpsc::channel(1);

    let request = Timebox::new(Duration::from_secs(1)).label("transfer").field("account", 7);
    let result = request.run_future(handle(&account, &mut inbox, &mut peer)).await;
    println!("The request ended: {}", result.unwrap_err());
    report::flush(Duration::from_secs(10));
    Ok(())
}
