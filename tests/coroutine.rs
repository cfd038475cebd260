//! Stackful coroutines: scopes left in order work, scopes left out of order abort the process with one line.
#![cfg(all(unix, not(miri)))]

use std::cell::RefCell;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use corosensei::{Coroutine, CoroutineResult};
use timebox::{
    CancellationToken, Hook, TimeoutError, checkpoint, deadline, interruptible, interruptible_outcome,
    timeout, timeout_value,
};

const SHORT: Duration = Duration::from_millis(20);
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

/// A coroutine whose body is given how to suspend it.
fn suspended_in(body: impl FnOnce(&dyn Fn()) + 'static) -> Coroutine<(), (), ()> {
    Coroutine::new(move |yielder, ()| body(&|| yielder.suspend(())))
}

thread_local!(static STORED: RefCell<Option<Coroutine<(), (), ()>>> = const { RefCell::new(None) });

static FIRED: AtomicU32 = AtomicU32::new(0);

/// Resumes the one that this thread has stored, and keeps it if it is not done.
fn resume_stored() {
    let Some(mut coroutine) = STORED.take() else { return };
    coroutine.resume(());
    if !coroutine.done() {
        STORED.set(Some(coroutine));
    }
}

/// Runs this test binary again, to commit `misuse` in the test of that name.
fn commit(misuse: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "committed_in_a_process_of_its_own", "--nocapture", "--test-threads=1"])
        .env(MISUSE, misuse)
        .output()
        .unwrap()
}

/// A checkpoint forgets the error of one before, whose source leaves the scope as it is dropped.
fn forget_an_error_whose_source_resumes() {
    /// The source of an error that is forgotten.
    #[derive(Debug)]
    struct Resumes;
    impl std::fmt::Display for Resumes {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("resumes when it is dropped")
        }
    }
    impl std::error::Error for Resumes {}
    impl Drop for Resumes {
        fn drop(&mut self) {
            resume_stored();
        }
    }
    let coroutine = suspended_in(|suspend| {
        let body = |scope: &timebox::Scope| {
            let call = || {
                scope.token().cancel();
                while FIRED.load(SeqCst) == 0 {
                    std::thread::yield_now();
                }
                Err::<(), _>(Resumes)
            };
            drop(interruptible(|| FIRED.fetch_add(1, SeqCst), call));
            suspend();
            Ok::<_, TimeoutError>(())
        };
        let _ = timebox::Timebox::new(LONG).run_or_else(body, Err);
    });
    STORED.set(Some(coroutine));
    resume_stored();
    let _ = checkpoint();
}

/// All of it happens on a runner, in a hook; where nobody else keeps it, that runs the next hook too.
fn end_a_call_from_inside_its_own_hook() {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let token = CancellationToken::new();
    let _registration = token.on_cancel(move || {
        let done = done.clone();
        STORED.set(Some(suspended_in(move |suspend| {
            let borrowed = std::sync::Mutex::new(String::from("borrowed"));
            let hook = Hook::new(|| {
                let borrowed = borrowed.lock().unwrap();
                resume_stored();
                assert_eq!(*borrowed, "borrowed");
                done.send(()).unwrap();
            });
            let _ = timeout_value(SHORT, || interruptible_outcome(hook.once(), suspend));
        })));
        resume_stored();
    });
    token.cancel();
    let _ = wait.recv();
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
        "leave a scope during a call that it interrupts" => {
            let mut coroutine = suspended_in(|suspend| {
                let _ = interruptible(
                    || (),
                    || {
                        suspend();
                        Ok::<_, String>(7)
                    },
                );
            });
            timeout_value(LONG, || coroutine.resume(())).unwrap();
            coroutine.resume(());
        }
        "leave a scope during a call with an outcome" => {
            let mut coroutine = suspended_in(|suspend| {
                let _ = interruptible_outcome(|| (), suspend);
            });
            timeout_value(LONG, || coroutine.resume(())).unwrap();
            coroutine.resume(());
        }
        "leave a future's scope during a call" => {
            let mut coroutine = suspended_in(|suspend| {
                let _ = interruptible_outcome(|| (), suspend);
            });
            let polled = timebox::future::timeout_value(LONG, async { coroutine.resume(()) });
            pollster::block_on(polled).unwrap();
            coroutine.resume(());
        }
        "leave a scope from a hook that it runs" => {
            let coroutine = suspended_in(|suspend| {
                timeout_value(SHORT, || {
                    while checkpoint().is_ok() {}
                    suspend();
                })
                .unwrap();
            });
            STORED.set(Some(coroutine));
            resume_stored();
            // The innermost is the coroutine's, and it is over: the hook runs here, and resumes it.
            let hook = resume_stored;
            drop(timebox::on_cancel(hook));
        }
        "leave a scope as an error's source is dropped" => forget_an_error_whose_source_resumes(),
        "end a call from inside its own hook" => end_a_call_from_inside_its_own_hook(),
        other => unreachable!("no such misuse: {other}"),
    }
    println!("still here");
}

#[test]
fn leaving_scopes_out_of_order_aborts_with_one_line() {
    for misuse in [
        "leave the outer first",
        "leave the older of two first",
        "leave a shield first",
        "leave a scope during a call that it interrupts",
        "leave a scope during a call with an outcome",
        "leave a future's scope during a call",
        "leave a scope from a hook that it runs",
        "leave a scope as an error's source is dropped",
        "end a call from inside its own hook",
    ] {
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
