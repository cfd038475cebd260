//! What the tests share. No test sleeps and hopes: it waits for an event, and only a hang makes it wait long.

use std::future::{Future, pending};
use std::mem::ManuallyDrop;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::time::{Duration, Instant};

use timebox::{CancellationToken, Hook, Registration, Scope, TimeoutError};

/// A limit that is meant to pass. The clock of miri goes on by 5 us with each block of code: what takes microseconds
/// elsewhere takes tens of milliseconds there.
pub(crate) const SHORT: Duration = Duration::from_millis(if cfg!(miri) { 200 } else { 20 });

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
        std::thread::sleep(Duration::from_micros(if cfg!(miri) { 50_000 } else { 500 }));
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

/// As [`unhurried`], for a future.
pub(crate) async fn unhurried_future<F: Future<Output = Option<()>>>(test: impl Fn(Duration) -> F) {
    let mut limit = SHORT;
    while test(limit).await.is_none() {
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

/// Holds the watchdog in a hook until it is dropped, and each thread that takes over in another: what is due meanwhile
/// stays on its way, for some tenths of a second at least.
pub(crate) struct HeldWatchdog {
    release: Sender<()>,
    begins: Receiver<()>,
    _registrations: Vec<Registration>,
}

impl HeldWatchdog {
    const HOOKS: usize = if cfg!(miri) { 10 } else { 100 };

    pub(crate) fn new() -> Self {
        let ((release, released), (began, begins)) = (channel::<()>(), channel());
        let released = Arc::new(Mutex::new(released));
        let holds = |_| {
            let (began, released) = (began.clone(), Arc::clone(&released));
            let token = CancellationToken::new();
            let registration = token.on_cancel(Hook::inline(move || {
                let _ = began.send(());
                let _ = released.lock().unwrap().recv_timeout(HANG);
            }));
            token.cancel();
            registration
        };
        let registrations = (0..Self::HOOKS).map(holds).collect();
        next(&begins);
        Self { release, begins, _registrations: registrations }
    }

    /// `None` if it may have been held for too short a while: the machine was too busy.
    pub(crate) fn release(self) -> Option<()> {
        let Self { release, begins, _registrations } = self;
        let is_held = begins.try_iter().count() < Self::HOOKS - 1;
        drop(release);
        let_the_watchdog_pass();
        is_held.then_some(())
    }
}

/// Runs the test again if it was too slow for a held watchdog.
#[track_caller]
pub(crate) fn again_until_held(test: impl Fn() -> Option<()>) {
    assert!((0..50).any(|_| test().is_some()), "the watchdog is never held for long enough");
}

/// How often a test does the same again: miri, which is a thousand times slower, finds in few rounds what it finds at
/// all.
pub(crate) const fn rounds(many: u32) -> u32 {
    if cfg!(miri) { many.div_ceil(50) } else { many }
}

/// Asks so often that the next question will not read the clock by itself.
pub(crate) fn ask_often() {
    for _ in 0..if cfg!(miri) { 1000 } else { 1_000_000 } {
        let _ = timebox::is_expired();
    }
}

/// One poll whose wake-ups nobody hears.
pub(crate) fn poll_once<F: Future + Unpin>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// How often a hook has fired.
#[derive(Clone, Default)]
pub(crate) struct Count(pub(crate) Arc<AtomicU32>);

impl Count {
    pub(crate) fn hook(&self) -> Hook<'static> {
        let count = self.clone();
        Hook::inline(move || count.0.fetch_add(1, SeqCst))
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(SeqCst)
    }

    #[track_caller]
    pub(crate) fn wait_for_a_firing(&self) {
        wait_for("the hook", || self.get() > 0);
    }
}

/// A call that never ends by itself.
pub(crate) async fn endless() -> Result<(), String> {
    pending().await
}

/// What a waker does whenever it is cloned, woken or dropped.
struct Act(Box<dyn Fn() + Send + Sync>);

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        let act = ManuallyDrop::new(owned(data));
        (act.0)();
        raw_waker(Arc::clone(&act))
    },
    |data| (owned(data).0)(),
    |data| (ManuallyDrop::new(owned(data)).0)(),
    |data| (owned(data).0)(),
);

/// The `Act` of a raw waker; for the vtable only.
fn owned(data: *const ()) -> Arc<Act> {
    // SAFETY: the pointer is from `raw_waker`, and the vtable gives its count up once: where it does not own it, it
    // forgets the `Arc`.
    unsafe { Arc::from_raw(data.cast()) }
}

fn raw_waker(act: Arc<Act>) -> RawWaker {
    RawWaker::new(Arc::into_raw(act).cast(), &VTABLE)
}

/// `std::task::Wake` would not hear of a clone.
pub(crate) fn waker(act: impl Fn() + Send + Sync + 'static) -> Waker {
    let act = Arc::new(Act(Box::new(act)));
    // SAFETY: the vtable keeps the count of an `Arc` whose content is `Send + Sync`.
    unsafe { Waker::from_raw(raw_waker(act)) }
}

/// A waker that does what it was told to.
struct Waking<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Wake for Waking<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// Polls once; what `wake` does happens when the future is to be polled again.
pub(crate) fn poll_with<F: Future>(
    future: &mut std::pin::Pin<Box<F>>,
    wake: impl Fn() + Send + Sync + 'static,
) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Waking(wake)));
    future.as_mut().poll(&mut Context::from_waker(&waker))
}

/// A hook that counts how often it fired.
pub(crate) fn counting() -> (Hook<'static>, Arc<AtomicU32>) {
    let fires = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&fires);
    (Hook::inline(move || counted.fetch_add(1, SeqCst)), fires)
}

/// As [`counting`], on a runner.
pub(crate) fn counting_on_a_runner() -> (Hook<'static>, Arc<AtomicU32>) {
    let fires = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&fires);
    (Hook::new(move || counted.fetch_add(1, SeqCst)), fires)
}
