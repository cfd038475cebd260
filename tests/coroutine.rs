//! Stackful coroutines: scopes left in order work, scopes left out of order abort the process with one line.
#![cfg(all(unix, not(miri)))]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::Duration;

use corosensei::{Coroutine, CoroutineResult};
use timebox::{TimeoutError, checkpoint, deadline, timeout, timeout_value};

const LONG: Duration = Duration::from_secs(3600);

/// Says which misuse this process is to commit.
const MISUSE: &str = "TIMEBOX_TEST_MISUSE";

/// A coroutine that opens a scope, is suspended inside it, and leaves it when it is resumed.
fn suspended_in_a_scope() -> Coroutine<(), (), ()> {
    Coroutine::new(|yielder, ()| {
        timeout(LONG, || {
            yielder.suspend(());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    })
}

/// Runs this test binary again, to commit `misuse` in the test of that name.
fn commit(misuse: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "committed_in_a_process_of_its_own", "--nocapture", "--test-threads=1"])
        .env(MISUSE, misuse)
        .output()
        .unwrap()
}

#[test]
fn committed_in_a_process_of_its_own() {
    let Ok(misuse) = std::env::var(MISUSE) else { return };
    match misuse.as_str() {
        "leave the outer first" => {
            let mut coroutine = suspended_in_a_scope();
            let _ = timeout(LONG, || {
                coroutine.resume(());
                Ok::<_, TimeoutError>(())
            });
        }
        "leave the older of two first" => {
            let (mut older, mut younger) = (suspended_in_a_scope(), suspended_in_a_scope());
            older.resume(());
            younger.resume(());
            older.resume(());
        }
        "leave a shield first" => {
            let mut coroutine = suspended_in_a_scope();
            timebox::shield(LONG, || coroutine.resume(()));
        }
        other => unreachable!("no such misuse: {other}"),
    }
    println!("still here");
}

#[test]
fn leaving_scopes_out_of_order_aborts_with_one_line() {
    for misuse in ["leave the outer first", "leave the older of two first", "leave a shield first"] {
        let output = commit(misuse);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{misuse}: {}\n{out}{err}", output.status);
        assert!(!out.contains("still here"));
        assert_eq!(err.trim_end().lines().count(), 1, "{misuse}: {err}");
        assert!(err.starts_with("timebox: ") && err.ends_with('\n'), "{misuse}: {err}");
    }
}

#[test]
fn a_coroutine_that_ends_inside_the_scope_it_was_resumed_in_is_fine() {
    timeout(LONG, || {
        let mut coroutine = suspended_in_a_scope();
        let outer = deadline();
        coroutine.resume(());
        assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
        assert_eq!(deadline(), outer);
        checkpoint()
    })
    .unwrap();
}

#[test]
fn scopes_opened_and_left_while_a_coroutine_is_suspended_are_fine() {
    let mut coroutine = suspended_in_a_scope();
    coroutine.resume(());
    timeout_value(LONG, || timeout(LONG, checkpoint)).unwrap().unwrap();
    assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
    assert!(checkpoint().is_ok());
}

#[test]
fn a_coroutine_suspended_outside_its_scopes_is_fine() {
    let mut coroutine = Coroutine::<(), (), ()>::new(|yielder, ()| {
        for _ in 0..10 {
            timeout(LONG, checkpoint).unwrap();
            yielder.suspend(());
        }
    });
    while let CoroutineResult::Yield(()) = timeout_value(LONG, || coroutine.resume(())).unwrap() {}
}
