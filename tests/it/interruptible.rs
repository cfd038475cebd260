//! `interruptible`: which of the four results a foreign call has, on calls that fail by hand and on real sockets.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use timebox::{Cause, Hook, TimeoutError, checkpoint, interruptible, timeout, with_timeout};

use crate::support::{HANG, LONG, SHORT, bounded, next, unhurried, wait_for};

/// Two ends of one connection on this machine.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// What unblocks calls on `socket`: after it a read looks like the end of the stream.
fn shutdown(socket: &TcpStream) -> Hook<'static> {
    let socket = socket.try_clone().unwrap();
    Hook::inline(move || socket.shutdown(Shutdown::Both)).spoils()
}

/// Makes a call whose scope is cancelled as soon as the call has begun.
fn interrupted<'h, T, F>(
    hook: impl Into<Hook<'h>>,
    call: impl FnOnce() -> Result<T, F>,
) -> Result<Result<T, F>, TimeoutError>
where
    F: Into<Box<dyn Error + Send + Sync>>,
{
    with_timeout(LONG, |scope| {
        scope.interruptible(hook, || {
            scope.token().cancel();
            call()
        })
    })
}

#[test]
fn a_call_that_succeeds_is_its_value() {
    let result = with_timeout(LONG, |scope| scope.interruptible(|| (), || Ok::<_, io::Error>(7)));
    assert_eq!(result.unwrap().unwrap(), 7);
}

#[test]
fn a_call_that_fails_by_itself_is_its_own_error() {
    let result =
        with_timeout(LONG, |scope| scope.interruptible(|| (), || Err::<(), _>(io::Error::other("no route"))));
    assert_eq!(result.unwrap().unwrap_err().to_string(), "no route");
}

#[test]
fn a_call_that_succeeds_although_its_hook_fired_is_its_value() {
    bounded(|| {
        let (fired, wait) = channel();
        let value = interrupted(
            move || fired.send(()),
            || {
                next(&wait);
                assert!(checkpoint().is_err());
                Ok::<_, io::Error>(7)
            },
        );
        assert_eq!(value.unwrap().unwrap(), 7);
    });
}

#[test]
fn a_call_that_fails_after_its_hook_fired_is_the_expiry() {
    bounded(|| {
        unhurried(|limit| {
            let (fired, wait) = channel();
            let mut made = false;
            let error = with_timeout(limit, |scope| {
                let call = || {
                    made = true;
                    next(&wait);
                    Err::<(), _>(io::Error::other("interrupted"))
                };
                let error = scope.interruptible(move || fired.send(()), call).unwrap_err();
                assert_eq!(error.scope(), scope.id());
                Err::<(), _>(error)
            })
            .unwrap_err();
            assert_eq!((error.cause(), error.limit()), (Cause::Deadline, Some(limit)));
            assert!(error.started() && error.settled());
            // Not made at all if the machine was too busy.
            made.then(|| assert!(error.source().unwrap().is::<io::Error>()))
        });
    });
}

#[test]
fn where_it_was_interrupted_is_the_interruptible_call() {
    bounded(|| {
        let (fired, wait) = channel();
        let error = with_timeout(LONG, |scope| {
            let call = || {
                scope.token().cancel();
                next(&wait);
                Err::<(), _>("interrupted")
            };
            let line = line!() + 1;
            let error = scope.interruptible(move || fired.send(()), call).unwrap_err();
            assert_eq!((error.interrupted_at().file(), error.interrupted_at().line()), (file!(), line));
            Err::<(), _>(error)
        })
        .unwrap_err();
        assert_ne!(error.interrupted_at(), error.location());
    });
}

#[test]
fn a_spoilt_success_is_the_expiry_without_a_source() {
    bounded(|| {
        let (fired, wait) = channel();
        let error = interrupted(Hook::new(move || fired.send(())).spoils(), || {
            next(&wait);
            Ok::<_, io::Error>(0)
        })
        .unwrap_err();
        assert!(error.is_cancelled());
        assert!(error.source().is_none());
    });
}

#[test]
fn a_hook_that_would_spoil_but_did_not_fire_spoils_nothing() {
    let result = with_timeout(LONG, |scope| {
        scope.interruptible(Hook::inline(|| ()).spoils(), || Ok::<_, io::Error>(7))
    });
    assert_eq!(result.unwrap().unwrap(), 7);
}

#[test]
fn only_a_step_that_fired_spoils() {
    bounded(|| {
        let (fired, wait) = channel();
        let ask = Hook::new(move || fired.send(())).once();
        let value = interrupted(ask.then(LONG, Hook::new(|| ()).spoils()), || {
            next(&wait);
            Ok::<_, io::Error>(7)
        });
        assert_eq!(value.unwrap().unwrap(), 7);

        let killed = AtomicBool::new(false);
        let kill = Hook::new(|| killed.store(true, SeqCst)).spoils();
        interrupted(Hook::new(|| ()).then(SHORT / 4, kill), || {
            wait_for("escalation", || killed.load(SeqCst));
            Ok::<_, io::Error>(7)
        })
        .unwrap_err();
    });
}

#[test]
fn the_outcome_hands_out_value_and_firings_whatever_happened() {
    bounded(|| {
        let (fired, wait) = channel();
        let outcome = with_timeout(LONG, |scope| {
            scope.interruptible_outcome(Hook::new(move || fired.send(())).once().spoils(), || {
                scope.token().cancel();
                next(&wait);
                Err::<(), _>("not even an error type")
            })
        })
        .unwrap();
        assert_eq!((outcome.value, outcome.fires), (Err("not even an error type"), 1));
    });
}

