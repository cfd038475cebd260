//! What a future may still do once it is over: its grace, its shields, its interruptible calls, its unwinding.

use std::error::Error;
use std::future::{Future, pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use timebox::{
    Cause, Hook, Timebox, TimeoutError, checkpoint, future, is_expired, on_cancel, remaining, token,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{Failure, LONG, SHORT, let_the_watchdog_pass, next, wait_for};

on_each_runtime!(
    within_the_grace_the_future_ends_by_itself,
    an_error_of_the_grace_is_settled,
    when_the_grace_is_over_the_future_is_cut_off,
    a_grace_does_not_delay_a_future_that_ends,
    an_inner_future_lives_on_within_the_outer_grace,
    without_a_grace_an_inner_future_ends_with_the_outer_scope,
    a_shield_is_polled_on_without_a_grace,
    after_a_shield_the_future_is_cut_off,
    a_shield_holds_up_to_its_max,
    a_shield_is_a_scope_of_its_own,
    hooks_outside_a_shield_wait_until_it_is_left,
    an_interruptible_future_has_four_results,
    an_interrupted_future_rolls_back_in_its_grace,
    an_interruptible_future_on_a_scope_already_over_is_not_polled,
    an_interruptible_future_awaits_its_running_hook,
    dropping_an_interruptible_future_waits_for_its_running_hook,
    a_hook_made_in_an_async_scope_dies_with_it,
    hooks_of_an_async_scope_fire_while_nobody_polls,
);

#[cfg(panic = "unwind")]
on_each_runtime!(
    unwinding_in_a_poll_drops_the_future_inside_its_scope,
    unwinding_in_a_poll_is_caught_by_the_scope_that_is_over,
    unwinding_in_a_poll_does_not_leave_the_poll,
);

/// A foreign operation that ends when it is told to stop, and the hook that tells it.
fn operation() -> (impl FnMut() + Send + 'static, impl Future<Output = ()> + Send + 'static) {
    let (stop, stopped) = oneshot::channel();
    let mut stop = Some(stop);
    let hook = move || {
        if let Some(stop) = stop.take() {
            let _ = stop.send(());
        }
    };
    (hook, async move { stopped.await.expect("the hook lives as long as the call") })
}

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
        // The body sees a typed error where it awaits.
        let error = inner.await.unwrap_err();
        assert!(!error.settled());
        error
    });
    assert_eq!(outer.await.unwrap().label(), Some("outer"));
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

async fn an_interruptible_future_has_four_results() {
    let outside = future::interruptible(|| unreachable!("never fires"), async { Ok::<_, String>(7) });
    assert_eq!(outside.await.unwrap().unwrap(), 7);

    let fine = future::timeout(LONG, future::interruptible(|| (), async { Ok::<_, String>(7) }));
    assert_eq!(fine.await.unwrap().unwrap(), 7);

    let failed = future::timeout(LONG, future::interruptible(|| (), async { Err::<(), _>("no route") }));
    assert_eq!(failed.await.unwrap().unwrap_err(), "no route");

    let (hook, stopped) = operation();
    let late = future::interruptible(hook, async {
        token().cancel();
        stopped.await;
        Ok::<_, String>(7)
    });
    assert_eq!(Timebox::new(LONG).grace(LONG).run_future(late).await.unwrap().unwrap(), 7);

    let (hook, stopped) = operation();
    let spoilt = future::interruptible(Hook::new(hook).spoils(), async {
        token().cancel();
        stopped.await;
        Ok::<_, String>(0)
    });
    let error = Timebox::new(LONG).grace(LONG).run_future(spoilt).await.unwrap_err();
    assert!(error.is_cancelled() && error.settled() && error.source().is_none());
}

async fn an_interrupted_future_rolls_back_in_its_grace() {
    let (hook, stopped) = operation();
    let rolled_back = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&rolled_back);
    let error = Timebox::new(LONG)
        .grace(LONG)
        .run_future(async move {
            let statement = async {
                token().cancel();
                stopped.await;
                Err::<(), _>("statement cancelled on user request")
            };
            let error = future::interruptible(hook, statement).await.unwrap_err();
            future::shield(LONG, async {
                future::sleep(Duration::from_millis(1)).await.unwrap();
                flag.store(true, SeqCst);
            })
            .await;
            Err::<(), _>(error)
        })
        .await
        .unwrap_err();
    assert!(rolled_back.load(SeqCst));
    assert!(error.settled());
    assert_eq!(error.source().unwrap().to_string(), "statement cancelled on user request");
}

