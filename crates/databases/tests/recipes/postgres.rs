use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use timebox::{Hook, Timebox, timeout};
use tokio::runtime::{Builder, Runtime};

use crate::recipes::control::Doubt;
use crate::recipes::postgres::{Control, Session, guarded, guarded_async, raw_hook, session, session_async};
use crate::server::Server;
use crate::support::{
    AnyError, HANG, LONG, SHORT, alone, cut, open_files, sweep_sleeps, timed_out, wait_until,
};

pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(Server::postgres).as_ref()
}

pub(crate) fn config(server: &Server) -> postgres::Config {
    let mut config = postgres::Config::new();
    config.host("127.0.0.1").port(server.port()).user("postgres");
    config
}

pub(crate) fn async_config(server: &Server) -> tokio_postgres::Config {
    config_at(server.address())
}

pub(crate) fn config_at(address: SocketAddr) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(address.ip().to_string()).port(address.port()).user("postgres");
    config
}

pub(crate) fn control(server: &Server) -> Arc<Control> {
    Control::with_bound(&async_config(server), HANG).unwrap()
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub(crate) fn connect(server: &Server) -> (Client, Session) {
    let mut client = config(server).connect(NoTls).unwrap();
    let session = session(&mut client).unwrap();
    (client, session)
}

pub(crate) async fn connect_async(server: &Server) -> tokio_postgres::Client {
    let (client, connection) = async_config(server).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn is_cancelled(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

pub(crate) fn is_by_cancel(error: &timebox::TimeoutError) -> bool {
    error.source().and_then(|source| source.downcast_ref::<postgres::Error>()).is_some_and(is_cancelled)
}

/// The sleep of the first statements in a sweep. It is longer than a cancel takes on an idle machine.
const OWN: Duration = Duration::from_millis(2);

fn lasting(own: Duration) -> String {
    format!("select pg_sleep({})", own.as_secs_f64())
}

const NEXT: &str = "select pg_sleep(0.0005)";

#[test]
fn the_next_three_statements_are_never_hit() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    let (client, session) = connect(server);
    let client = std::cell::RefCell::new(client);
    let statement = |limit, own| {
        timeout(limit, || guarded(&control, &session, || client.borrow_mut().batch_execute(&lasting(own))))
    };
    let follow_up = || {
        let hit = |error| {
            assert!(is_cancelled(&error), "{error}");
            true
        };
        let hits = (0..3).filter(|_| client.borrow_mut().batch_execute(NEXT).is_err_and(hit));
        u32::try_from(hits.count()).unwrap()
    };
    sweep_sleeps(600, OWN, statement, follow_up, true).check("PostgreSQL by a control connection, 600 runs");
}

#[test]
fn with_the_raw_cancel_and_its_end_awaited_the_next_three_are_never_hit() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let runtime = runtime();
    let client = runtime.block_on(connect_async(server));
    let statement = |limit, own| {
        let hook = raw_hook(client.cancel_token(), server.address(), HANG, &Doubt::default());
        let own = lasting(own);
        let guarded = guarded_async(hook, client.batch_execute(&own));
        runtime.block_on(Timebox::new(limit).grace(HANG).run_future(guarded))
    };
    let follow_up = || {
        let hits = (0..3).filter(|_| runtime.block_on(client.batch_execute(NEXT)).is_err());
        u32::try_from(hits.count()).unwrap()
    };
    // Each raw cancel makes a connection, which takes milliseconds. So the statements are longer here.
    sweep_sleeps(600, 4 * OWN, statement, follow_up, true).check("PostgreSQL by the raw cancel, 600 runs");
}

/// Shows why the recipe awaits the end of a cancel. Also shows that the tests above can fail: they notice a cancel that
/// comes late.
#[test]
fn a_cancel_whose_end_is_not_awaited_hits_the_next_statement() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let (mut client, _) = connect(server);
    let was_hit = (0..3000).any(|_| {
        let token = client.cancel_token();
        let result = timeout(Duration::from_millis(1), || {
            let hook = Hook::new(move || token.cancel_query(NoTls)).every(Duration::from_millis(20));
            timebox::interruptible(hook, || client.batch_execute("select pg_sleep(0.001)"))?
                .map_err(AnyError::from)
        });
        drop(result);
        (0..3).any(|_| client.batch_execute(NEXT).is_err())
    });
    assert!(was_hit);
}