#[test]
fn the_outcome_of_a_scope_already_over_is_an_error() {
    let error = with_timeout(LONG, |scope| {
        scope.token().cancel();
        scope.interruptible_outcome(|| (), || unreachable!("not made")).map(|outcome| outcome.value)
    })
    .unwrap_err();
    assert!(error.is_cancelled());
}

#[test]
fn errors_of_many_kinds_can_be_the_source() {
    fn source_of<F: Into<Box<dyn Error + Send + Sync>>>(failure: F) -> TimeoutError {
        let (fired, wait) = channel();
        let call = || {
            next(&wait);
            Err::<(), F>(failure)
        };
        interrupted(move || fired.send(()), call).map(drop).unwrap_err()
    }
    bounded(|| {
        assert_eq!(source_of("text").source().unwrap().to_string(), "text");
        assert_eq!(source_of(String::from("text")).source().unwrap().to_string(), "text");
        assert!(source_of(std::fmt::Error).source().unwrap().is::<std::fmt::Error>());
    });
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn an_explicit_cancel_interrupts_the_call() {
    bounded(|| {
        let (near, _far) = connection();
        let error = with_timeout(LONG, |scope| {
            let token = scope.token();
            let thread = thread::spawn(move || token.cancel_with("user went away"));
            let result = scope.interruptible(shutdown(&near), || (&near).read(&mut [0]));
            assert!(thread.join().unwrap());
            result
        })
        .unwrap_err();
        assert_eq!(error.reason(), Some("user went away"));
    });
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn the_call_of_an_inner_scope_is_interrupted_by_an_outer_expiry() {
    bounded(|| {
        let (near, _far) = connection();
        let error = with_timeout(SHORT, |outer| {
            let error =
                timeout(LONG, || interruptible(shutdown(&near), || (&near).read(&mut [0]))).unwrap_err();
            assert_eq!(error.scope(), outer.id());
            Err::<(), _>(error)
        })
        .unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
    });
}

#[test]
fn a_call_inside_a_call_has_both_hooks() {
    bounded(|| {
        let (outer_fired, outer_wait) = channel();
        let (inner_fired, inner_wait) = channel();
        let error = with_timeout(LONG, |scope| {
            scope.interruptible(
                move || outer_fired.send(()),
                || {
                    timeout(LONG, || {
                        interruptible(
                            move || inner_fired.send(()),
                            || {
                                scope.token().cancel();
                                next(&inner_wait);
                                next(&outer_wait);
                                Err::<(), _>("stopped")
                            },
                        )
                    })
                    .map(drop)
                },
            )
        })
        .unwrap_err();
        let inner: &TimeoutError = error.source().unwrap().downcast_ref().unwrap();
        assert_eq!(inner.scope(), error.scope());
        assert_eq!(inner.source().unwrap().to_string(), "stopped");
    });
}

#[test]
fn a_panic_of_the_call_passes_through_and_ends_the_hook() {
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let payload = catch_unwind(AssertUnwindSafe(|| {
        timeout(LONG, || {
            interruptible(
                move || Arc::strong_count(&inside),
                || -> Result<(), String> { panic!("a call of the test panics, as it should") },
            )
        })
    }))
    .unwrap_err();
    assert_eq!(*payload.downcast_ref::<&str>().unwrap(), "a call of the test panics, as it should");
    assert_eq!(Arc::strong_count(&held), 1);
    assert!(checkpoint().is_ok());
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn a_blocked_read_is_an_expiry_and_no_end_of_stream() {
    bounded(|| {
        let (near, _far) = connection();
        let start = Instant::now();
        let error =
            with_timeout(SHORT, |scope| scope.interruptible(shutdown(&near), || (&near).read(&mut [0])))
                .unwrap_err();
        assert!(error.is_timeout() && error.source().is_none());
        assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
    });
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn a_blocked_read_to_end_does_not_pass_for_a_whole_answer() {
    bounded(|| {
        let (near, mut far) = connection();
        far.write_all(b"half an ans").unwrap();
        let mut answer = Vec::new();
        // The first bytes are there before anybody is told to stop.
        let error =
            interrupted(shutdown(&near).every(SHORT), || (&near).read_to_end(&mut answer)).unwrap_err();
        assert!(error.source().is_none());
        assert!(b"half an ans".starts_with(&answer));
    });
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn a_blocked_write_is_an_expiry_with_its_error_as_source() {
    bounded(|| {
        let (near, _far) = connection();
        let block = vec![0; 1 << 20];
        // The peer reads nothing, so the buffers fill and a write blocks.
        let fill = || (0..).try_for_each(|_| (&near).write_all(&block));
        let error = interrupted(shutdown(&near), fill).unwrap_err();
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_ne!(source.kind(), io::ErrorKind::Interrupted);
    });
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn a_read_that_is_answered_in_time_is_its_bytes() {
    bounded(|| {
        let (near, mut far) = connection();
        far.write_all(b"pong").unwrap();
        let mut answer = [0; 4];
        with_timeout(LONG, |scope| scope.interruptible(shutdown(&near), || (&near).read_exact(&mut answer)))
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"pong");
        // Nothing was shut down.
        (&near).write_all(b"ping").unwrap();
        far.read_exact(&mut answer).unwrap();
    });
}

#[test]
#[cfg_attr(miri, ignore = "needs a socket")]
fn as_an_io_error_an_interrupted_read_is_not_retried() {
    // std's helpers retry `Interrupted` by themselves.
    bounded(|| {
        let (near, _far) = connection();
        let error = interrupted(shutdown(&near), || (&near).read(&mut [0])).unwrap_err();
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    });
}
