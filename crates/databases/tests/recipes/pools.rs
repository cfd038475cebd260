//! Pools with one connection. A connection goes back to its pool only if no answer and no cancel is still on its way.

use std::error::Error;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use deadpool_postgres::{ManagerConfig, RecyclingMethod};
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use timebox::{CancellationToken, Hook, Limit, Timebox, timeout};
use tokio_postgres::NoTls;

use crate::postgres::{async_config, control, runtime, server};
use crate::recipes::control::Doubt;
use crate::recipes::pools::{Manager, Marking, lent_by_r2d2, on_bb8, on_deadpool, on_r2d2, on_sqlx};
use crate::recipes::postgres::{Session, raw_hook};
use crate::support::{AnyError, HANG, LONG, SHORT, alone, timed_out};

const ENDLESS: &str = "select pg_sleep(3600)";
const PID: &str = "select pg_backend_pid()";

struct Nothing;

impl r2d2::ManageConnection for Nothing {
    type Connection = ();
    type Error = std::io::Error;

    fn connect(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

#[test]
fn r2d2_the_wait_for_a_connection_ends_with_a_cancel_or_the_pools_patience() {
    let pool =
        |patience| r2d2::Pool::builder().max_size(1).connection_timeout(patience).build(Nothing).unwrap();
    let (long, short) = (pool(HANG * 2), pool(SHORT * 2));
    let _held = (long.get().unwrap(), short.get().unwrap());

    let token = CancellationToken::new();
    let start = Instant::now();
    let has_begun = Barrier::new(2);
    let result = std::thread::scope(|threads| {
        threads.spawn(|| {
            has_begun.wait();
            token.cancel();
        });
        Timebox::new(Limit::NONE).cancel_on(&token).run(|_| {
            has_begun.wait();
            lent_by_r2d2(&long).map(drop)
        })
    });
    assert!(timed_out(result).is_cancelled());
    assert!(start.elapsed() < HANG);

    let error = timeout(LONG, || lent_by_r2d2(&short).map(drop)).unwrap_err();
    assert!(error.is::<r2d2::Error>(), "{error}");
}

/// What becomes of the cancel of a query.
#[derive(Clone, Copy)]
enum Cancel<'a> {
    Works,
    /// The cancel works. But the test marks the connection as if a second cancel could still arrive.
    IsInDoubt,
    /// The hook does nothing, so the server goes on with the query. The scope ends because the test cancels this token
    /// just before the query begins.
    IsLost(&'a CancellationToken),
}

impl Cancel<'_> {
    fn hook(self, doubt: &Doubt, works: impl FnOnce() -> Hook<'static>) -> Hook<'static> {
        match self {
            Self::Works => works(),
            Self::IsInDoubt => {
                doubt.raise();
                works()
            }
            Self::IsLost(_) => Hook::inline(|| ()),
        }
    }

    fn query_begins(self) {
        if let Self::IsLost(token) = self {
            token.cancel();
        }
    }
}

/// Checks that a pool lends a connection again if the server has answered its query, and discards the connection if the
/// query or a cancel may still be on its way. `pid` and `endless` each run a query on a connection of the pool.
async fn settles_or_discards(
    pid: impl AsyncFn() -> Result<i32, AnyError>,
    endless: impl AsyncFn(Cancel<'_>) -> Result<(), AnyError>,
) {
    let mut last = pid().await.unwrap();
    for _ in 0..20 {
        let limited = Timebox::new(SHORT).grace(HANG).run_future(endless(Cancel::Works));
        let error = timed_out(limited.await);
        assert!(error.is_timeout() && error.settled());
        let start = Instant::now();
        let next = pid().await.unwrap();
        // An error without a source does not come from the server: the query was not begun. Then the pool may have
        // discarded the connection that it was about to lend.
        assert!(next == last || error.source().is_none(), "the connection was given back");
        last = next;
        assert!(start.elapsed() < HANG);
    }
    // Here the cancel is lost, so the query goes on. Its future is dropped after the grace, and the pool must discard
    // the connection.
    for _ in 0..3 {
        let token = CancellationToken::new();
        let run = Timebox::new(Limit::NONE)
            .cancel_on(&token)
            .grace(SHORT)
            .run_future(endless(Cancel::IsLost(&token)));
        assert!(!timed_out(run.await).settled());
        let next = pid().await.unwrap();
        assert_ne!(next, last, "the connection was discarded");
        last = next;
    }
    // A connection that a late cancel may reach is not lent again.
    for _ in 0..3 {
        let error = timed_out(Timebox::new(SHORT).grace(HANG).run_future(endless(Cancel::IsInDoubt)).await);
        let next = pid().await.unwrap();
        assert!(next != last || error.source().is_none(), "the connection is in doubt");
        last = next;
    }
    // `holds` has the pool's only connection, so `waits` waits for it. `waits` must end at its deadline (`SHORT`), and
    // not only after its grace (`LONG`).
    let token = CancellationToken::new();
    let holds = Timebox::new(Limit::NONE).cancel_on(&token).grace(HANG).run_future(endless(Cancel::Works));
    let waits = async {
        let result = Timebox::new(SHORT).grace(LONG).run_future(endless(Cancel::Works)).await;
        token.cancel();
        result
    };
    let (held, waited) = tokio::join!(holds, waits);
    let held = timed_out(held);
    assert!(held.is_cancelled() && timed_out(waited).is_timeout());
    assert!(pid().await.unwrap() == last || held.source().is_none());
}

#[test]
fn deadpool() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let raw = |token, doubt: &Doubt| raw_hook(token, server.address(), HANG, doubt);
    runtime().block_on(async {
        for recycling_method in [RecyclingMethod::Fast, RecyclingMethod::Verified] {
            let config = ManagerConfig { recycling_method };
            let manager = deadpool_postgres::Manager::from_config(async_config(server), NoTls, config);
            let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
            let pid = async || {
                on_deadpool(&pool, raw, async |client| Ok(client.query_one(PID, &[]).await?.get(0))).await
            };
            let endless = async |cancel: Cancel<'_>| {
                let hook = |token, doubt: &Doubt| cancel.hook(doubt, || raw(token, doubt));
                on_deadpool(&pool, hook, async |client| {
                    cancel.query_begins();
                    client.batch_execute(ENDLESS).await
                })
                .await
            };
            settles_or_discards(pid, endless).await;
        }
    });
}

#[test]
fn bb8() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let raw = |token, doubt: &Doubt| raw_hook(token, server.address(), HANG, doubt);
    runtime().block_on(async {
        let manager = Marking(bb8_postgres::PostgresConnectionManager::new(async_config(server), NoTls));
        let pool = bb8::Pool::builder().max_size(1).build(manager).await.unwrap();
        let pid =
            async || on_bb8(&pool, raw, async |client| Ok(client.query_one(PID, &[]).await?.get(0))).await;
        let endless = async |cancel: Cancel<'_>| {
            let hook = |token, doubt: &Doubt| cancel.hook(doubt, || raw(token, doubt));
            on_bb8(&pool, hook, async |client| {
                cancel.query_begins();
                client.batch_execute(ENDLESS).await
            })
            .await
        };
        settles_or_discards(pid, endless).await;
    });
}

