//! Tokens and scopes: the token of a scope, and a scope that ends with a token.

use std::future::pending;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use pollster::block_on;
use timebox::{
    CancellationToken, Cause, Limit, Timebox, TimeoutError, checkpoint, future, require, sleep, timeout,
    timeout_value, token, with_timeout,
};

use crate::support::{HANG, LONG, SHORT, bounded, next, outlast, poll_once, rounds, unhurried, wait_for};

#[test]
fn the_token_of_a_scope_stops_it() {
    let error = with_timeout(LONG, |scope| {
        assert!(token().cancel_with("enough"));
        assert!(scope.is_expired() && scope.token().is_cancelled());
        let error = checkpoint().unwrap_err();
        assert_eq!(error.scope(), scope.id());
        Err::<(), _>(error)
    })
    .unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(error.reason(), Some("enough"));
}

#[test]
fn the_token_of_a_scope_turns_over_with_its_deadline() {
    with_timeout(SHORT, |scope| {
        let token = scope.token();
        assert!(!token.is_cancelled() || scope.deadline().has_passed());
        outlast(scope);
        assert!(token.is_cancelled());
        assert_eq!(token.cause(), Some(Cause::Deadline));
        assert_eq!(token.checkpoint().unwrap_err().scope(), scope.id());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_token_made_in_a_scope_that_is_over_is_over() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        assert!(scope.token().is_cancelled());
        assert_eq!(token().cause(), Some(Cause::Deadline));
        assert!(!token().cancel_with("late"));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn the_tokens_of_one_scope_are_one() {
    with_timeout(LONG, |scope| {
        let (first, second) = (scope.token(), token());
        assert!(first.cancel_with("first"));
        assert!(second.is_cancelled() && !second.cancel_with("second"));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn the_token_of_an_inner_scope_is_over_when_an_outer_scope_is() {
    with_timeout(LONG, |outer| {
        with_timeout(LONG, |_| {
            with_timeout(Limit::NONE, |inner| {
                let token = inner.token();
                outer.token().cancel_with("from outside");
                assert!(token.is_cancelled());
                let error = token.checkpoint().unwrap_err();
                assert_eq!((error.scope(), error.reason()), (outer.id(), Some("from outside")));
                Ok::<_, TimeoutError>(())
            })
        })
    })
    .unwrap();
}

#[test]
fn a_cancelled_inner_scope_leaves_the_outer_one_alone() {
    with_timeout(LONG, |outer| {
        with_timeout(LONG, |inner| {
            inner.token().cancel();
            assert!(checkpoint().is_err());
            assert!(outer.checkpoint().is_ok() && !outer.token().is_cancelled());
            Ok::<_, TimeoutError>(())
        })?;
        checkpoint()
    })
    .unwrap();
}

#[test]
fn a_token_cancelled_on_another_thread_ends_a_sleep() {
    bounded(|| {
        let start = Instant::now();
        let error = with_timeout(LONG, |scope| {
            let token = scope.token();
            let thread = thread::spawn(move || token.cancel_with("from another thread"));
            let error = scope.sleep(LONG).unwrap_err();
            assert!(thread.join().unwrap());
            Err::<(), _>(error)
        })
        .unwrap_err();
        assert_eq!(error.reason(), Some("from another thread"));
        assert!(start.elapsed() < HANG);
    });
}

#[test]
fn a_token_outlives_its_scope_unchanged() {
    let token = with_timeout(LONG, |scope| Ok::<_, TimeoutError>(scope.token())).unwrap();
    assert!(!token.is_cancelled());
    assert_eq!(token.cause(), None);
    assert!(token.cancel_with("first"));
    assert_eq!(token.cause(), Some(Cause::Cancelled));
}

#[test]
fn a_token_that_outlives_its_scope_is_over_at_the_deadline_it_had() {
    bounded(|| {
        let start = Instant::now();
        let token = with_timeout(SHORT, |scope| Ok::<_, TimeoutError>(scope.token())).unwrap();
        block_on(token.cancelled());
        assert!(start.elapsed() >= SHORT);
        assert_eq!(token.cause(), Some(Cause::Deadline));
        assert!(!token.cancel_with("late"));
        assert_eq!(token.checkpoint().unwrap_err().limit(), Some(SHORT));
    });
}

#[test]
fn a_token_outlives_the_thread_of_its_scope() {
    bounded(|| {
        unhurried(|limit| {
            let tokens = move || {
                with_timeout(limit, |outer| {
                    with_timeout(LONG, |inner| Ok::<_, TimeoutError>((outer.token(), inner.token())))
                })
            };
            let (outer, inner) = thread::spawn(tokens).join().unwrap().ok()?;
            wait_for("the deadline", || outer.is_cancelled());
            wait_for("the inner token", || inner.is_cancelled());
            assert_eq!(inner.checkpoint().unwrap_err().limit(), Some(limit));
            Some(())
        });
    });
}

#[test]
fn a_child_of_a_scopes_token_hears_of_the_deadline() {
    with_timeout(SHORT, |scope| {
        let child = scope.token().child_token();
        outlast(scope);
        // The watchdog may be on its way to it.
        wait_for("the deadline", || child.is_cancelled());
        assert_eq!(child.cause(), Some(Cause::Deadline));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_scope_ends_with_the_token_it_was_told_of() {
    let token = CancellationToken::new();
    let error = Timebox::new(LONG)
        .cancel_on(&token)
        .run(|scope| {
            scope.checkpoint()?;
            token.cancel_with("shutting down");
            let error = checkpoint().unwrap_err();
            assert_eq!(error.scope(), scope.id());
            assert!(scope.token().is_cancelled());
            Err::<(), _>(error)
        })
        .unwrap_err();
    assert_eq!(error.cause(), Cause::Cancelled);
    assert_eq!(error.reason(), Some("shutting down"));
    assert!(error.started());
}

#[test]
fn a_scope_told_of_a_cancelled_token_is_over_at_entry() {
    let token = CancellationToken::new();
    token.cancel_with("too late");
    let error = Timebox::new(LONG).cancel_on(&token).run_value(|_| unreachable!("not run")).unwrap_err();
    assert!(!error.started() && error.is_cancelled());
    assert_eq!(error.reason(), Some("too late"));
}

#[test]
fn a_scope_does_not_cancel_the_token_it_was_told_of() {
    let token = CancellationToken::new();
    Timebox::new(SHORT).cancel_on(&token).run_value(|scope| outlast(scope)).unwrap();
    Timebox::new(LONG).cancel_on(&token).run_value(|scope| scope.token().cancel()).unwrap();
    assert!(!token.is_cancelled());
}

#[test]
fn scopes_inside_end_with_the_token_too() {
    bounded(|| {
        let token = CancellationToken::new();
        let canceller = token.clone();
        let (inside, wait) = channel();
        let thread = thread::spawn(move || {
            next(&wait);
            canceller.cancel_with("done")
        });
        let error = Timebox::new(Limit::NONE)
            .label("request")
            .cancel_on(&token)
            .run(|_| {
                timeout(LONG, || {
                    timeout(LONG, || {
                        inside.send(()).unwrap();
                        sleep(LONG)
                    })
                })
            })
            .unwrap_err();
        assert_eq!(error.label(), Some("request"));
        assert!(thread.join().unwrap());
    });
}

#[test]
fn one_token_ends_many_scopes_on_many_threads() {
    bounded(|| {
        let token = CancellationToken::new();
        let (inside, wait) = channel();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (token, inside) = (token.clone(), inside.clone());
                thread::spawn(move || {
                    Timebox::new(LONG).cancel_on(&token).run(|scope| {
                        inside.send(()).unwrap();
                        scope.sleep(LONG)
                    })
                })
            })
            .collect();
        threads.iter().for_each(|_| next(&wait));
        token.cancel();
        for thread in threads {
            assert!(thread.join().unwrap().unwrap_err().is_cancelled());
        }
    });
}

#[test]
fn a_token_told_to_a_thousand_scopes_keeps_none_of_them() {
    let token = CancellationToken::new();
    for _ in 0..rounds(1000) {
        Timebox::new(LONG).cancel_on(&token).run(|scope| scope.checkpoint()).unwrap();
    }
    assert!(token.cancel_with("first"));
}

#[test]
fn a_scope_may_be_told_of_several_tokens() {
    let tokens = [CancellationToken::new(), CancellationToken::new()];
    for (index, reason) in ["first", "second"].into_iter().enumerate() {
        let tokens = tokens.each_ref().map(|token| token.child_token());
        let error = Timebox::new(LONG)
            .cancel_on(&tokens[0])
            .cancel_on(&tokens[1])
            .run(|_| {
                tokens[index].cancel_with(reason);
                checkpoint()
            })
            .unwrap_err();
        assert_eq!(error.reason(), Some(reason));
    }
}

#[test]
fn what_has_been_seen_to_be_over_is_over_for_everybody() {
    for _ in 0..rounds(200) {
        with_timeout(Duration::from_micros(100), |scope| {
            while !scope.deadline().has_passed() {
                std::hint::spin_loop();
            }
            let other = CancellationToken::new();
            assert!(scope.sleep(LONG).is_err());
            // Questions to others in between, which look at the clock themselves now and then.
            assert!(!other.is_cancelled() && scope.is_expired() && !other.is_cancelled());
            assert!(scope.token().is_cancelled() && checkpoint().is_err());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    }
}

#[test]
fn what_comes_first_of_deadline_and_token_is_the_cause() {
    let token = CancellationToken::new();
    Timebox::new(SHORT)
        .cancel_on(&token)
        .run(|scope| {
            outlast(scope);
            token.cancel();
            assert_eq!(checkpoint().unwrap_err().cause(), Cause::Deadline);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    let token = CancellationToken::new();
    Timebox::new(LONG)
        .cancel_on(&token)
        .run(|scope| {
            token.cancel_with("first");
            assert!(!scope.token().cancel_with("second"));
            assert_eq!(checkpoint().unwrap_err().reason(), Some("first"));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
}

#[test]
fn a_cancellation_tells_how_long_the_scope_had_run() {
    let error = with_timeout(LONG, |scope| {
        scope.sleep(Duration::from_millis(5))?;
        scope.token().cancel();
        scope.checkpoint()
    })
    .unwrap_err();
    assert!(error.elapsed() >= Duration::from_millis(5));
    assert!(error.overshoot() < error.elapsed() && error.overshoot() < HANG);
}

#[test]
#[cfg_attr(miri, ignore = "measures times, of much work")]
fn not_each_check_looks_at_all_of_very_many_tokens() {
    let tokens: Vec<_> = (0..1000).map(|_| CancellationToken::new()).collect();
    let scope = tokens.iter().fold(Timebox::new(LONG), Timebox::cancel_on);
    let time = |n, ask: fn() -> Result<(), TimeoutError>| {
        let start = Instant::now();
        (0..n).for_each(|_| ask().unwrap());
        start.elapsed() / n
    };
    let is_cheap = |_| {
        let look = time(100, || require(SHORT));
        let check = time(20_000, || checkpoint());
        println!("{check:?} for a check, {look:?} for one that looks");
        check < look / 2
    };
    // The machine may be busy during one of them.
    assert!(scope.run_value(|_| (0..10).any(is_cheap)).unwrap(), "each check looks at all of them");
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
fn the_token_of_a_finished_future_keeps_the_deadline_around_it() {
    unhurried(|limit| {
        let inner = || block_on(future::timeout_value(LONG, async { token() }));
        let token = timeout_value(limit, inner).unwrap().ok()?;
        wait_for("the deadline that was around it", || token.is_cancelled());
        Some(())
    });
}

#[test]
fn a_token_that_survives_its_future_is_not_ended_by_what_is_around_the_drop() {
    struct OnDrop(std::sync::mpsc::Sender<bool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.send(checkpoint().is_err()).unwrap();
        }
    }
    let (sent, received) = channel();
    let (dropped, over) = channel();
    let mut work = Box::pin(future::timeout_value(LONG, async move {
        let _guard = OnDrop(dropped);
        sent.send(token()).unwrap();
        pending::<()>().await;
    }));
    assert!(poll_once(&mut work).is_pending());
    let token = received.recv().unwrap();
    with_timeout(LONG, |scope| {
        scope.token().cancel();
        drop(work);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert!(!token.is_cancelled());
    assert!(over.recv().unwrap(), "the scope around the drop counts in it");
}