async fn an_interruptible_future_on_a_scope_already_over_is_not_polled() {
    let fired = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&fired);
    let error = future::timeout(LONG, async {
        token().cancel();
        let never = poll_fn(|_| -> Poll<Result<(), String>> { unreachable!("not polled") });
        future::interruptible(move || count.fetch_add(1, SeqCst), never).await
    })
    .await
    .unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(fired.load(SeqCst), 0);
}

async fn an_interruptible_future_awaits_its_running_hook() {
    let (mut stop, stopped) = operation();
    let done = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&done);
    Timebox::new(LONG)
        .grace(LONG)
        .run_future(async move {
            let hook = Hook::new(move || {
                stop();
                thread::sleep(SHORT);
                flag.store(true, SeqCst);
            });
            let _ = future::interruptible(hook.once(), async {
                token().cancel();
                stopped.await;
                Ok::<_, String>(())
            })
            .await?;
            assert!(done.load(SeqCst));
            assert_eq!(Arc::strong_count(&done), 1);
            Ok::<_, TimeoutError>(())
        })
        .await
        .unwrap();
}

async fn dropping_an_interruptible_future_waits_for_its_running_hook() {
    let done = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&done);
    let (started, has_started) = mpsc::channel();
    let hook = Hook::new(move || {
        started.send(()).unwrap();
        thread::sleep(SHORT);
        flag.store(true, SeqCst);
    });
    let (tell, told) = mpsc::channel();
    let mut call = Box::pin(Timebox::new(LONG).grace(LONG).run_future(async move {
        tell.send(token()).unwrap();
        future::interruptible(hook.once(), pending::<Result<(), String>>()).await
    }));
    assert!(futures::poll!(&mut call).is_pending());
    next(&told).cancel();
    next(&has_started);
    drop(call);
    assert!(done.load(SeqCst));
    assert_eq!(Arc::strong_count(&done), 1);
}

async fn a_hook_made_in_an_async_scope_dies_with_it() {
    let fired = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&fired);
    let token = future::timeout_value(LONG, async move {
        std::mem::forget(on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst))));
        yield_now().await;
        token()
    })
    .await
    .unwrap();
    assert!(token.cancel());
    let_the_watchdog_pass();
    assert_eq!(fired.load(SeqCst), 0);
}

async fn hooks_of_an_async_scope_fire_while_nobody_polls() {
    future::timeout_value(SHORT, async {
        let (fired, wait) = mpsc::channel();
        let _registration = on_cancel(move || fired.send(()));
        next(&wait);
        assert!(is_expired());
    })
    .await
    .unwrap();
}

/// Code that cannot return an error, and never returns otherwise.
#[cfg(panic = "unwind")]
async fn spin() {
    yield_now().await;
    loop {
        timebox::checkpoint_or_unwind();
    }
}

/// Unwinds through a scope inside; that stops it only where it was not even begun.
#[cfg(panic = "unwind")]
async fn spin_inside() {
    if let Err(error) = future::timeout_value(LONG, spin()).await {
        assert!(!error.started(), "caught too early: {error}");
    }
    spin().await;
}

#[cfg(panic = "unwind")]
async fn unwinding_in_a_poll_drops_the_future_inside_its_scope() {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(is_expired(), SeqCst);
        }
    }
    let dropped_inside = Arc::new(AtomicBool::new(false));
    let guard = OnDrop(Arc::clone(&dropped_inside));
    let error = future::timeout_value(SHORT, async move {
        let _guard = guard;
        spin().await;
    })
    .await
    .unwrap_err();
    assert!(error.is_timeout() && error.started());
    assert!(dropped_inside.load(SeqCst));
}

#[cfg(panic = "unwind")]
async fn unwinding_in_a_poll_is_caught_by_the_scope_that_is_over() {
    let over = future::timeout_value(LONG, async {
        let error = Timebox::new(SHORT).label("over").run_future_value(spin_inside()).await.unwrap_err();
        checkpoint().unwrap();
        error
    });
    assert_eq!(over.await.unwrap().label(), Some("over"));
}

#[cfg(panic = "unwind")]
async fn unwinding_in_a_poll_does_not_leave_the_poll() {
    timebox::with_timeout(SHORT, |outer| {
        // The scope that is over is beyond the executor: the outermost boundary in the poll stops it.
        let error = pollster::block_on(future::timeout_value(LONG, spin())).unwrap_err();
        assert_eq!(error.scope(), outer.id());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}