#[test]
fn sqlx() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    runtime().block_on(async {
        let options = PgConnectOptions::new().host("127.0.0.1").port(server.port()).username("postgres");
        let options = options.database("postgres").ssl_mode(PgSslMode::Disable);
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        let pid = async || {
            let hook = |session: &Session| control.hook(session);
            on_sqlx(&pool, hook, async |connection| sqlx::query_scalar(PID).fetch_one(connection).await).await
        };
        let endless = async |cancel: Cancel<'_>| {
            let hook = |session: &Session| cancel.hook(&session.doubt, || control.hook(session));
            let work = async |connection: &mut PgConnection| {
                cancel.query_begins();
                sqlx::query(ENDLESS).execute(connection).await
            };
            on_sqlx(&pool, hook, work).await.map(drop)
        };
        settles_or_discards(pid, endless).await;
    });
}

#[test]
fn r2d2() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    let manager = Manager { config: async_config(server), server: server.address() };
    let pool = r2d2::Pool::builder().max_size(1).build(manager).unwrap();
    let hook = |session: &Session| control.hook(session);
    let pid = || on_r2d2(&pool, hook, async |client| Ok(client.query_one(PID, &[]).await?.get(0)));
    let endless = |limit: Duration| {
        timeout(limit, || on_r2d2(&pool, hook, async |client| client.batch_execute(ENDLESS).await))
    };
    let mut last: i32 = pid().unwrap();
    for _ in 0..30 {
        let error = timed_out(endless(SHORT));
        assert!(error.is_timeout());
        let next = pid().unwrap();
        // Usually the pool lends the same connection again. But if the scope ended while the pool tested the
        // connection, the pool may have discarded it. Then the query was not begun, so the error has no source.
        assert!(next == last || error.source().is_none(), "the connection was given back");
        last = next;
    }
    // A call that still waits for a connection ends with the scope.
    let held = pool.get().unwrap();
    let result: Result<(), AnyError> = endless(SHORT);
    assert!(timed_out(result).is_timeout());
    drop(held);
    assert_eq!(pid().unwrap(), last);
}
