//! A handler that is over its limit in a transaction of SQLite, on the blocking pool.

use std::path::PathBuf;

use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use rusqlite::{Connection, TransactionBehavior};
use timebox::handle;
use timebox_databases::sqlite::guarded;
use timebox_tower::TimeoutLayer;
use tokio::task::spawn_blocking;

use crate::support::{
    AnyError, LONG, SHORT, get as fetch, own_answer, request, runtime, serve, unavailable, wait_for,
};

const ENDLESS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n";

/// In one transaction, inserts a row, then runs a query that never ends.
fn pay(database: &PathBuf) -> Result<i64, AnyError> {
    let mut connection = Connection::open(database)?;
    let interrupt = connection.get_interrupt_handle();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    guarded(&interrupt, || transaction.execute("insert into entry values (100)", []))?;
    let sum = guarded(&interrupt, || transaction.query_row(ENDLESS, [], |row| row.get(0)))?;
    transaction.commit()?;
    Ok(sum)
}

fn app() -> (tempfile::TempDir, PathBuf, Router) {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("entries");
    Connection::open(&database).unwrap().execute_batch("create table entry (amount)").unwrap();
    let path = database.clone();
    let handler = async move || -> Response {
        let path = path.clone();
        match spawn_blocking(handle().wrap(move || pay(&path))).await.expect("no panic") {
            Ok(sum) => sum.to_string().into_response(),
            Err(error) => own_answer(&error),
        }
    };
    (folder, database, Router::new().route("/pay", get(handler)))
}

fn rows_if_unlocked(database: &PathBuf) -> Option<i64> {
    let mut connection = Connection::open(database).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).ok()?;
    Some(transaction.query_row("select count(*) from entry", [], |row| row.get(0)).unwrap())
}

#[test]
fn within_the_grace_the_handler_rolls_back_and_answers() {
    let runtime = runtime();
    runtime.block_on(async {
        let (_folder, database, app) = app();
        let app = app.layer(TimeoutLayer::new(SHORT).grace(LONG).respond_with(unavailable));
        let answer = fetch(serve(app).await, "/pay").await;
        assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("the handler: timed out"), "{answer}");
        assert_eq!(rows_if_unlocked(&database), Some(0));
    });
}

#[test]
fn without_a_grace_the_blocking_part_rolls_back_too() {
    let runtime = runtime();
    runtime.block_on(async {
        let (_folder, database, app) = app();
        let app = app.layer(TimeoutLayer::new(SHORT).respond_with(unavailable));
        let answer = fetch(serve(app).await, "/pay").await;
        // The layer answers at the deadline, unless the handler has answered just before.
        assert!(answer.starts_with("HTTP/1.1 50") && answer.contains(": timed out"), "{answer}");
        wait_for("the rollback", async || rows_if_unlocked(&database) == Some(0)).await;
    });
}

#[test]
fn a_client_that_goes_away_rolls_the_transaction_back() {
    let runtime = runtime();
    runtime.block_on(async {
        let (_folder, database, app) = app();
        let app = app.layer(TimeoutLayer::new(LONG).respond_with(unavailable));
        let client = request(serve(app).await, "/pay").await;
        wait_for("the transaction", async || rows_if_unlocked(&database).is_none()).await;
        drop(client);
        wait_for("the rollback", async || rows_if_unlocked(&database) == Some(0)).await;
    });
}
