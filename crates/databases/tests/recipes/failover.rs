//! Behind a balancer, or after a failover, the address of our server leads to another server. There the number of our
//! session belongs to a stranger's session. A cancel must not hit the stranger.

use std::thread;

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use timebox::timeout;

use crate::proxy::Proxy;
use crate::recipes::control::{BOUND, Failure};
use crate::recipes::{mysql as maria_recipe, postgres as postgres_recipe, redis as redis_recipe};
use crate::server::Server;
use crate::support::{HANG, alone, cut, wait_until};
use crate::{mariadb, postgres, redis};

/// Asserts that the cancel was refused, because the control connection leads to a server that does not have the
/// session.
#[track_caller]
fn is_refused(result: Result<(), Failure>) {
    let failure = result.expect_err("it must not be hit");
    assert!(matches!(failure, Failure::Refused(_)), "{failure}");
    assert!(failure.to_string().contains("not on this server"), "{failure}");
}

/// Makes a call whose hook cannot reach our server, because the proxy leads to the other server. After some attempts of
/// the hook, makes the proxy lead to our server. Then the hook ends the call.
fn led_back<T: Send>(proxy: &Proxy, ours: &Server, call: impl FnOnce() -> T + Send) -> T {
    let before = proxy.connections();
    thread::scope(|threads| {
        let call = threads.spawn(call);
        wait_until(|| proxy.connections() > before + 2);
        assert!(!call.is_finished(), "nothing could have ended it");
        proxy.lead_to(ours.address());
        call.join().unwrap()
    })
}

#[test]
fn postgres_a_strangers_query_runs_on_and_ours_is_cancelled() {
    let _alone = alone();
    let (Some(ours), Some(other)) = (postgres::server(), Server::postgres()) else { return };
    let proxy = Proxy::to(other.address());
    let control = postgres_recipe::Control::with_bound(&postgres::config_at(proxy.address()), HANG).unwrap();
    let (mut client, session) = postgres::connect(ours);
    let (mut stranger, strangers) = postgres::connect(&other);
    let (mut witness, _) = postgres::connect(&other);
    let mut is_active = || {
        let query = "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'";
        !witness.query(query, &[&strangers.pid]).unwrap().is_empty()
    };
    thread::scope(|threads| {
        let stranger = threads.spawn(|| stranger.batch_execute("select pg_sleep(3600)"));
        wait_until(&mut is_active);
        // The recipe must refuse to cancel a session that has our session's pid but another start time. One machine
        // cannot have two sessions with the same pid. So the test passes the stranger's pid, and the start time of our
        // session.
        is_refused(control.cancel(strangers.pid, session.started));
        let error = led_back(&proxy, ours, || {
            let mut endless = || client.batch_execute("select pg_sleep(3600)");
            cut(|limit| timeout(limit, || postgres_recipe::guarded(&control, &session, &mut endless)))
        });
        assert!(postgres::is_by_cancel(&error), "{error:?}");
        assert!(is_active());
        postgres::kill(strangers.pid, libc::SIGTERM);
        assert!(stranger.join().unwrap().is_err());
    });
}

/// The proxy leads the cancel to another server. That server does not know the session's secret, which is in the
/// cancel. So it ignores the cancel, and reports no error.
#[test]
fn postgres_a_raw_cancel_that_leads_elsewhere_ends_the_call_by_its_socket() {
    let _alone = alone();
    let (Some(ours), Some(other)) = (postgres::server(), Server::postgres()) else { return };
    let proxy = Proxy::to(ours.address());
    let config = postgres::config_at(proxy.address());
    let connection = postgres_recipe::Connection::connect(&config, proxy.address()).unwrap();
    proxy.lead_to(other.address());
    let error = cut(|limit| {
        timeout(limit, || {
            let cancel = connection.raw_hook(BOUND);
            connection.guarded(cancel, async |client| client.batch_execute("select pg_sleep(3600)").await)
        })
    });
    assert!(error.is_timeout() && !postgres::is_by_cancel(&error), "{error:?}");
    assert!(proxy.connections() > 1 && connection.is_closed());
}

#[test]
fn mariadb_a_strangers_query_runs_on_and_ours_is_killed() {
    let _alone = alone();
    let (Some(ours), Some(other)) = (mariadb::server(), Server::mariadb()) else { return };
    let proxy = Proxy::to(other.address());
    let options = OptsBuilder::from_opts(mariadb::options(ours)).tcp_port(proxy.address().port());
    let control = maria_recipe::Control::with_bound(&options.into(), HANG).unwrap();
    let (mut ours_now, mut theirs) = (mariadb::connect(ours), mariadb::connect(&other));
    while ours_now.0.connection_id() != theirs.0.connection_id() {
        if ours_now.0.connection_id() < theirs.0.connection_id() {
            ours_now = mariadb::connect(ours);
        } else {
            theirs = mariadb::connect(&other);
        }
    }
    let ((mut connection, session), (mut stranger, _)) = (ours_now, theirs);
    let (mut witness, id) = (mariadb::connect(&other).0, stranger.connection_id());
    thread::scope(|threads| {
        let stranger = threads.spawn(|| mariadb::rows(&mut stranger, mariadb::ENDLESS));
        wait_until(|| is_running(&mut witness, id));
        is_refused(control.kill_query(&session.lock));
        let error = led_back(&proxy, ours, || {
            let mut endless = || mariadb::rows(&mut connection, mariadb::ENDLESS);
            cut(|limit| timeout(limit, || maria_recipe::guarded(&control, &session, &mut endless)))
        });
        assert!(mariadb::is_by_kill(&error), "{error:?}");
        assert!(is_running(&mut witness, id));
        witness.query_drop(format!("kill {id}")).unwrap();
        assert!(stranger.join().unwrap().is_err());
    });
}

fn is_running(witness: &mut Conn, id: u32) -> bool {
    let query =
        format!("select id from information_schema.processlist where id = {id} and command = 'Query'");
    !mariadb::rows(witness, &query).unwrap().is_empty()
}

#[test]
fn redis_a_strangers_pop_waits_on_and_ours_is_ended() {
    let _alone = alone();
    let (Some(ours), Some(other)) = (redis::server(), Server::redis()) else { return };
    let proxy = Proxy::to(other.address());
    let client = ::redis::Client::open(("127.0.0.1", proxy.address().port())).unwrap();
    let control = redis::control(&client);
    let (mut ours_now, mut theirs) = (redis::connect(ours), redis::connect(&other));
    while ours_now.2.id != theirs.2.id {
        if ours_now.2.id < theirs.2.id {
            ours_now = redis::connect(ours);
        } else {
            theirs = redis::connect(&other);
        }
    }
    let ((_, mut connection, session), (_, mut stranger, strangers)) = (ours_now, theirs);
    let (_, mut witness, _) = redis::connect(&other);
    thread::scope(|threads| {
        let stranger = threads.spawn(|| redis::pop(&mut stranger, "queue", 0.0));
        wait_until(|| redis::is_blocked(&mut witness, strangers.id));
        is_refused(control.unblock(session.id, &session.server));
        let error = led_back(&proxy, ours, || {
            let mut pop = || redis::pop(&mut connection, "queue", 0.0);
            cut(|limit| timeout(limit, || redis_recipe::guarded(&control, &session, &mut pop)))
        });
        assert!(redis::is_by_unblock(&error), "{error:?}");
        assert!(redis::is_blocked(&mut witness, strangers.id));
        redis::push(&mut witness, "queue", "theirs");
        assert_eq!(stranger.join().unwrap().unwrap().unwrap().1, "theirs");
    });
}
