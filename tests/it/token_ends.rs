//! By what a token is over, when it will be, and how a scope that ends with it says so.

use std::thread;
use std::time::{Duration, Instant};

use pollster::block_on;
use timebox::{
    CancellationToken, Cause, Deadline, Limit, Quota, Timebox, TimeoutError, checkpoint, deadline, future,
    handle, remaining, require, timeout, timeout_value, token, with_timeout,
};

use crate::support::{LONG, SHORT, bounded, outlast, poll_once, rounds, unhurried, wait_for};

const DAY: Duration = Duration::from_secs(86_400);

// ===== What does not change =====

#[test]
fn a_cause_and_a_reason_do_not_change() {
    let same = |token: &CancellationToken| {
        assert_eq!((token.cause(), token.reason().as_deref()), (Some(Cause::Cancelled), Some("first")));
    };
    unhurried(|limit| {
        let root = CancellationToken::after(limit);
        let token = root.child_token();
        let before = (token.cause(), token.reason());
        if !token.cancel_with("first") {
            return None;
        }
        assert_eq!(before, (None, None));
        same(&token);
        wait_for("the deadline around it", || root.is_cancelled());
        same(&token);
        assert_eq!(root.cause(), Some(Cause::Deadline));
        Some(())
    });

    let other = CancellationToken::new();
    let token = other.child_token();
    token.cancel_with("first");
    other.cancel_with("second");
    same(&token);
    // One that is made beneath it is over by the same.
    same(&token.child_token());
    assert_eq!(other.child_token().reason().as_deref(), Some("second"));
}

#[test]
fn an_expiry_stays_one_though_all_around_is_cancelled_later() {
    let root = CancellationToken::new();
    let error = Timebox::new(LONG).cancel_on(&root).run(|_| {
        let token = timeout_value(SHORT, token).unwrap();
        wait_for("the deadline", || token.is_cancelled());
        root.cancel_with("later");
        assert_eq!((token.cause(), token.reason()), (Some(Cause::Deadline), None));
        checkpoint()
    });
    assert_eq!(error.unwrap_err().reason(), Some("later"));
}

#[test]
fn the_earlier_of_two_ends_counts_though_nobody_asked_in_time() {
    for _ in 0..rounds(20) {
        let outer = CancellationToken::new();
        let token = Timebox::new(LONG)
            .cancel_on(&outer)
            .run_value(|_| timeout_value(Duration::from_micros(50), token).unwrap())
            .unwrap();
        let until = Instant::now() + Duration::from_micros(80);
        while Instant::now() < until {}
        outer.cancel();
        assert_eq!(token.cause(), Some(Cause::Deadline));
    }
}

// ===== When it will be over =====

#[test]
fn a_token_knows_its_deadline_and_what_remains() {
    let token = CancellationToken::new();
    assert_eq!((token.deadline(), token.remaining()), (Deadline::NEVER, None));
    token.cancel();
    assert_eq!(token.remaining(), Some(Duration::ZERO));
    assert!(token.deadline().has_passed());

    timeout_value(LONG, || {
        let (child, expected) = (token_of_this_scope().child_token(), deadline());
        assert_eq!(child.deadline(), expected);
        let left = child.remaining().unwrap();
        assert!(left <= LONG && left > LONG / 2);
    })
    .unwrap();
}

fn token_of_this_scope() -> CancellationToken {
    token()
}

#[test]
fn a_token_that_is_linked_knows_the_deadline_of_the_other() {
    let request = CancellationToken::after(LONG);
    Timebox::new(DAY)
        .cancel_on(&request)
        .run_value(|_| {
            assert_eq!(token().child_token().deadline(), request.deadline());
            // By way of a second one, too.
            let inner = Timebox::new(Limit::NONE).cancel_on(&token());
            inner.run_value(|_| assert_eq!(token().deadline(), request.deadline())).unwrap();
        })
        .unwrap();
}

#[test]
fn a_token_after_a_limit_is_over_then() {
    bounded(|| {
        let start = Instant::now();
        let token = CancellationToken::after(SHORT);
        assert!(!token.is_cancelled() || token.deadline().has_passed());
        block_on(token.cancelled());
        assert!(start.elapsed() >= SHORT);
        assert_eq!((token.cause(), token.remaining()), (Some(Cause::Deadline), Some(Duration::ZERO)));
        let error = token.checkpoint().unwrap_err();
        assert_eq!((error.is_timeout(), error.limit()), (true, Some(SHORT)));
        assert!(!token.cancel_with("late"));
    });
}

