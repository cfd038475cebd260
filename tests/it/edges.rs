//! Corners of the contract that few programs turn: questions asked while the watchdog is late.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Cause, Hook, Timebox, TimeoutError, checkpoint, future, interruptible, is_expired,
    shield, timeout, timeout_value, token, with_timeout,
};

use crate::support::{Failure, LONG, SHORT, bounded, next, rounds, unhurried, wait_for};

/// Runs the test while the watchdog notices nothing, because a hook holds it up.
#[track_caller]
fn while_the_watchdog_is_late(test: impl FnOnce() + Send + 'static) {
    let (begun, holding) = channel();
    let (release, released) = channel::<()>();
    let hold = CancellationToken::new();
    let _registration = hold.on_cancel(Hook::inline(move || {
        let _ = begun.send(());
        let _ = released.recv();
    }));
    // Dropped before the registration, which waits for the hook.
    let _release = release;
    hold.cancel();
    next(&holding);
    bounded(test);
}

#[test]
fn the_token_of_an_ended_scope_keeps_the_deadline_around_it() {
    unhurried(|limit| {
        let token = timeout_value(limit, || timeout_value(LONG, token)).unwrap().ok()?;
        wait_for("the deadline that was around it", || token.is_cancelled());
        Some(())
    });
}

#[test]
fn asking_a_token_for_its_cause_raises_nothing() {
    let result = Timebox::new(SHORT).run_or_else(
        |scope| {
            let token = scope.token();
            wait_for("a cause", || token.cause().is_some());
            Err::<(), _>(Failure::Own("not for lack of time"))
        },
        |_| panic!("no error was raised, so there is nothing to fall back from"),
    );
    assert!(matches!(result, Err(Failure::Own(_))));
}

#[test]
fn a_reason_is_passed_on_through_a_child_token() {
    let root = CancellationToken::new();
    let error = Timebox::new(LONG)
        .cancel_on(&root.child_token())
        .run(|scope| {
            root.cancel_with("deploying");
            scope.checkpoint()
        })
        .unwrap_err();
    assert_eq!(error.reason(), Some("deploying"));
}

#[test]
fn a_reason_from_before_the_entry_is_passed_on_through_a_child_token() {
    let root = CancellationToken::new();
    let child = root.child_token();
    root.cancel_with("deploying");
    let error = Timebox::new(LONG).cancel_on(&child).run(|scope| scope.checkpoint()).unwrap_err();
    assert!(!error.started());
    assert_eq!(error.reason(), Some("deploying"));
}

/// A foreign error whose destructor uses the crate.
#[derive(Debug)]
struct AsksWhenDropped;

impl fmt::Display for AsksWhenDropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for AsksWhenDropped {}

impl Drop for AsksWhenDropped {
    fn drop(&mut self) {
        let _ = checkpoint();
    }
}

#[test]
fn a_source_may_use_the_crate_when_it_is_dropped() {
    bounded(|| {
        timeout_value(LONG, || {
            let (fire, fired) = channel();
            let hook = Hook::inline(move || fire.send(()));
            let call = || {
                token().cancel();
                next(&fired);
                Err::<(), _>(AsksWhenDropped)
            };
            let error = interruptible(hook, call).unwrap_err();
            assert!(std::error::Error::source(&error).is_some());
            drop(error);
            // The next error takes the place of the one with the source.
            checkpoint().unwrap_err();
            interruptible(Hook::inline(|| ()), || Err::<(), _>(AsksWhenDropped)).unwrap_err();
        })
        .unwrap();
    });
}

#[test]
fn shields_in_a_loop_do_not_keep_a_checkpoint_from_the_clock() {
    while_the_watchdog_is_late(|| {
        let error = timeout(SHORT, || -> timebox::Result<()> {
            loop {
                shield(LONG, || ());
                checkpoint()?;
            }
        })
        .unwrap_err();
        assert!(error.is_timeout());
    });
}

#[test]
fn a_zero_limit_never_admits_its_body_whatever_was_asked_before() {
    while_the_watchdog_is_late(|| {
        let start = Instant::now();
        timeout_value(SHORT, || {
            while start.elapsed() < SHORT * 3 {
                shield(LONG, || ());
                timeout_value(Duration::ZERO, || panic!("the body was run")).unwrap_err();
            }
        })
        .unwrap();
    });
}

/// Enough questions for the clock to have been read for some of them, and not for the next.
fn ask_often(token: &CancellationToken) {
    for _ in 0..rounds(10_000) {
        token.is_cancelled();
    }
}

#[test]
fn a_token_whose_cancel_came_too_late_is_cancelled() {
    while_the_watchdog_is_late(|| {
        timeout_value(SHORT, || {
            let token = token();
            ask_often(&token);
            thread::sleep(SHORT);
            assert!(!token.cancel_with("late"), "the deadline was first");
            assert!(token.is_cancelled());
        })
        .unwrap();
    });
}

