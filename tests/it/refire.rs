//! Firing again, escalating, and firing once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use timebox::{Hook, Outcome, TimeoutError, interruptible_outcome, with_timeout};

use crate::support::{LONG, bounded, let_the_watchdog_pass, next, rounds, unhurried, wait_for};

/// Short enough to wait for.
const A_WHILE: Duration = Duration::from_millis(20);

/// Makes a call whose scope is cancelled as soon as the call has begun.
fn interrupted<'h, R>(hook: impl Into<Hook<'h>>, call: impl FnOnce() -> R) -> Outcome<R> {
    let outcome = with_timeout(LONG, |scope| {
        scope.interruptible_outcome(hook, || {
            scope.token().cancel();
            call()
        })
    });
    outcome.unwrap()
}

#[test]
fn an_interruptible_fires_again_until_the_call_returns() {
    bounded(|| {
        for inline in [true, false] {
            let count = AtomicU32::new(0);
            let hook = || count.fetch_add(1, SeqCst);
            let hook = if inline { Hook::inline(hook) } else { Hook::new(hook) };
            let outcome = interrupted(hook, || wait_for("the fifth firing", || count.load(SeqCst) >= 5));
            assert!(outcome.fires >= 5);
            assert_eq!(outcome.fires, count.load(SeqCst));
        }
    });
}

#[test]
fn it_fires_from_the_deadline_on() {
    bounded(|| {
        unhurried(|limit| {
            let count = AtomicU32::new(0);
            let start = Instant::now();
            let hook = Hook::inline(|| count.fetch_add(1, SeqCst));
            let call = || {
                wait_for("a firing", || count.load(SeqCst) >= 1);
                assert!(start.elapsed() >= limit);
                wait_for("the third", || count.load(SeqCst) >= 3);
            };
            // Not made at all if the machine was too busy.
            with_timeout(limit, |scope| scope.interruptible_outcome(hook, call)).ok().map(drop)
        });
    });
}

#[test]
fn by_default_the_pauses_between_firings_double() {
    bounded(|| {
        let times = Mutex::new(Vec::new());
        let hook = Hook::inline(|| times.lock().unwrap().push(Instant::now()));
        interrupted(hook, || wait_for("the sixth firing", || times.lock().unwrap().len() >= 6));
        let times = times.into_inner().unwrap();
        // 0.5 + 1 + 2 + 4 + 8 ms from the first to the sixth, of which the first firing may have started a little
        // before it was written down; a busy machine makes it longer.
        assert!(times[5] - times[0] >= Duration::from_millis(10), "{times:?}");
    });
}

#[test]
fn every_sets_the_pause() {
    bounded(|| {
        let count = AtomicU32::new(0);
        let start = Instant::now();
        let hook = Hook::inline(|| count.fetch_add(1, SeqCst)).every(Duration::from_millis(1));
        interrupted(hook, || wait_for("20 firings", || count.load(SeqCst) >= 20));
        assert!(start.elapsed() >= Duration::from_millis(19));
    });
}

