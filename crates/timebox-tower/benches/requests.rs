//! Measures what a limit on each request costs a trivial axum handler, compared with no limit and with tower-http's
//! `TimeoutLayer`. Also measures how soon the scope of a request is cancelled after its client goes away.
//!
//! Everything runs in one process, over real sockets. Each round runs every server for a short while, in another order.
//! The server has one thread and the clients another. Only the processor time of the server's thread counts, since
//! other load on the machine disturbs it least. Each figure is a median over the rounds; each comparison is the median
//! of the quotients in one round.
//!
//! `cargo bench -p timebox-tower --features axum --bench requests`

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::thread;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::http::{Request, Response, StatusCode, Uri};
use axum::{Router, routing::get};
use timebox_tower::{Respond, TimeoutLayer, respond};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tower::layer::util::Identity;
use tower::{Layer, Service, service_fn};

const LIMIT: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 60;
const TURN: Duration = Duration::from_millis(150);
const CLIENTS: usize = 1000;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Serves on a thread of its own. `/processor` answers with the processor time that this thread has used, in
/// nanoseconds.
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

fn timebox<Req, B: Default + 'static>() -> TimeoutLayer<Req, Respond<Response<B>>> {
    TimeoutLayer::new(LIMIT).respond_with(respond::gateway_timeout())
}

fn tower_http() -> tower_http::timeout::TimeoutLayer {
    tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, LIMIT)
}

struct Client(TcpStream, Vec<u8>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Self(stream, vec![0; 4096])
    }

    /// Returns the body of the response. The response comes in one piece, so one read is enough.
    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.expect("the server reads");
        let count = self.0.read(&mut self.1).await.expect("the server answers");
        let response = String::from_utf8_lossy(&self.1[..count]);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        response.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
    }
}

struct Turn {
    per_second: f64,
    /// Processor time of the server's thread for one request, in microseconds.
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
    let mut servers = [
        Server::new("no layer", app()),
        Server::new("timebox-tower", app().layer(timebox())),
        Server::new("tower-http", app().layer(tower_http())),
        Server::new("a layer that does nothing", app().layer(Identity::new())),
        Server::new("no layer, again", app()),
    ];
    for round in 0..ROUNDS {
        for at in 0..servers.len() {
            let server = (at + round) % servers.len();
            let turn = servers[server].turn();
            if round > 0 {
                servers[server].turns.push(turn);
            }
        }
    }
    println!("| server | requests/s | against no layer | processor time of a request | against no layer |");
    println!("|---|---|---|---|---|");
    let change = |server: &Server, figure: fn(&Turn) -> f64| {
        let pairs = server.turns.iter().zip(&servers[0].turns);
        let ratio = median(pairs.map(|(turn, none)| figure(turn) / figure(none)).collect());
        (median(server.turns.iter().map(figure).collect()), (ratio - 1.0) * 100.0)
    };
    for server in &servers {
        let (per_second, more) = change(server, |turn| turn.per_second);
        let (processor, longer) = change(server, |turn| turn.processor);
        println!("| {} | {per_second:.0} | {more:+.1} % | {processor:.2} us | {longer:+.1} % |", server.name);
    }
}

/// Prints what one call costs, in nanoseconds. There is no connection, and the handler and the body are ready at once.
/// The figure is that of the fastest batch.
fn calls() {
    const BATCH: u32 = 2000;
    const BATCHES: u32 = 300;
    async fn least<S, B>(service: S) -> f64
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
        B: HttpBody,
    {
        let mut least = f64::INFINITY;
        for _ in 0..BATCHES {
            let start = Instant::now();
            for _ in 0..BATCH {
                let mut request = Request::new(Body::empty());
                *request.uri_mut() = Uri::from_static("/users/7");
                let Ok(response) = service.clone().call(request).await;
                let mut body = pin!(response.into_body());
                while poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_some() {}
            }
            least = least.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH));
        }
        least
    }
    let handler =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello"))));
    runtime().block_on(async {
        let show = |around: &str, [none, ours, theirs]: [f64; 3]| {
            let (ours, theirs) = (ours - none, theirs - none);
            println!(
                "a call of {around}: {none:.0} ns; {ours:+.0} by timebox-tower, {theirs:+.0} by tower-http"
            );
        };
        let plain = [
            least(handler).await,
            least(timebox().layer(handler)).await,
            least(tower_http().layer(handler)).await,
        ];
        show("a handler", plain);
        // `axum::serve` calls `with_state` too. Without it, a router would make its layers anew for each call.
        let routed = [
            least(app().layer(Identity::new()).with_state(())).await,
            least(app().layer(timebox()).with_state(())).await,
            least(app().layer(tower_http()).with_state(())).await,
        ];
        show("axum's router", routed);
    });
}

/// Measures the time from the moment when a client closes its connection until a task that waits for the cancellation
/// runs.
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
    let address = serve(Router::new().route("/", get(handler)).layer(timebox()));
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
    // `cargo test --benches` runs this without `--bench`, only to see whether it works. So it need not measure.
    if std::env::args().any(|argument| argument == "--bench") {
        calls();
        throughput();
        clients_gone();
    }
}
