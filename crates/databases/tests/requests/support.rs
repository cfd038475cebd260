//! A server of axum on a loopback port, and a client that reads to the end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use timebox::TimeoutError;
use timebox_databases::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// A limit that the test reaches.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A limit that the test does not reach, unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long anything may take on the slowest, busiest machine before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(4)
        .thread_keep_alive(Duration::from_millis(50))
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < HANG, "no sign of it after {HANG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

pub(crate) async fn request(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = request(address, path).await;
    let mut text = String::new();
    // If the server cuts the response off, the connection may be reset. `text` then has what came before that error.
    let _ = stream.read_to_string(&mut text).await;
    text
}

pub(crate) fn unavailable(error: &TimeoutError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("the layer: {error}")).into_response()
}

pub(crate) fn own_answer(error: &AnyError) -> Response {
    let status = match TimeoutError::find(&**error) {
        Some(_) => StatusCode::GATEWAY_TIMEOUT,
        None => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("the handler: {error}")).into_response()
}

pub(crate) fn config(server: &Server) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.port()).user("postgres");
    config
}

pub(crate) async fn connect(server: &Server) -> tokio_postgres::Client {
    let (client, connection) = config(server).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn pool(server: &Server, size: usize) -> deadpool_postgres::Pool {
    let manager = deadpool_postgres::Manager::new(config(server), tokio_postgres::NoTls);
    deadpool_postgres::Pool::builder(manager).max_size(size).build().unwrap()
}

pub(crate) async fn busy_sessions(observer: &tokio_postgres::Client) -> i64 {
    let sql = "select count(*) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle'";
    observer.query_one(sql, &[]).await.unwrap().get(0)
}
