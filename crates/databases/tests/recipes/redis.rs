use std::cell::RefCell;
use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionLike, RedisResult, cmd};
use timebox::{timeout, with_timeout};

use crate::recipes::redis::{self as recipe, Control, Session, guarded};
use crate::server::Server;
use crate::support::{
    AnyError, HANG, LONG, SHORT, alone, cut, open_files, sweep_sleeps, timed_out, wait_until,
};

pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(Server::redis).as_ref()
}

pub(crate) fn connect(server: &Server) -> (Client, recipe::Connection, Session) {
    let client = Client::open(("127.0.0.1", server.port())).unwrap();
    let (connection, session) = recipe::Connection::connect(&client, HANG).unwrap();
    (client, connection, session)
}

pub(crate) fn control(client: &Client) -> Arc<Control> {
    Control::with_bound(client, HANG).unwrap()
}

pub(crate) type Popped = Option<(String, String)>;

/// Waits for an element for at most `seconds`; 0 waits for ever.
pub(crate) fn pop(connection: &mut impl ConnectionLike, queue: &str, seconds: f64) -> RedisResult<Popped> {
    cmd("BLPOP").arg(queue).arg(seconds).query(connection)
}

pub(crate) fn push(connection: &mut impl ConnectionLike, queue: &str, element: &str) {
    cmd("RPUSH").arg(queue).arg(element).exec(connection).unwrap();
}

pub(crate) fn answers(connection: &mut impl ConnectionLike) -> bool {
    cmd("PING").query::<String>(connection).is_ok_and(|answer| answer == "PONG")
}

pub(crate) fn is_unblocked(error: &redis::RedisError) -> bool {
    error.code() == Some("UNBLOCKED")
}

pub(crate) fn is_by_unblock(error: &timebox::TimeoutError) -> bool {
    error.source().and_then(|source| source.downcast_ref()).is_some_and(is_unblocked)
}

/// Whether the server says that the client with this id waits for an element.
pub(crate) fn is_blocked(other: &mut impl ConnectionLike, id: i64) -> bool {
    let client: String = cmd("CLIENT").arg("LIST").arg("ID").arg(id).query(other).unwrap();
    client.contains(" flags=b ")
}

/// Whether a late unblock ends the next pop. If none does, the pop gets an element that `other` pushes after a while.
fn is_next_pop_hit(
    connection: &mut recipe::Connection,
    id: i64,
    other: &mut Connection,
    queue: &str,
) -> bool {
    thread::scope(|threads| {
        let popping = threads.spawn(|| pop(connection, queue, 0.0));
        // Waits for some round trips, because a late unblock needs that time to arrive.
        let mut rounds = 0;
        wait_until(|| {
            rounds += u32::from(popping.is_finished() || is_blocked(other, id));
            rounds > 5
        });
        push(other, queue, "next");
        match popping.join().unwrap() {
            Ok(popped) => {
                assert_eq!(popped.unwrap().1, "next");
                false
            }
            Err(error) => {
                assert!(is_unblocked(&error), "{error}");
                cmd("DEL").arg(queue).exec(other).unwrap();
                true
            }
        }
    })
}

#[test]
fn the_next_pops_are_never_cut_short() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let (client, connection, session) = connect(server);
    let connection = RefCell::new(connection);
    let control = control(&client);
    let mut other = client.get_connection().unwrap();
    let mut pusher = client.get_connection().unwrap();
    let statement = |limit, own| {
        thread::scope(|threads| {
            let mut connection = connection.borrow_mut();
            // Pushes an element after the time `own`, so that the pop ends by itself.
            let pushing = threads.spawn(|| {
                thread::sleep(own);
                push(&mut pusher, "own", "pushed");
            });
            let result = timeout(limit, || guarded(&control, &session, || pop(&mut connection, "own", 0.0)));
            pushing.join().unwrap();
            cmd("DEL").arg("own").exec(&mut *connection).unwrap();
            result.map(|popped| assert_eq!(popped.unwrap().1, "pushed"))
        })
    };
    let follow_up = || {
        let mut connection = connection.borrow_mut();
        let hits = (0..3).filter(|_| is_next_pop_hit(&mut connection, session.id, &mut other, "swept"));
        u32::try_from(hits.count()).unwrap()
    };
    sweep_sleeps(80, Duration::from_millis(2), statement, follow_up, true).check("Redis, 80 runs");
}

/// Shows that the test above can fail: without the guard, a hook outlives its command and ends the next pop.
/// `is_next_pop_hit` notices that.
#[test]
fn a_hook_that_outlives_its_command_cuts_the_next_short() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let (client, mut connection, session) = connect(server);
    let control = control(&client);
    let mut other = client.get_connection().unwrap();
    let was_hit = with_timeout(SHORT, |scope| {
        let _outlives = scope.on_cancel(control.hook(&session).every(Duration::from_millis(1)));
        assert!(answers(&mut connection));
        Ok::<_, AnyError>(
            (0..3000).any(|_| is_next_pop_hit(&mut connection, session.id, &mut other, "unguarded")),
        )
    });
    assert!(was_hit.unwrap());
}

#[test]
fn a_blocked_pop_ends_within_the_scope_and_loses_no_element() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let (client, mut connection, session) = connect(server);
    let control = control(&client);
    let mut other = client.get_connection().unwrap();
    for _ in 0..20 {
        let mut pop_one = || pop(&mut connection, "queue", 0.0);
        let error = cut(|limit| timeout(limit, || guarded(&control, &session, &mut pop_one)));
        assert!(is_by_unblock(&error), "{error}");
        push(&mut other, "queue", "kept");
        assert!(answers(&mut connection));
        assert_eq!(pop(&mut connection, "queue", 0.0).unwrap().unwrap().1, "kept");
    }
}

#[test]
fn a_server_killed_while_a_pop_waits_is_its_own_error_and_not_a_timeout() {
    let _alone = alone();
    let Some(server) = Server::redis() else { return };
    let (client, mut connection, session) = connect(&server);
    let control = control(&client);
    let mut other = client.get_connection().unwrap();
    let start = Instant::now();
    let error = thread::scope(|threads| {
        let call = threads.spawn(|| {
            timeout(LONG, || guarded(&control, &session, || pop(&mut connection, "queue", 0.0))).unwrap_err()
        });
        wait_until(|| is_blocked(&mut other, session.id));
        // SAFETY: a signal to this test's own server.
        assert_eq!(unsafe { libc::kill(server.pid(), libc::SIGKILL) }, 0);
        call.join().unwrap()
    });
    assert!(start.elapsed() < HANG);
    let error = error.downcast::<redis::RedisError>().expect("not the error of the scope");
    assert!(error.is_connection_dropped(), "{error}");
    assert!(!connection.is_open());
}

#[test]
fn no_descriptor_is_left_open() {
    let _alone = alone();
    let Some(server) = server() else { return };
    let (client, mut connection, session) = connect(server);
    let control = control(&client);
    let before = open_files();
    for _ in 0..1000 {
        let pop = || pop(&mut connection, "empty", 0.0);
        assert!(
            timed_out(timeout(Duration::from_millis(1), || guarded(&control, &session, pop))).is_timeout()
        );
    }
    assert!(open_files() <= before);
}
