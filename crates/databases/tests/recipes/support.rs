//! What the tests share: sweeps around the deadline, and waiting for what has to happen.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use timebox::TimeoutError;

pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

/// A limit that is meant to pass.
pub(crate) const SHORT: Duration = Duration::from_millis(20);

/// A limit that is never meant to pass: reaching it is a hang.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long anything may take on the slowest, busiest machine before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(40);

/// Sweeps measure time, and some tests count what the whole process has open: one test at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for something that has to happen, wherever it does.
#[track_caller]
pub(crate) fn wait_until(mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < HANG, "it has not happened for {HANG:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The crate's error, of work that had to run into its limit.
#[track_caller]
pub(crate) fn timed_out<T>(result: Result<T, AnyError>) -> TimeoutError {
    match result {
        Ok(_) => panic!("the work was not stopped"),
        Err(error) => *error.downcast().expect("the error of the scope"),
    }
}

/// Runs under a limit what has to be interrupted in its statement, with more time where it did not come to that.
#[track_caller]
pub(crate) fn cut<T>(mut run: impl FnMut(Duration) -> Result<T, AnyError>) -> TimeoutError {
    let mut limit = SHORT;
    loop {
        let error = timed_out(run(limit));
        // Without a source the statement was not made at all.
        if error.source().is_some() {
            return error;
        }
        limit *= 2;
        assert!(limit < HANG, "{error}");
    }
}

/// How many descriptors this process has open. (A system without `/proc` has none to show.)
pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// How a sweep went.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Statements that ended by themselves, maybe just when the hook fired.
    pub(crate) ended: u32,
    /// Statements that were interrupted.
    pub(crate) cut: u32,
    /// Statements interrupted that were none of the hook's business.
    pub(crate) hits: u32,
    lateness: Vec<Duration>,
}

/// Sweeps a limit over the end of a statement, which takes about `middle`, longer than an interrupt does.
///
/// `statement` runs one under the limit, and `follow_up` others right after it: it returns how many of those were hit.
/// The middle follows the machine, so that about as many statements end by themselves as are interrupted, whatever the
/// speed and the load.
pub(crate) fn sweep(
    runs: u32,
    middle: Duration,
    mut statement: impl FnMut(Duration) -> Result<(), AnyError>,
    follow_up: impl FnMut() -> u32,
) -> Sweep {
    sweep_sleeps(runs, middle, |limit, _| statement(limit), follow_up, false)
}

/// As [`sweep`], of statements that do nothing for a given time, `own` to begin with. If they `grow`, they become longer
/// where an interrupt takes longer than that, so that none would ever be interrupted.
pub(crate) fn sweep_sleeps(
    runs: u32,
    mut own: Duration,
    mut statement: impl FnMut(Duration, Duration) -> Result<(), AnyError>,
    mut follow_up: impl FnMut() -> u32,
    grow: bool,
) -> Sweep {
    let mut seen = Sweep::default();
    let mut run = 0;
    let mut middle = own;
    while seen.ended + seen.cut < runs {
        run += 1;
        assert!(run < 100 * runs, "the machine is too busy: {seen:?}");
        // From half of the middle to one and a half of it, in a scattered order.
        let limit = middle * (32 + run * 29 % 64) / 64;
        let start = Instant::now();
        let result = statement(limit, own);
        let taken = start.elapsed();
        match result.map_err(<dyn Error + Send + Sync>::downcast::<TimeoutError>) {
            Ok(()) => {
                seen.ended += 1;
                middle -= middle / 64;
                if grow && middle < own / 2 {
                    own *= 2;
                    middle = own;
                    seen = Sweep { hits: seen.hits, ..Sweep::default() };
                }
            }
            Err(Ok(error)) => {
                middle += middle / 64;
                // Without a source it was not made at all.
                if error.source().is_some() {
                    seen.cut += 1;
                    seen.lateness.push(taken.saturating_sub(limit));
                }
            }
            Err(Err(error)) => panic!("not even an interrupt: {error}"),
        }
        seen.hits += follow_up();
    }
    seen
}

impl Sweep {
    /// No hits, and the deadline was near the end of the statement often enough for that to say something.
    #[track_caller]
    pub(crate) fn check(mut self, what: &str) {
        self.lateness.sort_unstable();
        let late = |part: usize| self.lateness.get(self.lateness.len() * part / 100);
        let Self { ended, cut, hits, .. } = &self;
        // A figure to read, not a gate: it depends on the machine and on what else it does.
        println!("{what}: {ended} ended, {cut} interrupted, {hits} hits, late {:?} {:?}", late(50), late(90));
        assert_eq!(*hits, 0, "{self:?}");
        assert!(
            *cut * 5 >= ended + cut && *ended * 5 >= ended + cut,
            "the sweep missed the deadline: {self:?}"
        );
    }
}
