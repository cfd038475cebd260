//! A web server whose requests hang in seven ways that production code knows, and are all stopped: each is answered
//! with `503` or `504` after half a second, says what it was doing, and leaves the server as it was.
//!
//! ```text
//! cargo run -p examples --example web --features web [-- PORT]
//! ```
//!
//! `layers` has the lines that a server of your own needs. `hangs` has the handlers, `database` calls SQLite, `pages`
//! is HTML.

mod database;
mod hangs;
mod pages;
mod shop;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use timebox::report;
use timebox_tower::{ProfileLayer, Respond, TimeoutLayer};

use shop::Shop;

type AnyError = Box<dyn Error + Send + Sync>;

/// Each request has so long.
const LIMIT: Duration = Duration::from_millis(500);
/// A request that takes longer gets a report.
const SLOW: Duration = Duration::from_millis(250);
/// What a handler has, once its time is up, to end its blocking part and to answer by itself.
const GRACE: Duration = Duration::from_secs(1);
/// A request that is profiled has longer.
const PROFILED: Duration = Duration::from_secs(2);
/// A real one is a secret: see `ProfileLayer::new`.
const TOKEN: &str = "demo";

fn limit() -> TimeoutLayer<Request, Respond<Response>> {
    TimeoutLayer::new(LIMIT)
        .warn_after(SLOW)
        .respond_with(|timed_out| pages::timed_out(StatusCode::GATEWAY_TIMEOUT, timed_out))
}

fn app(shop: Arc<Shop>) -> Router {
    // These block, or compute: they are told, and answer.
    let blocking = Router::new()
        .route("/hang/regex", get(hangs::regex))
        .route("/hang/query", get(hangs::query))
        .route("/hang/queries", get(hangs::queries))
        .route("/hang/lock", get(hangs::lock))
        .route("/hang/blocking", get(hangs::blocking))
        .layer(limit().grace(GRACE));
    // These are only pending: they are dropped where they stand, and the layer answers.
    let pending = Router::new()
        .route("/hang/upstream", get(hangs::upstream))
        .route("/hang/join", get(hangs::join))
        .route("/", get(pages::index))
        .route("/slow", get(pages::slow))
        .route("/offenders", get(pages::offenders))
        .route("/profile/{hang}", get(pages::profile))
        .layer(limit());
    let profiles = ProfileLayer::new(TOKEN).limit(PROFILED).frequency(499).per_minute(600);
    blocking.merge(pending).layer(profiles).with_state(shop)
}

fn main() -> Result<(), AnyError> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    // One report for the same stack in ten seconds. Every report stays in memory for the page `/slow`; sinks would keep
    // them.
    report::Policy::new().once_per(Duration::from_secs(10)).per_minute(600).install()?;
    // More threads than processors, since `/hang/blocking` takes one away for half a second.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    report::watch_runtime(runtime.worker_threads(16).enable_all(), SLOW);
    runtime.build()?.block_on(serve(port))
}

async fn serve(port: u16) -> Result<(), AnyError> {
    let shop = Shop::open().await?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    println!("http://{}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, app(shop)) => Ok(served?),
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?), // so that the database's file is removed
    }
}
