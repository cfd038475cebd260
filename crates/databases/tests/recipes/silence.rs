//! A network that has fallen silent, and servers that are frozen: nothing comes back, not even an error.
//!
//! The proxies are silent until the call has returned. So a call that waits for the network would never return.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{Msg, cmd};
use mysql::{Conn, OptsBuilder};
use timebox::timeout;

use crate::proxy::Proxy;
use crate::recipes::control::BOUND;
use crate::recipes::postgres::{Connection, notice_silence, notice_silence_of};
use crate::recipes::{mysql as maria_recipe, pools, postgres as postgres_recipe, redis as redis_recipe};
use crate::server::Server;
use crate::support::{AnyError, HANG, SHORT, alone, cut, timed_out, wait_until};
use crate::{mariadb, postgres, redis};

#[track_caller]
fn ends_near_its_limit<T>(what: &str, call: impl FnOnce() -> Result<T, AnyError>) {
    let start = Instant::now();
    let error = timed_out(timeout(SHORT, call));
    println!("{what}: late {:?}", start.elapsed().saturating_sub(SHORT));
    assert!(error.is_timeout() && start.elapsed() < HANG, "{error:?}");
}

/// Like `ends_near_its_limit`, for a call that must be interrupted after it has begun.
#[track_caller]
fn is_cut_near_its_limit<T>(what: &str, mut call: impl FnMut() -> Result<T, AnyError>) {
    let mut lateness = Duration::ZERO;
    let error = cut(|limit| {
        let start = Instant::now();
        let result = timeout(limit, &mut call);
        lateness = start.elapsed().saturating_sub(limit);
        result
    });
    println!("{what}: late {lateness:?}");
    assert!(error.is_timeout() && lateness < HANG, "{error:?}");
}

#[test]
fn postgres_a_call_on_a_connection_whose_socket_is_ours_ends() {
    let _alone = alone();
    let Some(server) = postgres::server() else { return };
    for raw in [false, true] {
        let proxy = Proxy::to(server.address());
        let config = postgres::config_at(proxy.address());
        let connection = Connection::connect(&config, proxy.address()).unwrap();
        let control = postgres_recipe::Control::new(&config).unwrap();
        proxy.set_silent(true);
        is_cut_near_its_limit("PostgreSQL, a silent network", || {
            let cancel = if raw { connection.raw_hook(BOUND) } else { control.hook(connection.session()) };
            connection.guarded(cancel, async |client| client.batch_execute("select pg_sleep(3600)").await)
        });
        assert!(connection.is_closed());
    }
}

#[test]
fn postgres_to_connect_ends_with_the_scope() {
    let _alone = alone();
    let Some(server) = postgres::server() else { return };
    let proxy = Proxy::to(server.address());
    proxy.set_silent(true);
    let config = postgres::config_at(proxy.address());
    ends_near_its_limit("PostgreSQL, connecting", || Connection::connect(&config, proxy.address()));
}

/// A cancel that was not answered may still arrive. It would hit the statement that runs at that time. So no other
/// statement may run on the connection.
#[test]
fn postgres_where_a_cancel_was_not_answered_no_other_statement_follows() {
    let _alone = alone();
    let Some(server) = postgres::server() else { return };
    let proxy = Proxy::to(server.address());
    let control = postgres_recipe::Control::new(&postgres::config_at(proxy.address())).unwrap();
    let connection = Connection::connect(&postgres::async_config(server), server.address()).unwrap();
    let mut own = Duration::from_millis(100);
    loop {
        proxy.set_silent(true);
        // The statement should end after its limit, so that the hook sends a cancel. And it should end by itself,
        // before the hook shuts the socket down.
        let sleep = format!("select pg_sleep({})", own.as_secs_f64());
        let result = timeout(SHORT, || {
            connection.guarded(control.hook(connection.session()), async |client| {
                client.batch_execute(&sleep).await
            })
        });
        proxy.set_silent(false);
        // This statement lasts long enough for a late cancel to hit it.
        let next = connection.guarded(control.hook(connection.session()), async |client| {
            client.batch_execute("select pg_sleep(0.1)").await
        });
        if let Err(error) = next {
            let is_hit = error.downcast_ref().is_some_and(postgres::is_cancelled);
            return assert!(!is_hit, "the late cancel has hit it");
        }
        // The next statement has run, so the connection was not in doubt: the hook has sent no cancel. Try a longer
        // statement.
        assert!(own < HANG, "no cancel was in doubt: {result:?}");
        own *= 2;
    }
}

