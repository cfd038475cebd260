//! Requests that carry a token are profiled, and no others.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use timebox_tower::{ProfileLayer, TimeoutLayer, respond};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const TOKEN: &str = "9f86d081884c7d65";
const WHILE: Duration = Duration::from_millis(50);

fn request(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

/// Waits a while. Then answers with the URI and the headers of the request, as they arrived here.
async fn echo(request: Request<()>) -> Result<Response<String>, Infallible> {
    echo_after(WHILE, request).await
}

async fn echo_after(wait: Duration, request: Request<()>) -> Result<Response<String>, Infallible> {
    tokio::time::sleep(wait).await;
    Ok(Response::new(format!("{} {:?}", request.uri(), request.headers())))
}

async fn body_of(layer: &ProfileLayer, request: Request<()>) -> (StatusCode, String) {
    let response = layer.layer(service_fn(echo)).oneshot(request).await.unwrap();
    (response.status(), response.into_body())
}

#[tokio::test]
async fn a_request_with_the_token_gets_its_profile() {
    let layer = ProfileLayer::new(TOKEN).frequency(997);
    let in_header = Request::get("/page").header("x-profile", TOKEN).body(()).unwrap();
    for request in [request(&format!("/page?__profile={TOKEN}")), in_header] {
        let mut wait = WHILE;
        let response = loop {
            let service = service_fn(move |request| echo_after(wait, request));
            let response = layer.layer(service).oneshot(request.clone()).await.unwrap();
            // On a busy machine, a short wait may have no sample.
            if response.body().contains("profile::echo_after") {
                break response;
            }
            wait *= 4;
            assert!(wait < Duration::from_secs(20), "{}", response.body());
        };
        let drawn = cfg!(feature = "flamegraph");
        let expected = if drawn { "image/svg+xml" } else { "text/plain; charset=utf-8" };
        assert_eq!(response.headers()["content-type"], expected);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.into_body();
        assert!(body.contains("GET /page"), "{body}");
        assert!(!body.contains(TOKEN), "{body}");
    }
}

#[tokio::test]
async fn a_request_without_the_token_gets_the_response_of_the_service() {
    let layer = ProfileLayer::new(TOKEN);
    let expected = (StatusCode::OK, "/page?__profile=guess {}".to_owned());
    assert_eq!(body_of(&layer, request("/page?__profile=guess")).await, expected);
    let off = ProfileLayer::new("");
    let expected = (StatusCode::OK, "/page?__profile= {}".to_owned());
    assert_eq!(body_of(&off, request("/page?__profile=")).await, expected);
}

#[tokio::test]
async fn profiles_above_the_rate_are_refused_and_other_requests_are_not() {
    let layer = ProfileLayer::new(TOKEN).per_minute(1).header(http::header::AUTHORIZATION).parameter("p");
    let uri = format!("/?p={TOKEN}");
    assert_eq!(body_of(&layer, request(&uri)).await.0, StatusCode::OK);
    assert_eq!(body_of(&layer.clone(), request(&uri)).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(body_of(&layer, request("/")).await, (StatusCode::OK, "/ {}".to_owned()));
}

#[tokio::test]
async fn a_stored_profile_leaves_the_response_alone() {
    let (sender, profiles) = mpsc::channel();
    let layer = ProfileLayer::new(TOKEN).store(move |profile| sender.send(profile).unwrap());
    let answer = body_of(&layer, request(&format!("/page?a=b&__profile={TOKEN}"))).await;
    assert_eq!(answer, (StatusCode::OK, "/page?a=b {}".to_owned()), "the token is gone");
    let profile = profiles.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(profile.label(), Some("GET /page"));
    assert!(profile.elapsed() >= WHILE);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_profile() {
    let (sender, profiles) = mpsc::channel();
    let layer = ProfileLayer::new(TOKEN).store(move |profile| sender.send(profile).unwrap());
    let stuck = service_fn(|_: Request<()>| std::future::pending::<Result<Response<String>, Infallible>>());
    {
        let mut future = pin!(layer.layer(stuck).call(request(&format!("/stuck?__profile={TOKEN}"))));
        let is_pending = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
    }
    assert_eq!(profiles.recv_timeout(Duration::from_secs(60)).unwrap().label(), Some("GET /stuck"));
}

#[tokio::test]
async fn one_stack_has_the_layer_and_two_limits() {
    let limit = TimeoutLayer::new(Duration::from_secs(3600));
    let service = ServiceBuilder::new()
        .layer(ProfileLayer::new(TOKEN))
        .layer(limit.clone().respond_with(respond::gateway_timeout()))
        .layer(limit.clone().respond_with(respond::service_unavailable(Duration::ZERO)))
        .layer(limit.respond_with_grpc_status())
        .service(service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("inner".to_owned()))));
    for (uri, expected) in [("/".to_owned(), "inner"), (format!("/?__profile={TOKEN}"), "GET /")] {
        let body = service.clone().oneshot(request(&uri)).await.unwrap().into_body();
        let text = body.collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains(expected));
    }
}

#[tokio::test]
async fn a_profiled_request_has_its_own_limit() {
    let status = service_fn(async |_: Request<()>| {
        let is_long = timebox::remaining().is_some_and(|left| left > Duration::from_secs(60));
        let mut response = Response::new(String::new());
        *response.status_mut() = if is_long { StatusCode::ACCEPTED } else { StatusCode::OK };
        Ok::<_, Infallible>(response)
    });
    let limited = TimeoutLayer::new(Duration::from_secs(30)).respond_with(respond::gateway_timeout());
    let inner = limited.layer(status);
    let layer = ProfileLayer::new(TOKEN).limit(Duration::from_secs(3600)).store(drop);
    for (uri, expected) in
        [(format!("/?__profile={TOKEN}"), StatusCode::ACCEPTED), ("/".to_owned(), StatusCode::OK)]
    {
        let response = layer.layer(inner.clone()).oneshot(request(&uri)).await.unwrap();
        assert_eq!(response.status(), expected);
    }
}
