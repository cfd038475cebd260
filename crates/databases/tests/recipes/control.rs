//! Tests of the control connection, without a server. No caller waits longer than the bound, however many callers wait.
//! After failures, the pauses between attempts to connect grow.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::recipes::control::{Control, Failure};
use crate::support::{AnyError, HANG, wait_until};

/// The time that each hanging action takes. If the 100 actions of the first test hung one after the other, the test
/// would take far longer than `HANG`, and fail.
const BOUND: Duration = Duration::from_secs(4);

#[test]
fn the_bound_is_one_for_all_who_wait_for_a_connection_that_hangs() {
    const CALLS: usize = 100;
    let control = Control::new(BOUND, |_| Ok(()), |()| true).unwrap();
    let start = Barrier::new(CALLS);
    thread::scope(|threads| {
        for _ in 0..CALLS {
            threads.spawn(|| {
                start.wait();
                let start = Instant::now();
                let hangs = |(): &mut (), left| {
                    thread::sleep(left);
                    Err(Failure::Unanswered("silence".into()))
                };
                assert!(control.run(hangs).is_err());
                assert!(start.elapsed() < HANG);
            });
        }
    });
}

#[test]
fn what_waited_too_long_for_the_connection_is_not_done() {
    let control = Control::new(Duration::from_millis(20), |_| Ok(()), |()| true).unwrap();
    let (is_in_use, others_failed) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|threads| {
        threads.spawn(|| {
            control.run(|(), _| {
                is_in_use.store(true, SeqCst);
                wait_until(|| others_failed.load(SeqCst));
                Ok(())
            })
        });
        wait_until(|| is_in_use.load(SeqCst));
        let result = control.run(|(), _| panic!("its time is over"));
        assert!(matches!(result, Err(Failure::Refused(_))));
        others_failed.store(true, SeqCst);
    });
    control.run(|(), _| Ok(())).unwrap();
}

#[test]
fn failures_back_off_and_a_success_ends_that() {
    let (attempts, works) = (AtomicU32::new(0), AtomicBool::new(true));
    let (attempts, works): (&'static AtomicU32, &'static AtomicBool) =
        (Box::leak(Box::new(attempts)), Box::leak(Box::new(works)));
    let connect = |_| {
        attempts.fetch_add(1, SeqCst);
        if works.load(SeqCst) { Ok(()) } else { Err(AnyError::from("full")) }
    };
    let control = Control::new(BOUND, connect, |()| true).unwrap();
    for _ in 0..2 {
        works.store(false, SeqCst);
        assert!(control.run(|(), _| Err(Failure::Unanswered("lost".into()))).is_err());
        let (before, start) = (attempts.load(SeqCst), Instant::now());
        let mut tries = 0;
        while start.elapsed() < Duration::from_millis(300) {
            let failure = control.run(|(), _| Ok(())).unwrap_err();
            assert!(matches!(failure, Failure::Refused(_)), "{failure}");
            tries += 1;
        }
        let made = attempts.load(SeqCst) - before;
        // The pauses between attempts are 10, 20, 40, 80, 160 ms, and so on. So only a few attempts fit into 300 ms,
        // and fewer on a busy machine.
        assert!((1..=10).contains(&made) && tries > made, "{made} of {tries}");
        works.store(true, SeqCst);
        wait_until(|| control.run(|(), _| Ok(())).is_ok());
    }
}

/// A cancel that is sent over a lost connection gets no answer. Then the statement's connection would be shut down,
/// because nobody knows whether the cancel still arrives.
#[test]
fn over_a_connection_that_was_lost_while_idle_nothing_is_sent() {
    let control = Control::new(BOUND, |_| Ok(AtomicBool::new(true)), |open| open.load(SeqCst)).unwrap();
    control
        .run(|open, _| {
            open.store(false, SeqCst);
            Ok(())
        })
        .unwrap();
    control
        .run(|open, _| {
            assert!(open.load(SeqCst));
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_action_that_panics_loses_the_connection_and_not_the_control() {
    let control = Control::new(BOUND, |_| Ok(()), |()| true).unwrap();
    let panics = || control.run(|(), _| panic!("in the client library"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    wait_until(|| control.run(|(), _| Ok(())).is_ok());
}
