//! The deadline that outgoing calls carry.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use timebox::{Limit, Timebox, TimeoutError, future};
use timebox_tower::{DeadlineLayer, DeadlineService};
use tower::{Layer, Service, ServiceExt, service_fn};

const LONG: Duration = Duration::from_secs(3600);
const HEADER: &str = "x-timeout-ms";

type BoxError = Box<dyn Error + Send + Sync>;

/// A client that answers with the values of the header in its request.
#[derive(Clone)]
struct Echo;

impl Service<Request<()>> for Echo {
    type Response = Vec<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Vec<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let values = request.headers().get_all(HEADER).iter();
        std::future::ready(Ok(values.map(|value| value.to_str().unwrap().to_owned()).collect()))
    }
}

/// A client whose calls never end, and a flag. The drop of a call sets the flag.
fn silent()
-> (impl Service<Request<()>, Response = (), Error = Infallible, Future: Send> + Clone, Arc<AtomicBool>) {
    struct Sets(Arc<AtomicBool>);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    let client = service_fn(move |_: Request<()>| {
        let sets = Sets(Arc::clone(&flag));
        async move {
            let _sets = sets;
            pending().await
        }
    });
    (client, gone)
}

fn uncalled() -> impl Service<Request<()>, Response = (), Error = Infallible> + Clone {
    service_fn(|_: Request<()>| async { panic!("the call was made") })
}

fn layer() -> DeadlineLayer {
    DeadlineLayer::header(HEADER)
}

#[tokio::test]
async fn where_a_future_around_is_over_the_caller_does_not_run_on() {
    let limit = Duration::from_millis(20);
    let ran_on = AtomicBool::new(false);
    let caller = async {
        std::thread::sleep(2 * limit);
        let _ = layer().layer(uncalled()).oneshot(Request::new(())).await;
        ran_on.store(true, Ordering::SeqCst);
    };
    assert!(future::timeout_value(limit, caller).await.is_err());
    assert!(!ran_on.load(Ordering::SeqCst));

    // With a grace, the caller's scope still polls the caller after the limit, so the caller gets the error.
    let caller = async {
        std::thread::sleep(2 * limit);
        layer().layer(uncalled()).oneshot(Request::new(())).await.unwrap_err()
    };
    let error = Timebox::new(limit).grace(LONG).run_future_value(caller).await.unwrap();
    assert!(TimeoutError::find(&*error).unwrap().is_timeout());
}

fn echo(layer: &DeadlineLayer) -> DeadlineService<Echo> {
    layer.layer(Echo)
}

fn request(values: &[&str]) -> Request<()> {
    values.iter().fold(Request::builder(), |request, value| request.header(HEADER, *value)).body(()).unwrap()
}

async fn within<T>(limit: impl Into<Limit>, call: impl Future<Output = T>) -> T {
    future::timeout_value(limit, call).await.unwrap()
}

fn number(values: &[String]) -> u128 {
    let [value] = values else { panic!("{values:?}") };
    value.parse().unwrap()
}

#[tokio::test]
async fn a_call_carries_what_is_left_less_the_allowance() {
    let call = || echo(&layer()).oneshot(request(&[]));
    let left = number(&within(LONG, call()).await.unwrap());
    assert!(left <= 3_600_000 && left > 3_000_000, "{left}");
    let nested = number(&within(LONG, within(LONG / 2, call())).await.unwrap());
    assert!(nested <= 1_800_000 && nested > 1_200_000, "{nested}");
    let less = echo(&layer().allowance(LONG / 4)).oneshot(request(&[]));
    let less = number(&within(LONG, less).await.unwrap());
    assert!(less <= 2_700_000 && less > 2_100_000, "{less}");
}

#[tokio::test]
async fn without_a_deadline_the_headers_stay_as_they_are() {
    for values in [&[][..], &["7"], &["soon"], &["1", "2"]] {
        let call = || echo(&layer().allowance(LONG)).oneshot(request(values));
        assert_eq!(call().await.unwrap(), values);
        assert_eq!(within(Limit::NONE, call()).await.unwrap(), values);
    }
}

#[tokio::test]
async fn a_header_of_the_caller_is_only_shortened() {
    let call = |values: &[&str]| within(LONG, echo(&layer()).oneshot(request(values)));
    for shorter in ["0", "1", "0000100"] {
        assert_eq!(call(&[shorter]).await.unwrap(), [shorter]);
    }
    for replaced in [&["3600001"][..], &["9999999999999999999"], &["soon"], &[""], &["1", "1"]] {
        let left = number(&call(replaced).await.unwrap());
        assert!(left <= 3_600_000 && left > 3_000_000, "{left}");
    }
}