fn one_row(client: &mut Client) {
    let text = "drop table if exists account; create table account (id int primary key, value int not null);
        insert into account values (1, 0)";
    client.batch_execute(text).unwrap();
}

#[track_caller]
fn value_with_lock(other: &mut Client) -> i32 {
    let mut transaction = other.transaction().unwrap();
    let row =
        transaction.query_one("select value from account for update nowait", &[]).expect("the lock is free");
    transaction.rollback().unwrap();
    row.get(0)
}

#[test]
fn after_a_cancelled_statement_the_row_is_free_and_unchanged() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    let (mut client, session) = connect(server);
    let (mut other, _) = connect(server);
    one_row(&mut other);
    for _ in 0..40 {
        let mut transact = || {
            let mut transaction = client.transaction()?;
            transaction.execute("update account set value = value + 1", &[])?;
            guarded(&control, &session, || transaction.execute("select pg_sleep(3600)", &[]))?;
            transaction.commit()?;
            Ok::<_, AnyError>(())
        };
        assert!(is_by_cancel(&cut(|limit| timeout(limit, &mut transact))));
        assert_eq!(value_with_lock(&mut other), 0);
        client.batch_execute("select 1").unwrap();
    }
}

/// A cancel can end only the statement, since the commit is not guarded. So after `Ok` the transaction is committed,
/// and after an error it is not.
#[test]
fn a_swept_transaction_is_done_or_not_done() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    let (mut client, session) = connect(server);
    let (mut other, _) = connect(server);
    one_row(&mut other);
    let mut expected = 0;
    let (mut done, mut not_done) = (0, 0);
    for run in 0..200 {
        let result = timeout(Duration::from_micros(100 + run * 37 % 2000), || {
            let mut transaction = client.transaction()?;
            let update = "update account set value = value + 1 where pg_sleep(0.0005) is not null";
            guarded(&control, &session, || transaction.execute(update, &[]))?;
            transaction.commit()?;
            Ok::<_, AnyError>(())
        });
        match result {
            Ok(()) => (done, expected) = (done + 1, expected + 1),
            Err(error) => {
                assert!(error.is::<timebox::TimeoutError>(), "{error}");
                not_done += 1;
            }
        }
        assert_eq!(value_with_lock(&mut other), expected);
        client.batch_execute("select 1").unwrap();
    }
    println!("PostgreSQL, swept transactions: {done} done, {not_done} not");
}

#[test]
fn waiting_for_a_row_ends_within_the_scope_also_in_async() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    let (mut owner, _) = connect(server);
    one_row(&mut owner);
    let mut lock = owner.transaction().unwrap();
    lock.execute("update account set value = 7", &[]).unwrap();
    let runtime = runtime();
    let client = runtime.block_on(connect_async(server));
    let session = runtime.block_on(session_async(&client)).unwrap();
    for _ in 0..20 {
        let error = cut(|limit| {
            let update = client.batch_execute("update account set value = 8");
            let guarded = guarded_async(control.hook(&session), update);
            runtime.block_on(Timebox::new(limit).grace(HANG).run_future(guarded))
        });
        assert!(error.settled() && is_by_cancel(&error));
        runtime.block_on(client.batch_execute("select 1")).unwrap();
    }
    lock.rollback().unwrap();
    assert_eq!(value_with_lock(&mut owner), 0);
}

#[test]
fn a_lost_control_connection_is_made_anew() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let control = control(server);
    let (mut client, session) = connect(server);
    let (mut other, _) = connect(server);
    for _ in 0..3 {
        let mut sleep = || client.batch_execute("select pg_sleep(3600)");
        assert!(is_by_cancel(&cut(|limit| timeout(limit, || guarded(&control, &session, &mut sleep)))));
        let terminate = "select pg_terminate_backend(pid, 10000) from pg_stat_activity
            where query like 'select pg_cancel_backend%'";
        assert!(!other.query(terminate, &[]).unwrap().is_empty());
    }
}