#[test]
fn every_makes_on_cancel_repeat() {
    bounded(|| {
        with_timeout(LONG, |scope| {
            let (fired, wait) = channel();
            let hook = Hook::inline(move || fired.send(()).unwrap()).every(Duration::from_millis(1));
            let _registration = scope.on_cancel(hook);
            scope.token().cancel();
            (0..5).for_each(|_| next(&wait));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_hook_that_never_fired_counts_none() {
    let Outcome { value, fires, .. } = interruptible_outcome(|| (), || 7).unwrap();
    assert_eq!((value, fires), (7, 0));
    let outcome = with_timeout(LONG, |scope| scope.interruptible_outcome(|| (), || 7)).unwrap();
    assert_eq!((outcome.value, outcome.fires), (7, 0));
}

#[test]
fn a_call_that_does_not_return_is_escalated() {
    bounded(|| {
        unhurried(|a_while| {
            let (soft, hard) = (Mutex::new(None), Mutex::new(None));
            let hook = Hook::new(|| *soft.lock().unwrap() = Some(Instant::now()))
                .once()
                .then(a_while, || _ = hard.lock().unwrap().get_or_insert_with(Instant::now));
            let outcome = interrupted(hook, || wait_for("escalation", || hard.lock().unwrap().is_some()));
            assert!(outcome.fires >= 2);
            let [soft, hard] = [soft, hard].map(|time| time.into_inner().unwrap().unwrap());
            // On a busy machine the runner of the first may be the later one.
            (soft < hard).then_some(())
        });
    });
}

#[test]
fn escalation_does_not_come_early() {
    bounded(|| {
        let start = Instant::now();
        let hard = AtomicBool::new(false);
        interrupted(Hook::inline(|| ()).then(A_WHILE, || hard.store(true, SeqCst)), || {
            wait_for("escalation", || hard.load(SeqCst));
        });
        assert!(start.elapsed() >= A_WHILE);
    });
}

#[test]
fn escalation_comes_while_the_first_hook_still_runs() {
    bounded(|| {
        unhurried(|a_while| {
            let (killed, wait) = channel();
            let (returned, call) = channel();
            let still_running = &AtomicBool::new(false);
            let escalated_meanwhile = AtomicBool::new(false);
            let hook = Hook::new(move || {
                still_running.store(true, SeqCst);
                // The polite request hangs until the harsh one has been made.
                next(&wait);
                still_running.store(false, SeqCst);
            });
            let harsh = Hook::new(|| {
                escalated_meanwhile.store(still_running.load(SeqCst), SeqCst);
                killed.send(()).unwrap();
                returned.send(()).unwrap();
            });
            interrupted(hook.once().then(a_while, harsh.once()), || next(&call));
            // On a busy machine the runner of the first may be the later one.
            escalated_meanwhile.load(SeqCst).then_some(())
        });
    });
}

#[test]
fn escalation_may_have_many_steps() {
    bounded(|| {
        unhurried(|a_while| {
            let steps = Mutex::new(Vec::new());
            let step = |name| {
                let steps = &steps;
                Hook::new(move || steps.lock().unwrap().push(name)).once()
            };
            let hook = step("ask").then(a_while, step("insist").then(a_while, step("kill")));
            interrupted(hook, || wait_for("all steps", || steps.lock().unwrap().len() == 3));
            // On a busy machine the runner of one may be later than that of the next.
            (*steps.lock().unwrap() == ["ask", "insist", "kill"]).then_some(())
        });
    });
}

#[test]
fn a_call_that_returns_in_time_is_not_escalated() {
    bounded(|| {
        let (asked, wait) = channel();
        let escalated = AtomicBool::new(false);
        let ask = Hook::new(move || asked.send(()).unwrap()).once();
        interrupted(ask.then(LONG, || escalated.store(true, SeqCst)), || next(&wait));
        let_the_watchdog_pass();
        assert!(!escalated.load(SeqCst));
    });
}

#[test]
fn a_first_hook_that_panicked_is_escalated_all_the_same() {
    bounded(|| {
        let escalated = AtomicBool::new(false);
        let bad = Hook::new(|| panic!("a hook of the test panics, as it should"));
        interrupted(bad.then(Duration::from_millis(2), || escalated.store(true, SeqCst)), || {
            wait_for("escalation", || escalated.load(SeqCst));
        });
    });
}

#[test]
fn a_hook_is_never_late_however_close_the_race() {
    bounded(|| {
        let late = AtomicU32::new(0);
        for round in 0..u64::from(rounds(2000)) {
            // On this stack, as is what the hook looks at: it must not be looked at afterwards.
            let in_the_call = AtomicBool::new(true);
            let look = || {
                late.fetch_add(u32::from(!in_the_call.load(SeqCst)), SeqCst);
            };
            let hook = if round % 2 == 0 { Hook::inline(look) } else { Hook::new(look) };
            let limit = Duration::from_micros(round * 7919 % 200);
            let _ = with_timeout(limit, |scope| {
                scope.interruptible_outcome(hook.every(Duration::ZERO), || {
                    while !scope.deadline().has_passed() {
                        std::hint::spin_loop();
                    }
                })
            });
            in_the_call.store(false, SeqCst);
        }
        assert_eq!(late.load(SeqCst), 0);
    });
}

#[test]
fn an_interrupt_that_comes_too_early_is_made_again() {
    bounded(|| {
        let waiting = AtomicBool::new(false);
        let stopped = AtomicBool::new(false);
        let early = AtomicBool::new(false);
        // As databases do: an interrupt is lost while nothing runs that it could stop.
        let interrupt = || {
            if waiting.load(SeqCst) {
                stopped.store(true, SeqCst);
            } else {
                early.store(true, SeqCst);
            }
        };
        interrupted(interrupt, || {
            wait_for("the interrupt that is lost", || early.load(SeqCst));
            waiting.store(true, SeqCst);
            wait_for("the next one", || stopped.load(SeqCst));
        });
    });
}
