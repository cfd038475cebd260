use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use super::probe::{Injector, Where, cut_off, inject};
use crate::error::TimeoutError;
use crate::sync::panic_message;

type Place = &'static Location<'static>;

/// Runs a body once to count its interruption points, and then once for each of them, with an expiry there.
///
/// What an interruption point is, and which scope expires there, is said at
/// [`expire_at_checkpoint`](super::expire_at_checkpoint()). The body checks for itself what must hold afterwards, with
/// assertions: whether it was interrupted or not, the balance is right, the lock is free, the file is gone. It must come
/// to an end without an expiry, and do the same each time until the expiry comes. One whose own limits run out on the way,
/// by the real clock, does not: give it a [`MockClock`](super::MockClock).
///
/// # Panics
///
/// When all runs are done, if the body panicked in any of them, was not run since a scope around was over, or was not
/// deterministic: the message names the points by number and place. To run one alone, put
/// [`expire_at_checkpoint(number, ..)`](super::expire_at_checkpoint()) in its place.
/// [`try_for_each_checkpoint`] hands out the report instead.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use timebox::testing::for_each_checkpoint;
/// use timebox::{TimeoutError, checkpoint};
///
/// fn transfer(from: &Cell<i32>, to: &Cell<i32>) -> Result<(), TimeoutError> {
///     checkpoint()?;
///     from.set(from.get() - 10);
///     // a checkpoint here would lose ten
///     to.set(to.get() + 10);
///     checkpoint()
/// }
///
/// let report = for_each_checkpoint(|| {
///     let (from, to) = (Cell::new(100), Cell::new(0));
///     let result = transfer(&from, &to);
///     assert_eq!(from.get() + to.get(), 100);
///     result
/// });
/// assert_eq!(report.points().len(), 2);
/// ```
#[track_caller]
pub fn for_each_checkpoint<R>(body: impl FnMut() -> R) -> Report<R> {
    let report = try_for_each_checkpoint(body);
    report.assert();
    report
}

/// As [`for_each_checkpoint`], except that it does not panic.
///
/// ```
/// use timebox::testing::try_for_each_checkpoint;
/// use timebox::{TimeoutError, checkpoint};
///
/// let report = try_for_each_checkpoint(|| -> Result<(), TimeoutError> {
///     checkpoint()?;
///     let lock = std::sync::Mutex::new(());
///     let held = lock.lock().unwrap();
///     let result = checkpoint();
///     std::mem::forget(held); // the bug
///     assert!(result.is_ok() || lock.try_lock().is_ok(), "still locked");
///     result
/// });
/// let failed: Vec<usize> = report.failures().map(|point| point.number()).collect();
/// assert_eq!(failed, [2]);
/// ```
#[must_use = "the report tells which runs have failed"]
#[track_caller]
pub fn try_for_each_checkpoint<R>(mut body: impl FnMut() -> R) -> Report<R> {
    let location = Location::caller();
    let mut run = |place| {
        let injector = Injector::new(place);
        let result = catch_unwind(AssertUnwindSafe(|| inject(&injector, location, &mut body)));
        (injector.seen(), Outcome::of(result))
    };
    let (all, first) = run(Where::Nowhere);
    let mut report = Report::new(location, first);
    if report.unharmed.held() {
        for number in 1..=all.len() {
            let (seen, outcome) = run(Where::At { number, in_shields: false });
            report.add(number, &all, &seen, outcome);
        }
    }
    report
}

/// What came of a body that was run once for each of its interruption points.
#[derive(Debug)]
pub struct Report<R> {
    location: Place,
    unharmed: Outcome<R>,
    points: Vec<Point<R>>,
}

/// One interruption point of a body, and what came of an expiry there.
#[derive(Debug)]
pub struct Point<R> {
    number: usize,
    location: Place,
    way: Way,
    outcome: Outcome<R>,
}

/// How a run came to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    AsBefore,
    /// It was here instead.
    Astray(Place),
    Ended,
}

/// What came back from a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<R> {
    /// What the body returned.
    Returned(R),
    /// The body was unwound, or its future dropped, by a scope that is not its own; or it was not run, in one that was
    /// over ([`started`](TimeoutError::started) is false).
    Cut(TimeoutError),
    /// Its check did not hold, as the message says.
    Panicked(String),
}