#[test]
fn r2d2_the_pools_own_test_of_a_connection_ends_and_the_pool_serves_on() {
    let _alone = alone();
    let Some(server) = postgres::server() else { return };
    let proxy = Proxy::to(server.address());
    let config = postgres::config_at(proxy.address());
    let control = postgres_recipe::Control::new(&config).unwrap();
    let manager = pools::Manager { config, server: proxy.address() };
    let pool = r2d2::Pool::builder().max_size(2).build(manager).unwrap();
    let ask = || {
        pools::on_r2d2(
            &pool,
            |session| control.hook(session),
            async |client| Ok(client.query_one("select 42", &[]).await?.get::<_, i32>(0)),
        )
    };
    assert_eq!(ask().unwrap(), 42);
    proxy.set_silent(true);
    ends_near_its_limit("r2d2, a silent network", ask);
    proxy.set_silent(false);
    wait_until(|| timeout(HANG, ask).is_ok_and(|answer| answer == 42));
}

#[test]
fn mariadb_a_call_ends() {
    let _alone = alone();
    let Some(server) = mariadb::server() else { return };
    let proxy = Proxy::to(server.address());
    let options = OptsBuilder::from_opts(mariadb::options(server)).tcp_port(proxy.address().port());
    let control = maria_recipe::Control::new(&options.clone().into()).unwrap();
    let mut connection = Conn::new(options).unwrap();
    let session = maria_recipe::session(&mut connection).unwrap();
    proxy.set_silent(true);
    is_cut_near_its_limit("MariaDB, a silent network", || {
        maria_recipe::guarded(&control, &session, || mariadb::rows(&mut connection, mariadb::ENDLESS))
    });
}

#[test]
fn redis_every_command_ends_on_a_server_that_is_paused_or_frozen() {
    let _alone = alone();
    let Some(server) = Server::redis() else { return };
    let ends = |what: &str, stop: &dyn Fn()| {
        let (client, mut connection, session) = redis::connect(&server);
        let control = redis_recipe::Control::new(&client).unwrap();
        stop();
        is_cut_near_its_limit(what, || {
            let mut get = || cmd("GET").arg("key").query::<Option<String>>(&mut connection);
            redis_recipe::guarded(&control, &session, &mut get)
        });
        assert!(!::redis::ConnectionLike::is_open(&connection));
    };
    thread::scope(|threads| {
        let (thaw, thaws) = channel::<()>();
        let server = &server;
        threads.spawn(move || {
            let _ = thaws.recv_timeout(2 * HANG);
            postgres::kill(server.pid(), libc::SIGCONT);
        });
        ends("Redis, frozen", &|| postgres::kill(server.pid(), libc::SIGSTOP));
        drop(thaw);
    });
    let other = std::cell::RefCell::new(redis::connect(&server).1);
    ends("Redis, paused", &|| {
        cmd("CLIENT").arg("PAUSE").arg((2 * HANG).as_secs() * 1000).exec(&mut *other.borrow_mut()).unwrap();
    });
}

#[test]
fn redis_a_subscribers_wait_ends_and_no_message_is_lost() {
    let _alone = alone();
    let Some(server) = redis::server() else { return };
    let (client, mut publisher, _) = redis::connect(server);
    let mut connection = client.get_connection().unwrap();
    let mut subscriber = connection.as_pubsub();
    subscriber.subscribe("news").unwrap();
    for round in 0..20 {
        ends_near_its_limit("Redis, a subscriber", || redis_recipe::next_message(&mut subscriber));
        cmd("PUBLISH").arg("news").arg(round).exec(&mut publisher).unwrap();
        let message = timeout(HANG, || redis_recipe::next_message(&mut subscriber)).unwrap();
        assert_eq!(message.get_payload::<i32>().unwrap(), round);
    }
}

