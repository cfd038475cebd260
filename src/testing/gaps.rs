use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::probe::{returned, run};
use crate::sync::{Mutex, ThreadKey, lock, os};
use crate::test_env::{Probe, Verdict};

type Place = &'static Location<'static>;

/// Runs a body, and panics if it runs longer than `max_gap` between two interruption points: a
/// [`checkpoint`](crate::checkpoint) is missing there.
///
/// Real time is measured, from the start of the body to its end, on each thread that reaches a point. Time in a
/// [`sleep`](crate::sleep()) or in an [interruptible call](crate::interruptible()) does not count, and neither does
/// time while a future is pending, because such waits can be interrupted at any time. A busy machine makes gaps:
/// allow ten times the gap that you expect.
///
/// # Panics
///
/// After the body has ended, if the longest gap is longer than `max_gap`. The message names the two ends of the gap.
/// Other reasons are those of [`expire_at_checkpoint`](super::expire_at_checkpoint()).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::checkpoint;
/// use timebox::testing::assert_checkpoints;
///
/// let sum = assert_checkpoints(Duration::from_secs(10), || {
///     (0..100_u32).map(|n| checkpoint().map(|()| n)).sum::<Result<u32, _>>()
/// });
/// assert_eq!(sum.unwrap(), 4950);
/// ```
#[track_caller]
pub fn assert_checkpoints<R>(max_gap: Duration, body: impl FnOnce() -> R) -> R {
    let location = Location::caller();
    let gaps = Arc::new(Gaps { state: Mutex::new(State::default()) });
    let probe = Arc::clone(&gaps) as Arc<dyn Probe>;
    let result = run(probe, location, |_| {
        gaps.begin(location);
        let result = body();
        gaps.end(location);
        result
    });
    let longest = lock(&gaps.state).longest;
    if let Some(Gap { from, to, nanos }) = longest
        && Duration::from_nanos(nanos) > max_gap
    {
        let took = Duration::from_nanos(nanos);
        panic!("no checkpoint for {took:?}, more than {max_gap:?}: from {} to {}", from.name(), to.name());
    }
    returned(result)
}

struct Gaps {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: bool,
    /// For each thread: the last point that it reached, and when. A thread in a wait has no entry.
    last: Vec<(ThreadKey, Mark, u64)>,
    longest: Option<Gap>,
}

#[derive(Clone, Copy)]
struct Gap {
    from: Mark,
    to: Mark,
    nanos: u64,
}

#[derive(Clone, Copy)]
enum Mark {
    Start(Place),
    Point(Place),
    Finish(Place),
}

impl Mark {
    fn name(self) -> String {
        match self {
            Self::Start(place) => format!("the start of the body ({place})"),
            Self::Point(place) => place.to_string(),
            Self::Finish(place) => format!("the end of the body ({place})"),
        }
    }
}

impl Gaps {
    fn begin(&self, location: Place) {
        let mut state = lock(&self.state);
        state.begun = true;
        state.reach(Mark::Start(location));
    }

    fn end(&self, location: Place) {
        let mut state = lock(&self.state);
        state.reach(Mark::Finish(location));
        state.begun = false;
    }
}

impl State {
    fn reach(&mut self, to: Mark) {
        let now = os::monotonic_nanos();
        if let Some((_, from, then)) = self.take_last() {
            let gap = Gap { from, to, nanos: now.saturating_sub(then) };
            if self.longest.is_none_or(|longest| longest.nanos < gap.nanos) {
                self.longest = Some(gap);
            }
        }
        self.last.push((ThreadKey::current(), to, now));
    }

    fn take_last(&mut self) -> Option<(ThreadKey, Mark, u64)> {
        let index = self.last.iter().position(|last| last.0 == ThreadKey::current())?;
        Some(self.last.swap_remove(index))
    }
}

impl Probe for Gaps {
    fn reached(&self, location: Place) -> Verdict {
        let mut state = lock(&self.state);
        if state.begun {
            state.reach(Mark::Point(location));
        }
        Verdict::Pass
    }

    fn waits(&self, location: Place, begins: bool) {
        let mut state = lock(&self.state);
        state.take_last();
        if !begins && state.begun {
            state.last.push((ThreadKey::current(), Mark::Point(location), os::monotonic_nanos()));
        }
    }

    fn injects(&self) -> bool {
        false
    }
}
