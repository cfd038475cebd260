//! A server of axum that limits every request, and a client whose requests take too long.
//!
//! ```text
//! cargo run -p timebox-tower --example axum_server --features axum
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http_body::Frame;
use timebox::{Limit, TimeoutError, checkpoint, future, handle, remaining};
use timebox_tower::{CLIENT_GONE, TimeoutLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

type AnyError = Box<dyn Error + Send + Sync>;

const LIMIT: Duration = Duration::from_millis(200);
/// How long a handler may go on after its time is up, to clean up and to answer by itself.
const GRACE: Duration = Duration::from_millis(500);

/// Computes on the blocking pool, and answers by itself when its time is up.
async fn compute() -> Result<String, (StatusCode, String)> {
    let work = handle().wrap(|| -> timebox::Result<u64> {
        let mut sum = 0_u64;
        for number in 0..u64::MAX {
            checkpoint()?;
            sum = sum.wrapping_add(number);
        }
        Ok(sum)
    });
    match spawn_blocking(work).await {
        Ok(Ok(sum)) => Ok(sum.to_string()),
        Ok(Err(error)) => Err((StatusCode::GATEWAY_TIMEOUT, format!("the handler rolled back: {error}"))),
        Err(_panic) => Err((StatusCode::INTERNAL_SERVER_ERROR, "a panic".to_owned())),
    }
}

/// Would wait for ever. When the request's time and the grace are up, the layer drops this future and answers for it.
async fn wait() -> &'static str {
    std::future::pending().await
}

/// Sends a chunk every 50 ms until the request's time is up. Then the body ends with the error. A task in the request's
/// scope sends the chunks.
async fn stream() -> Body {
    let (sender, receiver) = mpsc::channel(1);
    let ticks = async move {
        let error = loop {
            let left = remaining().unwrap_or_default();
            if sender.send(Ok(format!("{} ms left\n", left.as_millis()))).await.is_err() {
                return Ok(());
            }
            if let Err(error) = future::sleep(Duration::from_millis(50)).await {
                break error;
            }
        };
        let _ = sender.send(Err(error.clone())).await;
        Err::<(), TimeoutError>(error)
    };
    tokio::spawn(handle().enter_future(Limit::NONE, ticks));
    Body::new(Chunks(receiver))
}

struct Chunks(mpsc::Receiver<Result<String, TimeoutError>>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = TimeoutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TimeoutError>>> {
        let chunk = self.0.poll_recv(cx);
        chunk.map(|chunk| chunk.map(|text| text.map(|text| Frame::data(Bytes::from(text)))))
    }
}

fn answer(error: &TimeoutError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("the layer answers: {error}")).into_response()
}

/// Sends on `runs` when it runs. Later sends on `tell` the reason for which its scope ended.
fn forsaken(runs: mpsc::Sender<()>, tell: oneshot::Sender<Option<String>>) -> MethodRouter {
    let tell = Arc::new(Mutex::new(Some(tell)));
    get(async move || {
        let (token, tell) = (timebox::token(), tell.clone());
        let _ = runs.try_send(());
        tokio::spawn(async move {
            token.cancelled().await;
            let reason = token.checkpoint().err().and_then(|error| error.reason().map(str::to_owned));
            tell.lock().expect("no panic").take().map(|tell| tell.send(reason))
        });
        wait().await
    })
}

async fn request(address: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: example\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

async fn show(address: SocketAddr, path: &str) -> Result<(), AnyError> {
    let mut response = Vec::new();
    // The error is ignored: if the server cuts the body off, the connection may be reset.
    let _ = request(address, path).await?.read_to_end(&mut response).await;
    println!("GET {path}\n{}\n", String::from_utf8_lossy(&response).trim_end());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let (runs, mut has_run) = mpsc::channel(1);
    let (tell, told) = oneshot::channel();
    let limit = TimeoutLayer::new(LIMIT)
        .limit_with(|request: &Request| match request.uri().path() {
            "/forsaken" => 100 * LIMIT,
            _ => LIMIT,
        })
        .grace(GRACE)
        .respond_with(answer);
    let app = Router::new()
        .route("/compute", get(compute))
        .route("/wait", get(wait))
        .route("/stream", get(stream))
        .route("/forsaken", forsaken(runs, tell))
        .layer(limit);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, app).await });

    for path in ["/compute", "/wait", "/stream"] {
        show(address, path).await?;
    }
    let client = request(address, "/forsaken").await?;
    has_run.recv().await;
    drop(client);
    let reason = told.await?;
    println!("GET /forsaken ended: {}", reason.as_deref().unwrap_or("in time"));
    assert_eq!(reason.as_deref(), Some(CLIENT_GONE));
    Ok(())
}
