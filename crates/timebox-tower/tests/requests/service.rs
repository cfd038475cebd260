//! A service with a limit, called directly and not over a connection.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use timebox::{Limit, TimeoutError, checkpoint, future, handle, remaining};
use timebox_tower::{CLIENT_GONE, Propagation, TimeoutLayer, respond};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{HANG, LONG, SHORT, infallible, on_runtime};

fn get(path: &str) -> Request<String> {
    Request::get(path).body(String::new()).unwrap()
}

fn with_header(name: &str, value: &str) -> Request<String> {
    Request::get("/").header(name, value).body(String::new()).unwrap()
}

fn found(error: &BoxError) -> &TimeoutError {
    TimeoutError::find(&**error).expect("an error of this crate")
}

async fn hang(_: Request<String>) -> Result<Response<String>, BoxError> {
    future::sleep(LONG).await?;
    Ok(Response::new("awake".to_owned()))
}

async fn hang_without_error(_: Request<String>) -> Result<Response<String>, Infallible> {
    pending().await
}

#[test]
fn the_error_names_the_request_and_the_place_of_the_layer() {
    on_runtime(async {
        let layer = TimeoutLayer::new(SHORT);
        let line = line!() - 1;
        let error = layer.layer(service_fn(hang)).oneshot(get("/users/7?secret=1")).await.unwrap_err();
        let error = found(&error);
        assert!(error.is_timeout() && !error.settled());
        assert_eq!(error.label(), Some("GET /users/7"));
        assert_eq!(error.limit(), Some(SHORT));
        assert_eq!((error.location().file(), error.location().line()), (file!(), line));
    });
}

#[test]
fn each_request_to_a_service_has_its_own_label() {
    on_runtime(async {
        let mut service = TimeoutLayer::new(SHORT).layer(service_fn(hang));
        for (method, path) in
            [("GET", "/a"), ("GET", "/a"), ("GET", "/a/b"), ("POST", "/a"), ("GETTER", "/a")]
        {
            let request = Request::builder().method(method).uri(path).body(String::new()).unwrap();
            let error = service.call(request).await.unwrap_err();
            assert_eq!(found(&error).label(), Some(&*format!("{method} {path}")));
        }
    });
}

#[test]
fn the_scope_is_open_in_the_call_the_future_and_the_layers_within() {
    on_runtime(async {
        let service = ServiceBuilder::new()
            .layer(TimeoutLayer::new(LONG).label_with(|_: &Request<String>| "outer"))
            .layer(TimeoutLayer::new(SHORT).label_with(|_: &Request<_>| Cow::Borrowed("inner")))
            .service(service_fn(|_: Request<String>| {
                assert!(remaining().unwrap() <= SHORT);
                async {
                    tokio::task::yield_now().await;
                    let error = future::wait(HANG, future::sleep(LONG)).await.unwrap_err();
                    Ok::<_, BoxError>(Response::new(error.label().unwrap_or("none").to_owned()))
                }
            }));
        let error = service.oneshot(get("/")).await.unwrap_err();
        let labels: Vec<_> = found(&error).chain().map(|scope| scope.label().map(str::to_owned)).collect();
        assert_eq!(labels, [Some("inner".to_owned()), Some("outer".to_owned())]);
    });
}

#[test]
fn where_a_scope_around_is_over_the_caller_does_not_run_on() {
    on_runtime(async {
        let service = TimeoutLayer::new(LONG)
            .respond_with(respond::gateway_timeout())
            .layer(service_fn(hang_without_error));
        let ran_on = AtomicBool::new(false);
        let caller = async {
            std::thread::sleep(2 * SHORT);
            infallible(service.clone().oneshot(get("/")).await);
            ran_on.store(true, SeqCst);
        };
        assert!(future::timeout_value(SHORT, caller).await.is_err());
        assert!(!ran_on.load(SeqCst));

        // A grace lets the caller run on after the end of its scope, so it gets the answer.
        let caller = async {
            std::thread::sleep(2 * SHORT);
            infallible(service.oneshot(get("/")).await).status()
        };
        let answer = timebox::Timebox::new(SHORT).grace(LONG).run_future_value(caller).await;
        assert_eq!(answer.unwrap(), StatusCode::GATEWAY_TIMEOUT);
    });
}

