//! Foreign calls and hooks in futures, and unwinding out of a poll.

use std::error::Error;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use timebox::{
    CancellationToken, Hook, Timebox, TimeoutError, checkpoint, future, is_expired, on_cancel, token,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{
    Count, LONG, SHORT, bounded, let_the_watchdog_pass, next, poll_once, unhurried, wait_for,
};
use crate::waiter::Waiter;

on_each_runtime!(
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
    let awaits_hook = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&awaits_hook);
    Timebox::new(LONG)
        .grace(LONG)
        .run_future(async move {
            let hook = Hook::new(move || {
                stop();
                wait_for("the call has ended, and its future is pending", || seen.load(SeqCst));
                flag.store(true, SeqCst);
            });
            let has_ended = AtomicBool::new(false);
            let mut call = pin!(future::interruptible(hook.once(), async {
                token().cancel();
                stopped.await;
                has_ended.store(true, SeqCst);
                Ok::<_, String>(())
            }));
            let _ = poll_fn(|cx| {
                let poll = call.as_mut().poll(cx);
                awaits_hook.store(poll.is_pending() && has_ended.load(SeqCst), SeqCst);
                poll
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
    let waiter = Waiter::default();
    let seen = waiter.clone();
    let hook = Hook::new(move || {
        started.send(()).unwrap();
        seen.sleeps();
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
    waiter.begins();
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
    assert!(token.cancel_with("first"));
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
fn an_interrupted_future_names_the_scope_that_made_its_hook_fire() {
    unhurried(|limit| {
        let fired = Count::default();
        let stopped = AtomicBool::new(false);
        let call =
            poll_fn(
                |_| {
                    if stopped.load(SeqCst) { Poll::Ready(Err::<(), _>("stopped")) } else { Poll::Pending }
                },
            );
        let mut call = Box::pin(future::interruptible(fired.hook().once(), call));
        let first = Timebox::new(limit).label("first").run_value(|_| {
            let polled = poll_once(&mut call);
            if polled.is_pending() {
                fired.wait_for_a_firing();
            }
            polled
        });
        if first.unwrap().is_ready() {
            return None;
        }
        stopped.store(true, SeqCst);
        let second = Timebox::new(LONG).label("second").run_value(|_| poll_once(&mut call)).unwrap();
        let Poll::Ready(Err(error)) = second else { panic!("{second:?}") };
        assert_eq!(error.label(), Some("first"));
        Some(())
    });
}