/// `next_message` waits in slices. If a slice ends in the middle of a message, the next slice reads on from there.
/// The server counts how often the client's thread has waited. So it is for Linux only.
#[cfg(target_os = "linux")]
#[test]
fn redis_a_message_in_pieces_is_put_together() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = Path::new("/proc").join(fs::read_link("/proc/thread-self").unwrap()).join("status");
    let waits = || {
        let status = fs::read_to_string(&client).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$6\r\nhel\r\nl\r\n";
    thread::scope(|threads| {
        threads.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            // Answers the client's `SETINFO` commands, and its subscription.
            let mut seen = Vec::new();
            while !seen.windows(9).any(|window| window == b"SUBSCRIBE") {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0);
                for _ in 0..String::from_utf8_lossy(&buffer[..read]).matches("SETINFO").count() {
                    stream.write_all(b"+OK\r\n").unwrap();
                }
                seen.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n").unwrap();
            for piece in message.chunks(5) {
                // The client waits, then its slice of the wait ends in the middle of the message, and it waits again.
                let before = waits();
                wait_until(|| waits() >= before + 2);
                stream.write_all(piece).unwrap();
            }
            let _ = stream.read(&mut [0; 1024]);
        });
        let mut connection =
            ::redis::Client::open(("127.0.0.1", address.port())).unwrap().get_connection().unwrap();
        let message: Msg = {
            let mut subscriber = connection.as_pubsub();
            subscriber.subscribe("news").unwrap();
            let message = timeout(HANG, || redis_recipe::next_message(&mut subscriber)).unwrap();
            std::mem::forget(subscriber); // its drop would wait for an answer
            message
        };
        assert_eq!(message.get_payload::<String>().unwrap(), "hel\r\nl");
    });
}

/// Many calls need the same control connection, which hangs. They wait side by side, not one after the other.
#[test]
fn mariadb_many_calls_while_the_control_connection_hangs_have_one_bound() {
    const CALLS: usize = 100;
    let _alone = alone();
    let Some(server) = mariadb::server() else { return };
    let proxy = Proxy::to(server.address());
    let options = OptsBuilder::from_opts(mariadb::options(server)).tcp_port(proxy.address().port());
    let control = maria_recipe::Control::new(&options.into()).unwrap();
    let connections: Vec<_> = (0..CALLS).map(|_| mariadb::connect(server)).collect();
    proxy.set_silent(true);
    let ready = Barrier::new(CALLS);
    let start = Instant::now();
    thread::scope(|threads| {
        for (mut connection, session) in connections {
            let (ready, control): (&Barrier, &Arc<_>) = (&ready, &control);
            threads.spawn(move || {
                ready.wait();
                let sleep = || mariadb::rows(&mut connection, "select sleep(3600)");
                timed_out(timeout(SHORT, || maria_recipe::guarded(control, &session, sleep)));
            });
        }
    });
    println!("MariaDB, {CALLS} calls while the control connection hangs: {:?}", start.elapsed());
    // If the calls waited one after the other, they would take 50 s: `CALLS` times half a second (`BOUND`).
    assert!(start.elapsed() < HANG);
}

#[cfg(target_os = "linux")]
const AFTER: Duration = Duration::from_secs(2);

/// There is no scope: the system itself gives the connection up. `notice_silence` makes two settings for this: one for
/// a connection that has sent data, and one for an idle connection.
#[cfg(target_os = "linux")]
#[test]
fn silence_is_noticed_while_something_is_sent_and_while_nothing_is() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for sends in [false, true] {
        let proxy = Proxy::to(listener.local_addr().unwrap());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        wait_until(|| proxy.connections() == 1);
        notice_silence(&stream, AFTER).unwrap();
        proxy.drop_packets();
        if sends {
            stream.write_all(b"a query").unwrap();
        }
        stream.set_read_timeout(Some(HANG)).unwrap();
        let start = Instant::now();
        let error = stream.read(&mut [0]).unwrap_err();
        println!("silence, {}: {error} after {:?}", if sends { "sent" } else { "idle" }, start.elapsed());
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn postgres_silence_is_noticed_by_a_client_that_hides_its_socket() {
    let _alone = alone();
    let Some(server) = postgres::server() else { return };
    let proxy = Proxy::to(server.address());
    let mut config = ::postgres::Config::from(postgres::config_at(proxy.address()));
    notice_silence_of(&mut config, AFTER);
    let mut client = config.connect(::postgres::NoTls).unwrap();
    proxy.drop_packets();
    let start = Instant::now();
    assert!(client.batch_execute("select pg_sleep(3600)").is_err());
    println!("postgres, silence: after {:?}", start.elapsed());
    assert!(client.is_closed());
}
