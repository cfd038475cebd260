//! Scopes in scopes: the earliest deadline holds, and the error names the scope that is over.

use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Cause, Deadline, Limit, Scope, Timebox, TimeoutError, checkpoint, deadline, future,
    handle, require, sleep, timeout, token, with_timeout,
};

use crate::support::{
    Failure, HANG, LONG, SHORT, ask_often, let_the_watchdog_pass, outlast, rounds, unhurried, wait_for,
};

#[test]
fn the_shorter_inner_limit_holds() {
    with_timeout(LONG, |outer| {
        with_timeout(LONG / 2, |inner| {
            assert!(inner.deadline() < outer.deadline());
            assert_eq!(deadline(), inner.deadline());
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn the_outer_deadline_holds_again_after_the_inner_scope() {
    with_timeout(LONG, |outer| {
        let before = deadline();
        with_timeout(SHORT, |inner| {
            outlast(inner);
            Ok::<_, TimeoutError>(())
        })?;
        assert_eq!(deadline(), before);
        assert_eq!(outer.deadline(), before);
        checkpoint()
    })
    .unwrap();
}

#[test]
fn the_earliest_of_many_deadlines_holds() {
    with_timeout(LONG * 3, |_| {
        with_timeout(LONG, |earliest| {
            with_timeout(LONG * 4, |_| {
                with_timeout(Limit::NONE, |innermost| {
                    assert_eq!(innermost.deadline(), earliest.deadline());
                    Ok::<_, TimeoutError>(())
                })
            })
        })
    })
    .unwrap();
}

#[test]
fn deep_nesting_ends_with_its_outermost_limit() {
    const DEPTH: usize = if cfg!(miri) { 50 } else { 200 };
    fn nest(depth: usize) -> timebox::Result<()> {
        if depth == 0 { sleep(LONG) } else { timeout(LONG, || nest(depth - 1)) }
    }
    unhurried(|limit| {
        let error = with_timeout(limit, |outer| {
            let error = nest(DEPTH).unwrap_err();
            assert_eq!(error.scope(), outer.id());
            Err::<(), _>(error)
        })
        .unwrap_err();
        error.started().then(|| assert_eq!(error.chain().len(), DEPTH + 1))
    });
}

#[test]
fn the_expiry_of_an_inner_scope_names_the_inner_scope() {
    with_timeout(LONG, |_outer| {
        Timebox::new(SHORT).label("inner").run_value(|inner| {
            let error = outlast(inner);
            assert_eq!(error.scope(), inner.id());
            assert_eq!(error.label(), Some("inner"));
        })
    })
    .unwrap();
}

#[test]
fn an_inner_boundary_passes_an_outer_expiry_through() {
    let error = Timebox::new(SHORT)
        .label("outer")
        .run(|outer| {
            let error = Timebox::new(LONG)
                .label("inner")
                .run(|inner| inner.sleep(LONG).map_err(Failure::from))
                .unwrap_err()
                .timebox();
            assert_eq!(error.scope(), outer.id());
            Err::<(), _>(error)
        })
        .unwrap_err();
    assert_eq!(error.label(), Some("outer"));
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn when_several_are_over_the_outermost_is_named() {
    unhurried(|limit| {
        let outer = Timebox::new(limit).label("outer");
        let middle = Timebox::new(limit / 4).label("middle");
        let inner = Timebox::new(limit / 2).label("inner");
        outer
            .run_value(|outer| {
                middle.run_value(|_| {
                    inner.run_value(|_| {
                        wait_for("the outer expiry", || outer.is_expired());
                        assert_eq!(checkpoint().unwrap_err().label(), Some("outer"));
                        assert_eq!(sleep(LONG).unwrap_err().label(), Some("outer"));
                        assert_eq!(require(LONG).unwrap_err().label(), Some("outer"));
                        assert_eq!(token().checkpoint().unwrap_err().label(), Some("outer"));
                    })
                })
            })
            .ok()?
            .ok()?
            .ok()
    });
}

#[test]
fn of_equal_deadlines_the_outermost_is_named() {
    unhurried(|limit| {
        let deadline = Deadline::after(limit);
        let [first, second, third] =
            ["first", "second", "third"].map(|label| Timebox::new(deadline).label(label));
        first
            .run_value(|_| {
                second
                    .run_value(|_| third.run_value(|third| assert_eq!(outlast(third).label(), Some("first"))))
            })
            .ok()?
            .ok()?
            .ok()
    });
}

#[test]
fn an_outer_cancellation_is_named_although_the_inner_deadline_passed_first() {
    with_timeout(LONG, |outer| {
        with_timeout(SHORT, |inner| {
            outlast(inner);
            assert!(outer.token().cancel_with("first"));
            let error = checkpoint().unwrap_err();
            assert_eq!((error.scope(), error.cause()), (outer.id(), Cause::Cancelled));
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn of_one_scopes_causes_the_earlier_is_named() {
    with_timeout(SHORT, |scope| {
        assert!(scope.token().cancel_with("no longer wanted") || scope.deadline().has_passed());
        let before = checkpoint().unwrap_err().cause();
        wait_for("the deadline", || scope.deadline().has_passed());
        let error = checkpoint().unwrap_err();
        assert_eq!(error.cause(), before);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_cancel_after_the_deadline_is_never_first() {
    // Spun to the very instant: the watchdog has often not noticed yet, and must not matter.
    for _ in 0..rounds(300) {
        with_timeout(Duration::from_micros(300), |scope| {
            let token = scope.token();
            while !scope.deadline().has_passed() {
                std::hint::spin_loop();
            }
            assert!(!token.cancel_with("late"));
            assert_eq!(token.cause(), Some(Cause::Deadline));
            assert_eq!(checkpoint().unwrap_err().cause(), Cause::Deadline);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    }
}

#[test]
fn a_scope_method_answers_for_its_own_scope_only() {
    with_timeout(LONG, |outer| {
        with_timeout(LONG, |inner| {
            inner.token().cancel();
            assert!(inner.checkpoint().is_err());
            assert!(outer.checkpoint().is_ok());
            Ok::<_, TimeoutError>(())
        })?;
        checkpoint()
    })
    .unwrap();
}

#[test]
fn reserve_leaves_the_parent_time() {
    with_timeout(LONG, |outer| {
        Timebox::new(Limit::NONE).reserve(LONG / 4).run(|inner| {
            let inside = inner.remaining().unwrap();
            let left = outer.remaining().unwrap().saturating_sub(inside);
            assert!(left <= LONG / 4 && left + Duration::from_secs(60) > LONG / 4);
            assert!(inner.deadline() < outer.deadline());
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

/// The parent's deadline is whichever comes first of all that end it.
#[test]
fn reserve_leaves_time_before_the_deadline_of_a_linked_token() {
    let token = CancellationToken::after(LONG);
    Timebox::new(Limit::NONE)
        .cancel_on(&token)
        .run(|outer| {
            assert_eq!(outer.deadline(), token.deadline());
            Timebox::new(Limit::NONE).reserve(LONG / 4).run(|inner| {
                assert!(inner.remaining() <= Some(LONG * 3 / 4));
                Ok::<_, TimeoutError>(())
            })
        })
        .unwrap();
}

#[test]
fn reserve_leaves_time_before_the_deadlines_around_a_handle() {
    // The limit around the future is none of its own: it may be polled elsewhere next.
    let request = future::timeout(Limit::NONE, async {
        handle().enter(Limit::NONE, |_| {
            let query = Timebox::new(Limit::NONE).reserve(LONG / 4);
            assert!(query.run_value(timebox::Scope::remaining)? <= Some(LONG * 3 / 4));
            Ok(())
        })
    });
    timeout(LONG, || pollster::block_on(request)).unwrap_or_else(|error: TimeoutError| panic!("{error}"));
}

#[test]
fn reserve_never_lengthens_a_limit() {
    with_timeout(LONG, |_| {
        let entered = Instant::now();
        Timebox::new(LONG / 4).reserve(LONG / 4).run(|inner| {
            assert!(inner.remaining().unwrap() <= LONG / 4);
            assert!(inner.deadline() >= Deadline::at(entered + LONG / 4));
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn reserve_without_a_parent_deadline_changes_nothing() {
    let seen = Timebox::new(Limit::NONE).reserve(LONG).run_value(timebox::Scope::deadline).unwrap();
    assert_eq!(seen, Deadline::NEVER);
    with_timeout(Limit::NONE, |_| {
        let seen = Timebox::new(Limit::NONE).reserve(LONG).run_value(timebox::Scope::deadline)?;
        assert_eq!(seen, Deadline::NEVER);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn reserving_more_than_the_parent_has_is_over_at_entry() {
    with_timeout(LONG, |outer| {
        let error = Timebox::new(LONG).label("inner").reserve(LONG * 2).run_value(|_| ()).unwrap_err();
        assert!(!error.started());
        assert_eq!(error.label(), Some("inner"));
        outer.checkpoint()
    })
    .unwrap();
}

#[test]
fn what_is_reserved_can_be_used_after_the_inner_expiry() {
    with_timeout(LONG, |outer| {
        let error = Timebox::new(Limit::NONE)
            .reserve(outer.remaining().unwrap().saturating_sub(SHORT))
            .run(|inner| Err::<(), _>(outlast(inner)))
            .unwrap_err();
        assert_ne!(error.scope(), outer.id());
        outer.require(LONG / 2)
    })
    .unwrap();
}

#[test]
fn require_fails_at_once_when_less_is_left() {
    let start = Instant::now();
    with_timeout(LONG, |scope| {
        require(LONG / 2)?;
        let error = require(LONG * 2).unwrap_err();
        assert_eq!(error.scope(), scope.id());
        assert_eq!(error.cause(), Cause::Deadline);
        assert_eq!(error.overshoot(), Duration::ZERO);
        assert!(error.started() && error.elapsed() < LONG);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert!(start.elapsed() < HANG);
}

#[test]
fn a_scope_is_not_over_by_a_failed_require() {
    with_timeout(LONG, |scope| {
        scope.require(LONG * 2).unwrap_err();
        assert!(!scope.is_expired() && scope.token().cause().is_none());
        scope.require(LONG / 2)?;
        scope.checkpoint()
    })
    .unwrap();
}

#[test]
fn require_names_the_scope_with_the_earliest_deadline() {
    with_timeout(LONG, |outer| {
        with_timeout(LONG * 2, |inner| {
            assert_eq!(require(LONG * 4).unwrap_err().scope(), outer.id());
            assert_eq!(inner.require(LONG * 4).unwrap_err().scope(), outer.id());
            Ok::<_, TimeoutError>(())
        })?;
        with_timeout(LONG / 2, |inner| {
            assert_eq!(require(LONG * 4).unwrap_err().scope(), inner.id());
            assert_eq!(outer.require(LONG * 4).unwrap_err().scope(), outer.id());
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn require_says_where_it_was_called() {
    with_timeout(LONG, |_| {
        let line = line!() + 1;
        let error = require(LONG * 2).unwrap_err();
        assert_eq!((error.interrupted_at().file(), error.interrupted_at().line()), (file!(), line));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

/// Comes back when the deadline has passed, without having asked a scope.
fn wait_until_passed(deadline: Deadline) {
    wait_for("the deadline passes", || deadline.has_passed());
}

/// Comes back when an inner scope is over, as the watchdog knows, and the outer one is too, as nobody has noticed.
fn outstay(inner: &Scope, outer: &Scope) {
    wait_until_passed(inner.deadline());
    let_the_watchdog_pass();
    wait_until_passed(outer.deadline());
}

#[test]
fn in_a_scope_that_is_over_one_around_it_still_answers_for_itself() {
    ask_often();
    unhurried(|limit| {
        let expired = with_timeout(limit * 2, |outer| {
            with_timeout(limit, |inner| {
                outstay(inner, outer);
                Ok::<_, TimeoutError>(outer.is_expired())
            })
        });
        // Refused: it was over before the inner one began.
        expired.ok().map(|expired| assert!(expired))
    });
}

#[test]
fn the_first_checkpoint_after_an_overrun_scope_fails_if_the_one_around_it_is_over_too() {
    ask_often();
    unhurried(|limit| {
        let result = with_timeout(limit * 2, |outer| {
            with_timeout(limit, |inner| {
                outstay(inner, outer);
                Ok::<_, TimeoutError>(())
            })?;
            checkpoint()
        });
        let error = result.expect_err("the checkpoint fails");
        // Refused: it was over before the inner one began.
        error.started().then(|| assert_eq!(error.limit(), Some(limit * 2)))
    });
}