#[test]
fn a_token_takes_every_kind_of_limit() {
    assert!(CancellationToken::after(Duration::ZERO).is_cancelled());
    assert!(CancellationToken::after(Deadline::after(Duration::ZERO)).is_cancelled());
    assert_eq!(CancellationToken::after(Limit::NONE).remaining(), None);
    assert_eq!(CancellationToken::after(None::<Duration>).remaining(), None);
    assert_eq!(CancellationToken::after(Duration::MAX).remaining(), None);
    let instant = Instant::now() + DAY;
    assert_eq!(CancellationToken::after(instant).deadline(), Deadline::at(instant));

    let quota = Quota::new(SHORT);
    let token = CancellationToken::after(&quota);
    wait_for("the quota's time", || token.is_cancelled());
    assert_eq!(token.cause(), Some(Cause::Quota));
    assert_eq!(quota.remaining(), SHORT, "the token has spent of it");
}

#[test]
fn a_token_after_a_limit_can_be_cancelled_before() {
    let token = CancellationToken::after(DAY);
    let child = token.child_token();
    assert!(token.cancel_with("enough"));
    assert_eq!(child.cause(), Some(Cause::Cancelled));
    assert_eq!(child.remaining(), Some(Duration::ZERO));
}

// ===== A scope that ends with it =====

#[test]
fn the_deadline_of_a_token_counts_in_a_scope_that_ends_with_it() {
    let request = CancellationToken::after(LONG);
    let check = |limit: Limit| {
        Timebox::new(limit)
            .cancel_on(&request)
            .run_value(|scope| {
                assert_eq!(scope.deadline(), request.deadline());
                assert!(remaining().unwrap() <= LONG);
                let error = require(DAY).unwrap_err();
                assert_eq!((error.cause(), error.limit()), (Cause::Deadline, Some(LONG)));
                assert_eq!((error.overshoot(), error.scope()), (Duration::ZERO, scope.id()));
                require(Duration::ZERO).unwrap();
                // In what is opened within, by a handle too.
                timeout_value(DAY, || assert_eq!(deadline(), request.deadline())).unwrap();
                let handle = handle();
                let inside = thread::spawn(move || {
                    handle.enter(DAY, |scope| {
                        assert!(require(DAY).is_err());
                        Ok::<_, TimeoutError>(scope.deadline())
                    })
                });
                assert_eq!(inside.join().unwrap().unwrap(), request.deadline());
            })
            .unwrap();
        assert!(!request.is_cancelled());
    };
    check(Limit::NONE);
    check(DAY.into());
}

#[test]
fn a_scope_that_ends_with_a_token_says_for_what_cause() {
    let told = |token: &CancellationToken| {
        let scope = Timebox::new(LONG).label("query").cancel_on(token);
        let error = scope.run(|scope| {
            let error = scope.sleep(DAY).unwrap_err();
            assert_eq!(error.scope(), scope.id());
            assert_eq!(scope.remaining(), Some(Duration::ZERO));
            assert_eq!(scope.token().cause(), token.cause());
            Err::<(), _>(error)
        });
        error.unwrap_err()
    };
    bounded(move || {
        unhurried(|limit| {
            // By its deadline.
            let error = told(&CancellationToken::after(limit));
            assert_eq!((error.cause(), error.reason()), (Cause::Deadline, None));
            assert_eq!((error.label(), error.limit()), (Some("query"), Some(limit)));
            assert_eq!(error.elapsed(), limit + error.overshoot());
            error.started().then_some(())
        });
        unhurried(|limit| {
            // By that of a scope, whose label it tells.
            let request = Timebox::new(limit).label("request").run_value(|_| token()).unwrap();
            let error = told(&request.child_token());
            assert_eq!(
                (error.cause(), error.label(), error.limit()),
                (Cause::Deadline, Some("request"), Some(limit))
            );
            assert_eq!(error.chain().len(), 1);
            error.started().then_some(())
        });

        // By a quota.
        let quota = Quota::new(SHORT);
        let spent = Timebox::new(&quota).run_value(|scope| (token(), outlast(scope)).0).unwrap();
        let error = told(&spent);
        assert_eq!((error.cause(), error.started()), (Cause::Quota, false));

        // By a cancel.
        let stop = CancellationToken::new();
        let canceller = stop.clone();
        let thread = thread::spawn(move || canceller.cancel_with("stop"));
        let error = told(&stop);
        assert_eq!(
            (error.cause(), error.reason(), error.label()),
            (Cause::Cancelled, Some("stop"), Some("query"))
        );
        assert_eq!(error.limit(), Some(LONG));
        assert!(thread.join().unwrap());
    });
}

