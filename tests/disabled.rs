//! The off switch: new limits are infinite, tokens still cancel.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Deadline, Quota, Timebox, TimeoutError, checkpoint, deadline, future, is_enabled,
    set_enabled, shield, sleep, timeout, timeout_value, with_timeout,
};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);

/// Set in the process that was started with the switch.
const CHILD: &str = "TIMEBOX_TEST_CHILD";

/// The switch is one for the process; it is on again when this is dropped.
struct Alone(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

fn alone() -> Alone {
    static SWITCH: Mutex<()> = Mutex::new(());
    Alone(SWITCH.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Alone {
    fn drop(&mut self) {
        set_enabled(true);
    }
}

/// What holds while the switch is off, however it was turned.
fn everything_is_infinite_and_tokens_cancel() {
    assert!(!is_enabled());
    for limit in [Duration::ZERO, Duration::from_nanos(1), SHORT, LONG] {
        assert_eq!(timeout_value(limit, deadline).unwrap(), Deadline::NEVER);
        assert_eq!(
            pollster::block_on(future::timeout_value(limit, async { deadline() })).unwrap(),
            Deadline::NEVER
        );
    }
    assert_eq!(timeout_value(Instant::now(), deadline).unwrap(), Deadline::NEVER);
    let built = Timebox::new(SHORT).label("built").run_value(timebox::Scope::deadline);
    assert_eq!(built.unwrap(), Deadline::NEVER);
    assert_eq!(timeout_value(&Quota::new(SHORT), deadline).unwrap(), Deadline::NEVER);
    timeout(SHORT / 4, || {
        sleep(SHORT)?;
        timebox::require(LONG)?;
        checkpoint()
    })
    .unwrap();

    let token = CancellationToken::new();
    let error = Timebox::new(SHORT)
        .cancel_on(&token)
        .run(|_| {
            token.cancel_with("still works");
            checkpoint()
        })
        .unwrap_err();
    assert_eq!(error.reason(), Some("still works"));
    let error = with_timeout(SHORT, |scope| {
        scope.token().cancel();
        scope.sleep(LONG)
    })
    .unwrap_err();
    assert!(error.is_cancelled());
}

#[test]
fn the_environment_turns_limits_off() {
    if std::env::var_os(CHILD).is_some() {
        everything_is_infinite_and_tokens_cancel();
        set_enabled(true);
        assert!(is_enabled());
        timeout(SHORT, || sleep(LONG)).unwrap_err();
        println!("the child has seen it all");
        return;
    }
    run_again("the_environment_turns_limits_off", "1");
}

/// Runs the test of this name in a process of its own, with the switch in its environment.
fn run_again(test: &str, switch: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("TIMEBOX_DISABLE", switch)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("the child has seen it all"), "{out}");
}

#[test]
fn nothing_or_zero_in_the_environment_leaves_limits_on() {
    if std::env::var_os(CHILD).is_some() {
        assert!(is_enabled());
        println!("the child has seen it all");
        return;
    }
    for switch in ["", "0"] {
        run_again("nothing_or_zero_in_the_environment_leaves_limits_on", switch);
    }
}

#[test]
fn by_default_limits_are_on() {
    let _alone = alone();
    assert!(is_enabled());
    assert!(timeout(SHORT, || sleep(LONG)).unwrap_err().is_timeout());
}

#[test]
fn the_switch_turns_limits_off_and_on() {
    let _alone = alone();
    set_enabled(false);
    everything_is_infinite_and_tokens_cancel();
    set_enabled(true);
    assert!(is_enabled());
    timeout(SHORT, || sleep(LONG)).unwrap_err();
}

#[test]
fn a_scope_already_open_keeps_its_deadline() {
    let _alone = alone();
    let error = timeout(SHORT, || {
        set_enabled(false);
        assert!(timeout_value(Duration::ZERO, || ()).is_ok());
        sleep(LONG)
    })
    .unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn a_scope_that_is_over_stays_over_when_limits_are_turned_off() {
    let _alone = alone();
    with_timeout(SHORT, |scope| {
        scope.sleep(LONG).unwrap_err();
        set_enabled(false);
        assert!(scope.is_expired() && checkpoint().is_err());
        timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap_err();
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_scope_opened_while_off_stays_infinite() {
    let _alone = alone();
    set_enabled(false);
    timeout(SHORT / 4, || {
        set_enabled(true);
        sleep(SHORT)?;
        assert_eq!(deadline(), Deadline::NEVER);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_shield_is_not_touched_by_the_switch() {
    let _alone = alone();
    set_enabled(false);
    let error = shield(SHORT, || sleep(LONG)).unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}