#[tokio::test]
async fn a_call_without_time_is_not_made() {
    let call = layer().allowance(LONG).layer(uncalled()).oneshot(request(&[]));
    let error = within(LONG / 2, call).await.unwrap_err();
    let error = error.downcast::<TimeoutError>().unwrap();
    assert!(error.is_timeout() && error.overshoot().is_zero());
    assert_eq!(error.limit(), Some(LONG / 2));

    let graced = Timebox::new(Duration::from_millis(1)).grace(LONG).run_future_value(async {
        let _over = future::sleep(LONG).await;
        layer().layer(uncalled()).oneshot(request(&["100"])).await
    });
    assert!(graced.await.unwrap().unwrap_err().is::<TimeoutError>());
}

#[tokio::test]
async fn a_call_of_a_cancelled_scope_is_not_made() {
    let error = timebox::with_timeout(Limit::NONE, |scope| -> timebox::Result<BoxError> {
        scope.token().cancel_with("the user left");
        let mut service = layer().layer(uncalled());
        let call = service.call(request(&[]));
        Ok(futures_now(call).unwrap_err())
    });
    let error = error.unwrap().downcast::<TimeoutError>().unwrap();
    assert_eq!(error.reason(), Some("the user left"));
}

fn futures_now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it is pending"),
    }
}

#[tokio::test]
async fn a_call_in_flight_ends_when_its_scope_is_over() {
    let (client, gone) = silent();
    let graced = Timebox::new(Duration::from_millis(20)).label("request").grace(LONG);
    let result = graced.run_future_value(async {
        let error = layer().layer(client).oneshot(request(&[])).await.unwrap_err();
        assert!(gone.load(Ordering::SeqCst), "the other side is not told");
        error
    });
    let error = result.await.unwrap().downcast::<TimeoutError>().unwrap();
    assert_eq!(error.label(), Some("request"));
}

#[tokio::test]
async fn cleanup_in_a_shield_has_a_deadline_of_its_own() {
    let graced = Timebox::new(Duration::from_millis(1)).grace(LONG).run_future_value(async {
        let _over = future::sleep(LONG).await;
        future::shield(Duration::from_secs(60), echo(&layer()).oneshot(request(&[]))).await
    });
    let left = number(&graced.await.unwrap().unwrap());
    assert!(left <= 60_000 && left > 10_000, "{left}");
}

#[tokio::test]
async fn an_error_of_the_client_is_the_error_of_the_call() {
    #[derive(Debug, thiserror::Error)]
    #[error("out of reach")]
    struct OutOfReach;

    let client = service_fn(async |_: Request<()>| Err::<(), _>(OutOfReach));
    let error = layer().layer(client).oneshot(request(&[])).await.unwrap_err();
    assert!(error.is::<OutOfReach>());

    // An error that is already boxed is not boxed again.
    let client = service_fn(async |_: Request<()>| Err::<(), BoxError>(OutOfReach.into()));
    let error = layer().layer(client).oneshot(request(&[])).await.unwrap_err();
    assert!(error.is::<OutOfReach>());
}

#[tokio::test]
async fn a_client_that_is_not_ready_is_waited_for() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<()>> for NeverReady {
        type Response = ();
        type Error = Infallible;
        type Future = std::future::Ready<Result<(), Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            panic!("it was not ready")
        }
    }
    let call = layer().layer(NeverReady).oneshot(request(&[]));
    assert!(future::timeout_value(Duration::from_millis(1), call).await.unwrap_err().is_timeout());
}

#[test]
fn the_layer_the_service_and_the_future_are_what_a_server_needs() {
    fn check<T: Send + Sync + 'static>(_: &T) {}
    fn check_future<T: Send + 'static>(_: &T) {}
    let mut service = echo(&layer());
    check(&layer());
    check(&service);
    check_future(&service.call(request(&[])));
}

mod over_sockets {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::any;
    use http_body_util::BodyExt;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    async fn server() -> SocketAddr {
        let handler = async |headers: HeaderMap| headers[HEADER].to_str().unwrap().to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(handler))).await });
        address
    }

    #[tokio::test]
    async fn a_client_of_hyper_sends_the_deadline() {
        let client = Client::builder(TokioExecutor::new()).build_http::<String>();
        let request = Request::get(format!("http://{}/", server().await)).body(String::new()).unwrap();
        let response: Response<_> = within(LONG, layer().layer(client).oneshot(request)).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let left: u32 = std::str::from_utf8(&body).unwrap().parse().unwrap();
        assert!(left <= 3_600_000 && left > 3_000_000, "{left}");
    }

    #[tokio::test]
    #[cfg(feature = "reqwest")]
    async fn a_client_of_reqwest_sends_the_deadline() {
        let client = reqwest::Client::new();
        let request = client.get(format!("http://{}/", server().await)).build().unwrap();
        let response = within(LONG, layer().layer(client).oneshot(request)).await.unwrap();
        let left: u32 = response.text().await.unwrap().parse().unwrap();
        assert!(left <= 3_600_000 && left > 3_000_000, "{left}");
    }
}
