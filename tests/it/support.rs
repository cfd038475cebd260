//! What the tests share. No test sleeps and hopes: it waits for an event, and only a hang makes it wait long.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use timebox::{CancellationToken, Scope, TimeoutError};

/// A limit that is meant to pass.
pub(crate) const SHORT: Duration = Duration::from_millis(20);

/// A limit that is never meant to pass: reaching it is a hang.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long anything may take on the slowest, busiest machine before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(40);

/// An error of the caller's own, with a place for ours.
#[derive(Debug)]
pub(crate) enum Failure {
    Own(&'static str),
    Timebox(TimeoutError),
}

impl From<TimeoutError> for Failure {
    fn from(error: TimeoutError) -> Self {
        Self::Timebox(error)
    }
}

impl Failure {
    /// The crate's error, where it is one.
    #[track_caller]
    pub(crate) fn timebox(self) -> TimeoutError {
        match self {
            Self::Timebox(error) => error,
            Self::Own(text) => panic!("the caller's own error: {text}"),
        }
    }
}

/// Runs `test` on its own thread and fails when it hangs, so that a hang is named and ends.
#[track_caller]
pub(crate) fn bounded<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = std::thread::spawn(move || {
        let value = test();
        // Nobody listens any more only after the hang was reported.
        let _ = done.send(value);
    });
    // It may wait for several things.
    match result.recv_timeout(HANG * 3) {
        Ok(value) => {
            thread.join().expect("the test has sent its value");
            value
        }
        Err(RecvTimeoutError::Disconnected) => {
            resume_unwind(thread.join().expect_err("nothing was sent, so it panicked"))
        }
        Err(RecvTimeoutError::Timeout) => panic!("still running after {:?}", HANG * 3),
    }
}

/// The next message; its absence is a hang.
#[track_caller]
pub(crate) fn next<T>(messages: &Receiver<T>) -> T {
    messages.recv_timeout(HANG).expect("the message comes")
}

/// Waits for a condition that is bound to come true.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < HANG, "no sign of it after {HANG:?}: {what}");
        // Under miri each look takes long, and a pause does not.
        std::thread::sleep(Duration::from_micros(if cfg!(miri) { 5000 } else { 500 }));
    }
}

/// Runs the test with ever longer limits, until it says that a busy machine did not overtake it (`Some`).
#[track_caller]
pub(crate) fn unhurried(test: impl Fn(Duration) -> Option<()>) {
    let mut limit = SHORT;
    while test(limit).is_none() {
        limit *= 4;
        assert!(limit < HANG, "overtaken even with a limit of {limit:?}");
    }
}

/// Stays in the scope until it is over, and returns the error that says so.
#[track_caller]
pub(crate) fn outlast(scope: &Scope) -> TimeoutError {
    let error = scope.sleep(LONG).expect_err("the scope ends the sleep");
    assert!(scope.is_expired());
    error
}

/// Returns when the watchdog has dealt with everything that was due before this call.
pub(crate) fn let_the_watchdog_pass() {
    for _ in 0..2 {
        let token = CancellationToken::new();
        let (fired, wait) = channel();
        let _registration = token.on_cancel(timebox::Hook::inline(move || {
            let _ = fired.send(());
        }));
        token.cancel();
        next(&wait);
    }
}

/// How often a test does the same again: miri, which is a thousand times slower, finds in few rounds what it finds at all.
pub(crate) const fn rounds(many: u32) -> u32 {
    if cfg!(miri) { many.div_ceil(50) } else { many }
}

/// Asks so often that the next question will not read the clock by itself.
pub(crate) fn ask_often() {
    for _ in 0..if cfg!(miri) { 1000 } else { 1_000_000 } {
        let _ = timebox::is_expired();
    }
}