#[test]
fn an_answer_takes_the_place_of_the_error() {
    on_runtime(async {
        let layer = TimeoutLayer::new(SHORT).respond_with(respond::service_unavailable(SHORT));
        let answer = infallible(layer.layer(service_fn(hang_without_error)).oneshot(get("/")).await);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");

        let layer = TimeoutLayer::new(SHORT).respond_with(respond::gateway_timeout());
        let answer = infallible(layer.layer(service_fn(hang_without_error)).oneshot(get("/")).await);
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);

        let layer = TimeoutLayer::new(SHORT).respond_with_grpc_status();
        let answer = infallible(layer.layer(service_fn(hang_without_error)).oneshot(get("/")).await);
        assert_eq!(
            (answer.status(), &answer.headers()["grpc-status"]),
            (StatusCode::OK, &"4".parse().unwrap())
        );
        assert!(answer.headers()["grpc-message"].to_str().unwrap().starts_with("timed out: `GET /`"));
    });
}

#[test]
fn within_the_grace_the_handler_answers_by_itself() {
    on_runtime(async {
        let layer = TimeoutLayer::new(SHORT).grace(LONG).respond_with(respond::gateway_timeout());
        let handler = async |_: Request<String>| {
            let error = future::sleep(LONG).await.unwrap_err();
            Ok::<_, Infallible>(Response::new(format!("rolled back: {}", error.label().unwrap())))
        };
        let answer = infallible(layer.layer(service_fn(handler)).oneshot(get("/pay")).await);
        assert_eq!(answer.status(), StatusCode::OK);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert_eq!(body, "rolled back: GET /pay");
    });
}

#[test]
fn the_request_chooses_its_limit_and_may_be_exempt() {
    on_runtime(async {
        let seen = service_fn(async |_: Request<String>| {
            Ok::<_, BoxError>(Response::new(format!(
                "{:?}",
                remaining().map(|left| left > Duration::from_secs(60))
            )))
        });
        let layer = TimeoutLayer::new(Duration::from_secs(60))
            .limit_with(|request: &Request<String>| match request.uri().path() {
                "/export" => Limit::from(LONG),
                "/endless" => Limit::NONE,
                _ => Duration::from_secs(60).into(),
            })
            .exempt(|request| request.uri().path() == "/health")
            .exempt(|request| request.uri().path() == "/metrics");
        let service = layer.layer(seen);
        for (path, expected) in [
            ("/export", "Some(true)"),
            ("/other", "Some(false)"),
            ("/endless", "None"),
            ("/health", "None"),
            ("/metrics", "None"),
        ] {
            let answer = service.clone().oneshot(get(path)).await.unwrap();
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            assert_eq!(body, expected, "{path}");
        }
    });
}

#[test]
fn an_incoming_deadline_only_shortens() {
    on_runtime(async {
        let left = service_fn(async |_: Request<String>| {
            Ok::<_, BoxError>(Response::new(remaining().unwrap().as_millis().to_string()))
        });
        let layer = TimeoutLayer::new(Duration::from_secs(60)).propagate(Propagation::header("x-timeout-ms"));
        let service = layer.layer(left);
        for (value, at_most) in [("20000", 20_000), ("90000", 60_000), ("60000", 60_000)] {
            let answer = service.clone().oneshot(with_header("x-timeout-ms", value)).await.unwrap();
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            let left: u64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
            assert!(left <= at_most && left > 0, "{left} ms of {value}");
        }
        let slow =
            layer.layer(service_fn(hang)).oneshot(with_header("x-timeout-ms", "30")).await.unwrap_err();
        assert_eq!((found(&slow).label(), found(&slow).limit()), (Some("GET /"), Some(SHORT)));
    });
}

#[test]
fn a_request_without_time_or_with_a_malformed_deadline_never_reaches_the_service() {
    on_runtime(async {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let service = service_fn(move |_: Request<String>| {
            counted.fetch_add(1, SeqCst);
            async { Ok::<_, BoxError>(Response::new(String::new())) }
        });
        let by_header = TimeoutLayer::new(LONG).propagate(Propagation::header("x-timeout-ms"));
        let zero =
            by_header.layer(service.clone()).oneshot(with_header("x-timeout-ms", "0")).await.unwrap_err();
        assert!(found(&zero).is_timeout() && !found(&zero).started());
        let malformed =
            by_header.layer(service.clone()).oneshot(with_header("x-timeout-ms", "soon")).await.unwrap();
        assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);

        let grpc = TimeoutLayer::new(LONG).propagate(Propagation::grpc()).respond_with_grpc_status();
        let malformed = grpc.layer(service.clone()).oneshot(with_header("grpc-timeout", "1x")).await.unwrap();
        assert_eq!(malformed.headers()["grpc-status"], "3");
        let zero = grpc.layer(service).oneshot(with_header("grpc-timeout", "0m")).await.unwrap();
        assert_eq!(zero.headers()["grpc-status"], "4");
        assert_eq!(calls.load(SeqCst), 0);
    });
}

