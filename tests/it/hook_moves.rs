//! Hooks of futures that are polled in one scope after another.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use timebox::{CancellationToken, Hook, Timebox, TimeoutError, future};

use crate::support::{HANG, LONG, SHORT, bounded, let_the_watchdog_pass, next, wait_for};

/// Holds the watchdog in a hook until it is dropped, and each thread that takes over in another: what is due meanwhile stays
/// on its way, for some tenths of a second at least.
struct HeldWatchdog {
    release: mpsc::Sender<()>,
    _registrations: Vec<timebox::Registration>,
}

impl HeldWatchdog {
    fn new() -> Self {
        let ((release, released), (began, begins)) = (mpsc::channel::<()>(), mpsc::channel());
        let released = Arc::new(Mutex::new(released));
        let holds = |_| {
            let (began, released) = (began.clone(), Arc::clone(&released));
            let token = CancellationToken::new();
            let registration = token.on_cancel(Hook::inline(move || {
                let _ = began.send(());
                let _ = released.lock().unwrap().recv_timeout(HANG);
            }));
            token.cancel();
            registration
        };
        let registrations = (0..100).map(holds).collect();
        next(&begins);
        Self { release, _registrations: registrations }
    }

    fn release(self) {
        let Self { release, _registrations } = self;
        drop(release);
        let_the_watchdog_pass();
    }
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
    let (mut call, fired) = interrupted(|hook| hook);
    let held = HeldWatchdog::new();
    poll_and_cancel(call.as_mut());
    let mut scope = pin!(future::timeout_value(LONG, call.as_mut()));
    assert!(is_pending(scope.as_mut()));
    held.release();
    assert!(is_pending(scope.as_mut()));
    assert_eq!(fired.load(SeqCst), 0);
}

#[test]
fn a_hook_that_was_kept_from_firing_once_fires_in_the_next_scope_that_is_over() {
    let (mut call, fired) = interrupted(Hook::once);
    let held = HeldWatchdog::new();
    poll_and_cancel(call.as_mut());
    assert!(is_pending(call.as_mut()), "outside of every scope");
    held.release();
    assert_eq!(fired.load(SeqCst), 0);
    let token = CancellationToken::new();
    let mut scope = pin!(Timebox::new(LONG).cancel_on(&token).run_future_value(call.as_mut()));
    assert!(is_pending(scope.as_mut()));
    token.cancel();
    wait_for("the hook fires", || fired.load(SeqCst) == 1);
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
        let_the_watchdog_pass();
        assert_eq!(fired.load(SeqCst), before);
    });
}

#[test]
fn a_hook_that_has_fired_elsewhere_is_run_here_before_its_future_is_dropped() {
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
    assert!(is_pending(scope.as_mut()) && fired.load(SeqCst) == 1);
    held.release();
    assert!(bounded(|| pollster::block_on(scope).is_err()));
    assert_eq!(fired.load(SeqCst), 2);
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
