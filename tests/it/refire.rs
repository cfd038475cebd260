//! Firing again, escalating, and firing once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use timebox::{Hook, Outcome, TimeoutError, interruptible, interruptible_outcome, with_timeout};

use crate::support::{LONG, SHORT, bounded, let_the_watchdog_pass, next, wait_for};

/// Long enough for several firings, short enough to wait for.
const A_WHILE: Duration = Duration::from_millis(20);

#[test]
fn an_interruptible_fires_again_until_the_call_returns() {
    bounded(|| {
        for inline in [true, false] {
            let count = AtomicU32::new(0);
            let hook = || count.fetch_add(1, SeqCst);
            let hook = if inline { Hook::inline(hook) } else { Hook::new(hook) };
            let outcome = with_timeout(SHORT, |scope| {
                scope.interruptible_outcome(hook, || wait_for("the fifth firing", || count.load(SeqCst) >= 5))
            })
            .unwrap();
            assert!(outcome.fires >= 5);
            assert_eq!(outcome.fires, count.load(SeqCst));
        }
    });
}

#[test]
fn by_default_the_pauses_between_firings_double() {
    bounded(|| {
        let times = Mutex::new(Vec::new());
        with_timeout(SHORT, |scope| {
            let hook = Hook::inline(|| times.lock().unwrap().push(Instant::now()));
            scope.interruptible_outcome(hook, || {
                wait_for("the sixth firing", || times.lock().unwrap().len() >= 6);
            })
        })
        .unwrap();
        let times = times.into_inner().unwrap();
        // 0.5 + 1 + 2 + 4 + 8 ms from the first to the sixth; a busy machine makes it longer, never shorter.
        assert!(times[5] - times[0] >= Duration::from_millis(14), "{times:?}");
    });
}

#[test]
fn every_sets_the_pause() {
    bounded(|| {
        let count = AtomicU32::new(0);
        let start = Instant::now();
        with_timeout(Duration::from_millis(1), |scope| {
            let hook = Hook::inline(|| count.fetch_add(1, SeqCst)).every(Duration::from_millis(1));
            scope.interruptible_outcome(hook, || wait_for("20 firings", || count.load(SeqCst) >= 20))
        })
        .unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19));
    });
}

#[test]
fn every_makes_on_cancel_repeat() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let hook = Hook::inline(move || fired.send(()).unwrap()).every(Duration::from_millis(1));
            let _registration = scope.on_cancel(hook);
            (0..5).for_each(|_| next(&wait));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn once_fires_once() {
    bounded(|| {
        let count = AtomicU32::new(0);
        let outcome = with_timeout(SHORT, |scope| {
            scope.interruptible_outcome(Hook::inline(|| count.fetch_add(1, SeqCst)).once(), || {
                wait_for("the firing", || count.load(SeqCst) > 0);
                std::thread::sleep(A_WHILE);
                let_the_watchdog_pass();
            })
        })
        .unwrap();
        assert_eq!((outcome.fires, count.load(SeqCst)), (1, 1));
    });
}

#[test]
fn a_hook_that_never_fired_counts_none() {
    let Outcome { value, fires } = interruptible_outcome(|| (), || 7).unwrap();
    assert_eq!((value, fires), (7, 0));
    let outcome = with_timeout(LONG, |scope| scope.interruptible_outcome(|| (), || 7)).unwrap();
    assert_eq!((outcome.value, outcome.fires), (7, 0));
}

#[test]
fn a_call_that_does_not_return_is_escalated() {
    bounded(|| {
        let (soft, hard) = (Mutex::new(None), Mutex::new(None));
        let outcome = with_timeout(SHORT, |scope| {
            let hook = Hook::new(|| *soft.lock().unwrap() = Some(Instant::now()))
                .once()
                .then(A_WHILE, || *hard.lock().unwrap() = Some(Instant::now()));
            scope.interruptible_outcome(hook, || wait_for("escalation", || hard.lock().unwrap().is_some()))
        })
        .unwrap();
        assert!(outcome.fires >= 2);
        let (soft, hard) = (soft.into_inner().unwrap().unwrap(), hard.into_inner().unwrap().unwrap());
        // Counted from the firing, of which the hook itself sees a little more than the start.
        assert!(hard + Duration::from_millis(5) >= soft + A_WHILE);
    });
}

