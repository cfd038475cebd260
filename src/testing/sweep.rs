use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use super::probe::{Injector, Where, cut_off, inject};
use crate::error::TimeoutError;
use crate::sync::panic_message;

type Place = &'static Location<'static>;

/// Runs a body once to count its interruption points, and then once for each point, with an expiry at that point.
///
/// [`expire_at_checkpoint`](super::expire_at_checkpoint()) explains interruption points, and which scope expires.
///
/// The body itself asserts its invariants: interrupted or not, the balance is right, the lock is free, the file is
/// gone. The body must also end if nothing expires, and each run must do the same until its expiry. If the body has
/// limits that may run out by the real clock, runs may differ: run it under a [`MockClock`](super::MockClock).
///
/// # Panics
///
/// After all runs, if the body panicked in a run, was not deterministic, or was not run because an outer scope was
/// over. The message names the points by number and place. To repeat one run alone, call
/// [`expire_at_checkpoint(number, ..)`](super::expire_at_checkpoint()) instead. [`try_for_each_checkpoint`] returns
/// the report and does not panic.
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
///     // with a checkpoint here, ten would be lost
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

/// Like [`for_each_checkpoint`], but returns the report and does not panic.
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
#[must_use = "the report says which runs have failed"]
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

/// The results of a body that was run once for each of its interruption points.
#[derive(Debug)]
pub struct Report<R> {
    location: Place,
    unharmed: Outcome<R>,
    points: Vec<Point<R>>,
}

/// One interruption point of a body, and the outcome of an expiry there.
#[derive(Debug)]
pub struct Point<R> {
    number: usize,
    location: Place,
    arrival: Arrival,
    outcome: Outcome<R>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// The run reached its point. This point and all points before it were the same as in the first run.
    Reached,
    /// The run differed from the first run at its point, or at a point before it: it came to this place, and the first
    /// run had come to another place.
    Elsewhere(Place),
    /// The run ended before it reached its point.
    Ended,
}

/// The outcome of one run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<R> {
    /// The body returned this value.
    Returned(R),
    /// The body did not return: a scope around it unwound it, or dropped its future. Or the body did not start,
    /// because an outer scope was over ([`started`](TimeoutError::started) is false).
    Cut(TimeoutError),
    /// The body panicked with this message, mostly because one of its assertions failed.
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

    /// Whether the body was run and did not panic.
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

    /// Adds a run whose scope was made to expire at point `number`, counted from 1. `all` are the points of the first
    /// run, `seen` the points of this run. If they differ at or before `number`, this run did not reach its point.
    pub(super) fn add(&mut self, number: usize, all: &[Place], seen: &[Place], outcome: Outcome<R>) {
        let differs = all.iter().zip(0..number).find(|(place, index)| seen.get(*index) != Some(place));
        let arrival = match differs {
            None => Arrival::Reached,
            Some((_, index)) => seen.get(index).map_or(Arrival::Ended, |place| Arrival::Elsewhere(place)),
        };
        self.points.push(Point { number, location: all[number - 1], arrival, outcome });
    }

    /// The outcome of the first run, which had no expiry and counted the points.
    pub fn unharmed(&self) -> &Outcome<R> {
        &self.unharmed
    }

    /// The points in order, with the outcome of an expiry at each.
    pub fn points(&self) -> &[Point<R>] {
        &self.points
    }

    /// The points at which the body failed, or that were not reached again.
    pub fn failures(&self) -> impl Iterator<Item = &Point<R>> {
        self.points.iter().filter(|point| !point.held())
    }

    /// Whether each run came to the same points as the first run, up to its own expiry.
    pub fn is_deterministic(&self) -> bool {
        self.points.iter().all(|point| point.arrival == Arrival::Reached)
    }

    /// Panics if there is a failure.
    ///
    /// # Panics
    ///
    /// If the body was not run, failed in a run, or was not deterministic.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.unharmed.held() && self.failures().next().is_none(), "{self}");
    }
}

impl<R> Point<R> {
    /// The point's number, counted from 1, for [`expire_at_checkpoint`](super::expire_at_checkpoint()).
    pub fn number(&self) -> usize {
        self.number
    }

    /// The point's place in the source.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The outcome of an expiry at this point.
    pub fn outcome(&self) -> &Outcome<R> {
        &self.outcome
    }

    /// Whether the run came to the same points as the first run, up to this point, and its outcome
    /// [held](Outcome::held).
    pub fn held(&self) -> bool {
        self.arrival == Arrival::Reached && self.outcome.held()
    }
}

/// A summary, and one line for each point.
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
        match self.arrival {
            Arrival::Elsewhere(place) => write!(f, "; NOT REACHED: the run came to {place} instead"),
            Arrival::Ended => f.write_str("; NOT REACHED: the run ended before"),
            Arrival::Reached => Ok(()),
        }
    }
}
