//! axum on a real connection.

use std::convert::Infallible;
use std::sync::mpsc::channel;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use timebox::{TimeoutError, checkpoint, future, handle, remaining};
use timebox_tower::{CLIENT_GONE, TimeoutLayer};

use crate::support::{HANG, LONG, SHORT, Script, Step, get as fetch, on_runtime, read_until, request, serve};

fn unavailable(error: &TimeoutError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}

/// The time that the scope has left while the extractor runs.
struct Left(Option<Duration>);

impl<S: Sync> FromRequestParts<S> for Left {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(remaining()))
    }
}

#[test]
fn a_handler_that_hangs_is_answered_for() {
    on_runtime(async {
        let hang = async || -> String { std::future::pending().await };
        let app = Router::new()
            .route("/users/{id}", get(hang))
            .layer(TimeoutLayer::new(SHORT).respond_with(unavailable));
        let answer = fetch(serve(app).await, "/users/7?token=secret").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let label = if cfg!(feature = "axum") { "`GET /users/{id}`" } else { "`GET /users/7`" };
        assert!(answer.contains(label) && !answer.contains("secret"), "{answer}");
    });
}

#[test]
fn the_scope_is_open_in_extractors_layers_and_handlers() {
    on_runtime(async {
        async fn middleware(request: Request, next: Next) -> Response {
            assert!(remaining().is_some());
            next.run(request).await
        }
        let handler = async |Left(left): Left| {
            assert!(remaining().is_some() && left.is_some());
            "seen"
        };
        let app = Router::new()
            .route("/", get(handler))
            .layer(from_fn(middleware))
            .layer(TimeoutLayer::new(LONG).respond_with(unavailable));
        assert!(fetch(serve(app).await, "/").await.ends_with("seen"));
    });
}

#[test]
fn a_stream_whose_time_is_up_is_cut_off() {
    on_runtime(async {
        let events = async || Body::new(Script::new([Step::Data("one"), Step::Never]));
        let app =
            Router::new().route("/", get(events)).layer(TimeoutLayer::new(SHORT).respond_with(unavailable));
        let answer = fetch(serve(app).await, "/").await;
        // The last chunk is missing. So a client can tell that the body is not complete.
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("one") && !answer.contains("\r\n0\r\n"),
            "{answer}"
        );
    });
}

#[test]
fn a_client_that_goes_away_stops_the_blocking_part() {
    on_runtime(async {
        let (begins, begun) = channel();
        let (ends, ended) = channel();
        let handler = move || {
            let (begins, ends) = (begins.clone(), ends.clone());
            async move {
                let work = handle().wrap(move || -> timebox::Result<()> {
                    begins.send(()).unwrap();
                    let error = loop {
                        if let Err(error) = checkpoint() {
                            break error;
                        }
                    };
                    ends.send(error.reason().map(str::to_owned)).unwrap();
                    Err(error)
                });
                tokio::task::spawn_blocking(work)
                    .await
                    .map(|_| ())
                    .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
            }
        };
        let app =
            Router::new().route("/", get(handler)).layer(TimeoutLayer::new(LONG).respond_with(unavailable));
        let stream = request(serve(app).await, "GET / HTTP/1.1").await;
        tokio::task::spawn_blocking(move || begun.recv_timeout(HANG)).await.unwrap().unwrap();
        drop(stream);
        let reason = tokio::task::spawn_blocking(move || ended.recv_timeout(HANG)).await.unwrap();
        assert_eq!(reason.unwrap().as_deref(), Some(CLIENT_GONE));
    });
}

#[test]
fn a_client_that_leaves_a_stream_cancels_its_scope() {
    on_runtime(async {
        let (ends, ended) = channel();
        let handler = move || {
            let ends = ends.clone();
            async move {
                let token = timebox::token();
                tokio::spawn(async move {
                    token.cancelled().await;
                    ends.send(token.checkpoint().unwrap_err().reason().map(str::to_owned)).unwrap();
                });
                let ticks =
                    (0..100_000).flat_map(|_| [Step::Data("tick"), Step::Sleep(Duration::from_millis(5))]);
                Body::new(Script::new(ticks))
            }
        };
        let app =
            Router::new().route("/", get(handler)).layer(TimeoutLayer::new(LONG).respond_with(unavailable));
        let mut stream = request(serve(app).await, "GET / HTTP/1.1").await;
        read_until(&mut stream, "tick").await;
        drop(stream);
        let reason = tokio::task::spawn_blocking(move || ended.recv_timeout(HANG)).await.unwrap();
        assert_eq!(reason.unwrap().as_deref(), Some(CLIENT_GONE));
    });
}

#[test]
fn a_blocking_part_gets_the_error_and_its_handler_answers() {
    on_runtime(async {
        async fn handler() -> Result<String, (StatusCode, String)> {
            let spin = || -> timebox::Result<String> {
                loop {
                    checkpoint()?;
                }
            };
            let done = tokio::task::spawn_blocking(handle().wrap(spin)).await.expect("no panic");
            done.map_err(|error| (StatusCode::GATEWAY_TIMEOUT, format!("mine: {error}")))
        }
        let limit = TimeoutLayer::new(SHORT).grace(LONG).respond_with(unavailable);
        let app = Router::new().route("/", get(handler)).layer(limit);
        let answer = fetch(serve(app).await, "/").await;
        assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("mine: timed out"), "{answer}");
    });
}

#[test]
fn the_next_request_on_the_connection_has_a_scope_of_its_own() {
    on_runtime(async {
        let handler = async |request: Request| {
            if request.uri().path() == "/slow" {
                let _ = future::sleep(LONG).await;
            }
            "quick"
        };
        let limit = TimeoutLayer::new(SHORT).respond_with(unavailable);
        let app = Router::new().fallback(handler).layer(limit);
        let mut stream =
            request(serve(app).await, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\nGET /quick HTTP/1.1").await;
        let both = read_until(&mut stream, "quick").await;
        assert!(both.starts_with("HTTP/1.1 503") && both.contains("HTTP/1.1 200"), "{both}");
    });
}
