//! Hooks that fail: what they say is kept, and they are fired again, ever less often.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use timebox::{
    Hook, HookFailure, HookResult, Outcome, Timebox, TimeoutError, future, interruptible_outcome,
    with_timeout,
};

use crate::support::{LONG, bounded, next, rounds, wait_for};

/// A call in a scope that is cancelled at once, which returns when the hook has fired so often.
fn called<'h>(fires: &AtomicU32, times: u32, hook: impl Into<Hook<'h>>) -> Outcome<()> {
    with_timeout(LONG, |scope| {
        interruptible_outcome(hook, || {
            scope.token().cancel();
            wait_for("the hook", || fires.load(SeqCst) >= times);
        })
    })
    .unwrap()
}

#[test]
fn what_a_failing_hook_says_is_in_the_outcome() {
    let fires = AtomicU32::new(0);
    let outcome = called(&fires, 3, Hook::new(|| Err::<(), _>(format!("no {}", fires.fetch_add(1, SeqCst)))));
    // Of the last run, which may have been one more meanwhile.
    let failure = outcome.failure.unwrap();
    assert_eq!(failure.to_string(), format!("no {}", outcome.fires - 1));
    assert!(!failure.is_panic() && outcome.fires >= 3);
}

#[test]
fn a_failure_is_kept_when_the_hook_succeeds_later() {
    let fires = AtomicU32::new(0);
    let hook = Hook::inline(|| if fires.fetch_add(1, SeqCst) == 0 { Err("once") } else { Ok(()) });
    assert_eq!(called(&fires, 2, hook).failure.unwrap().to_string(), "once");
    let fires = AtomicU32::new(0);
    assert_eq!(called(&fires, 2, Hook::inline(|| fires.fetch_add(1, SeqCst))).failure, None);
}

#[test]
fn what_a_panicking_hook_says_is_in_the_outcome_and_it_is_not_fired_again() {
    bounded(|| {
        for text in ["a hook of the test panics", "as it should"] {
            let (fires, after) = (AtomicU32::new(0), AtomicU32::new(0));
            let hook = Hook::new(|| {
                fires.fetch_add(1, SeqCst);
                std::panic::resume_unwind(Box::new(text.to_owned()));
            });
            let then = Hook::inline(|| after.fetch_add(1, SeqCst)).every(Duration::from_millis(1));
            let outcome = called(&after, 3, hook.then(Duration::from_millis(1), then));
            let failure = outcome.failure.unwrap();
            assert_eq!((failure.to_string().as_str(), failure.is_panic()), (text, true));
            assert_eq!(fires.load(SeqCst), 1);
        }
    });
}

#[test]
fn what_a_hook_escalates_to_has_the_last_word() {
    let fires = AtomicU32::new(0);
    let then = Hook::inline(|| {
        fires.fetch_add(1, SeqCst);
        Err::<(), _>("nor so")
    });
    let hook = Hook::inline(|| Err::<(), _>("not so")).then(Duration::from_millis(1), then.once());
    assert_eq!(called(&fires, 1, hook).failure.unwrap().to_string(), "nor so");
}

/// The error of a call that its hook could not interrupt.
fn error_of<R: HookResult>(action: impl Fn() -> R + Send) -> TimeoutError {
    let (fired, wait) = channel();
    with_timeout(LONG, |scope| {
        let hook = move || {
            let _ = fired.send(());
            action()
        };
        scope.interruptible(Hook::new(hook).once(), || {
            scope.token().cancel();
            next(&wait);
            Err::<(), _>("ended late")
        })
    })
    .unwrap_err()
}

#[test]
fn what_a_failing_hook_says_is_in_the_error_of_the_call() {
    let error = error_of(|| Err::<(), _>(io::Error::other("no route to the \"server\"")));
    let failure = error.hook_failure().unwrap();
    assert!(failure.to_string().contains("no route to the"), "{failure}");
    assert!(format!("{error:?}").contains("no route to the"), "{error:?}");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "ended late");
    let failure: HookFailure = error_of(|| -> Result<(), Box<dyn std::error::Error>> { Err("boxed")? })
        .hook_failure()
        .cloned()
        .unwrap();
    assert_eq!(failure.to_string(), "boxed");
    let error = error_of(|| ());
    assert_eq!(error.hook_failure(), None);
    assert!(!format!("{error:?}").contains("hook failed"));
}

