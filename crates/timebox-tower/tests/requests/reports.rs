//! Reports of slow requests say which request it was, and nothing that a client keeps secret.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use timebox::report::{Policy, Report};
use timebox::{Limit, TimeoutError};
use timebox_tower::TimeoutLayer;

use crate::support::{SHORT, on_runtime, read_until, request, serve, wait_for};

#[test]
fn a_slow_request_is_reported_with_route_path_peer_and_id() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let policy = Policy::new().quiet_for(Duration::ZERO).to(move |report: &Report| {
        // The policy also reports the requests of other tests.
        if report.scope.label() != Some("GET /users/{id}") {
            return;
        }
        sink.lock().unwrap().push(format!("{report}\n{report:#}"));
    });
    policy.install().unwrap();
    on_runtime(async {
        let is_reported = {
            let reports = Arc::clone(&reports);
            move || !reports.lock().unwrap().is_empty()
        };
        let handler = async move || {
            wait_for("the report", is_reported).await;
            "done"
        };
        let answer = |_: &TimeoutError| -> Response { StatusCode::GATEWAY_TIMEOUT.into_response() };
        let slow = TimeoutLayer::new(Limit::NONE)
            .warn_after(SHORT)
            .timebox_with(|request: &Request, timebox| timebox.field("method again", request.method()))
            .respond_with(answer);
        let app = Router::new().route("/users/{id}", get(handler)).layer(slow);
        let address = serve(app).await;
        let head = "GET /users/7?password=hidden HTTP/1.1\r\nx-request-id: r-42\r\ncookie: hidden";
        let mut stream = request(address, head).await;
        let peer = stream.local_addr().unwrap();
        read_until(&mut stream, "done").await;
        let text = reports.lock().unwrap()[0].clone();
        for part in [
            "GET /users/{id}",
            "path = /users/7",
            "request id = r-42",
            "method again = GET",
            &format!("peer = {peer}"),
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    });
    timebox::report::uninstall();
}
