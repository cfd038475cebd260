//! The status of a call that is not made, or that ends before its answer.

use std::future::Future;
use std::time::Duration;

use timebox::{Limit, Timebox, TimeoutError, future};
use timebox_tower::DeadlineLayer;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::Layer;

use super::service::{Item, ShopClient};

const LONG: Duration = Duration::from_secs(3600);

async fn within<T>(limit: impl Into<Limit>, call: impl Future<Output = T>) -> T {
    future::timeout_value(limit, call).await.unwrap()
}

/// A channel to a server that accepts and never answers.
async fn silent_channel() -> Channel {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

async fn ask(layer: DeadlineLayer, request: impl tonic::IntoRequest<Item>) -> Status {
    let mut client = ShopClient::new(layer.layer(silent_channel().await));
    client.price(request).await.unwrap_err()
}

fn item() -> Item {
    Item { name: "chair".to_owned() }
}

#[tokio::test]
async fn a_call_without_time_is_a_status_with_the_error_of_the_scope() {
    let status = within(LONG / 2, ask(DeadlineLayer::grpc().allowance(LONG), item())).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(TimeoutError::find(&status).unwrap().limit(), Some(LONG / 2));
}

#[tokio::test]
async fn a_call_of_a_cancelled_scope_is_a_status_too() {
    let status = Timebox::new(Limit::NONE).grace(LONG).run_future_value(async {
        timebox::token().cancel_with("the user left");
        ask(DeadlineLayer::grpc(), item()).await
    });
    let status = status.await.unwrap();
    assert_eq!(status.code(), Code::Cancelled);
    assert_eq!(TimeoutError::find(&status).unwrap().reason(), Some("the user left"));
}

#[tokio::test]
async fn a_call_that_its_scope_ends_is_a_status() {
    let graced = Timebox::new(Duration::from_millis(20)).label("request").grace(LONG);
    let status = graced.run_future_value(ask(DeadlineLayer::grpc(), item())).await.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(TimeoutError::find(&status).unwrap().label(), Some("request"));
}

#[tokio::test]
async fn a_call_that_the_channel_ends_says_that_its_deadline_was_exceeded() {
    let nearly_all = DeadlineLayer::grpc().allowance(LONG.mul_f32(0.9999));
    let status = within(LONG, ask(nearly_all, item())).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(TimeoutError::find(&status).unwrap().limit(), Some(LONG));

    // The request's own timeout passes long before the scope's deadline, so no scope is over.
    let mut request = tonic::Request::new(item());
    request.set_timeout(Duration::from_millis(20));
    let status = within(LONG, ask(DeadlineLayer::grpc(), request)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(TimeoutError::find(&status).is_none());
}
