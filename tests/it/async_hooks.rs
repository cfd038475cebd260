//! Hooks of futures: they go with their future from scope to scope, and have run before it is dropped.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use pollster::block_on;
use timebox::{
    CancellationToken, Hook, Timebox, TimeoutError, deadline, future, on_cancel, timeout_value, token,
};

use crate::polled_in_wake::PolledInWake;
use crate::runtimes::one_thread;
use crate::support::{
    Count, HANG, HeldWatchdog, LONG, SHORT, again_until_held, bounded, counting, counting_on_a_runner,
    endless, let_the_watchdog_pass, next, poll_once, rounds, unhurried, wait_for,
};

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
        let runtime = one_thread().build().unwrap();
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

/// An error-prone call that never ends.
type Never = Result<(), String>;

/// With many hooks of either kind that count.
fn many_times(run: impl Fn(Hook<'static>, Arc<AtomicU32>) + Send + 'static) {
    bounded(move || {
        for make in [counting, counting_on_a_runner] {
            for _ in 0..rounds(50) {
                let (hook, fires) = make();
                run(hook, fires);
            }
        }
    });
}

#[test]
fn a_hook_runs_before_its_future_is_dropped_without_a_grace() {
    many_times(|hook, fires| {
        let again = Arc::clone(&fires);
        let begun = AtomicBool::new(false);
        let call = poll_fn(|_| {
            begun.store(true, SeqCst);
            Poll::<Never>::Pending
        });
        let query = async {
            let _registration = on_cancel(move || again.fetch_add(1, SeqCst));
            future::interruptible(hook.once(), call).await
        };
        let error = pollster::block_on(future::timeout_value(SHORT / 10, query)).unwrap_err();
        assert!(!error.settled());
        // On a busy machine it may be over before the call begins.
        assert_eq!(fires.load(SeqCst), 1 + u32::from(begun.load(SeqCst)));
    });
}

#[test]
fn a_hook_that_comes_to_a_scope_that_is_over_runs_before_its_future_is_dropped_there() {
    many_times(|hook, fires| {
        let mut call = Box::pin(future::interruptible(hook.once(), pending::<Never>()));
        timeout_value(LONG, || assert!(poll_once(&mut call).is_pending())).unwrap();
        let mut over = Box::pin(future::timeout_value(LONG, async move {
            token().cancel();
            call.await
        }));
        // Pending until the hook has run.
        assert!(pollster::block_on(&mut over).is_err());
        assert_eq!(fires.load(SeqCst), 1);
    });
}

#[test]
fn the_hooks_of_futures_within_run_too_and_on_no_thread_of_the_callers() {
    bounded(|| {
        let (ran, runs) = channel();
        let query = Box::pin(future::timeout(LONG, async move {
            let hook = Hook::new(move || ran.send(thread::current().id())).once();
            future::interruptible(hook, pending::<Never>()).await
        }));
        let token = CancellationToken::new();
        let by_hand = token.clone();
        let mut query = Box::pin(Timebox::new(LONG).cancel_on(&token).run_future(query));
        assert!(poll_once(&mut query).is_pending());
        by_hand.cancel();
        let error = pollster::block_on(&mut query).unwrap_err();
        assert!(error.is_cancelled());
        assert_ne!(runs.try_recv().unwrap(), thread::current().id());
    });
}

#[test]
fn a_task_polled_by_a_hook_on_the_watchdog_itself_waits_for_no_hook() {
    bounded(|| {
        unhurried(|limit| {
            let (hook, fires) = counting();
            let (done, end) = channel();
            // From its first poll on the watchdog wakes it, which polls it there.
            PolledInWake::start(async move {
                let call = future::interruptible(hook, pending::<Never>());
                let result = future::timeout_value(limit, call).await;
                done.send((result.is_err(), thread::current().id())).unwrap();
            });
            let (is_err, polled_on) = next(&end);
            assert!(is_err);
            // On a busy machine it may be over, and woken, within its first poll.
            (fires.load(SeqCst) >= 1 && polled_on != thread::current().id()).then_some(())
        });
    });
}

/// A foreign call that never ends, and how often its hook has fired.
fn interrupted(hook: impl FnOnce(Hook<'static>) -> Hook<'static>) -> (Pin<Box<impl Future>>, Arc<AtomicU32>) {
    let fired = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&fired);
    let hook = hook(Hook::inline(move || counts.fetch_add(1, SeqCst)));
    (Box::pin(future::interruptible(hook, pending::<Result<(), TimeoutError>>())), fired)
}

fn is_pending(future: Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Polls the call in a scope that is cancelled after that, and left.
fn poll_and_cancel(mut call: Pin<&mut impl Future>) {
    let token = CancellationToken::new();
    let mut scope = pin!(Timebox::new(LONG).cancel_on(&token).run_future_value(call.as_mut()));
    assert!(is_pending(scope.as_mut()));
    token.cancel();
}

#[test]
fn a_hook_on_its_way_does_not_fire_in_the_next_scope() {
    again_until_held(|| {
        let (mut call, fired) = interrupted(|hook| hook);
        let held = HeldWatchdog::new();
        poll_and_cancel(call.as_mut());
        let mut scope = pin!(future::timeout_value(LONG, call.as_mut()));
        assert!(is_pending(scope.as_mut()));
        held.release()?;
        assert!(is_pending(scope.as_mut()));
        assert_eq!(fired.load(SeqCst), 0);
        Some(())
    });
}

#[test]
fn a_hook_that_was_kept_from_firing_once_fires_in_the_next_scope_that_is_over() {
    again_until_held(|| {
        let (mut call, fired) = interrupted(Hook::once);
        let held = HeldWatchdog::new();
        poll_and_cancel(call.as_mut());
        assert!(is_pending(call.as_mut()), "outside of every scope");
        held.release()?;
        assert_eq!(fired.load(SeqCst), 0);
        let token = CancellationToken::new();
        let mut scope = pin!(Timebox::new(LONG).cancel_on(&token).run_future_value(call.as_mut()));
        assert!(is_pending(scope.as_mut()));
        token.cancel();
        wait_for("the hook fires", || fired.load(SeqCst) == 1);
        Some(())
    });
}

#[test]
fn a_hook_that_still_runs_for_the_scope_before_fires_for_this_one_afterwards() {
    let ((began, begins), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let hook = move || {
        let _ = began.send(());
        let _ = released.recv_timeout(HANG);
    };
    let mut call = Box::pin(future::interruptible(hook, pending::<Result<(), TimeoutError>>()));
    let [first, second] = [(); 2].map(|()| CancellationToken::new());
    let mut one = Box::pin(Timebox::new(LONG).cancel_on(&first).run_future_value(call.as_mut()));
    assert!(is_pending(one.as_mut()));
    first.cancel();
    next(&begins);
    // Without an end of that scope, which would wait for the hook.
    std::mem::forget(one);
    let mut two = pin!(Timebox::new(LONG).cancel_on(&second).run_future_value(call.as_mut()));
    assert!(is_pending(two.as_mut()));
    second.cancel();
    let_the_watchdog_pass();
    release.send(()).unwrap();
    next(&begins);
    release.send(()).unwrap();
}

#[test]
fn the_hook_of_a_call_that_panicked_has_ended() {
    let fired = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&fired);
    let hook = Hook::inline(move || counts.fetch_add(1, SeqCst));
    let panics = std::future::poll_fn(|_| -> Poll<Result<(), TimeoutError>> {
        panic!("the call of a test panics, as it should")
    });
    let mut call = Box::pin(future::interruptible(hook, panics));
    timebox::with_timeout(LONG, |scope| {
        let poll = AssertUnwindSafe(|| is_pending(call.as_mut()));
        assert!(catch_unwind(poll).is_err());
        scope.token().cancel();
        let_the_watchdog_pass();
        assert_eq!(fired.load(SeqCst), 0);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_future_that_is_over_does_not_wait_for_a_hook_that_was_carried_away() {
    let (call, fired) = interrupted(|hook| hook);
    let lent = Mutex::new(Some(call));
    let held = HeldWatchdog::new();
    let token = CancellationToken::new();
    let ((waited, waits), (ended, ends)) = (mpsc::channel(), mpsc::channel());
    thread::scope(|threads| {
        threads.spawn(|| {
            let body = poll_fn(|cx| {
                if let Some(call) = lent.lock().unwrap().as_mut() {
                    assert!(call.as_mut().poll(cx).is_pending());
                }
                Poll::<()>::Pending
            });
            let mut scope = pin!(Timebox::new(LONG).cancel_on(&token).run_future_value(body));
            assert!(is_pending(scope.as_mut()));
            token.cancel();
            // It waits for the hook, unless what holds the watchdog up has done so for too short a while.
            let waits = is_pending(scope.as_mut());
            let _ = waited.send(());
            let _ = ended.send(!waits || pollster::block_on(scope).is_err());
        });
        next(&waits);
        let mut call = lent.lock().unwrap().take().unwrap();
        assert!(is_pending(call.as_mut()), "outside of every scope");
        assert!(next(&ends), "it waits for a hook that has left it");
        // It may have fired before that, since what holds the watchdog up does so only for a while.
        let before = fired.load(SeqCst);
        held.release();
        assert_eq!(fired.load(SeqCst), before);
    });
}

#[test]
fn a_hook_that_has_fired_elsewhere_is_run_here_before_its_future_is_dropped() {
    again_until_held(|| {
        let (mut call, fired) = interrupted(|hook| hook.every(LONG));
        let token = CancellationToken::new();
        {
            let mut scope = pin!(Timebox::new(LONG).cancel_on(&token).run_future_value(call.as_mut()));
            assert!(is_pending(scope.as_mut()));
            token.cancel();
            wait_for("the hook fires", || fired.load(SeqCst) == 1);
        }
        let held = HeldWatchdog::new();
        let token = CancellationToken::new();
        let mut scope = Box::pin(Timebox::new(LONG).cancel_on(&token).run_future_value(call));
        assert!(is_pending(scope.as_mut()));
        token.cancel();
        // Until the watchdog is there to run the hook.
        let waits = is_pending(scope.as_mut()) && fired.load(SeqCst) == 1;
        held.release()?;
        assert!(waits);
        assert!(bounded(|| pollster::block_on(scope).is_err()));
        assert_eq!(fired.load(SeqCst), 2);
        Some(())
    });
}

#[test]
fn a_hook_that_hangs_since_the_scope_before_escalates_here() {
    let ((began, begins), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let (kill, killed) = mpsc::channel();
    let hook = Hook::new(move || {
        let _ = began.send(());
        let _ = released.recv_timeout(HANG);
    });
    let hook = hook.then(SHORT, move || kill.send(()));
    let call = RefCell::new(Box::pin(future::interruptible(hook, pending::<Result<(), TimeoutError>>())));
    let polled_in_a_scope = || {
        let token = CancellationToken::new();
        let call = poll_fn(|cx| call.borrow_mut().as_mut().poll(cx));
        let mut scope = Box::pin(Timebox::new(LONG).grace(LONG).cancel_on(&token).run_future_value(call));
        assert!(is_pending(scope.as_mut()));
        token.cancel();
        scope
    };
    // It stays open: leaving it would wait for the hook.
    let _before = polled_in_a_scope();
    next(&begins);
    let _here = polled_in_a_scope();
    // On a slow machine it has escalated there already; from here on only for the next.
    while killed.try_recv().is_ok() {}
    next(&killed);
    drop(release);
}
