//! What a future may still do once it is over: end within its grace, and clean up behind a shield.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, channel};
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use pollster::block_on;
use timebox::{
    Cause, Hook, Timebox, TimeoutError, checkpoint, future, is_expired, on_cancel, remaining, timeout_value,
    token, with_timeout,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{Failure, LONG, SHORT, bounded, let_the_watchdog_pass, next, wait_for, waker};
use crate::waiter::Waiter;

on_each_runtime!(
    within_the_grace_the_future_ends_by_itself,
    an_error_of_the_grace_is_settled,
    what_was_polled_before_the_end_came_in_the_same_poll_is_polled_again,
    when_the_grace_is_over_the_future_is_cut_off,
    a_grace_does_not_delay_a_future_that_ends,
    an_inner_future_lives_on_within_the_outer_grace,
    without_a_grace_an_inner_future_ends_with_the_outer_scope,
    a_shield_is_polled_on_without_a_grace,
    a_shield_in_an_inner_future_is_polled_on_too,
    an_inner_grace_does_not_hold_up_the_outer_scope,
    after_a_shield_the_future_is_cut_off,
    a_shield_holds_up_to_its_max,
    a_shield_is_a_scope_of_its_own,
    hooks_outside_a_shield_wait_until_it_is_left,
    opening_a_shield_waits_for_a_running_hook,
);

async fn within_the_grace_the_future_ends_by_itself() {
    let value = Timebox::new(SHORT)
        .grace(LONG)
        .run_future_value(async {
            token().cancelled().await;
            assert!(is_expired() && checkpoint().is_err());
            for _ in 0..10 {
                yield_now().await;
            }
            "rolled back"
        })
        .await;
    assert_eq!(value.unwrap(), "rolled back");
}

/// A sleep that relies on the scope around it for its wake-up, beside a branch during whose poll that ends.
async fn what_was_polled_before_the_end_came_in_the_same_poll_is_polled_again() {
    let result = Timebox::new(LONG)
        .grace(LONG)
        .run_future_value(async {
            let cancel = async {
                token().cancel();
                pending::<()>().await;
            };
            let mut sleep = pin!(future::sleep(LONG));
            let mut cancel = pin!(cancel);
            poll_fn(|cx| {
                let sleep = sleep.as_mut().poll(cx);
                assert!(cancel.as_mut().poll(cx).is_pending());
                sleep
            })
            .await
        })
        .await;
    assert!(result.unwrap().unwrap_err().is_cancelled());
}

async fn an_error_of_the_grace_is_settled() {
    let error = Timebox::new(SHORT)
        .grace(LONG)
        .run_future(async {
            let error = future::sleep(LONG).await.unwrap_err();
            yield_now().await;
            Err::<(), _>(error)
        })
        .await
        .unwrap_err();
    assert!(error.settled() && error.started());
    assert_eq!((error.cause(), error.limit()), (Cause::Deadline, Some(SHORT)));
}

async fn when_the_grace_is_over_the_future_is_cut_off() {
    let start = Instant::now();
    let error = Timebox::new(SHORT).grace(SHORT).run_future_value(pending::<()>()).await.unwrap_err();
    assert!(start.elapsed() >= SHORT * 2);
    assert!(!error.settled());
    assert_eq!(error.limit(), Some(SHORT));
    assert!(error.elapsed() >= SHORT * 2 && error.overshoot() >= SHORT);
}

async fn a_grace_does_not_delay_a_future_that_ends() {
    assert_eq!(Timebox::new(LONG).grace(LONG).run_future_value(async { 7 }).await.unwrap(), 7);
    let result =
        Timebox::new(LONG).grace(LONG).run_future(async { Err::<(), _>(Failure::Own("no such row")) });
    assert!(matches!(result.await, Err(Failure::Own(_))));
}

async fn an_inner_future_lives_on_within_the_outer_grace() {
    let value = Timebox::new(LONG).grace(LONG).run_future(async {
        let outer = token();
        future::timeout(LONG, async {
            outer.cancel();
            token().cancelled().await;
            yield_now().await;
            Ok::<_, TimeoutError>("rolled back")
        })
        .await
    });
    assert_eq!(value.await.unwrap(), "rolled back");
}

async fn without_a_grace_an_inner_future_ends_with_the_outer_scope() {
    let outer = Timebox::new(LONG).label("outer").run_future_value(async {
        let outer = token();
        let inner = future::timeout_value(LONG, async {
            outer.cancel();
            pending::<()>().await;
        });
        // The inner scope leaves it to the outer one, which drops both.
        inner.await.map(|()| unreachable!("cut off"))
    });
    let error = outer.await.unwrap_err();
    assert_eq!(error.label(), Some("outer"));
    assert!(!error.settled());
}

async fn a_shield_is_polled_on_without_a_grace() {
    let mut cleaned = false;
    let error = future::timeout(SHORT, async {
        future::shield(LONG, async {
            future::sleep(SHORT * 2).await.unwrap();
            assert!(checkpoint().is_ok() && remaining() > Some(LONG / 2));
            cleaned = true;
        })
        .await;
        checkpoint()
    })
    .await
    .unwrap_err();
    assert!(cleaned);
    assert!(error.settled());
    assert_eq!(error.limit(), Some(SHORT));
}

async fn a_shield_in_an_inner_future_is_polled_on_too() {
    let cleaned = AtomicBool::new(false);
    let outer = future::timeout_value(LONG, async {
        let outer = token();
        let inner = future::timeout_value(LONG, async {
            outer.cancel();
            future::shield(LONG, async {
                future::sleep(SHORT).await.unwrap();
                cleaned.store(true, SeqCst);
            })
            .await;
            pending::<()>().await;
        });
        inner.await
    });
    let error = outer.await.unwrap_err();
    assert!(cleaned.load(SeqCst) && !error.settled());
}

async fn an_inner_grace_does_not_hold_up_the_outer_scope() {
    let inner = Timebox::new(LONG).grace(LONG).run_future_value(pending::<()>());
    let error = future::timeout(SHORT, inner).await.unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

async fn after_a_shield_the_future_is_cut_off() {
    let error = future::timeout_value(SHORT, async {
        let value = future::shield(LONG, async {
            future::sleep(SHORT * 2).await.unwrap();
            7
        });
        assert_eq!(value.await, 7);
        pending::<()>().await;
    })
    .await
    .unwrap_err();
    assert!(!error.settled());
}

async fn a_shield_holds_up_to_its_max() {
    let start = Instant::now();
    let error = future::timeout_value(SHORT, future::shield(SHORT * 3, pending::<()>())).await.unwrap_err();
    assert!(start.elapsed() >= SHORT * 3);
    assert!(!error.settled());
    assert_eq!(error.limit(), Some(SHORT));
}

async fn a_shield_is_a_scope_of_its_own() {
    future::timeout_value(LONG, async {
        let outer = token();
        let error = future::shield(SHORT, future::sleep(LONG)).await.unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
        future::shield(LONG, async {
            outer.cancel();
            yield_now().await;
            assert!(checkpoint().is_ok() && !token().is_cancelled() && outer.is_cancelled());
            future::timeout_value(LONG, yield_now()).await.unwrap();
        })
        .await;
        assert!(checkpoint().is_err());
    })
    .await
    .unwrap();
    let error = future::shield(SHORT, future::timeout(LONG, future::sleep(LONG))).await.unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

async fn hooks_outside_a_shield_wait_until_it_is_left() {
    let fired = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&fired);
    let run = Timebox::new(LONG).grace(LONG).run_future_value(async {
        let outer = token();
        let _registration = on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst)));
        future::shield(LONG, async {
            outer.cancel();
            for _ in 0..3 {
                yield_now().await;
                let_the_watchdog_pass();
                assert_eq!(fired.load(SeqCst), 0);
            }
        })
        .await;
        yield_now().await;
        wait_for("the hook", || fired.load(SeqCst) == 1);
    });
    run.await.unwrap();
}