#[test]
fn what_a_failing_hook_says_is_in_the_error_of_a_futures_call() {
    let error = pollster::block_on(Timebox::new(LONG).grace(LONG).run_future(async {
        let (mut fired, wait) = (None, futures_channel());
        fired.replace(wait.0);
        let hook = Hook::new(move || {
            if let Some(fired) = fired.take() {
                let _ = fired.send(());
            }
            Err::<(), _>("no route")
        });
        let result = future::interruptible(hook, async {
            timebox::token().cancel();
            let _ = wait.1.await;
            Err::<(), _>("ended late")
        });
        result.await
    }))
    .unwrap_err();
    assert_eq!(error.hook_failure().unwrap().to_string(), "no route");
}

fn futures_channel() -> (tokio::sync::oneshot::Sender<()>, tokio::sync::oneshot::Receiver<()>) {
    tokio::sync::oneshot::channel()
}

/// The pauses between the firings of a hook that fails.
fn pauses(times: u32, make: impl FnOnce(Hook<'_>) -> Hook<'_>) -> Vec<Duration> {
    let (fires, at) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    let hook = Hook::inline(|| {
        at.lock().unwrap().push(Instant::now());
        fires.fetch_add(1, SeqCst);
        Err::<(), _>("no slot left")
    });
    called(&fires, times, make(hook));
    let at = at.lock().unwrap();
    at.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect()
}

#[test]
fn a_hook_that_fails_is_fired_again_after_ever_longer_pauses() {
    let each = Duration::from_millis(1);
    for (number, pause) in (1..).zip(pauses(7, |hook| hook.every(each))) {
        assert!(pause >= each * 2_u32.pow(number), "pause {number}: {pause:?}");
    }
    // Beyond the 64 ms that one keeps to that does what it can.
    let longest = pauses(10, |hook| hook).into_iter().max().unwrap();
    assert!(longest >= Duration::from_millis(128), "{longest:?}");
}

#[test]
fn a_hook_that_has_failed_and_succeeds_is_fired_as_often_as_before() {
    bounded(|| {
        let fires = AtomicU32::new(0);
        let hook = Hook::inline(|| if fires.fetch_add(1, SeqCst) < 5 { Err("not yet") } else { Ok(()) });
        // With pauses of a second it would take ten minutes.
        called(&fires, rounds(600), hook.every(Duration::from_millis(1)));
    });
}

#[test]
fn a_hook_that_is_to_fire_once_is_not_fired_again_though_it_fails() {
    let (fires, others) = (AtomicU32::new(0), AtomicU32::new(0));
    let hook = Hook::inline(|| {
        fires.fetch_add(1, SeqCst);
        Err::<(), _>("no")
    });
    let then = Hook::inline(|| others.fetch_add(1, SeqCst)).every(Duration::from_millis(1));
    called(&others, 10, hook.once().then(Duration::ZERO, then));
    assert_eq!(fires.load(SeqCst), 1);
}

/// Whatever a closure is likely to end with is taken.
#[test]
fn closures_with_many_results_are_hooks() {
    fn is_hook<'h>(hook: impl Into<Hook<'h>>) {
        drop(hook.into());
    }
    let token = timebox::CancellationToken::new();
    let (flag, lock) = (std::sync::atomic::AtomicBool::new(false), Mutex::new(7));
    let (send, _receive) = channel();
    let mut list = vec![1];
    is_hook(|| token.cancel());
    is_hook(|| token.cancel_with("stop"));
    is_hook(|| token.clone());
    is_hook(|| flag.swap(true, SeqCst));
    is_hook(|| flag.store(true, SeqCst));
    is_hook(|| send.send(7));
    is_hook(|| lock.lock());
    is_hook(|| lock.try_lock().map(|_| ()));
    is_hook(|| *lock.lock().unwrap());
    is_hook(|| list.pop());
    is_hook(|| std::thread::spawn(|| ()).join());
    is_hook(|| std::thread::spawn(|| ()));
    is_hook(|| "text");
    is_hook(|| String::from("text"));
    is_hook(|| (1, Some("two"), [3.0], 'c'));
    is_hook(|| std::process::Command::new("true").status());
    is_hook(|| io::stdin().read_line(&mut String::new()));
    is_hook(|| Instant::now().elapsed());
    is_hook(|| unreachable!("never runs"));
    is_hook(|| Box::new(7));
    is_hook(|| Ok::<(), ()>(()));
}
