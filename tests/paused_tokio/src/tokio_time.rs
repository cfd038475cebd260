//! `timebox::tokio::time` on a runtime whose clock is paused.

use std::future::pending;
use std::time::Duration;

use timebox::tokio::time::{
    Instant, MissedTickBehavior, advance, interval, pause, resume, sleep, sleep_until, timeout, timeout_at,
};
use timebox::{Limit, TimeoutError, is_expired, remaining};

use super::{HOUR, SECOND, paused};

#[test]
fn a_timeout_ends_by_the_clock_that_moves_by_itself() {
    let begun = std::time::Instant::now();
    paused(async {
        let before = Instant::now();
        let elapsed = timeout(HOUR, pending::<()>()).await.unwrap_err();
        assert_eq!(before.elapsed(), HOUR);
        let error = TimeoutError::from(elapsed);
        assert!(error.is_timeout() && !error.settled());
        assert!(timeout_at(Instant::now() + HOUR, sleep(2 * HOUR)).await.is_err());
        assert!(timeout(2 * HOUR, sleep(HOUR)).await.is_ok());
        assert_eq!(before.elapsed(), 3 * HOUR);
    });
    assert!(begun.elapsed() < HOUR);
}

#[test]
fn the_error_names_the_limit() {
    paused(async {
        let elapsed = timeout(SECOND, pending::<()>()).await.unwrap_err();
        let error = TimeoutError::from(elapsed);
        assert_eq!((error.limit(), error.overshoot() < SECOND), (Some(SECOND), true));
        assert_eq!(error.location().file(), file!());
    });
}

#[test]
fn the_inner_of_two_limits_ends_first_and_the_outer_goes_on() {
    paused(async {
        let both = timeout(HOUR, async {
            assert!(timeout(SECOND, pending::<()>()).await.is_err());
            assert!(!is_expired());
            sleep(SECOND).await;
            remaining()
        });
        assert_eq!(both.await, Ok(None));
    });
}

#[test]
fn the_outer_of_two_limits_ends_both() {
    paused(async {
        let before = Instant::now();
        let inner = async { timeout(HOUR, pending::<()>()).await };
        assert!(timeout(SECOND, inner).await.is_err());
        assert_eq!(before.elapsed(), SECOND);
    });
}

#[test]
fn what_a_handle_has_entered_ends_too() {
    paused(async {
        let (task, spawned) = std::sync::mpsc::channel();
        let request = timeout(SECOND, async move {
            task.send(timebox::tokio::spawn(timebox::future::sleep(HOUR))).unwrap();
            sleep(HOUR).await;
        });
        assert!(request.await.is_err());
        let error = spawned.recv().unwrap().await.unwrap().unwrap_err();
        assert!(error.is_timeout(), "{error}");
    });
}

#[test]
fn a_sleep_follows_advance_and_reset() {
    paused(async {
        let mut slept = Box::pin(sleep(HOUR));
        let later = slept.deadline() + HOUR;
        slept.as_mut().reset(later);
        let task = tokio::spawn(slept);
        tokio::task::yield_now().await;
        advance(HOUR).await;
        assert!(!task.is_finished());
        advance(HOUR).await;
        task.await.unwrap();
        assert_eq!(Instant::now(), later);
    });
}

#[test]
fn a_clock_that_is_paused_later_decides_from_the_next_poll_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let slept = sleep(HOUR);
        let deadline = slept.deadline();
        pause();
        slept.await;
        assert!(Instant::now() >= deadline);
        resume();
        sleep_until(Instant::now() + Duration::from_millis(5)).await;
    });
}

#[test]
fn an_interval_keeps_its_period_and_moves_the_clock_no_further_than_others_wait() {
    paused(async {
        let start = Instant::now();
        let mut ticks = interval(SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        assert_eq!(ticks.tick().await, start);
        assert_eq!(ticks.tick().await, start + SECOND);
        sleep(HOUR / 2 + SECOND / 2).await;
        assert_eq!(start.elapsed(), HOUR / 2 + SECOND * 3 / 2);
        assert_eq!(ticks.tick().await, start + 2 * SECOND);
        assert_eq!(ticks.tick().await, start + HOUR / 2 + 2 * SECOND);
    });
}

#[test]
fn an_instant_of_the_paused_clock_is_a_limit_from_its_now() {
    paused(async {
        advance(24 * HOUR).await;
        let left = timebox::timeout_value(Instant::now() + HOUR, remaining).unwrap().unwrap();
        assert!(left <= HOUR && left > HOUR / 2);
        let _ = Limit::from(Instant::now());
    });
}
