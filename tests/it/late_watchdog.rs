//! No answer depends on the watchdog: what is asked while it is late is answered by the clock.

use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Cause, Timebox, checkpoint, is_expired, shield, timeout, timeout_value, token,
    with_timeout,
};

use crate::support::{HeldWatchdog, LONG, SHORT, again_until_held, bounded, rounds, unhurried};

/// Runs the test while the watchdog notices nothing, because hooks hold it up.
#[track_caller]
fn while_the_watchdog_is_late(test: fn()) {
    again_until_held(|| {
        let held = HeldWatchdog::new();
        bounded(test);
        // Under miri the hooks are too few for some of the tests.
        held.release().or(cfg!(miri).then_some(()))
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
fn an_outer_scope_once_over_stays_so_whatever_is_asked_inside() {
    unhurried(|limit| {
        let asked = with_timeout(limit, |outer| {
            timeout_value(LONG, || {
                while !outer.is_expired() {}
                for _ in 0..rounds(10_000) {
                    assert!(outer.is_expired(), "over, and then not");
                }
            })
        });
        // Refused: it was over before the inner one began.
        asked.ok()
    });
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
fn a_token_made_where_a_check_has_seen_the_expiry_says_so() {
    while_the_watchdog_is_late(|| {
        unhurried(|limit| {
            let asked = timeout_value(limit, || {
                timeout_value(LONG, || {
                    while !is_expired() {}
                    assert!(token().is_cancelled());
                    assert!(token().checkpoint().is_err());
                })
            });
            // Refused: it was over before the inner one began.
            asked.unwrap().ok()
        });
    });
}