#[test]
fn a_control_connection_is_made_and_dropped_in_async_code_too() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let error = runtime().block_on(async {
        let control = control(server);
        let client = connect_async(server).await;
        let session = session_async(&client).await.unwrap();
        loop {
            let sleep = guarded_async(control.hook(&session), client.batch_execute("select pg_sleep(3600)"));
            let error = timed_out(Timebox::new(SHORT).grace(HANG).run_future(sleep).await);
            // Without a source, the error does not come from the server: the limit passed before the statement began.
            // Try again.
            if error.source().is_some() {
                break error;
            }
        }
    });
    assert!(error.settled() && is_by_cancel(&error));
}

#[test]
fn a_server_killed_in_mid_query_is_its_own_error_and_not_a_timeout() {
    let _alone = alone();
    let Some(server) = Server::postgres() else { return };
    let control = control(&server);
    let (mut client, session) = connect(&server);
    let (mut other, _) = connect(&server);
    let start = Instant::now();
    let error = thread::scope(|threads| {
        let call = threads.spawn(|| {
            let sleep = || client.batch_execute("select pg_sleep(3600)");
            timeout(LONG, || guarded(&control, &session, sleep)).unwrap_err()
        });
        let active = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'";
        wait_until(|| !other.query(active, &[&session.pid]).unwrap().is_empty());
        kill(session.pid, libc::SIGKILL);
        kill(server.pid(), libc::SIGKILL);
        call.join().unwrap()
    });
    assert!(start.elapsed() < HANG);
    let error = error.downcast::<postgres::Error>().expect("not the error of the scope");
    assert!(error.code().is_none(), "the connection is gone: {error}");
    wait_until(|| client.is_closed());
}

/// A frozen server answers neither the query nor the cancel. The grace limits the wait for the answer to the query. The
/// hook limits the wait for the answer to the cancel.
#[test]
fn a_server_that_is_frozen_is_an_unsettled_timeout() {
    let _alone = alone();
    let Some(server) = Server::postgres() else { return };
    let control = Control::new(&async_config(&server)).unwrap();
    let (mut other, _) = connect(&server);
    let runtime = runtime();
    let (client, session) = runtime.block_on(async {
        let client = connect_async(&server).await;
        let session = session_async(&client).await.unwrap();
        (client, session)
    });
    let backends = other.query("select pid from pg_stat_activity", &[]).unwrap();
    let processes: Vec<i32> = backends.iter().map(|row| row.get(0)).chain([server.pid()]).collect();
    processes.iter().for_each(|&pid| kill(pid, libc::SIGSTOP));
    let start = Instant::now();
    let guarded = guarded_async(control.hook(&session), client.batch_execute("select 1"));
    let run = Timebox::new(SHORT).grace(SHORT).run_future(guarded);
    let error = timed_out(runtime.block_on(run));
    assert!(error.is_timeout() && !error.settled());
    assert!(start.elapsed() < HANG);
    processes.iter().for_each(|&pid| kill(pid, libc::SIGCONT));
}

#[test]
fn no_descriptor_is_left_open() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let runtime = runtime();
    let client = runtime.block_on(connect_async(server));
    let control = control(server);
    let session = runtime.block_on(session_async(&client)).unwrap();
    let cut_off = |hook| {
        let guarded = guarded_async(hook, client.batch_execute("select pg_sleep(3600)"));
        let run = Timebox::new(Duration::from_millis(1)).grace(HANG).run_future(guarded);
        // `settled` is `true` also if the statement was not begun.
        assert!(timed_out(runtime.block_on(run)).settled());
    };
    cut_off(control.hook(&session));
    let before = open_files();
    for _ in 0..500 {
        cut_off(control.hook(&session));
        cut_off(raw_hook(client.cancel_token(), server.address(), HANG, &Doubt::default()));
    }
    assert!(open_files() <= before);
}

pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: a signal to a process of this test's own server.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}