async fn opening_a_shield_waits_for_a_running_hook() {
    let done = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&done);
    let (started, wait) = mpsc::channel();
    let run = Timebox::new(LONG).grace(LONG).run_future_value(async move {
        let waiter = Waiter::default();
        let seen = waiter.clone();
        let _registration = on_cancel(move || {
            started.send(()).unwrap();
            seen.sleeps();
            flag.store(true, SeqCst);
        });
        token().cancel();
        next(&wait);
        waiter.begins();
        future::shield(LONG, async { assert!(done.load(SeqCst)) }).await;
    });
    run.await.unwrap();
}

#[test]
fn a_grace_ends_when_the_scope_around_it_expires() {
    let error = bounded(|| {
        let graced = || {
            let future = Timebox::new(SHORT / 2).grace(LONG).run_future_value(pending::<()>());
            block_on(future).unwrap_err()
        };
        Timebox::new(SHORT * 2).label("around").run_value(|_| graced()).unwrap()
    });
    assert_eq!(error.label(), Some("around"));
}

/// Cancels the scope around while its future, which may have asked for a token, is in its grace.
fn cancel_around_a_grace(asks_for_a_token: bool) {
    let error = bounded(move || {
        with_timeout(LONG, |around| {
            let (graced, in_the_grace) = channel();
            let cancel = around.token();
            thread::spawn(move || {
                next(&in_the_grace);
                cancel.cancel();
            });
            let future = Timebox::new(SHORT).grace(LONG).run_future_value(async move {
                let _token = asks_for_a_token.then(token);
                poll_fn(|_| {
                    if is_expired() {
                        let _ = graced.send(());
                    }
                    Poll::<()>::Pending
                })
                .await;
            });
            Ok::<_, TimeoutError>(block_on(future).unwrap_err())
        })
        .unwrap()
    });
    assert!(error.is_cancelled());
    assert!(!error.settled());
}

#[test]
fn a_grace_ends_when_the_scope_around_it_is_cancelled() {
    cancel_around_a_grace(false);
}

#[test]
fn a_grace_in_which_a_token_is_held_ends_when_the_scope_around_it_is_cancelled() {
    cancel_around_a_grace(true);
}

#[test]
fn a_scope_around_that_is_cancelled_just_as_a_grace_begins_ends_it() {
    bounded(|| {
        let error = timeout_value(LONG, || {
            let around = token();
            let waker = waker(move || {
                around.cancel();
            });
            let mut graced = Box::pin(Timebox::new(SHORT).grace(LONG).run_future_value(poll_fn(|_| {
                wait_for("its deadline", is_expired);
                Poll::<()>::Pending
            })));
            graced.as_mut().poll(&mut Context::from_waker(&waker))
        });
        let Poll::Ready(Err(error)) = error.unwrap() else { panic!("nobody would wake it") };
        assert!(error.is_cancelled());
    });
}
