//! `run_or_else`: the fallback runs for the scope's own expiry and for nothing else.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use timebox::{
    CancellationToken, Cause, Deadline, Limit, Quota, Timebox, TimeoutError, checkpoint,
    checkpoint_or_unwind, deadline, interruptible, is_expired, require, timeout, with_timeout,
};

use crate::support::{Failure, LONG, SHORT, outlast, wait_for};

/// A fallback that must not be taken.
#[expect(clippy::needless_pass_by_value, reason = "as fallbacks are called")]
fn no_fallback<T>(error: TimeoutError) -> Result<T, Failure> {
    unreachable!("no fallback for: {error}")
}

#[test]
fn an_expired_body_falls_back() {
    let answer = Timebox::new(SHORT).label("exact").run_or_else(
        |scope| {
            scope.sleep(LONG)?;
            Ok::<_, Failure>("exact")
        },
        |timed_out| {
            assert_eq!(timed_out.label(), Some("exact"));
            assert_eq!(timed_out.cause(), Cause::Deadline);
            assert!(timed_out.started());
            Ok("estimate")
        },
    );
    assert_eq!(answer.unwrap(), "estimate");
}

#[test]
fn a_body_that_was_not_started_by_its_own_limit_falls_back() {
    let spent = Quota::new(Duration::ZERO);
    let passed = Deadline::after(Duration::ZERO);
    for limit in [Limit::from(Duration::ZERO), passed.into(), (&spent).into()] {
        let answer = Timebox::new(limit).run_or_else(
            |_| -> Result<u32, Failure> { unreachable!("not run") },
            |timed_out| {
                assert!(!timed_out.started());
                Ok(7)
            },
        );
        assert_eq!(answer.unwrap(), 7);
    }
}

#[test]
fn a_body_whose_token_was_cancelled_before_falls_back() {
    let token = CancellationToken::new();
    token.cancel();
    let answer = Timebox::new(LONG).cancel_on(&token).run_or_else(
        |_| -> Result<u32, Failure> { unreachable!("not run") },
        |timed_out| {
            assert!(timed_out.is_cancelled() && !timed_out.started());
            Ok(7)
        },
    );
    assert_eq!(answer.unwrap(), 7);
}