#[test]
fn escalation_comes_while_the_first_hook_still_runs() {
    bounded(|| {
        let (killed, wait) = channel();
        let (returned, call) = channel();
        let still_running = AtomicBool::new(false);
        let escalated_meanwhile = AtomicBool::new(false);
        with_timeout(SHORT, |scope| {
            let hook = Hook::new(|| {
                still_running.store(true, SeqCst);
                // The polite request hangs until the harsh one has been made.
                next(&wait);
                still_running.store(false, SeqCst);
            })
            .once()
            .then(
                Duration::from_millis(2),
                Hook::new(|| {
                    escalated_meanwhile.store(still_running.load(SeqCst), SeqCst);
                    killed.send(()).unwrap();
                    returned.send(()).unwrap();
                })
                .once(),
            );
            interruptible(hook, || call.recv().map_err(|error| error.to_string())).map(drop)
        })
        .unwrap();
        assert!(escalated_meanwhile.load(SeqCst));
    });
}

#[test]
fn escalation_may_have_many_steps() {
    bounded(|| {
        let steps = Mutex::new(Vec::new());
        let step = |name| {
            let steps = &steps;
            Hook::new(move || steps.lock().unwrap().push(name)).once()
        };
        with_timeout(SHORT, |scope| {
            let hook = step("ask").then(
                Duration::from_millis(2),
                step("insist").then(Duration::from_millis(2), step("kill")),
            );
            scope.interruptible_outcome(hook, || wait_for("all steps", || steps.lock().unwrap().len() == 3))
        })
        .unwrap();
        assert_eq!(*steps.lock().unwrap(), ["ask", "insist", "kill"]);
    });
}

#[test]
fn a_call_that_returns_in_time_is_not_escalated() {
    bounded(|| {
        let (asked, wait) = channel();
        let escalated = AtomicBool::new(false);
        with_timeout(SHORT, |scope| {
            let hook = Hook::new(move || asked.send(()).unwrap()).once().then(LONG, || escalated.store(true, SeqCst));
            interruptible(hook, || {
                next(&wait);
                Ok::<_, String>(())
            })
            .map(drop)?;
            scope.checkpoint()
        })
        .unwrap_err();
        assert!(!escalated.load(SeqCst));
    });
}

#[test]
fn a_first_hook_that_panicked_is_escalated_all_the_same() {
    bounded(|| {
        let escalated = AtomicBool::new(false);
        with_timeout(SHORT, |scope| {
            let hook = Hook::new(|| panic!("a hook of the test panics, as it should"))
                .then(Duration::from_millis(2), || escalated.store(true, SeqCst));
            scope.interruptible_outcome(hook, || wait_for("escalation", || escalated.load(SeqCst)))
        })
        .unwrap();
    });
}

#[test]
fn an_interrupt_that_comes_too_early_is_made_again() {
    // The prototype of a lost interrupt: it does nothing unless the call has begun to wait.
    bounded(|| {
        let waiting = AtomicBool::new(false);
        let stopped = AtomicBool::new(false);
        let early = AtomicBool::new(false);
        let error = with_timeout(SHORT, |scope| {
            let interrupt = || {
                if waiting.load(SeqCst) {
                    stopped.store(true, SeqCst);
                } else {
                    early.store(true, SeqCst);
                }
            };
            scope.interruptible(interrupt, || {
                wait_for("the interrupt that is lost", || early.load(SeqCst));
                waiting.store(true, SeqCst);
                wait_for("the next one", || stopped.load(SeqCst));
                Err::<(), _>("interrupted")
            })
        })
        .unwrap_err();
        assert!(error.is_timeout());
    });
}
