//! Corners of the futures: what surrounds a poll comes and goes, and wakers and destructors use the crate.

use std::future::{Future, pending, poll_fn};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::thread;
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use pollster::block_on;
use timebox::{
    CancellationToken, Hook, Quota, Timebox, TimeoutError, checkpoint, checkpoint_or_unwind, deadline,
    future, handle, is_expired, on_cancel, timeout_value, token, with_timeout,
};

use crate::support::{LONG, SHORT, bounded, let_the_watchdog_pass, next, unhurried, wait_for};

/// One poll whose wake-ups nobody hears.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// How often a hook has fired.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU32>);

impl Count {
    fn hook(&self) -> Hook<'static> {
        let count = self.clone();
        Hook::inline(move || count.0.fetch_add(1, SeqCst))
    }

    fn get(&self) -> u32 {
        self.0.load(SeqCst)
    }

    #[track_caller]
    fn wait_for_a_firing(&self) {
        wait_for("the hook", || self.get() > 0);
    }
}

/// A call that never ends by itself.
async fn endless() -> Result<(), String> {
    pending().await
}

#[test]
fn a_hook_fires_at_its_own_deadline_when_an_earlier_one_around_it_is_left() {
    unhurried(|limit| {
        let fired = Count::default();
        let hook = fired.hook();
        let inner = future::timeout_value(limit * 2, async move {
            let _registration = on_cancel(hook);
            pending::<()>().await;
        });
        let mut outer = Box::pin(future::timeout_value(LONG, inner));
        if timeout_value(limit, || poll_once(&mut outer)).unwrap().is_ready() || fired.get() > 0 {
            return None;
        }
        if poll_once(&mut outer).is_ready() {
            return None;
        }
        fired.wait_for_a_firing();
        Some(())
    });
}

#[test]
fn a_hook_follows_its_future_from_scope_to_scope() {
    let fired = Count::default();
    let mut call = Box::pin(future::interruptible(fired.hook(), endless()));
    assert!(timeout_value(LONG, || poll_once(&mut call)).unwrap().is_pending());
    assert_eq!(fired.get(), 0);
    timeout_value(SHORT, || {
        let _ = poll_once(&mut call);
        fired.wait_for_a_firing();
    })
    .unwrap();
}

#[test]
fn a_hook_follows_its_task_when_the_runtime_is_driven_in_one_scope_after_another() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let fired = Count::default();
        let polls = Count::default();
        let count = polls.clone();
        let busy = poll_fn(move |context| {
            count.0.fetch_add(1, SeqCst);
            context.waker().wake_by_ref();
            Poll::<Result<(), String>>::Pending
        });
        let task = runtime.spawn(future::interruptible(fired.hook(), busy));
        let another_poll = async || {
            let before = polls.get();
            while polls.get() == before {
                tokio::task::yield_now().await;
            }
        };
        timeout_value(LONG, || runtime.block_on(another_poll())).unwrap();
        timeout_value(SHORT, || {
            runtime.block_on(another_poll());
            fired.wait_for_a_firing();
        })
        .unwrap();
        drop(task);
    });
}