#[test]
fn a_service_of_plain_values_is_limited_too() {
    on_runtime(async {
        let service = TimeoutLayer::new(SHORT).layer(service_fn(async |name: &'static str| {
            if name == "slow" {
                future::sleep(LONG).await?;
            }
            Ok::<_, BoxError>(name.len())
        }));
        assert_eq!(service.clone().oneshot("quick").await.unwrap(), 5);
        let error = service.oneshot("slow").await.unwrap_err();
        assert!(found(&error).is_timeout() && found(&error).label().is_none());
    });
}

#[test]
fn a_future_that_is_dropped_cancels_its_scope_and_is_dropped_in_it() {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let error = checkpoint().expect_err("the drop is in the scope");
            self.0.store(error.reason() == Some(CLIENT_GONE), SeqCst);
        }
    }
    let (sender, handles) = std::sync::mpsc::channel();
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Arc::clone(&dropped);
    let mut service = TimeoutLayer::new(LONG).layer(service_fn(move |_: Request<String>| {
        let (sender, guard) = (sender.clone(), OnDrop(Arc::clone(&guard)));
        async move {
            let _guard = guard;
            sender.send(handle()).unwrap();
            hang_without_error(get("/")).await.map_err(BoxError::from)
        }
    }));
    let mut call = Box::pin(service.call(get("/")));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let handle = handles.recv().unwrap();
    assert!(!handle.is_expired());
    drop(call);
    let error = handle.token().checkpoint().unwrap_err();
    assert!(error.is_cancelled() && error.label() == Some("GET /"));
    assert_eq!(error.reason(), Some(CLIENT_GONE));
    assert!(dropped.load(SeqCst));
}

#[test]
fn a_request_that_is_done_cancels_nothing() {
    on_runtime(async {
        let (sender, handles) = std::sync::mpsc::channel();
        let service = TimeoutLayer::new(LONG).layer(service_fn(move |_: Request<String>| {
            sender.send(handle()).unwrap();
            async { Ok::<_, BoxError>(Response::new("done".to_owned())) }
        }));
        let answer = service.oneshot(get("/")).await.unwrap();
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
        assert!(!handles.recv().unwrap().is_expired());
    });
}

#[test]
fn a_panic_passes_through_and_nobody_has_gone_away() {
    let (sender, handles) = std::sync::mpsc::channel();
    let mut service = TimeoutLayer::new(LONG).layer(service_fn(move |_: Request<String>| {
        let sender = sender.clone();
        async move {
            sender.send(handle()).unwrap();
            std::panic::resume_unwind(Box::new("mine"));
            #[allow(unreachable_code)]
            Ok::<Response<String>, BoxError>(Response::new(String::new()))
        }
    }));
    let mut call = Box::pin(service.call(get("/")));
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }));
    assert_eq!(polled.unwrap_err().downcast_ref(), Some(&"mine"));
    drop(call);
    assert!(!handles.recv().unwrap().is_expired());
    assert_eq!(remaining(), None);
}

#[test]
fn readiness_is_that_of_the_service_within_which_need_not_be_cloned() {
    /// Ready only at the second `poll_ready`. Not `Clone`.
    struct Gate(u32);
    impl Service<Request<String>> for Gate {
        type Response = Response<String>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<String>, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.0 += 1;
            if self.0 < 2 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn call(&mut self, _: Request<String>) -> Self::Future {
            assert_eq!(self.0, 2);
            std::future::ready(Ok(Response::new(String::new())))
        }
    }
    let mut service = TimeoutLayer::new(SHORT).layer(Gate(0));
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_pending());
    assert!(service.poll_ready(&mut context).is_ready());
    assert!(pin!(service.call(get("/"))).poll(&mut context).is_ready());
}
