//! Clients that fetch rows only when the caller reads them. If a guarded call reads the rows, the reading ends with the
//! scope. Rows that are not fetched yet cannot leave the guarded call.

use std::marker::PhantomData;

use mysql::prelude::Queryable;
use postgres::fallible_iterator::FallibleIterator;
use rusqlite::Connection;
use timebox::{Timebox, timeout};
use tokio_postgres::{RowStream, SimpleQueryStream};

use crate::recipes::{mysql as maria_recipe, postgres as postgres_recipe, sqlite as sqlite_recipe};
use crate::support::{HANG, alone, cut};
use crate::{mariadb, postgres as postgres_tests};

#[test]
fn sqlite_rows_of_query_map_end_within_the_scope() {
    let _alone = alone();
    let connection = Connection::open_in_memory().unwrap();
    let interrupt = connection.get_interrupt_handle();
    let endless =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n where i % 1000 = 0";
    let mut statement = connection.prepare(endless).unwrap();
    for _ in 0..20 {
        let error = cut(|limit| {
            timeout(limit, || {
                sqlite_recipe::guarded(&interrupt, || {
                    let rows = statement.query_map([], |row| row.get::<_, i64>(0))?;
                    rows.map(|row| row.map(|_| 1)).sum::<rusqlite::Result<u64>>()
                })
            })
        });
        assert!(error.is_timeout());
    }
    // SQLite keeps an interrupt until all running statements have ended. If the statement above were still running, its
    // interrupt would hit this statement too.
    assert_eq!(connection.query_row("select 42", [], |row| row.get(0)), Ok(42));
}

#[test]
fn mariadb_rows_of_query_iter_end_within_the_scope() {
    let _alone = alone();
    let Some(server) = mariadb::server() else { return };
    let control = mariadb::control(server);
    let (mut connection, session) = mariadb::connect(server);
    for _ in 0..20 {
        let error = cut(|limit| {
            timeout(limit, || {
                maria_recipe::guarded(&control, &session, || {
                    let rows = connection
                        .query_iter("select a.seq from seq_1_to_10000000 a, seq_1_to_10000000 b")?;
                    rows.map(|row| row.map(|_| 1)).sum::<mysql::Result<u64>>()
                })
            })
        });
        assert!(mariadb::is_by_kill(&error), "{error:?}");
        assert_eq!(connection.query_first("select 42").unwrap(), Some(42));
    }
}

const ENDLESS: &str = "select i from generate_series(1, 1000000000000) i";

#[test]
fn postgres_rows_of_query_raw_end_within_the_scope() {
    let _alone = alone();
    let Some(server) = postgres_tests::server() else { return };
    let control = postgres_tests::control(server);
    let (mut client, session) = postgres_tests::connect(server);
    for _ in 0..10 {
        let error = cut(|limit| {
            timeout(limit, || {
                postgres_recipe::guarded(&control, &session, || {
                    client.query_raw(ENDLESS, std::iter::empty::<i32>())?.count()
                })
            })
        });
        assert!(postgres_tests::is_by_cancel(&error), "{error:?}");
        client.batch_execute("select 1").unwrap();
    }
}

#[test]
fn postgres_rows_of_a_cursor_end_within_the_scope() {
    let _alone = alone();
    let Some(server) = postgres_tests::server() else { return };
    let control = postgres_tests::control(server);
    let (mut client, session) = postgres_tests::connect(server);
    for _ in 0..10 {
        let error = cut(|limit| {
            let mut transaction = client.transaction()?;
            let slow = "select pg_sleep(0.001) from generate_series(1, 1000000000000)";
            let portal = transaction.bind(slow, &[])?;
            timeout(limit, || {
                loop {
                    let rows = || transaction.query_portal(&portal, 10);
                    assert_eq!(postgres_recipe::guarded(&control, &session, rows)?.len(), 10);
                }
                #[allow(unreachable_code)]
                Ok(())
            })
        });
        assert!(postgres_tests::is_by_cancel(&error), "{error:?}");
        client.batch_execute("select 1").unwrap();
    }
}

#[test]
fn postgres_rows_of_an_async_query_raw_end_within_the_scope() {
    let _alone = alone();
    let Some(server) = postgres_tests::server() else { return };
    let control = postgres_tests::control(server);
    let runtime = postgres_tests::runtime();
    let client = runtime.block_on(postgres_tests::connect_async(server));
    let session = runtime.block_on(postgres_recipe::session_async(&client)).unwrap();
    for _ in 0..10 {
        let error = cut(|limit| {
            let rows = async {
                use futures::TryStreamExt;
                let rows = client.query_raw(ENDLESS, std::iter::empty::<i32>()).await?;
                rows.try_fold(0_u64, async |count, _| Ok(count + 1)).await
            };
            let guarded = postgres_recipe::guarded_async(control.hook(&session), rows);
            runtime.block_on(Timebox::new(limit).grace(HANG).run_future(guarded))
        });
        assert!(error.settled() && postgres_tests::is_by_cancel(&error), "{error:?}");
        runtime.block_on(client.batch_execute("select 1")).unwrap();
    }
}

struct Probe<T>(PhantomData<T>);

trait CannotLeave {
    const LEAVES: bool = false;
}

impl<T> CannotLeave for Probe<T> {}

impl<T: Unpin + 'static> Probe<T> {
    const LEAVES: bool = true;
}

/// `guarded_async` returns only a `T: Unpin + 'static`. Streams are not `Unpin`, so they cannot leave the call. Fetched
/// rows can. For types with both bounds, `LEAVES` is the inherent constant of `Probe`: `true`. For other types it is
/// the constant of `CannotLeave`: `false`.
#[test]
fn streams_cannot_leave_a_guarded_call_and_rows_can() {
    const { assert!(!Probe::<RowStream>::LEAVES && !Probe::<SimpleQueryStream>::LEAVES) };
    const { assert!(!Probe::<tokio_postgres::CopyOutStream>::LEAVES) };
    const { assert!(Probe::<Vec<tokio_postgres::Row>>::LEAVES && Probe::<Option<u64>>::LEAVES) };
}
