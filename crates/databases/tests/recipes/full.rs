//! A server with no free slot for a connection: cancels are needed most when a server is full.

use std::thread;
use std::time::{Duration, Instant};

use ::redis::cmd;
use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder};
use timebox::{TimeoutError, timeout};
use tokio_postgres::NoTls;

use crate::proxy::Proxy;
use crate::recipes::{mysql as maria_recipe, postgres as postgres_recipe, redis as redis_recipe};
use crate::server::Server;
use crate::support::{HANG, alone, cut, wait_until};
use crate::{mariadb, postgres, redis};

fn fill<C, E>(connect: impl Fn() -> Result<C, E>) -> Vec<C> {
    let connections: Vec<C> = std::iter::from_fn(|| connect().ok()).take(10_000).collect();
    assert!(connections.len() < 10_000);
    connections
}

/// Call this when the control connection is lost and the server is full. Asserts that attempts to connect become rare.
/// Then makes room, so that the control connection is made again and the call ends.
fn attempts_become_rare(
    proxy: &Proxy,
    make_room: impl FnOnce(),
    call: impl FnOnce() -> TimeoutError + Send,
) -> TimeoutError {
    let before = proxy.connections();
    let start = Instant::now();
    thread::scope(|threads| {
        let call = threads.spawn(call);
        wait_until(|| proxy.connections() > before + 4 && start.elapsed() > Duration::from_secs(1));
        let attempts = proxy.connections() - before;
        // The pause between attempts doubles from 10 ms up to a second. So there are about seven attempts in the first
        // second, and then one per second.
        let rare = 10 + usize::try_from(start.elapsed().as_secs()).unwrap();
        assert!(attempts <= rare, "{attempts} attempts in {:?}", start.elapsed());
        make_room();
        call.join().unwrap()
    })
}

#[test]
fn postgres_is_cancelled_and_attempts_become_rare() {
    let _alone = alone();
    let Some(server) = Server::postgres() else { return };
    let proxy = Proxy::to(server.address());
    let control = postgres_recipe::Control::with_bound(&postgres::config_at(proxy.address()), HANG).unwrap();
    let direct = postgres::async_config(&server);
    let connection = postgres_recipe::Connection::connect(&direct, server.address()).unwrap();
    let (mut client, session) = postgres::connect(&server);
    let mut others = fill(|| postgres::config(&server).connect(NoTls));

    let mut endless = || client.batch_execute("select pg_sleep(3600)");
    let error = cut(|limit| timeout(limit, || postgres_recipe::guarded(&control, &session, &mut endless)));
    assert!(postgres::is_by_cancel(&error), "over the control connection: {error:?}");
    let error = cut(|limit| {
        timeout(limit, || {
            let cancel = connection.raw_hook(HANG);
            connection.guarded(cancel, async |client| client.batch_execute("select pg_sleep(3600)").await)
        })
    });
    assert!(postgres::is_by_cancel(&error), "by a raw cancel, which needs no slot: {error:?}");

    proxy.cut();
    others.extend(fill_one(|| postgres::config(&server).connect(NoTls)));
    let call = || cut(|limit| timeout(limit, || postgres_recipe::guarded(&control, &session, &mut endless)));
    let error = attempts_become_rare(&proxy, || drop(others), call);
    assert!(postgres::is_by_cancel(&error), "{error:?}");
}

/// Connects as soon as the server has noticed that another connection has left its slot.
fn fill_one<C, E>(connect: impl Fn() -> Result<C, E>) -> Option<C> {
    let mut taken = None;
    wait_until(|| {
        taken = connect().ok();
        taken.is_some()
    });
    taken
}

#[test]
fn mariadb_is_killed_and_attempts_become_rare() {
    let _alone = alone();
    let Some(server) = Server::mariadb() else { return };
    let (mut root, _) = mariadb::connect(&server);
    root.query_drop("set global max_connections = 20").unwrap();
    // The server reserves one more slot for users with all privileges. So the test connects as a user without
    // privileges.
    root.query_drop("create user app@'127.0.0.1'").unwrap();
    let options = |port| -> Opts {
        let options = OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(port);
        options.user(Some("app")).prefer_socket(false).into()
    };
    let connect = || Conn::new(options(server.port()));
    let proxy = Proxy::to(server.address());
    let control = maria_recipe::Control::with_bound(&options(proxy.address().port()), HANG).unwrap();
    let mut connection = connect().unwrap();
    let session = maria_recipe::session(&mut connection).unwrap();
    let mut others = fill(connect);

    let mut endless = || -> mysql::Result<Option<u64>> { connection.query_first("select sleep(3600)") };
    let error = cut(|limit| timeout(limit, || maria_recipe::guarded(&control, &session, &mut endless)));
    assert!(mariadb::is_by_kill(&error), "{error:?}");

    proxy.cut();
    others.extend(fill_one(connect));
    let call = || cut(|limit| timeout(limit, || maria_recipe::guarded(&control, &session, &mut endless)));
    let error = attempts_become_rare(&proxy, || drop(others), call);
    assert!(mariadb::is_by_kill(&error), "{error:?}");
}

#[test]
fn redis_is_unblocked_and_attempts_become_rare() {
    let _alone = alone();
    let Some(server) = Server::redis() else { return };
    let proxy = Proxy::to(server.address());
    let client = |port| ::redis::Client::open(("127.0.0.1", port)).unwrap();
    let control = redis::control(&client(proxy.address().port()));
    let (direct, mut connection, session) = redis::connect(&server);
    cmd("CONFIG").arg("SET").arg("maxclients").arg(20).exec(&mut connection).unwrap();
    let connect = || {
        let mut other = direct.get_connection()?;
        cmd("PING").exec(&mut other).map(|()| other)
    };
    let mut others = fill(connect);

    let mut pop = || redis::pop(&mut connection, "queue", 0.0);
    let error = cut(|limit| timeout(limit, || redis_recipe::guarded(&control, &session, &mut pop)));
    assert!(redis::is_by_unblock(&error), "{error:?}");

    proxy.cut();
    others.extend(fill_one(connect));
    let call = || cut(|limit| timeout(limit, || redis_recipe::guarded(&control, &session, &mut pop)));
    let error = attempts_become_rare(&proxy, || drop(others), call);
    assert!(redis::is_by_unblock(&error), "{error:?}");
}

#[test]
fn a_control_connection_that_cannot_be_made_is_told_when_it_is_made() {
    let _alone = alone();
    // Nothing listens on this port: it was bound and then released.
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap();
    assert!(postgres_recipe::Control::new(&postgres::config_at(address)).is_err());
    let options = OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(address.port());
    assert!(maria_recipe::Control::new(&options.prefer_socket(false).into()).is_err());
    let client = ::redis::Client::open(("127.0.0.1", address.port())).unwrap();
    assert!(redis_recipe::Control::new(&client).is_err());
}
