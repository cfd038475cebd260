//! A response that is streamed stays in the scope of its request.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use timebox::{Deadline, Handle, TimeoutError, checkpoint, deadline, handle, is_expired};
use timebox_tower::{BODY_DROPPED, CLIENT_GONE, TimeoutBody, TimeoutLayer};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::support::{LONG, SHORT, Script, Step, on_runtime};

fn request() -> Request<String> {
    Request::get("/events").body(String::new()).unwrap()
}

async fn respond<A>(
    layer: TimeoutLayer<Request<String>, A>,
    request: Request<String>,
    response: impl FnOnce() -> Response<Script> + Clone,
) -> (Response<TimeoutBody<Script>>, Handle)
where
    A: timebox_tower::Answer<Response<Script>, BoxError> + Clone,
{
    let (sender, handles) = channel();
    let service = layer.layer(service_fn(move |_: Request<String>| {
        sender.send(handle()).unwrap();
        let response = response.clone();
        async move { Ok::<_, BoxError>(response()) }
    }));
    (service.oneshot(request).await.unwrap(), handles.recv().unwrap())
}

fn chunks() -> [Step; 3] {
    [Step::Data("one"), Step::Sleep(Duration::from_millis(1)), Step::Data("two")]
}

/// A body that notes in each poll and in its drop: whether it is being dropped, the deadline, and whether the scope is
/// over.
fn looking<const N: usize>(steps: [Step; N]) -> (Script, Receiver<(bool, Deadline, bool)>) {
    let (sender, seen) = channel();
    let script = Script::new(steps).look(move |dropping| {
        let _ = sender.send((dropping, deadline(), is_expired()));
    });
    (script, seen)
}

fn found(error: &BoxError) -> &TimeoutError {
    TimeoutError::find(&**error).expect("an error of this crate")
}

#[test]
fn each_poll_of_the_body_is_in_the_scope_of_the_request_and_the_drop_too() {
    on_runtime(async {
        let (sender, begun) = channel();
        let (script, seen) = looking(chunks());
        let script = std::sync::Mutex::new(Some(script));
        let service = TimeoutLayer::new(LONG).layer(service_fn(move |_: Request<String>| {
            sender.send(deadline()).unwrap();
            let script = script.lock().unwrap().take().unwrap();
            async move { Ok::<_, BoxError>(Response::new(script)) }
        }));
        let body = service.oneshot(request()).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "onetwo");
        let deadline = begun.recv().unwrap();
        let seen: Vec<_> = seen.try_iter().collect();
        assert!(seen.len() >= 4 && seen.iter().all(|&(_, in_poll, _)| in_poll == deadline), "{seen:?}");
        assert!(seen.iter().rev().skip(1).all(|&(dropping, ..)| !dropping) && seen.last().unwrap().0);
    });
}

#[test]
fn the_limit_ends_the_body_with_an_error() {
    on_runtime(async {
        let (script, seen) = looking([Step::Data("one"), Step::Never]);
        let script = std::sync::Arc::new(std::sync::Mutex::new(Some(script)));
        let take = move || Response::new(script.lock().unwrap().take().unwrap());
        let (response, handle) = respond(TimeoutLayer::new(SHORT), request(), take).await;
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(found(&error).is_timeout());
        assert_eq!((found(&error).label(), found(&error).limit()), (Some("GET /events"), Some(SHORT)));
        // The inner body was dropped at once, in its scope.
        assert_eq!(seen.try_iter().last().map(|(dropping, _, over)| (dropping, over)), Some((true, true)));
        assert!(body.frame().await.is_none() && body.is_end_stream());
        assert!(handle.is_expired());
    });
}

#[test]
fn silence_ends_the_body_and_its_scope() {
    on_runtime(async {
        let steps = || Response::new(Script::new([Step::Data("one"), Step::Never]));
        let (response, handle) = respond(TimeoutLayer::new(LONG).idle(SHORT), request(), steps).await;
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(
            (found(&error).label(), found(&error).limit()),
            (Some("silence of the body"), Some(SHORT))
        );
        assert_eq!(found(&error).chain().last().unwrap().label(), Some("GET /events"));
        assert!(body.frame().await.is_none());
        let reason = handle.token().checkpoint().unwrap_err();
        assert_eq!(reason.reason(), Some("the body was silent for too long"));
    });
}

#[test]
fn a_body_that_goes_on_sending_is_not_silent() {
    on_runtime(async {
        let idle = Duration::from_secs(5);
        let steps = || {
            let trickle = (0..20).flat_map(|_| [Step::Data("x"), Step::Sleep(SHORT)]);
            Response::new(Script::new(trickle))
        };
        let (response, handle) = respond(TimeoutLayer::new(LONG).idle(idle), request(), steps).await;
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 20);
        assert!(!handle.is_expired());
    });
}