#[test]
fn a_body_that_was_not_started_since_its_parent_is_over_does_not_fall_back() {
    with_timeout(SHORT, |outer| {
        outlast(outer);
        let error = Timebox::new(LONG).run_or_else(|_| Ok::<(), _>(()), no_fallback).unwrap_err().timebox();
        assert_eq!(error.scope(), outer.id());
        assert!(!error.started());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_late_ok_does_not_fall_back() {
    let answer = Timebox::new(SHORT).run_or_else(
        |scope| {
            outlast(scope);
            Ok::<_, Failure>("exact")
        },
        no_fallback,
    );
    assert_eq!(answer.unwrap(), "exact");
}

#[test]
fn an_error_after_the_scopes_own_was_raised_is_dropped_for_the_fallback() {
    let held = Arc::new(());
    let answer = Timebox::new(SHORT).run_or_else(
        |scope| {
            outlast(scope);
            Err::<u32, _>(Held(Arc::clone(&held)))
        },
        |_| {
            assert_eq!(Arc::strong_count(&held), 1);
            Ok(7)
        },
    );
    assert_eq!(answer.map_err(|_| ()), Ok(7));
}

/// An error whose life can be watched.
struct Held(#[expect(dead_code, reason = "only its life is looked at")] Arc<()>);

impl From<TimeoutError> for Held {
    fn from(_: TimeoutError) -> Self {
        Self(Arc::new(()))
    }
}

#[test]
fn an_error_before_any_was_raised_passes_through() {
    let result = Timebox::new(SHORT).run_or_else(
        |scope| {
            // Over, but no code was interrupted by it: this failure is the body's own.
            wait_for("expiry", || scope.is_expired());
            Err::<(), _>(Failure::Own("no such row"))
        },
        no_fallback,
    );
    assert!(matches!(result, Err(Failure::Own("no such row"))));
}

#[test]
fn an_outer_expiry_passes_through() {
    let error = with_timeout(SHORT, |outer| {
        let error = Timebox::new(LONG)
            .run_or_else(|scope| Ok(scope.sleep(LONG)?), no_fallback)
            .unwrap_err()
            .timebox();
        assert_eq!(error.scope(), outer.id());
        Err::<(), _>(error)
    })
    .unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn an_error_naming_an_inner_scope_passes_through() {
    let error = Timebox::new(LONG)
        .run_or_else(|_| timeout(SHORT, || timebox::sleep(LONG)).map_err(Failure::from), no_fallback)
        .unwrap_err()
        .timebox();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn an_error_raised_in_an_inner_scope_that_names_this_one_falls_back() {
    let answer = Timebox::new(SHORT).run_or_else(
        |_| {
            timeout(LONG, || timeout(Limit::NONE, || timebox::sleep(LONG)))?;
            Ok::<_, Failure>(0)
        },
        |_| Ok(7),
    );
    assert_eq!(answer.unwrap(), 7);
}

#[test]
fn an_error_raised_by_an_interruptible_call_falls_back() {
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let answer = Timebox::new(LONG).run_or_else(
        |scope| {
            let call = || {
                scope.token().cancel();
                receive.recv().map_or(Ok(()), |()| Err("stopped"))
            };
            let _ = interruptible(move || send.send(()), call)?;
            Ok::<_, Failure>(0)
        },
        |timed_out| {
            assert_eq!(std::error::Error::source(&timed_out).unwrap().to_string(), "stopped");
            Ok(7)
        },
    );
    assert_eq!(answer.unwrap(), 7);
}

#[test]
fn an_error_raised_on_another_thread_that_names_this_scope_falls_back() {
    let answer = Timebox::new(SHORT).run_or_else(
        |scope| {
            let handle = scope.handle();
            std::thread::spawn(move || handle.enter(LONG, |inner| inner.sleep(LONG))).join().unwrap()?;
            Ok::<_, Failure>(0)
        },
        |timed_out| {
            assert_eq!(timed_out.limit(), Some(SHORT));
            Ok(7)
        },
    );
    assert_eq!(answer.unwrap(), 7);
}

#[test]
fn a_failed_require_counts_as_raised() {
    let answer = Timebox::new(LONG).run_or_else(
        |scope| {
            scope.require(LONG * 2)?;
            Ok::<_, Failure>(0)
        },
        |timed_out| {
            assert_eq!(timed_out.overshoot(), Duration::ZERO);
            Ok(7)
        },
    );
    assert_eq!(answer.unwrap(), 7);
}

#[test]
fn a_require_that_names_the_outer_scope_passes_through() {
    with_timeout(LONG, |outer| {
        let result = Timebox::new(LONG * 2).run_or_else(|_| Ok(require(LONG * 4)?), no_fallback);
        assert_eq!(result.unwrap_err().timebox().scope(), outer.id());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_cancelled_body_falls_back() {
    let answer = Timebox::new(LONG).run_or_else(
        |scope| {
            scope.token().cancel_with("changed my mind");
            scope.checkpoint()?;
            Ok::<_, Failure>(0)
        },
        |timed_out| {
            assert_eq!(timed_out.reason(), Some("changed my mind"));
            Ok(7)
        },
    );
    assert_eq!(answer.unwrap(), 7);
}

#[cfg(panic = "unwind")]
#[test]
fn an_unwound_body_falls_back() {
    let answer = Timebox::new(SHORT).run_or_else(
        |_| -> Result<u32, Failure> {
            loop {
                checkpoint_or_unwind();
            }
        },
        |_| Ok(7),
    );
    assert_eq!(answer.unwrap(), 7);
}

#[test]
fn the_fallback_runs_after_the_scope_in_its_parent() {
    let ran = Cell::new(false);
    with_timeout(LONG, |outer| {
        Timebox::new(SHORT).run_or_else(
            |scope| scope.sleep(LONG).map_err(Failure::from),
            |_| {
                ran.set(true);
                assert_eq!(deadline(), outer.deadline());
                assert!(!is_expired());
                checkpoint()?;
                Ok(())
            },
        )
    })
    .unwrap();
    assert!(ran.get());
}

#[test]
fn the_fallbacks_own_failure_is_the_result() {
    let result = Timebox::new(SHORT).run_or_else(
        |scope| scope.sleep(LONG).map_err(Failure::from),
        |_| Err(Failure::Own("no estimate either")),
    );
    assert!(matches!(result, Err(Failure::Own("no estimate either"))));
}

#[test]
fn a_fallback_may_be_bounded_in_its_turn() {
    let answer = Timebox::new(SHORT).run_or_else(
        |scope| scope.sleep(LONG).map(|()| 0).map_err(Failure::from),
        |_| {
            Timebox::new(SHORT)
                .run_or_else(|scope| scope.sleep(LONG).map(|()| 1).map_err(Failure::from), |_| Ok(2))
        },
    );
    assert_eq!(answer.unwrap(), 2);
}

#[cfg(panic = "unwind")]
#[test]
fn an_unwinding_out_of_its_own_handle_falls_back() {
    let answer = Timebox::new(SHORT).run_or_else(
        |scope| -> timebox::Result<_> {
            scope.handle().enter(Limit::NONE, |_| {
                loop {
                    checkpoint_or_unwind();
                }
            })
        },
        |timed_out| {
            assert_eq!(timed_out.limit(), Some(SHORT));
            Ok("approximate")
        },
    );
    assert_eq!(answer.unwrap(), "approximate");
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
