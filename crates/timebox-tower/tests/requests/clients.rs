//! A thousand clients that go away in the middle of a request leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use timebox::{future, handle};
use timebox_tower::{CLIENT_GONE, TimeoutLayer};

use crate::support::{LONG, Script, Step, read_until, request, serve, wait_for};

const CLIENTS: usize = 1000;
const AT_ONCE: usize = 50;

struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let runtime = crate::support::runtime();
    runtime.block_on(async {
        let alive = Arc::new(AtomicUsize::new(0));
        let (ends, ended) = channel();
        let seen = Arc::clone(&alive);
        // Half of the clients leave while the handler hangs, the other half while the body is streamed (`streams`).
        let handler = move |Path(streams): Path<bool>| {
            let (ends, alive, in_task) = (ends.clone(), Alive::new(&seen), Alive::new(&seen));
            async move {
                let _alive = alive;
                let token = timebox::token();
                let watch = handle().enter_future(None::<Duration>, async move {
                    let _alive = in_task;
                    token.cancelled().await;
                    let error = token.checkpoint().unwrap_err();
                    ends.send((Instant::now(), error.reason() == Some(CLIENT_GONE))).unwrap();
                    Ok::<_, timebox::TimeoutError>(())
                });
                tokio::spawn(watch);
                if !streams {
                    let _ = future::sleep(LONG).await;
                }
                let ticks =
                    (0..1_000_000).flat_map(|_| [Step::Data("tick"), Step::Sleep(Duration::from_millis(2))]);
                Body::new(Script::new(ticks)).into_response()
            }
        };
        let answer = |_: &_| -> Response { StatusCode::GATEWAY_TIMEOUT.into_response() };
        let app = Router::new()
            .route("/{streams}", get(handler))
            .layer(TimeoutLayer::new(LONG).respond_with(answer));
        let address = serve(app).await;
        let metrics = tokio::runtime::Handle::current().metrics();
        let (tasks, files) = (metrics.num_alive_tasks(), descriptors());

        let mut delays = Vec::new();
        for round in 0..CLIENTS / AT_ONCE {
            let streams = round % 2 == 1;
            let mut clients = Vec::new();
            for _ in 0..AT_ONCE {
                let mut client = request(address, &format!("GET /{streams} HTTP/1.1")).await;
                if streams {
                    read_until(&mut client, "tick").await;
                }
                clients.push(client);
            }
            wait_for("all handlers run", || alive.load(SeqCst) >= AT_ONCE * if streams { 1 } else { 2 })
                .await;
            let left = Instant::now();
            drop(clients);
            for _ in 0..AT_ONCE {
                wait_for("the scope is cancelled", || match ended.try_recv() {
                    Ok((at, by_client)) => {
                        assert!(by_client);
                        delays.push(at.saturating_duration_since(left));
                        true
                    }
                    Err(_) => false,
                })
                .await;
            }
        }
        wait_for("all that belonged to a request is gone", || alive.load(SeqCst) == 0).await;
        wait_for("all tasks have ended", || metrics.num_alive_tasks() <= tasks).await;
        wait_for("all connections are closed", || descriptors() <= files).await;
        delays.sort_unstable();
        println!(
            "cancelled within {:?} at p50, {:?} at p99",
            delays[CLIENTS / 2],
            delays[CLIENTS * 99 / 100]
        );
        // A loose bound, for a busy machine and a debug build. The bench measures the delay.
        assert!(delays[CLIENTS / 2] < Duration::from_millis(500), "{:?}", delays[CLIENTS / 2]);
    });
    runtime.shutdown_background();
}