#[test]
fn a_child_token_whose_cancel_came_too_late_is_cancelled() {
    while_the_watchdog_is_late(|| {
        timeout_value(SHORT, || {
            let child = token().child_token();
            ask_often(&child);
            thread::sleep(SHORT);
            assert!(!child.cancel_with("late"), "the deadline was first");
            assert!(child.is_cancelled());
        })
        .unwrap();
    });
}

#[test]
fn a_token_once_cancelled_stays_so_whatever_else_is_asked() {
    while_the_watchdog_is_late(|| {
        let child = timeout_value(SHORT, token).unwrap().child_token();
        let other = CancellationToken::new();
        let ask_another = || {
            assert!(!other.is_cancelled());
            checkpoint().unwrap();
        };
        while !child.is_cancelled() {
            ask_another();
        }
        for _ in 0..rounds(10_000) {
            assert!(child.is_cancelled(), "over, and then not");
            ask_another();
        }
    });
}

#[test]
fn a_scope_sees_the_deadline_of_a_token_that_it_is_linked_to() {
    while_the_watchdog_is_late(|| {
        let token = timeout_value(SHORT, token).unwrap();
        let linked = Timebox::new(LONG).cancel_on(&token);
        let error = linked.run(|scope| -> timebox::Result<()> {
            loop {
                scope.checkpoint()?;
            }
        });
        let error = error.unwrap_err();
        assert_eq!((error.cause(), error.limit()), (Cause::Deadline, Some(SHORT)));
    });
}

#[test]
fn an_outer_scope_that_is_cancelled_says_so_at_once() {
    with_timeout(LONG, |outer| {
        timeout(LONG, || {
            // So that the clock is seldom read.
            for _ in 0..rounds(100_000) {
                outer.checkpoint()?;
            }
            outer.token().cancel();
            assert!(outer.is_expired());
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn an_outer_scope_once_over_stays_so_whatever_is_asked_inside() {
    with_timeout(SHORT, |outer| {
        timeout_value(LONG, || {
            while !outer.is_expired() {}
            for _ in 0..rounds(10_000) {
                assert!(outer.is_expired(), "over, and then not");
            }
        })
    })
    .unwrap();
}

#[test]
fn a_future_without_any_time_is_not_polled() {
    let polled =
        || future::timeout_value(Duration::ZERO, poll_fn(|_| -> Poll<()> { panic!("it was polled") }));
    assert!(!pollster::block_on(polled()).unwrap_err().started());
    let nested = timeout(LONG, || pollster::block_on(polled()));
    assert!(!nested.unwrap_err().started());
}

#[test]
fn a_deadline_before_the_cancel_of_a_linked_token_is_the_cause() {
    while_the_watchdog_is_late(|| {
        let token = CancellationToken::new();
        let late = Timebox::new(SHORT).cancel_on(&token).run(|scope| {
            thread::sleep(2 * SHORT);
            token.cancel();
            scope.checkpoint()
        });
        assert_eq!(late.unwrap_err().cause(), Cause::Deadline);
    });
}

#[test]
fn an_interruptible_future_does_not_block_its_task_for_a_hook_that_runs() {
    bounded(|| {
        let ((begun, begins), (release, released)) = (channel(), channel::<()>());
        let hook = Hook::new(move || {
            let _ = begun.send(());
            let _ = released.recv();
        });
        let token = CancellationToken::new();
        let call = Timebox::new(LONG).cancel_on(&token).grace(LONG).run_future(async {
            let mut polled = false;
            let two_polls = poll_fn(|_| {
                if std::mem::replace(&mut polled, true) {
                    Poll::Ready(Ok::<_, String>(()))
                } else {
                    Poll::Pending
                }
            });
            future::interruptible(hook.once(), two_polls).await
        });
        let mut call = std::pin::pin!(call);
        let mut poll = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        token.cancel();
        next(&begins);
        assert!(poll().is_pending(), "it waits for the hook, and this thread does not");
        drop(release);
        wait_for("the end of the hook", || poll().is_ready());
    });
}

#[test]
fn tokens_are_equal_if_they_are_the_same() {
    let token = CancellationToken::new();
    assert_eq!(token, token.clone());
    assert_ne!(token, CancellationToken::new());
    assert_ne!(token, token.child_token());
}

#[test]
fn a_token_made_where_a_check_has_seen_the_expiry_says_so() {
    while_the_watchdog_is_late(|| {
        timeout_value(SHORT, || {
            timeout_value(LONG, || {
                while !is_expired() {}
                assert!(token().is_cancelled());
                assert!(token().checkpoint().is_err());
            })
        })
        .unwrap()
        .unwrap();
    });
}