#[test]
fn a_once_hook_fires_once_however_often_its_future_is_polled() {
    let fired = Count::default();
    let mut call = Box::pin(future::interruptible(fired.hook().once(), endless()));
    assert!(poll_once(&mut call).is_pending());
    timeout_value(LONG, || {
        token().cancel();
        for _ in 0..5 {
            assert!(poll_once(&mut call).is_pending());
            fired.wait_for_a_firing();
            let_the_watchdog_pass();
        }
    })
    .unwrap();
    assert_eq!(fired.get(), 1);
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

#[test]
fn a_cancel_reaches_a_sleep_that_began_before_the_token_was_made() {
    let error = bounded(|| {
        block_on(Timebox::new(LONG).grace(LONG).run_future(async {
            // Polls the sleep only when that is woken.
            let mut sleeps = FuturesUnordered::from_iter([future::sleep(LONG)]);
            assert!(futures::poll!(sleeps.next()).is_pending());
            let token = token();
            thread::spawn(move || token.cancel());
            sleeps.next().await.unwrap()
        }))
        .unwrap_err()
    });
    assert!(error.is_cancelled());
    assert!(error.settled());
}

#[test]
fn a_cancel_of_the_scope_around_a_runtime_reaches_a_task_that_slept_before_the_token_was_made() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let polled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&polled);
        let error = timeout_value(LONG, || {
            runtime.block_on(async {
                let sleeper = tokio::spawn(async move {
                    flag.store(true, SeqCst);
                    future::sleep(LONG).await
                });
                while !polled.load(SeqCst) {
                    tokio::task::yield_now().await;
                }
                let token = token();
                thread::spawn(move || token.cancel());
                sleeper.await.unwrap().unwrap_err()
            })
        })
        .unwrap();
        assert!(error.is_cancelled());
    });
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
fn the_hooks_of_a_finished_future_are_dead_though_it_is_not_dropped() {
    unhurried(|limit| {
        let fired = Count::default();
        let mut finished =
            pin!(future::timeout_value(limit, async { (on_cancel(fired.hook()), deadline()) }));
        let (_registration, deadline) = block_on(finished.as_mut()).unwrap();
        if fired.get() > 0 {
            return None;
        }
        wait_for("its deadline", || deadline.has_passed());
        let_the_watchdog_pass();
        assert_eq!(fired.get(), 0);
        Some(())
    });
}

#[test]
fn a_finished_future_has_left_its_quota_though_it_is_not_dropped() {
    let quota = Quota::new(LONG);
    let mut finished = pin!(future::timeout_value(&quota, async {}));
    block_on(finished.as_mut()).unwrap();
    let left = quota.remaining();
    thread::sleep(SHORT);
    assert_eq!(quota.remaining(), left);
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
fn a_future_may_be_linked_to_the_token_of_a_scope_within_it() {
    bounded(|| {
        let (send, tokens) = channel();
        let inner = future::timeout_value(LONG, async move {
            send.send(token()).unwrap();
            pending::<()>().await;
        });
        let mut inner = Box::pin(inner);
        assert!(poll_once(&mut inner).is_pending());
        let token = next(&tokens);
        let mut outer = Box::pin(Timebox::new(LONG).cancel_on(&token).run_future_value(inner));
        assert!(poll_once(&mut outer).is_pending());
        token.cancel();
        assert!(poll_once(&mut outer).is_ready());
    });
}

#[test]
fn a_future_may_be_polled_within_its_own_handle() {
    bounded(|| {
        let (send, handles) = channel();
        let mut task = Box::pin(future::timeout_value(LONG, async move {
            send.send(handle()).unwrap();
            pending::<()>().await;
        }));
        assert!(poll_once(&mut task).is_pending());
        next(&handles)
            .enter(LONG, |_| {
                assert!(poll_once(&mut task).is_pending());
                checkpoint()
            })
            .unwrap();
    });
}

/// What a waker does whenever it is cloned, woken or dropped.
struct Act(Box<dyn Fn() + Send + Sync>);

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        let act = ManuallyDrop::new(owned(data));
        (act.0)();
        raw_waker(Arc::clone(&act))
    },
    |data| (owned(data).0)(),
    |data| (ManuallyDrop::new(owned(data)).0)(),
    |data| (owned(data).0)(),
);

/// The `Act` of a raw waker; for the vtable only.
fn owned(data: *const ()) -> Arc<Act> {
    // SAFETY: the pointer is from `raw_waker`, and the vtable gives its count up once: where it does not own it, it
    // forgets the `Arc`.
    unsafe { Arc::from_raw(data.cast()) }
}

fn raw_waker(act: Arc<Act>) -> RawWaker {
    RawWaker::new(Arc::into_raw(act).cast(), &VTABLE)
}

