//! The shield: a scope of its own that hides what is around it, for as long as it is open.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Cause, Deadline, Hook, Limit, Registration, Scope, TimeoutError, checkpoint, deadline,
    handle, interruptible, is_expired, on_cancel, remaining, require, shield, sleep, timeout, token,
    with_timeout,
};

use crate::support::{HANG, LONG, SHORT, ask_often, bounded, let_the_watchdog_pass, next, outlast, wait_for};
use crate::waiter::Waiter;

/// The longest a shield may hold.
const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn inside_a_shield_an_expired_scope_does_not_show() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        shield(LONG, || {
            assert!(checkpoint().is_ok() && !is_expired());
            assert!(require(LONG / 2).is_ok());
            assert!(remaining().unwrap() > LONG / 2 && remaining().unwrap() <= LONG);
            assert!(sleep(Duration::from_millis(1)).is_ok());
            assert!(!token().is_cancelled());
            assert!(timeout(LONG, checkpoint).is_ok());
            assert!(handle().enter(LONG, |inner| inner.checkpoint()).is_ok());
            assert_eq!(interruptible(|| (), || Ok::<_, String>(7)).unwrap().unwrap(), 7);
            drop(on_cancel(|| unreachable!("the shield is not over")));
            timebox::checkpoint_or_unwind();
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_shield_hides_an_outer_deadline_that_is_still_to_come() {
    with_timeout(SHORT, |scope| {
        shield(LONG, || {
            assert!(deadline() > scope.deadline());
            wait_for("the outer expiry", || scope.is_expired());
            assert!(checkpoint().is_ok());
        });
        scope.checkpoint()
    })
    .unwrap_err();
}

#[test]
fn what_was_hidden_counts_again_on_leaving() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        shield(LONG, || ());
        assert!(is_expired() && token().is_cancelled());
        assert_eq!(checkpoint().unwrap_err().scope(), scope.id());
        let error = timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap_err();
        assert!(!error.started());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_cancellation_is_hidden_too() {
    with_timeout(LONG, |scope| {
        shield(LONG, || {
            assert!(scope.token().cancel_with("first"));
            assert!(checkpoint().is_ok() && sleep(Duration::from_millis(1)).is_ok());
        });
        assert!(checkpoint().unwrap_err().is_cancelled());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn inside_a_shield_the_outer_scope_and_token_answer_for_themselves() {
    with_timeout(SHORT, |scope| {
        let token = scope.token();
        outlast(scope);
        shield(LONG, || {
            assert!(scope.is_expired() && scope.checkpoint().is_err());
            assert_eq!(scope.remaining(), Some(Duration::ZERO));
            assert!(token.is_cancelled() && token.checkpoint().is_err());
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_shield_returns_what_its_closure_returns() {
    assert_eq!(shield(LONG, || 7), 7);
    assert!(shield(SHORT, || sleep(LONG).is_err()));
    with_timeout(LONG, |scope| {
        assert_eq!(scope.shield(LONG, || "seven"), "seven");
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn at_its_max_the_shield_is_over_and_errors_name_it() {
    let start = Instant::now();
    with_timeout(LONG, |scope| {
        let line = line!() + 1;
        let error = shield(SHORT, || sleep(LONG).unwrap_err());
        assert_ne!(error.scope(), scope.id());
        assert_eq!((error.cause(), error.limit()), (Cause::Deadline, Some(SHORT)));
        assert_eq!((error.location().file(), error.location().line()), (file!(), line));
        assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
        scope.checkpoint()
    })
    .unwrap();
}

#[test]
fn a_shield_outside_every_scope_bounds_all_the_same() {
    let error = shield(SHORT, || {
        wait_for("the end of the shield", is_expired);
        checkpoint().unwrap_err()
    });
    assert_eq!(error.limit(), Some(SHORT));
    assert_eq!(deadline(), Deadline::NEVER);
}

#[test]
fn a_shield_whose_max_is_zero_is_over_but_runs() {
    assert!(shield(Duration::ZERO, is_expired));
    assert!(shield(Duration::ZERO, checkpoint).is_err());
}

#[test]
fn a_shield_holds_at_most_a_day() {
    assert!(shield(Duration::MAX, remaining).unwrap() <= DAY);
    assert!(shield(DAY * 2, remaining).unwrap() <= DAY);
    assert!(shield(DAY, remaining).unwrap() > DAY / 2);
}

#[test]
fn scopes_inside_a_shield_are_bounded_by_it() {
    shield(SHORT, || {
        let error = timeout(LONG, || timeout(Limit::NONE, || sleep(LONG))).unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
    });
}

#[test]
fn scopes_inside_a_shield_end_at_their_own_limit() {
    with_timeout(LONG, |_| {
        shield(LONG, || {
            let error = timeout(SHORT, || sleep(LONG)).unwrap_err();
            assert_eq!(error.limit(), Some(SHORT));
            checkpoint()
        })
    })
    .unwrap();
}

#[test]
fn a_shield_in_a_shield_hides_the_first() {
    shield(SHORT, || {
        wait_for("the end of the first", is_expired);
        shield(LONG, || assert!(checkpoint().is_ok()));
        assert!(checkpoint().is_err());
    });
}

#[test]
fn the_token_of_a_shield_is_its_own() {
    with_timeout(LONG, |scope| {
        shield(LONG, || {
            assert!(token().cancel_with("first"));
            assert!(checkpoint().unwrap_err().is_cancelled());
        });
        assert!(!scope.token().is_cancelled());
        checkpoint()
    })
    .unwrap();
}

#[test]
fn a_handle_taken_in_a_shield_carries_only_what_is_inside() {
    with_timeout(LONG, |scope| {
        shield(LONG, || {
            let handle = handle();
            scope.token().cancel();
            let seen = thread::spawn(move || handle.enter(LONG, |inner| inner.checkpoint()));
            assert!(seen.join().unwrap().is_ok());
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_hook_registered_outside_waits_until_the_shield_is_left() {
    bounded(|| {
        for hook_kind in [Hook::new as fn(_) -> _, Hook::inline] {
            with_timeout(LONG, |scope| {
                let (fired, wait) = channel();
                let hook: Box<dyn FnMut() + Send> = Box::new(move || fired.send(()).unwrap());
                let _registration = scope.on_cancel(hook_kind(hook));
                shield(LONG, || {
                    scope.token().cancel();
                    let_the_watchdog_pass();
                    assert_eq!(wait.try_recv(), Err(TryRecvError::Empty));
                });
                next(&wait);
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
        }
    });
}

#[test]
fn a_hook_on_the_scopes_own_token_waits_until_the_shield_is_left() {
    bounded(|| {
        type Own = fn(&Scope) -> CancellationToken;
        let own: [Own; 3] = [Scope::token, |_| token(), |scope| scope.handle().token()];
        for own in own {
            with_timeout(LONG, |outer| {
                with_timeout(LONG, |scope| {
                    let (fired, wait) = channel();
                    let hook = |name: &'static str| {
                        let fired = fired.clone();
                        Hook::inline(move || fired.send(name))
                    };
                    let _inner = own(scope).on_cancel(hook("inner"));
                    // The token of a scope around it is one of this thread's too.
                    let _outer = outer.token().on_cancel(hook("outer"));
                    shield(LONG, || {
                        outer.token().cancel();
                        shield(LONG, let_the_watchdog_pass);
                        let_the_watchdog_pass();
                        assert_eq!(wait.try_recv(), Err(TryRecvError::Empty));
                        // One that is made inside is about the outer token, which answers for itself.
                        drop(outer.token().on_cancel(hook("inside")));
                        assert_eq!(wait.try_recv(), Ok("inside"));
                    });
                    let mut names = [next(&wait), next(&wait)];
                    names.sort_unstable();
                    assert_eq!(names, ["inner", "outer"]);
                    Ok::<_, TimeoutError>(())
                })
            })
            .unwrap();
        }
    });
}

#[test]
fn opening_a_shield_waits_for_a_running_hook_of_the_scopes_own_token() {
    bounded(|| {
        for drops_itself in [false, true] {
            with_timeout(LONG, |scope| {
                let (started, wait) = channel();
                let done = Arc::new(AtomicBool::new(false));
                let own = Arc::new(Mutex::new(None::<Registration>));
                let (ends, inside) = (Arc::clone(&done), Arc::clone(&own));
                let waiter = Waiter::default();
                let seen = waiter.clone();
                let hook = move || {
                    if drops_itself {
                        drop(inside.lock().unwrap().take());
                    }
                    started.send(()).unwrap();
                    seen.sleeps();
                    ends.store(true, SeqCst);
                };
                *own.lock().unwrap() = Some(token().on_cancel(Hook::new(hook)));
                scope.token().cancel();
                next(&wait);
                waiter.begins();
                shield(LONG, || assert!(done.load(SeqCst)));
                drop(own.lock().unwrap().take());
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
        }
    });
}

#[test]
fn hooks_made_elsewhere_fire_while_the_shield_is_open() {
    bounded(|| {
        let plain = CancellationToken::new();
        let (fired, wait) = channel();
        let hook = |name: &'static str| {
            let fired = fired.clone();
            Hook::inline(move || fired.send(name))
        };
        timebox::Timebox::new(LONG)
            .cancel_on(&plain)
            .run(|scope| {
                let _plain = plain.on_cancel(hook("of a token of its own"));
                // Another thread wants to know of this scope's end.
                let own = scope.token();
                let other = hook("of another thread");
                let _other = thread::spawn(move || own.on_cancel(other)).join().unwrap();
                shield(LONG, || {
                    plain.cancel();
                    let mut names = [next(&wait), next(&wait)];
                    names.sort_unstable();
                    assert_eq!(names, ["of a token of its own", "of another thread"]);
                });
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
    });
}

#[test]
fn a_hook_on_the_token_of_a_futures_scope_waits_until_the_futures_shield_is_done() {
    bounded(|| {
        let (fired, wait) = channel();
        let (tell, told) = channel();
        let result = pollster::block_on(timebox::future::timeout(LONG, async {
            let own = token();
            let _registration = own.on_cancel(Hook::inline(move || fired.send(())));
            timebox::future::shield(LONG, async {
                own.cancel();
                let_the_watchdog_pass();
                // In another poll.
                timebox::future::sleep(Duration::from_millis(1)).await.unwrap();
                let_the_watchdog_pass();
                tell.send(wait.try_recv()).unwrap();
            })
            .await;
            next(&wait);
            Ok::<_, TimeoutError>(())
        }));
        assert!(result.is_ok());
        assert_eq!(told.recv().unwrap(), Err(TryRecvError::Empty));
    });
}

#[test]
fn a_hook_on_the_scopes_own_token_outlives_the_scope() {
    bounded(|| {
        let (fired, wait) = channel();
        let (own, _kept) = with_timeout(LONG, |scope| {
            let kept = scope.token().on_cancel(move || fired.send(()));
            shield(LONG, || ());
            Ok::<_, TimeoutError>((scope.token(), kept))
        })
        .unwrap();
        own.cancel();
        next(&wait);
    });
}

#[test]
fn an_expiry_hidden_by_a_shield_fires_its_hooks_on_leaving() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let _registration = scope.on_cancel(Hook::inline(move || fired.send(Instant::now())));
            let (opened, left) = shield(LONG, || {
                let opened = Instant::now();
                wait_for("the outer expiry", || scope.deadline().has_passed());
                let_the_watchdog_pass();
                (opened, Instant::now())
            });
            // Before the shield only if the machine was too busy to open it in time.
            let fired = next(&wait);
            assert!(fired < opened || fired >= left);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_hook_dropped_under_the_shield_never_fires() {
    let fired = Arc::new(AtomicU32::new(0));
    with_timeout(LONG, |scope| {
        let count = Arc::clone(&fired);
        let registration = scope.on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst)));
        shield(LONG, || {
            scope.token().cancel();
            drop(registration);
        });
        let_the_watchdog_pass();
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert_eq!(fired.load(SeqCst), 0);
}

#[test]
fn opening_a_shield_waits_for_a_running_hook() {
    bounded(|| {
        let done = Arc::new(AtomicBool::new(false));
        let (started, wait) = channel();
        with_timeout(LONG, |scope| {
            let flag = Arc::clone(&done);
            let waiter = Waiter::default();
            let seen = waiter.clone();
            let _registration = scope.on_cancel(move || {
                started.send(()).unwrap();
                seen.sleeps();
                flag.store(true, SeqCst);
            });
            scope.token().cancel();
            next(&wait);
            waiter.begins();
            shield(LONG, || assert!(done.load(SeqCst)));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn hooks_of_other_threads_fire_while_the_shield_is_open() {
    bounded(|| {
        with_timeout(LONG, |scope| {
            let token = scope.token();
            let (fired, wait) = channel();
            let registration = thread::spawn(move || token.on_cancel(move || fired.send(()))).join().unwrap();
            shield(LONG, || {
                scope.token().cancel();
                next(&wait);
            });
            drop(registration);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn hooks_of_the_shield_fire_at_its_max() {
    bounded(|| {
        shield(SHORT, || {
            let (fired, wait) = channel();
            let _registration = on_cancel(move || fired.send(()));
            next(&wait);
        });
        let (fired, wait) = channel();
        let error = shield(SHORT, || {
            interruptible(move || fired.send(()), || wait.recv().map_or(Ok(()), |()| Err("interrupted")))
        })
        .unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
    });
}

#[test]
fn cleanup_in_a_drop_can_be_shielded() {
    struct Rollback<'a>(&'a AtomicBool);
    impl Drop for Rollback<'_> {
        fn drop(&mut self) {
            shield(LONG, || {
                let done = timeout(LONG, || {
                    sleep(Duration::from_millis(1))?;
                    checkpoint()
                });
                self.0.store(done.is_ok(), SeqCst);
            });
        }
    }
    let rolled_back = AtomicBool::new(false);
    timeout(SHORT, || {
        let _rollback = Rollback(&rolled_back);
        sleep(LONG)
    })
    .unwrap_err();
    assert!(rolled_back.load(SeqCst));
}

#[test]
fn a_panic_in_a_shield_passes_through_and_ends_it() {
    with_timeout(LONG, |scope| {
        scope.token().cancel();
        let payload = catch_unwind(AssertUnwindSafe(|| {
            shield(LONG, || panic!("a shield of the test panics, as it should"));
        }))
        .unwrap_err();
        assert!(payload.is::<&str>());
        assert!(checkpoint().is_err());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

#[test]
fn in_a_shield_a_scope_around_it_still_answers_for_itself() {
    ask_often();
    with_timeout(SHORT, |outer| {
        shield(LONG, || {
            wait_for("the deadline passes", || outer.deadline().has_passed());
            assert!(outer.is_expired());
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn the_first_checkpoint_after_a_shield_fails_if_the_scope_around_it_is_over() {
    ask_often();
    let result = with_timeout(SHORT, |outer| {
        shield(LONG, || wait_for("the deadline passes", || outer.deadline().has_passed()));
        checkpoint()
    });
    assert!(result.unwrap_err().is_timeout());
}
