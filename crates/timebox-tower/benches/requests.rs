//! What a limit on each request costs a trivial axum handler, against no limit and against tower-http's `TimeoutLayer`; and how
//! soon the scope of a request is cancelled when its client goes away.
//!
//! One process, real sockets, in turns: each round runs every server for a short while, in another order. The server has one
//! thread and the clients another. The processor time of the server's thread counts, since other load on the machine disturbs it
//! least: a server that is busy serves as many requests per second as fit into a second of it.
//!
//! `cargo bench -p timebox-tower --bench requests`

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::{Router, routing::get};
use timebox_tower::{TimeoutLayer, respond};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const LIMIT: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 60;
const TURN: Duration = Duration::from_millis(150);
const CLIENTS: usize = 1000;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Serves on a thread of its own. `/processor` tells how much processor time that thread has used, in nanoseconds.
fn serve(app: Router) -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("it is bound")).expect("the bench waits");
            let processor = get(async || processor_time().as_nanos().to_string());
            axum::serve(listener, app.route("/processor", processor)).await
        })
    });
    address.recv().expect("the server starts")
}

fn app() -> Router {
    Router::new().route("/users/{id}", get(async || "hello"))
}

/// A connection that is kept alive.
struct Client(TcpStream, Vec<u8>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Self(stream, vec![0; 4096])
    }

    /// The body of the response, which comes in one piece.
    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.expect("the server reads");
        let count = self.0.read(&mut self.1).await.expect("the server answers");
        let response = String::from_utf8_lossy(&self.1[..count]);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        response.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
    }
}

/// One turn of one server.
struct Turn {
    per_second: f64,
    /// Microseconds of the server's thread for one request.
    processor: f64,
}

struct Server {
    name: &'static str,
    address: SocketAddr,
    turns: Vec<Turn>,
}

impl Server {
    fn new(name: &'static str, app: Router) -> Self {
        Self { name, address: serve(app), turns: Vec::new() }
    }

    async fn processor(&self) -> f64 {
        Client::connect(self.address).await.get("/processor").await.parse().expect("a number")
    }

    fn turn(&self) -> Turn {
        runtime().block_on(async {
            let before = self.processor().await;
            let start = Instant::now();
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let address = self.address;
                    tokio::spawn(async move {
                        let mut client = Client::connect(address).await;
                        let mut count = 0_u32;
                        while start.elapsed() < TURN {
                            client.get("/users/7").await;
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let mut count = 0;
            for client in clients {
                count += client.await.expect("no panic");
            }
            let (elapsed, count) = (start.elapsed().as_secs_f64(), f64::from(count));
            let processor = (self.processor().await - before) / 1000.0 / count;
            Turn { per_second: count / elapsed, processor }
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn throughput() {
    let tower_http = tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, LIMIT);
    let timebox = || TimeoutLayer::new(LIMIT).respond_with(respond::gateway_timeout());
    let mut servers = [
        Server::new("no layer", app()),
        Server::new("timebox-tower", app().layer(timebox())),
        Server::new("tower-http", app().layer(tower_http)),
        Server::new("no layer, again", app()),
    ];
    for round in 0..ROUNDS {
        for at in 0..servers.len() {
            let server = (at + round) % servers.len();
            let turn = servers[server].turn();
            // The first round warms up.
            if round > 0 {
                servers[server].turns.push(turn);
            }
        }
    }
    println!("| server | requests/s | processor time of a request | against no layer, round by round |");
    println!("|---|---|---|---|");
    for server in &servers {
        let per_second = median(server.turns.iter().map(|turn| turn.per_second).collect());
        let processor = median(server.turns.iter().map(|turn| turn.processor).collect());
        let pairs = server.turns.iter().zip(&servers[0].turns);
        let ratio = median(pairs.map(|(turn, none)| turn.processor / none.processor).collect());
        let change = (ratio - 1.0) * 100.0;
        println!("| {} | {per_second:.0} | {processor:.2} us | {change:+.1} % |", server.name);
    }
}

/// From the moment at which a client closes its connection until a hook of the scope runs.
fn clients_gone() {
    let (sender, cancelled) = std::sync::mpsc::channel();
    let handler = async move || {
        let token = timebox::token();
        let sender = sender.clone();
        tokio::spawn(async move {
            sender.send(None).expect("the bench waits");
            token.cancelled().await;
            sender.send(Some(Instant::now())).expect("the bench waits");
        });
        std::future::pending::<&'static str>().await
    };
    let layer = TimeoutLayer::new(LIMIT).respond_with(respond::gateway_timeout());
    let address = serve(Router::new().route("/", get(handler)).layer(layer));
    let mut delays: Vec<f64> = (0..CLIENTS)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(address).expect("the server listens");
            std::io::Write::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")
                .expect("it reads");
            cancelled.recv().expect("the handler runs");
            let left = Instant::now();
            drop(client);
            let at = cancelled.recv().expect("the scope is cancelled").unwrap_or(left);
            at.duration_since(left).as_secs_f64() * 1e6
        })
        .collect();
    delays.sort_unstable_by(f64::total_cmp);
    let [p50, p99] = [50, 99].map(|percent| delays[CLIENTS * percent / 100]);
    println!("\n{CLIENTS} clients went away: scope cancelled after {p50:.0} us at p50, {p99:.0} us at p99");
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        throughput();
        clients_gone();
    }
}