#[test]
fn a_scope_is_not_started_for_the_cause_of_its_token() {
    let token = CancellationToken::after(Duration::ZERO);
    let refused = Timebox::new(LONG).cancel_on(&token).run_value(|_| unreachable!("not started"));
    let error = refused.unwrap_err();
    assert_eq!((error.cause(), error.started()), (Cause::Deadline, false));
    assert_eq!(error.limit(), Some(Duration::ZERO));
}

#[test]
fn an_expiry_is_passed_on_from_link_to_link() {
    let linked_to =
        |token: &CancellationToken| Timebox::new(LONG).cancel_on(token).run_value(|_| timebox::token()).ok();
    bounded(move || {
        unhurried(|limit| {
            let first = Timebox::new(limit).label("first").run_value(|_| token()).unwrap();
            let second = linked_to(&first)?;
            let third = linked_to(&second)?;
            block_on(third.cancelled());
            for token in [&first, &second, &third] {
                assert_eq!(token.cause(), Some(Cause::Deadline));
                let error = token.checkpoint().unwrap_err();
                assert_eq!((error.label(), error.limit()), (Some("first"), Some(limit)));
            }
            Some(())
        });
    });
}

#[test]
fn a_fallback_runs_when_the_token_of_its_scope_expires() {
    let token = CancellationToken::after(SHORT);
    let answer = Timebox::new(Limit::NONE).cancel_on(&token).run_or_else(
        |scope| scope.sleep(DAY).map(|()| None),
        |timed_out| Ok::<_, TimeoutError>(timed_out.limit()),
    );
    assert_eq!(answer.unwrap(), Some(SHORT));
}

// ===== Rule 6: nothing remains =====

#[test]
fn nothing_remains_once_a_scope_is_over() {
    with_timeout(LONG, |scope| {
        let outer = scope.handle();
        with_timeout(Limit::NONE, |inner| {
            assert!(inner.remaining().unwrap() > Duration::ZERO);
            outer.token().cancel();
            for scope in [scope, inner] {
                assert_eq!(scope.remaining(), Some(Duration::ZERO));
                assert!(scope.deadline().has_passed());
                let error = scope.require(Duration::ZERO).unwrap_err();
                assert!(error.is_cancelled());
            }
            assert_eq!(remaining(), Some(Duration::ZERO));
            Ok::<_, TimeoutError>(())
        })?;
        // In a shield counts what is opened within, and the outer scope answers for itself.
        timebox::shield(DAY, || {
            assert!(remaining().unwrap() > LONG);
            assert_eq!(scope.remaining(), Some(Duration::ZERO));
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn nothing_remains_of_a_scope_without_a_limit_that_was_cancelled() {
    let stop = CancellationToken::new();
    Timebox::new(Limit::NONE)
        .cancel_on(&stop)
        .run_value(|_| {
            assert_eq!(remaining(), None);
            stop.cancel();
            assert_eq!(remaining(), Some(Duration::ZERO));
            assert!(timeout(LONG, || Ok::<_, TimeoutError>(())).is_err());
        })
        .unwrap();
}

// ===== Rule 3: nobody cancelled =====

#[test]
fn an_expiry_that_came_by_a_poll_is_told_as_that() {
    unhurried(|limit| {
        let mut inner = None;
        let mut job = Box::pin(future::timeout(LONG, async {
            inner = Some((token(), handle()));
            std::future::pending::<Result<(), TimeoutError>>().await
        }));
        let polled = Timebox::new(limit).label("heartbeat").run_value(|scope| {
            let polled = poll_once(&mut job);
            outlast(scope);
            polled
        });
        if polled.unwrap().is_ready() {
            return None;
        }
        // Outside: what it had given out was told by surroundings that it has left.
        drop(job);
        let (token, handle) = inner.unwrap();
        wait_for("the expiry", || token.is_cancelled());
        assert_eq!((token.cause(), token.reason()), (Some(Cause::Deadline), None));
        for error in [
            token.checkpoint().unwrap_err(),
            handle.enter(LONG, |_| Ok::<_, TimeoutError>(())).unwrap_err(),
            handle.enter(LONG, |scope| scope.checkpoint()).unwrap_err(),
        ] {
            assert_eq!(
                (error.cause(), error.label(), error.limit()),
                (Cause::Deadline, Some("heartbeat"), Some(limit))
            );
        }
        Some(())
    });
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
