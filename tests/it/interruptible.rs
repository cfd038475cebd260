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

use crate::support::{HANG, LONG, SHORT, bounded, next, wait_for};

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
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let value = scope.interruptible(
                move || fired.send(()),
                || {
                    next(&wait);
                    Ok::<_, io::Error>(7)
                },
            )?;
            assert_eq!(value.unwrap(), 7);
            assert!(checkpoint().is_err());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_call_that_fails_after_its_hook_fired_is_the_expiry() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let error = scope
                .interruptible(
                    move || fired.send(()),
                    || {
                        next(&wait);
                        Err::<(), _>(io::Error::other("interrupted"))
                    },
                )
                .unwrap_err();
            assert_eq!((error.scope(), error.cause()), (scope.id(), Cause::Deadline));
            assert!(error.source().unwrap().is::<io::Error>());
            assert!(error.started() && error.settled());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_spoilt_success_is_the_expiry_without_a_source() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let error = scope
                .interruptible(Hook::new(move || fired.send(())).spoils(), || {
                    next(&wait);
                    Ok::<_, io::Error>(0)
                })
                .unwrap_err();
            assert_eq!(error.scope(), scope.id());
            assert!(error.source().is_none());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
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
fn only_the_step_that_fired_spoils() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let ask = Hook::new(move || fired.send(())).once().then(LONG, Hook::new(|| ()).spoils());
            let value = scope.interruptible(ask, || {
                next(&wait);
                Ok::<_, io::Error>(7)
            })?;
            assert_eq!(value.unwrap(), 7);

            Ok::<_, TimeoutError>(())
        })
        .unwrap();
        with_timeout(SHORT, |scope| {
            let killed = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&killed);
            let kill = Hook::new(move || flag.store(true, SeqCst)).spoils();
            scope
                .interruptible(Hook::new(|| ()).then(SHORT / 4, kill), || {
                    wait_for("escalation", || killed.load(SeqCst));
                    Ok::<_, io::Error>(7)
                })
                .unwrap_err();
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn the_outcome_hands_out_value_and_firings_whatever_happened() {
    bounded(|| {
        let (fired, wait) = channel();
        let outcome = with_timeout(SHORT, |scope| {
            scope.interruptible_outcome(Hook::new(move || fired.send(())).once().spoils(), || {
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
    fn interrupted<F: Into<Box<dyn Error + Send + Sync>>>(fail: impl FnOnce() -> F) -> TimeoutError {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            scope.interruptible(
                move || fired.send(()),
                || {
                    next(&wait);
                    Err::<(), F>(fail())
                },
            )
        })
        .map(drop)
        .unwrap_err()
    }
    bounded(|| {
        assert_eq!(interrupted(|| "text").source().unwrap().to_string(), "text");
        assert_eq!(interrupted(|| String::from("text")).source().unwrap().to_string(), "text");
        assert!(interrupted(|| std::fmt::Error).source().unwrap().is::<std::fmt::Error>());
    });
}

#[test]
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
        let error = with_timeout(SHORT, |scope| {
            scope.interruptible(
                move || outer_fired.send(()),
                || {
                    timeout(LONG, || {
                        interruptible(
                            move || inner_fired.send(()),
                            || {
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
fn a_blocked_read_to_end_does_not_pass_for_a_whole_answer() {
    bounded(|| {
        let (near, mut far) = connection();
        far.write_all(b"half an ans").unwrap();
        let mut answer = Vec::new();
        with_timeout(SHORT, |scope| {
            scope.interruptible(shutdown(&near), || (&near).read_to_end(&mut answer))
        })
        .unwrap_err();
        assert_eq!(answer, b"half an ans");
    });
}

#[test]
fn a_blocked_write_is_an_expiry_with_its_error_as_source() {
    bounded(|| {
        let (near, _far) = connection();
        let block = vec![0; 1 << 20];
        let error = with_timeout(SHORT, |scope| {
            scope.interruptible(shutdown(&near), || {
                // The peer reads nothing, so the buffers fill and a write blocks.
                loop {
                    (&near).write_all(&block)?;
                }
                #[expect(unreachable_code, reason = "names the type")]
                Ok::<(), io::Error>(())
            })
        })
        .unwrap_err();
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_ne!(source.kind(), io::ErrorKind::Interrupted);
    });
}

#[test]
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
fn a_blocked_read_is_restarted_by_nobody() {
    // std retries `Interrupted` by itself; what we return must stop a caller that copies.
    bounded(|| {
        let (near, _far) = connection();
        let copied = with_timeout(SHORT, |scope| {
            let hook = shutdown(&near);
            let read = scope.interruptible(hook, || (&near).read(&mut [0]));
            Err::<(), io::Error>(read.unwrap_err().into())
        })
        .unwrap_err();
        assert_eq!(copied.kind(), io::ErrorKind::TimedOut);
    });
}
