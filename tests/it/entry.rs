//! Entering a scope: from when a limit counts, what is over at once, and whose result wins.

use std::cell::Cell;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    Cause, Deadline, Limit, Quota, Timebox, TimeoutError, checkpoint, deadline, handle, interruptible,
    is_expired, on_cancel, remaining, require, sleep, timeout, timeout_value, token, with_timeout,
};

use crate::runtimes::yield_now;
use crate::support::{Failure, HANG, LONG, SHORT, outlast, rounds, unhurried, wait_for};

#[test]
fn a_limit_counts_from_entry_not_from_the_builder() {
    let builder = Timebox::new(LONG);
    let made = Instant::now();
    thread::sleep(SHORT);
    let deadline = builder.run(|scope| Ok::<_, TimeoutError>(scope.deadline())).unwrap();
    assert!(deadline >= Deadline::at(made + LONG + SHORT / 2));
}

#[test]
fn each_run_of_a_cloned_timebox_enters_anew() {
    let configured = Timebox::new(LONG).label("attempt");
    let enter = || configured.clone().run(|scope| Ok::<_, TimeoutError>((scope.id(), scope.deadline())));
    let first = enter().unwrap();
    thread::sleep(SHORT);
    let second = enter().unwrap();
    assert_ne!(first.0, second.0);
    assert!(first.1 < second.1);
}

#[test]
fn a_run_of_a_cloned_timebox_tells_nothing_to_the_next() {
    let quota = Quota::new(LONG);
    let configured = Timebox::new(&quota).label("attempt");
    let lack = |timebox: Timebox| timebox.run(|_| require(2 * LONG)).unwrap_err();
    let first = lack(configured.clone());
    thread::sleep(SHORT);
    let second = lack(configured.clone());
    assert_eq!((first.label(), second.label()), (Some("attempt"), Some("attempt")));
    assert!(
        second.limit().unwrap() <= first.limit().unwrap(),
        "each has what the quota had left on its entry"
    );

    // The fallback of one run is not told of the error of another.
    let own = configured.clone().run_or_else(|_| Err(Failure::Own("mine")), |_| Ok(()));
    assert!(matches!(own, Err(Failure::Own("mine"))), "{own:?}");
    let fallback =
        configured.run_or_else(|_| Err(Failure::Timebox(require(2 * LONG).unwrap_err())), |_| Ok(()));
    assert!(fallback.is_ok(), "{fallback:?}");
}

/// What comes of a future in a `block_on`, in a block with this limit and grace: it needs several polls to end by
/// itself.
fn blocked_on_with(limit: Duration, grace: Duration) -> Result<&'static str, TimeoutError> {
    let ends_by_itself = async {
        token().cancelled().await;
        for _ in 0..10 {
            assert!(is_expired());
            yield_now().await;
        }
        "rolled back"
    };
    let limited = Timebox::new(limit).grace(grace);
    limited.run(|_| pollster::block_on(timebox::future::timeout_value(LONG, ends_by_itself)))
}

#[test]
fn the_grace_of_a_block_is_for_the_futures_in_it() {
    unhurried(|limit| {
        let [with, without] = [LONG, Duration::ZERO].map(|grace| blocked_on_with(limit, grace));
        if [&with, &without].iter().any(|result| result.as_ref().is_err_and(|error| !error.started())) {
            return None;
        }
        assert_eq!(with.unwrap(), "rolled back");
        assert!(!without.unwrap_err().settled(), "cut off in the middle");
        Some(())
    });
}

#[test]
fn the_grace_of_a_block_does_not_delay_the_block() {
    let start = Instant::now();
    let error = Timebox::new(SHORT).grace(LONG).run(|_| sleep(LONG)).unwrap_err();
    assert!(error.is_timeout() && start.elapsed() < HANG);
}

#[test]
fn a_limit_is_a_deadline_that_stands_still() {
    with_timeout(LONG, |scope| {
        let first = scope.deadline();
        thread::sleep(Duration::from_millis(2));
        assert_eq!(scope.deadline(), first);
        assert_eq!(deadline(), first);
        assert!(scope.remaining().unwrap() + Duration::from_millis(2) <= LONG);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_cpu_bound_loop_is_stopped_at_a_checkpoint() {
    let start = Instant::now();
    let error = timeout(SHORT, || -> timebox::Result<()> {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7));
            checkpoint()?;
        }
    })
    .unwrap_err();
    assert_eq!(error.cause(), Cause::Deadline);
    assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
}

#[test]
fn is_expired_turns_true_by_itself() {
    timeout_value(SHORT, || wait_for("expiry", is_expired)).unwrap();
}

#[test]
fn a_zero_limit_is_over_at_entry() {
    let error = timeout(Duration::ZERO, || -> timebox::Result<()> { unreachable!("not run") }).unwrap_err();
    assert!(!error.started());
    assert!(error.settled());
    assert_eq!(error.cause(), Cause::Deadline);
    assert_eq!(error.limit(), Some(Duration::ZERO));
}

