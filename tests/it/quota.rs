//! Quotas: one budget of time, spent by whoever is inside.

use std::panic::catch_unwind;
use std::pin::pin;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use pollster::block_on;
use timebox::{
    Cause, Limit, Quota, Timebox, TimeoutError, checkpoint, deadline, future, sleep, timeout, with_timeout,
};

use crate::support::{LONG, SHORT, outlast};

/// Stays inside the quota for at least this long.
fn spend(quota: &Quota, time: Duration) -> timebox::Result<()> {
    quota.timeout(|| sleep(time))
}

#[test]
fn time_inside_is_spent_and_time_between_is_not() {
    let quota = Quota::new(LONG);
    assert_eq!(quota.remaining(), LONG);
    spend(&quota, SHORT).unwrap();
    let left = quota.remaining();
    assert!(left + SHORT <= LONG);
    thread::sleep(SHORT);
    assert_eq!(quota.remaining(), left);
    assert!(!quota.is_exhausted());
}

#[test]
fn what_is_spent_is_no_more_than_was_spent() {
    let quota = Quota::new(LONG);
    let start = Instant::now();
    for _ in 0..10 {
        spend(&quota, Duration::from_millis(1)).unwrap();
    }
    let (left, passed) = (quota.remaining(), start.elapsed());
    assert!(left + passed >= LONG);
    assert!(left + Duration::from_millis(10) <= LONG);
}

#[test]
fn a_loop_is_stopped_by_its_quota() {
    let quota = Quota::new(SHORT);
    let start = Instant::now();
    let error = loop {
        if let Err(error) = spend(&quota, Duration::from_millis(1)) {
            break error;
        }
    };
    assert_eq!(error.cause(), Cause::Quota);
    assert!(error.is_timeout());
    assert!(start.elapsed() >= SHORT);
    assert!(quota.is_exhausted());
    assert_eq!(quota.remaining(), Duration::ZERO);
}

#[test]
fn a_spent_quota_starts_nothing() {
    let quota = Quota::new(SHORT);
    spend(&quota, LONG).unwrap_err();
    for limit in [Limit::from(&quota), Limit::from(Some(&quota))] {
        let error = timeout(limit, || -> timebox::Result<()> { unreachable!("not run") }).unwrap_err();
        assert_eq!((error.cause(), error.started()), (Cause::Quota, false));
    }
    let error = quota.timeout(|| -> timebox::Result<()> { unreachable!("not run") }).unwrap_err();
    assert_eq!((error.cause(), error.started()), (Cause::Quota, false));
}

#[test]
fn a_quota_of_nothing_is_spent_and_an_endless_one_never_is() {
    let none = Quota::new(Duration::ZERO);
    assert!(none.is_exhausted());
    let endless = Quota::new(Duration::MAX);
    for _ in 0..3 {
        let left = endless.timeout(|| Ok::<_, TimeoutError>(timebox::remaining()));
        assert_eq!(left.unwrap(), None);
        assert!(!endless.is_exhausted());
    }
}

#[test]
fn nested_entrants_share_one_deadline() {
    let quota = Quota::new(LONG);
    with_timeout(&quota, |outer| {
        with_timeout(&quota, |inner| {
            assert_eq!(inner.deadline(), outer.deadline());
            sleep(SHORT)
        })
    })
    .unwrap();
    // Counted once, although two were inside.
    let start = Instant::now();
    let before = quota.remaining();
    quota.timeout(|| quota.timeout(|| quota.timeout(|| sleep(SHORT)))).unwrap();
    assert!(quota.remaining() + start.elapsed() >= before);
}

#[test]
fn concurrent_entrants_share_one_deadline_and_pay_once() {
    let quota = Quota::new(LONG);
    let start = Instant::now();
    let together = Barrier::new(4);
    let deadlines: Vec<_> = thread::scope(|threads| {
        let entrant = || {
            let quota = quota.clone();
            quota.timeout(|| {
                together.wait();
                sleep(SHORT)?;
                let deadline = deadline();
                together.wait();
                Ok::<_, TimeoutError>(deadline)
            })
        };
        let entrants: Vec<_> = (0..4).map(|_| threads.spawn(entrant)).collect();
        entrants.into_iter().map(|entrant| entrant.join().unwrap().unwrap()).collect()
    });
    assert!(deadlines.windows(2).all(|pair| pair[0] == pair[1]));
    let left = quota.remaining();
    assert!(left + SHORT <= LONG);
    assert!(left + start.elapsed() >= LONG);
}

#[test]
fn the_last_to_leave_banks_what_is_left() {
    let quota = Quota::new(LONG);
    let other = quota.clone();
    let (in_or_out, step) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|threads| {
        threads.spawn(|| {
            other
                .timeout(|| {
                    in_or_out.wait();
                    step.wait();
                    // The first has left by now, and time still runs.
                    let before = other.remaining();
                    sleep(SHORT)?;
                    assert!(other.remaining() <= before.saturating_sub(SHORT));
                    Ok::<_, TimeoutError>(())
                })
                .unwrap();
        });
        quota
            .timeout(|| {
                in_or_out.wait();
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
        step.wait();
    });
    let left = quota.remaining();
    thread::sleep(Duration::from_millis(2));
    assert_eq!(quota.remaining(), left);
}

#[test]
fn an_earlier_deadline_around_a_quota_holds() {
    let quota = Quota::new(LONG);
    let error = with_timeout(SHORT, |outer| {
        let error = quota.timeout(|| sleep(LONG)).unwrap_err();
        assert_eq!((error.scope(), error.cause()), (outer.id(), Cause::Deadline));
        Err::<(), _>(error)
    })
    .unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
    assert!(!quota.is_exhausted());
}

#[test]
fn a_shorter_limit_inside_a_quota_holds() {
    let quota = Quota::new(LONG);
    quota
        .timeout(|| {
            let error = timeout(SHORT, || sleep(LONG)).unwrap_err();
            assert_eq!(error.cause(), Cause::Deadline);
            checkpoint()
        })
        .unwrap();
}

#[test]
fn a_panic_inside_banks_what_is_left() {
    let quota = Quota::new(LONG);
    let inside = quota.clone();
    catch_unwind(move || {
        let _ =
            inside.timeout(|| -> timebox::Result<()> { panic!("a body of the test panics, as it should") });
    })
    .unwrap_err();
    let left = quota.remaining();
    thread::sleep(Duration::from_millis(2));
    assert_eq!(quota.remaining(), left);
}

#[test]
fn a_quota_on_the_builder_is_a_limit_like_any_other() {
    let quota = Quota::new(SHORT);
    let error = Timebox::new(&quota).label("batch").run(|scope| Err::<(), _>(outlast(scope))).unwrap_err();
    assert_eq!((error.label(), error.cause()), (Some("batch"), Cause::Quota));
    assert!(error.elapsed() >= SHORT && error.started());
}

#[test]
fn all_entrants_end_when_the_quota_is_spent() {
    let quota = Quota::new(SHORT);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let error = quota.timeout(|| sleep(LONG)).unwrap_err();
                assert_eq!(error.cause(), Cause::Quota);
            });
        }
    });
    assert!(quota.is_exhausted());
}

#[test]
fn after_an_expiry_time_still_inside_cannot_owe() {
    let quota = Quota::new(SHORT);
    with_timeout(&quota, |scope| {
        outlast(scope);
        // On purpose a plain sleep: code that does not check stays inside too long.
        thread::sleep(SHORT);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert_eq!(quota.remaining(), Duration::ZERO);
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
