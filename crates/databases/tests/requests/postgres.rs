//! Handlers whose limit passes during a query of PostgreSQL, or while the body streams rows from it.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use deadpool_postgres::Pool;
use futures::stream;
use timebox::{Limit, handle};
use timebox_databases::control::Doubt;
use timebox_databases::pools::on_deadpool;
use timebox_databases::postgres::raw_hook;
use timebox_databases::server::Server;
use timebox_tower::TimeoutLayer;

use crate::support::{
    AnyError, HANG, LONG, SHORT, busy_sessions, connect, get as fetch, own_answer, pool, request, runtime,
    serve, unavailable, wait_for,
};

/// Inserts a row, then sleeps for an hour. This is one statement, so it is one transaction: a cancel removes the row.
const PAY: &str = "with paid as (insert into entry values (100) returning amount)
    select amount from paid, pg_sleep(3600)";

/// An app whose handler inserts a payment, by the recipe of the guide.
fn paying(server: &Server, pool: &Pool) -> Router {
    let (address, pool) = (server.address(), pool.clone());
    let handler = async move || -> Response {
        let cancel = |token, doubt: &Doubt| raw_hook(token, address, HANG, doubt);
        let paid: Result<_, AnyError> =
            on_deadpool(&pool, cancel, async |client| client.query(PAY, &[]).await.map(|rows| rows.len()))
                .await;
        match paid {
            Ok(rows) => rows.to_string().into_response(),
            Err(error) => own_answer(&error),
        }
    };
    Router::new().route("/pay", get(handler))
}

/// Runs the handler in a task, so that it can clean up although its client has gone away.
async fn in_a_task(request: Request, next: Next) -> Response {
    let handler = async { Ok(next.run(request).await) };
    let task = tokio::spawn(handle().enter_future(Limit::NONE, handler));
    task.await.expect("no panic").unwrap_or_else(|error| unavailable(&error))
}

async fn rows(observer: &tokio_postgres::Client) -> i64 {
    observer.query_one("select count(*) from entry", &[]).await.unwrap().get(0)
}

#[test]
fn requests_that_end_in_a_query_leave_nothing_in_the_database() {
    let Some(server) = Server::postgres() else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let observer = connect(&server).await;
        observer.batch_execute("create table entry (amount int)").await.unwrap();
        let pool = pool(&server, 2);
        drop(pool.get().await.unwrap());
        let is_settled = || pool.status().available == pool.status().size;

        // Within the grace the handler waits for the database's answer to the cancel, and answers the request itself.
        let limit = TimeoutLayer::new(SHORT).grace(LONG).respond_with(unavailable);
        let address = serve(paying(&server, &pool).layer(limit)).await;
        let answer = fetch(address, "/pay").await;
        assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("the handler: timed out"), "{answer}");
        assert_eq!((busy_sessions(&observer).await, rows(&observer).await), (0, 0));
        assert_eq!((pool.status().size, pool.status().available), (1, 1), "the connection is usable");

        // The limit has no grace, so the layer answers as soon as the cancel has been sent. The connection is not used
        // again.
        let limit = TimeoutLayer::new(SHORT).respond_with(unavailable);
        let address = serve(paying(&server, &pool).layer(limit)).await;
        let answer = fetch(address, "/pay").await;
        assert!(answer.starts_with("HTTP/1.1 50") && answer.contains(": timed out"), "{answer}");
        wait_for("the query ends", async || busy_sessions(&observer).await == 0 && is_settled()).await;
        assert_eq!(rows(&observer).await, 0);

        // The client goes away. The handler runs in a task of its own, so it keeps its grace, and waits for the answer
        // to the cancel.
        let limit = TimeoutLayer::new(LONG).grace(LONG).respond_with(unavailable);
        let address = serve(paying(&server, &pool).layer(from_fn(in_a_task)).layer(limit)).await;
        let client = request(address, "/pay").await;
        wait_for("the query", async || busy_sessions(&observer).await == 1).await;
        drop(client);
        wait_for("the query ends", async || busy_sessions(&observer).await == 0 && is_settled()).await;
        assert_eq!((rows(&observer).await, pool.status().size), (0, 1), "the connection is usable");
    });
    runtime.shutdown_background();
}

#[test]
fn a_streamed_body_that_is_over_its_limit_gives_its_transaction_back() {
    let Some(server) = Server::postgres() else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let observer = connect(&server).await;
        observer.batch_execute("create table entry (amount int)").await.unwrap();
        let pool = pool(&server, 1);
        let in_handler = pool.clone();
        // The response's body owns the connection. The limit of the body passes in the middle of a transaction.
        let handler = async move || {
            let client = in_handler.get().await.unwrap();
            client.batch_execute("begin; insert into entry values (100)").await.unwrap();
            let open = deadpool_postgres::Object::take(client);
            let chunks = stream::unfold((open, 0), async |(open, count)| {
                if count > 0 {
                    timebox::future::sleep(LONG).await.ok()?;
                }
                Some((Ok::<_, AnyError>(Bytes::from("row")), (open, count + 1)))
            });
            Body::from_stream(chunks)
        };
        let limit = TimeoutLayer::new(SHORT).respond_with(unavailable);
        let app = Router::new().route("/rows", get(handler)).layer(limit);
        let answer = fetch(serve(app).await, "/rows").await;
        // The last chunk is missing, so the client can tell that the body is not complete.
        assert!(answer.contains("row") && !answer.contains("\r\n0\r\n"), "{answer}");
        wait_for("the transaction ends", async || busy_sessions(&observer).await == 0).await;
        assert_eq!((rows(&observer).await, pool.status().size), (0, 0));
    });
    runtime.shutdown_background();
}