/// Makes a request whose handler first runs `late`, and then responds. `late` must end after the deadline. Returns the
/// body that the client gets.
async fn late_body(layer: TimeoutLayer<Request<String>>, late: impl AsyncFn() + Sync) -> String {
    let late = &late;
    let service = layer.layer(service_fn(move |_: Request<String>| async move {
        late().await;
        assert!(is_expired());
        Ok::<_, BoxError>(Response::new(Script::new([Step::Data("rolled "), Step::Data("back")])))
    }));
    let body = service.oneshot(request()).await.unwrap().into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn a_late_response_is_sent_whole_although_its_body_has_a_limit_on_silence() {
    on_runtime(async {
        // The handler responds in its grace.
        let in_grace = TimeoutLayer::new(SHORT).grace(LONG).idle(LONG);
        let wait = async || assert!(timebox::future::sleep(LONG).await.is_err());
        assert_eq!(late_body(in_grace, wait).await, "rolled back");

        // Without a grace. The handler blocks its thread until after the deadline, so its response comes late.
        let compute = async || std::thread::sleep(2 * SHORT);
        assert_eq!(late_body(TimeoutLayer::new(SHORT).idle(LONG), compute).await, "rolled back");
    });
}

#[test]
fn a_stream_with_a_limit_on_silence_goes_on_in_the_grace() {
    on_runtime(async {
        let steps = || {
            let pause = || Step::Sleep(2 * SHORT);
            Response::new(Script::new([Step::Data("1"), pause(), Step::Data("2"), pause(), Step::Data("3")]))
        };
        let layer = TimeoutLayer::new(SHORT).grace(LONG).idle(LONG);
        let (response, handle) = respond(layer, request(), steps).await;
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "123");
        assert!(handle.is_expired());
    });
}

#[test]
fn a_body_that_is_dropped_in_the_middle_cancels_the_scope() {
    on_runtime(async {
        let steps = || Response::new(Script::new([Step::Data("one"), Step::Never]));
        let (response, handle) = respond(TimeoutLayer::new(LONG), request(), steps).await;
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(!handle.is_expired());
        drop(body);
        assert_eq!(handle.token().checkpoint().unwrap_err().reason(), Some(CLIENT_GONE));
    });
}

#[test]
fn a_body_of_which_all_was_sent_may_be_dropped_before_its_end() {
    on_runtime(async {
        let steps = || {
            let response = Response::builder().header("content-length", "6");
            response.body(Script::new([Step::Data("one"), Step::Data("two"), Step::Never])).unwrap()
        };
        let (response, handle) = respond(TimeoutLayer::new(LONG), request(), steps).await;
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok() && body.frame().await.unwrap().is_ok());
        drop(body);
        assert!(!handle.is_expired());

        // The body of an answer to `HEAD` is not read, so its drop cancels nothing.
        let head = Request::head("/events").body(String::new()).unwrap();
        let steps = || Response::new(Script::new([Step::Data("one")]));
        let (response, handle) = respond(TimeoutLayer::new(LONG), head, steps).await;
        drop(response);
        assert!(!handle.is_expired());
    });
}

#[test]
fn a_stream_of_grpc_ends_with_a_status() {
    #[derive(Default)]
    struct Silence;
    impl Body for Silence {
        type Data = bytes::Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, BoxError>>> {
            std::task::Poll::Pending
        }
    }
    on_runtime(async {
        let service = TimeoutLayer::new(SHORT)
            .respond_with_grpc_status()
            .layer(service_fn(async |_: Request<String>| Ok::<_, BoxError>(Response::new(Silence))));
        let body = service.oneshot(request()).await.unwrap().into_body();
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "4");
    });
}

#[test]
fn an_error_of_the_body_passes_through() {
    on_runtime(async {
        let steps = || Response::new(Script::new([Step::Fail]));
        let (response, _) = respond(TimeoutLayer::new(LONG).idle(LONG), request(), steps).await;
        let error = response.into_body().frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the disk");
    });
}

#[test]
fn a_body_made_by_hand_has_a_scope_of_its_own() {
    on_runtime(async {
        let limited = TimeoutBody::new(LONG, Full::new(bytes::Bytes::from("all"))).idle(LONG);
        assert_eq!(limited.size_hint().exact(), Some(3));
        assert_eq!(limited.collect().await.unwrap().to_bytes(), "all");

        let mut late = TimeoutBody::new(LONG, Script::new([Step::Never])).idle(SHORT);
        assert!(found(&late.frame().await.unwrap().unwrap_err()).is_timeout());

        let (sender, handles) = channel();
        let script = Script::new([Step::Data("one"), Step::Never]).look(move |_| {
            let _ = sender.send((handle(), checkpoint().err()));
        });
        let mut dropped = TimeoutBody::new(LONG, script);
        assert!(dropped.frame().await.unwrap().is_ok());
        drop(dropped);
        let reasons: Vec<_> = handles
            .try_iter()
            .map(|(_, error)| error.map(|error| error.reason().map(str::to_owned)))
            .collect();
        assert_eq!(reasons, [None, Some(Some(BODY_DROPPED.to_owned()))]);
    });
}
