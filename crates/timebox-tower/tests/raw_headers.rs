//! Headers that are written to a socket as raw bytes. A server of axum reads them.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use timebox_tower::{Propagation, TimeoutLayer, respond};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn server(propagation: Propagation) -> SocketAddr {
    let limit = TimeoutLayer::new(Duration::from_secs(3600)).propagate(propagation);
    let app =
        Router::new().route("/", get(async || "hello")).layer(limit.respond_with(respond::gateway_timeout()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn status(server: SocketAddr, lines: &[u8]) -> u16 {
    let mut socket = TcpStream::connect(server).await.unwrap();
    let request = [b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n", lines, b"\r\n"].concat();
    // The write may fail, since the server may answer and close before it has read the whole request.
    let _ = socket.write_all(&request).await;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("no status");
    std::str::from_utf8(&answer).unwrap().strip_prefix("HTTP/1.1 ").unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_gets_a_clear_status() {
    let server = server(Propagation::header("x-timeout-ms")).await;
    let cases: [(u16, &[u8]); 20] = [
        (200, b""),
        (200, b"x-timeout-ms: 60000\r\n"),
        (200, b"X-TIMEOUT-MS:60000\r\n"),
        (200, b"x-timeout-ms: \t 60000 \t \r\n"), // white space around a value is not part of it
        (200, b"x-timeout-ms: 9999999999999999999\r\n"),
        (200, b"x-timeout: soon\r\n"),
        (504, b"x-timeout-ms: 0\r\n"),
        (400, b"x-timeout-ms:\r\n"),
        (400, b"x-timeout-ms: \r\n"),
        (400, b"x-timeout-ms: soon\r\n"),
        (400, b"x-timeout-ms: 1 2\r\n"),
        (400, b"x-timeout-ms: 60000, 60000\r\n"),
        (400, b"x-timeout-ms: 60000\r\nx-timeout-ms: 60000\r\n"),
        (400, b"x-timeout-ms: 60000\r\nX-Timeout-Ms: 1\r\n"),
        (400, b"x-timeout-ms: \xff\xfe\r\n"),
        (400, b"x-timeout-ms: \xd9\xa3\r\n"),
        // hyper itself refuses these.
        (400, b"x-timeout-ms : 60000\r\n"),
        (400, b"x-timeout-ms: 1\0\r\n"),
        (400, b"x-timeout-ms: 1\r\n 2\r\n"),
        (400, b"x-timeout-ms\r\n"),
    ];
    for (expected, lines) in cases {
        assert_eq!(status(server, lines).await, expected, "{}", lines.escape_ascii());
    }
    let digits = [b"x-timeout-ms: ", &b"1".repeat(100_000)[..], b"\r\n"].concat();
    assert_eq!(status(server, &digits).await, 400);
    let lines = b"x-timeout-ms: 60000\r\n".repeat(90);
    assert_eq!(status(server, &lines).await, 400);
    for too_much in [
        [b"x-timeout-ms: ", &b"1".repeat(1_000_000)[..], b"\r\n"].concat(),
        b"x-timeout-ms: 1\r\n".repeat(1_000),
    ] {
        assert_eq!(status(server, &too_much).await, 431);
    }
}
