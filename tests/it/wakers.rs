//! Wakers: the last one is woken, and each may panic, use the crate, or run its task.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use timebox::{CancellationToken, Deadline, deadline, future, with_timeout};

use crate::support::{
    LONG, SHORT, bounded, let_the_watchdog_pass, next, poll_once, poll_with, unhurried, wait_for, waker,
};

#[test]
fn the_task_that_polled_last_is_woken() {
    #[derive(Default)]
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    unhurried(|limit| {
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut bounded = Box::pin(future::timeout_value(limit, pending::<()>()));
        for count in [&first, &last] {
            let waker = Waker::from(Arc::clone(count));
            if bounded.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return None;
            }
        }
        wait_for("the wake", || last.0.load(SeqCst) > 0);
        drop(bounded);
        wait_for("the end of both wakers", || {
            Arc::strong_count(&first) == 1 && Arc::strong_count(&last) == 1
        });
        Some(())
    });
}

#[test]
fn a_panicking_waker_stops_neither_the_watchdog_nor_another_future() {
    bounded(|| {
        unhurried(|limit| {
            let (woken, wait) = channel::<()>();
            let woken = Mutex::new(woken);
            let mut bad = Box::pin(future::timeout_value(limit, pending::<()>()));
            let polled = poll_with(&mut bad, move || {
                woken.lock().unwrap().send(()).unwrap();
                panic!("a waker of the test panics, as it should");
            });
            if polled.is_ready() {
                return None;
            }
            next(&wait);
            pollster::block_on(future::timeout_value(SHORT, pending::<()>())).unwrap_err();
            let_the_watchdog_pass();
            assert!(poll_with(&mut bad, || ()).is_ready());
            Some(())
        });
    });
}

#[test]
fn a_waker_that_panics_in_cancel_does_not_reach_the_canceller() {
    bounded(|| {
        let token = CancellationToken::new();
        let (woken, wait) = channel();
        let woken = Mutex::new(woken);
        let mut bad = Box::pin(token.clone().cancelled_owned());
        let polled = poll_with(&mut bad, move || {
            woken.lock().unwrap().send(()).unwrap();
            panic!("a waker of the test panics, as it should");
        });
        assert!(polled.is_pending());
        assert!(token.cancel_with("first"));
        next(&wait);
        assert!(poll_with(&mut bad, || ()).is_ready());
    });
}

/// Sends what is ambient where it is woken.
fn report(to: Sender<Deadline>) -> impl Fn() + Send + Sync + 'static {
    let to = Mutex::new(to);
    move || to.lock().unwrap().send(deadline()).unwrap()
}

#[test]
fn a_task_run_inside_its_waker_sees_no_ambient_scope() {
    bounded(|| {
        // Woken by the watchdog ...
        let (seen, wait) = channel();
        let mut expiring = Box::pin(future::timeout_value(SHORT, pending::<()>()));
        if poll_with(&mut expiring, report(seen)).is_pending() {
            assert_eq!(next(&wait), Deadline::NEVER);
        }
        // ... and by a cancel inside a scope, wherever that wakes it.
        with_timeout(LONG, |scope| {
            let token = CancellationToken::new();
            let (seen, wait) = channel();
            let mut waiting = Box::pin(token.clone().cancelled_owned());
            assert!(poll_with(&mut waiting, report(seen)).is_pending());
            token.cancel();
            assert_eq!(next(&wait), Deadline::NEVER);
            assert_ne!(scope.deadline(), Deadline::NEVER);
            scope.checkpoint()
        })
        .unwrap();
    });
}

#[test]
fn a_waker_may_drop_its_own_future() {
    bounded(|| {
        let slot: Arc<Mutex<Option<_>>> = Arc::default();
        let (done, wait) = channel();
        let done = Mutex::new(done);
        let inside = Arc::clone(&slot);
        let mut bounded = Box::pin(future::timeout_value(SHORT, pending::<()>()));
        let mut keep = slot.lock().unwrap();
        let polled = poll_with(&mut bounded, move || {
            let future = inside.lock().unwrap().take();
            drop::<Option<std::pin::Pin<Box<dyn Future<Output = _> + Send>>>>(future);
            done.lock().unwrap().send(()).unwrap();
        });
        if polled.is_pending() {
            *keep = Some(bounded as _);
            drop(keep);
            next(&wait);
            let_the_watchdog_pass();
        }
    });
}

#[test]
fn a_future_that_is_ready_at_once_leaves_no_waker_behind() {
    let woken = Arc::new(AtomicBool::new(false));
    for limit in [SHORT, LONG] {
        let flag = Arc::clone(&woken);
        let mut ready = Box::pin(future::timeout_value(limit, async { 7 }));
        assert!(poll_with(&mut ready, move || flag.store(true, SeqCst)).is_ready());
        wait_for("the waker's end", || Arc::strong_count(&woken) == 1);
    }
    assert!(!woken.load(SeqCst));
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