/// `std::task::Wake` would not hear of a clone.
fn waker(act: impl Fn() + Send + Sync + 'static) -> Waker {
    let act = Arc::new(Act(Box::new(act)));
    // SAFETY: the vtable keeps the count of an `Arc` whose content is `Send + Sync`.
    unsafe { Waker::from_raw(raw_waker(act)) }
}

#[test]
fn a_waker_may_ask_the_token_it_waits_for_when_it_is_cloned_or_dropped() {
    bounded(|| {
        let token = CancellationToken::new();
        let asking = || {
            let token = token.clone();
            waker(move || drop(token.child_token()))
        };
        let mut cancelled = pin!(token.cancelled());
        for waker in [asking(), asking()] {
            assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    });
}

#[test]
fn a_waker_may_use_timers_when_it_is_cloned_or_dropped() {
    bounded(|| {
        let arming = || waker(|| assert!(poll_once(&mut Box::pin(future::sleep(LONG))).is_pending()));
        let mut sleep = pin!(future::sleep(LONG));
        for waker in [arming(), arming()] {
            assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    });
}

#[test]
fn a_waker_may_cancel_the_token_it_waits_for_and_the_one_above() {
    bounded(|| {
        let token = CancellationToken::new();
        let child = token.child_token();
        let family = [child.clone(), token.clone()];
        let waker = waker(move || {
            for token in &family {
                token.cancel();
            }
        });
        let mut cancelled = pin!(child.cancelled());
        let _ = cancelled.as_mut().poll(&mut Context::from_waker(&waker));
        token.cancel();
        assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    });
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

#[test]
fn a_sleep_polled_in_an_inner_scope_wakes_its_task_when_that_scope_is_gone() {
    bounded(|| {
        unhurried(|limit| {
            let start = Instant::now();
            let mut sleep = pin!(future::sleep(limit * 2));
            block_on(async {
                let first = poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context).is_pending()));
                if !future::timeout_value(limit, first).await.unwrap() {
                    return None;
                }
                // Not polled before it is due, so the waker it was given in the inner scope must do.
                poll_fn(|context| {
                    if start.elapsed() < limit * 2 {
                        return Poll::Pending;
                    }
                    sleep.as_mut().poll(context).map(Result::unwrap)
                })
                .await;
                Some(())
            })
        });
    });
}

/// Asks often enough to be unwound if that is possible.
struct UnwindsWhenDropped;

impl Drop for UnwindsWhenDropped {
    fn drop(&mut self) {
        for _ in 0..1000 {
            checkpoint_or_unwind();
        }
    }
}

#[test]
fn unwinding_in_the_drop_of_an_expired_future_does_not_hide_its_error() {
    let error = bounded(|| {
        let expired = future::timeout_value(SHORT, async {
            let _guard = UnwindsWhenDropped;
            pending::<()>().await;
        });
        block_on(expired).unwrap_err()
    });
    assert!(error.is_timeout());
    assert!(!error.settled());
}

#[test]
fn a_late_value_survives_unwinding_in_the_drop_of_its_future() {
    let value = bounded(|| {
        let guard = UnwindsWhenDropped;
        let late = poll_fn(move |_| {
            let _ = &guard;
            thread::sleep(SHORT);
            Poll::Ready(7)
        });
        block_on(future::timeout_value(SHORT, late)).unwrap()
    });
    assert_eq!(value, 7);
}

/// Runs its closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_hook_fires_for_a_future_run_in_a_destructor_during_a_panic() {
    let result = bounded(|| {
        let mut result = None;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _guard = OnDrop(|| {
                let stop = CancellationToken::new();
                let stopped = stop.clone().cancelled_owned();
                let call = future::interruptible(Hook::inline(move || stop.cancel()), async {
                    stopped.await;
                    Err::<(), _>("stopped")
                });
                // Only the hook ends it before the grace.
                result = Some(block_on(Timebox::new(SHORT).grace(LONG).run_future_value(call)));
            });
            resume_unwind(Box::new("a panic"));
        }));
        assert!(panicked.is_err());
        result.expect("the destructor ran")
    });
    assert!(result.unwrap().unwrap_err().is_timeout());
}
