//! What the tests share. A *sweep* runs a statement again and again, under limits that pass near the statement's end.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use timebox::TimeoutError;

pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

/// A limit that the test reaches.
pub(crate) const SHORT: Duration = Duration::from_millis(20);

/// A limit that the test does not reach, unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long anything may take on the slowest, busiest machine before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(40);

/// Lets one test run at a time: sweeps measure time, and some tests count the open files of the whole process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
pub(crate) fn wait_until(mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < HANG, "it has not happened for {HANG:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
pub(crate) fn timed_out<T>(result: Result<T, AnyError>) -> TimeoutError {
    match result {
        Ok(_) => panic!("the work was not stopped"),
        Err(error) => *error.downcast().expect("the error of the scope"),
    }
}

/// Runs a statement under a limit that must interrupt it, and returns the error. If the limit passes before the
/// statement has begun, runs it again under a longer limit.
#[track_caller]
pub(crate) fn cut<T>(mut run: impl FnMut(Duration) -> Result<T, AnyError>) -> TimeoutError {
    let mut limit = SHORT;
    loop {
        let error = timed_out(run(limit));
        // An error without a source does not come from the server: the statement was not begun.
        if error.source().is_some() {
            return error;
        }
        limit *= 2;
        assert!(limit < HANG, "{error}");
    }
}

pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Statements that ended by themselves. Some may have ended just when the hook fired.
    pub(crate) ended: u32,
    /// Statements that were interrupted.
    pub(crate) cut: u32,
    /// How many later statements were interrupted by the hook of an earlier statement.
    pub(crate) hits: u32,
    lateness: Vec<Duration>,
}

/// Runs a statement many times. The limits are around the time that the statement takes: at first around `middle`, and
/// each run moves them. So on each machine, about as many statements end by themselves as are interrupted. The
/// statement must take longer than an interrupt.
///
/// `statement` runs the statement under a limit. `follow_up` runs other statements right after it, and returns how many
/// of these were interrupted.
pub(crate) fn sweep(
    runs: u32,
    middle: Duration,
    mut statement: impl FnMut(Duration) -> Result<(), AnyError>,
    follow_up: impl FnMut() -> u32,
) -> Sweep {
    sweep_sleeps(runs, middle, |limit, _| statement(limit), follow_up, false)
}

/// Like [`sweep`], for statements that sleep. `statement` takes the limit and the sleep. The sleep is `own` at first.
/// If an interrupt takes longer than the sleep, no statement is ever interrupted. So with `grow`, the sleep is doubled
/// if the interrupts come too late.
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
        // Between half of the middle and one and a half times the middle, in a scattered order.
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
                // An error without a source does not come from the server: the statement was not begun.
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
    /// Asserts that there were no hits. Also asserts that the sweep has tried both cases often enough: at least a fifth
    /// of the statements ended by themselves, and at least a fifth were interrupted.
    #[track_caller]
    pub(crate) fn check(mut self, what: &str) {
        self.lateness.sort_unstable();
        let late = |part: usize| self.lateness.get(self.lateness.len() * part / 100);
        let Self { ended, cut, hits, .. } = &self;
        // The lateness is printed but not checked: it depends on the machine, and on what else the machine does.
        println!("{what}: {ended} ended, {cut} interrupted, {hits} hits, late {:?} {:?}", late(50), late(90));
        assert_eq!(*hits, 0, "{self:?}");
        assert!(
            *cut * 5 >= ended + cut && *ended * 5 >= ended + cut,
            "the sweep missed the deadline: {self:?}"
        );
    }
}