#[test]
fn an_instant_in_the_past_is_over_at_entry() {
    let past = Instant::now();
    thread::sleep(Duration::from_millis(1));
    let error = with_timeout(past, |_| -> timebox::Result<()> { unreachable!("not run") }).unwrap_err();
    assert!(!error.started());
    assert_eq!(error.limit(), None);
    assert!(error.overshoot() > Duration::ZERO);
}

#[test]
fn an_instant_long_past_is_no_trouble() {
    if cfg!(miri) {
        // Its clock begins with the program.
        thread::sleep(Duration::from_secs(60));
    }
    let Some(past) = Instant::now().checked_sub(Duration::from_secs(60)) else { return };
    let error = timeout_value(past, || ()).unwrap_err();
    assert!(!error.started() && error.overshoot() >= Duration::from_secs(59));
}

#[test]
fn a_deadline_that_has_passed_is_over_at_entry() {
    let passed = Deadline::after(Duration::ZERO);
    assert!(passed.has_passed());
    let error = timeout_value(passed, || -> () { unreachable!("not run") }).unwrap_err();
    assert!(!error.started());
}

#[test]
fn a_scope_in_one_that_is_over_is_over_at_entry() {
    with_timeout(SHORT, |outer| {
        outlast(outer);
        let error = timeout(LONG, || -> timebox::Result<()> { unreachable!("not run") }).unwrap_err();
        assert!(!error.started());
        assert_eq!(error.scope(), outer.id());
        let error = timeout(Limit::NONE, || -> timebox::Result<()> { unreachable!("not run") }).unwrap_err();
        assert!(!error.started());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_body_that_was_not_started_was_stopped_at_the_entry() {
    let line = line!() + 1;
    let error = timeout(Duration::ZERO, || Ok::<_, TimeoutError>(())).unwrap_err();
    assert_eq!((error.location().file(), error.location().line()), (file!(), line));
    assert_eq!(error.interrupted_at(), error.location());
}

#[test]
fn the_longest_duration_is_no_deadline() {
    with_timeout(Duration::MAX, |scope| {
        assert_eq!(scope.deadline(), Deadline::NEVER);
        assert_eq!(scope.remaining(), None);
        assert!(!scope.is_expired());
        scope.require(LONG)?;
        scope.checkpoint()
    })
    .unwrap();
}

#[test]
fn none_is_no_limit() {
    for limit in [Limit::NONE, None::<Duration>.into(), None::<Instant>.into(), None::<Deadline>.into()] {
        assert_eq!(timeout_value(limit, deadline).unwrap(), Deadline::NEVER);
    }
    let error = timeout_value(Some(Duration::ZERO), || ()).unwrap_err();
    assert!(error.is_timeout());
}

#[test]
fn a_limit_longer_than_the_parents_ends_with_the_parent() {
    with_timeout(LONG, |outer| {
        for limit in [Limit::from(LONG * 2), Duration::MAX.into(), Limit::NONE, Deadline::NEVER.into()] {
            with_timeout(limit, |inner| {
                assert_eq!(inner.deadline(), outer.deadline());
                assert_eq!(deadline(), outer.deadline());
                Ok::<_, TimeoutError>(())
            })?;
        }
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn an_empty_label_is_no_label() {
    let error = Timebox::new(Duration::ZERO).label("").run_value(|_| ()).unwrap_err();
    assert_eq!(error.label(), None);
    assert_eq!(error.chain().next().unwrap().label(), None);
    let error = Timebox::new(Duration::ZERO).label(String::from("feed")).run_value(|_| ()).unwrap_err();
    assert_eq!(error.label(), Some("feed"));
}

#[test]
fn a_late_ok_is_returned_unchanged() {
    let value = with_timeout(SHORT, |scope| {
        outlast(scope);
        Ok::<_, TimeoutError>(7)
    });
    assert_eq!(value.unwrap(), 7);
}

#[test]
fn a_late_error_of_the_body_is_returned_unchanged() {
    let result = with_timeout(SHORT, |scope| {
        outlast(scope);
        Err::<(), _>(Failure::Own("no such row"))
    });
    assert!(matches!(result, Err(Failure::Own("no such row"))));
}

#[test]
fn a_body_that_ends_with_a_checkpoint_refuses_a_late_success() {
    let result = with_timeout(SHORT, |scope| {
        outlast(scope);
        scope.checkpoint()?;
        Ok::<_, Failure>(7)
    });
    assert!(result.unwrap_err().timebox().started());
}

#[test]
fn a_late_value_of_a_body_that_is_no_result_is_returned() {
    let value = Timebox::new(SHORT).run_value(|scope| {
        outlast(scope);
        7
    });
    assert_eq!(value.unwrap(), 7);
}

#[test]
fn a_scope_that_is_over_stays_over() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        for _ in 0..rounds(100) {
            assert!(checkpoint().is_err() && scope.checkpoint().is_err());
            assert!(is_expired() && scope.is_expired());
            assert_eq!(remaining(), Some(Duration::ZERO));
            assert!(sleep(LONG).is_err());
            assert!(require(Duration::ZERO).is_err());
        }
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_body_that_never_checks_is_waited_for() {
    // On purpose a plain sleep: it stands for foreign code that knows nothing of us.
    let ran = Cell::new(false);
    let start = Instant::now();
    timeout_value(Duration::from_millis(2), || {
        thread::sleep(SHORT);
        ran.set(true);
    })
    .unwrap();
    assert!(ran.get() && start.elapsed() >= SHORT);
}

#[test]
fn outside_every_scope_everything_goes_through() {
    assert!(checkpoint().is_ok());
    assert!(require(LONG).is_ok());
    assert!(!is_expired());
    assert_eq!(remaining(), None);
    assert_eq!(deadline(), Deadline::NEVER);
    assert_eq!(interruptible(|| (), || Ok::<_, io::Error>(7)).unwrap().unwrap(), 7);
    drop(on_cancel(|| unreachable!("never fires")));
    timebox::checkpoint_or_unwind();
}

#[test]
fn outside_every_scope_sleep_sleeps() {
    let start = Instant::now();
    sleep(SHORT).unwrap();
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn outside_every_scope_a_token_is_fresh_and_a_handle_a_root() {
    let (first, second) = (token(), token());
    assert!(first.cancel_with("first"));
    assert!(!second.is_cancelled());
    assert!(checkpoint().is_ok());
    let seen = handle().enter(Limit::NONE, |scope| Ok::<_, TimeoutError>(scope.deadline())).unwrap();
    assert_eq!(seen, Deadline::NEVER);
}

#[test]
fn deadlines_saturate_and_never_overflow() {
    assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
    assert_eq!(Deadline::NEVER.remaining(), None);
    assert!(!Deadline::NEVER.has_passed());
    let (near, far) = (Deadline::after(LONG), Deadline::after(LONG * 2));
    assert_eq!(near.min(far), near);
    assert_eq!(far.min(near), near);
    assert_eq!(near.min(Deadline::NEVER), near);
    assert_eq!(Deadline::at(Instant::now()).remaining(), Some(Duration::ZERO));
    assert!(near.remaining().unwrap() <= LONG && !near.has_passed());
}

#[test]
fn an_instant_and_a_deadline_are_limits_too() {
    let instant = Instant::now() + SHORT;
    let error = with_timeout(instant, |scope| Err::<(), _>(outlast(scope))).unwrap_err();
    assert!(Instant::now() >= instant);
    assert_eq!(error.limit(), None);

    let deadline = Deadline::after(SHORT);
    let error = with_timeout(deadline, |scope| Err::<(), _>(outlast(scope))).unwrap_err();
    assert!(deadline.has_passed());
    assert_eq!(error.cause(), Cause::Deadline);
}

#[test]
fn the_error_becomes_whatever_the_body_fails_with() {
    let own = timeout(Duration::ZERO, || Ok::<_, Failure>(())).unwrap_err();
    assert!(!own.timebox().started());
    let io = timeout(Duration::ZERO, || Ok::<_, io::Error>(())).unwrap_err();
    assert_eq!(io.kind(), io::ErrorKind::TimedOut);
    let boxed =
        timeout(Duration::ZERO, || Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())).unwrap_err();
    assert!(boxed.is::<TimeoutError>());
}

#[test]
fn free_functions_ask_the_innermost_scope_and_methods_their_own() {
    with_timeout(LONG, |outer| {
        with_timeout(SHORT, |inner| {
            outlast(inner);
            assert!(is_expired() && !outer.is_expired());
            assert!(checkpoint().is_err() && outer.checkpoint().is_ok());
            assert!(remaining() == Some(Duration::ZERO) && outer.remaining() > Some(Duration::ZERO));
            assert!(require(Duration::ZERO).is_err() && outer.require(Duration::ZERO).is_ok());
            assert!(sleep(Duration::ZERO).is_err() && outer.sleep(Duration::ZERO).is_ok());
            assert!(!outer.token().is_cancelled() && token().is_cancelled());
            assert!(outer.handle().enter(Limit::NONE, |_| Ok::<_, TimeoutError>(())).is_ok());
            assert!(handle().enter(Limit::NONE, |_| Ok::<_, TimeoutError>(())).is_err());
            assert_eq!(outer.interruptible(|| (), || Ok::<_, io::Error>(7)).unwrap().unwrap(), 7);
            assert!(interruptible(|| (), || Ok::<_, io::Error>(7)).is_err());
            Ok::<_, TimeoutError>(())
        })?;
        assert!(!is_expired());
        checkpoint()
    })
    .unwrap();
}

#[test]
fn the_longest_sleep_ends_with_its_scope() {
    let error = timeout(SHORT, || sleep(Duration::MAX)).unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn a_sleep_shorter_than_what_is_left_runs_its_course() {
    with_timeout(LONG, |scope| {
        let start = Instant::now();
        scope.sleep(SHORT)?;
        sleep(SHORT)?;
        assert!(start.elapsed() >= SHORT * 2);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn ten_thousand_scopes_in_a_row_leave_nothing_behind() {
    for round in 0..rounds(10_000) {
        let limit = if round % 100 == 0 { Duration::from_nanos(round.into()) } else { LONG };
        let _ = timeout(limit, checkpoint);
        assert_eq!(deadline(), Deadline::NEVER);
    }
}