impl<R> Outcome<R> {
    pub(super) fn of(result: Result<Result<R, TimeoutError>, Box<dyn Any + Send>>) -> Self {
        match result {
            Ok(Ok(value)) => Self::Returned(value),
            Ok(Err(error)) => Self::Cut(error),
            Err(payload) => {
                let message = panic_message(&*payload).unwrap_or("a panic without a message");
                Self::Panicked(message.to_owned())
            }
        }
    }

    /// Whether the body was run, and its own check held: it did not panic.
    pub fn held(&self) -> bool {
        match self {
            Self::Returned(_) => true,
            Self::Cut(error) => error.started(),
            Self::Panicked(_) => false,
        }
    }
}

impl<R> Report<R> {
    pub(super) fn new(location: Place, unharmed: Outcome<R>) -> Self {
        Self { location, unharmed, points: Vec::new() }
    }

    /// Adds a run: the points that it should have reached, and those it has.
    pub(super) fn add(&mut self, number: usize, all: &[Place], seen: &[Place], outcome: Outcome<R>) {
        let astray = all.iter().zip(0..number).find(|(place, index)| seen.get(*index) != Some(place));
        let way = match astray {
            None => Way::AsBefore,
            Some((_, index)) => seen.get(index).map_or(Way::Ended, |place| Way::Astray(place)),
        };
        self.points.push(Point { number, location: all[number - 1], way, outcome });
    }

    /// What came of the run without an expiry, which counted the points.
    pub fn unharmed(&self) -> &Outcome<R> {
        &self.unharmed
    }

    /// The points in order, with what came of an expiry at each.
    pub fn points(&self) -> &[Point<R>] {
        &self.points
    }

    /// The points at which the body's check failed, or that were not reached again.
    pub fn failures(&self) -> impl Iterator<Item = &Point<R>> {
        self.points.iter().filter(|point| !point.held())
    }

    /// Whether the body came to the same points each time, as far as it was let.
    pub fn is_deterministic(&self) -> bool {
        self.points.iter().all(|point| point.way == Way::AsBefore)
    }

    /// Panics if there is a failure.
    ///
    /// # Panics
    ///
    /// If the body was not run, its check did not hold in every run, or it was not deterministic.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.unharmed.held() && self.failures().next().is_none(), "{self}");
    }
}

impl<R> Point<R> {
    /// Its number, counted from 1: what [`expire_at_checkpoint`](super::expire_at_checkpoint()) takes.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where it is.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// What came of an expiry there.
    pub fn outcome(&self) -> &Outcome<R> {
        &self.outcome
    }

    /// Whether it was reached as in the first run, and the body's check held.
    pub fn held(&self) -> bool {
        self.way == Way::AsBefore && self.outcome.held()
    }
}

/// One line for each point.
impl<R> fmt::Display for Report<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failures().count();
        writeln!(
            f,
            "expiry at each of {} interruption points ({}): {failed} failed",
            self.points.len(),
            self.location
        )?;
        match &self.unharmed {
            Outcome::Panicked(message) => {
                writeln!(f, "  the body's check does not hold even without an expiry: {message}")?;
            }
            Outcome::Cut(error) if !error.started() => writeln!(f, "  {}", cut_off(error))?,
            _ => {}
        }
        for point in &self.points {
            writeln!(f, "  {point}")?;
        }
        if !self.is_deterministic() {
            writeln!(f, "  the body is not deterministic: it does not come to the same points each time")?;
        }
        if let Some(point) = self.failures().next() {
            writeln!(f, "  to run one alone: testing::expire_at_checkpoint({}, ..)", point.number)?;
        }
        Ok(())
    }
}

impl<R> fmt::Display for Point<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3} {}: ", self.number, self.location)?;
        match &self.outcome {
            Outcome::Returned(_) => f.write_str("returned")?,
            Outcome::Cut(error) if error.started() => write!(f, "cut off: {error}")?,
            Outcome::Cut(error) => write!(f, "FAILED: {}", cut_off(error))?,
            Outcome::Panicked(message) => write!(f, "FAILED: {message}")?,
        }
        match self.way {
            Way::Astray(place) => write!(f, "; NOT REACHED: the run came to {place} instead"),
            Way::Ended => f.write_str("; NOT REACHED: the run ended before"),
            Way::AsBefore => Ok(()),
        }
    }
}
