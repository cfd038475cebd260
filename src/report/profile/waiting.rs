//! Where a profiled future waits between its polls.
//!
//! A poll that is *traced* (`awaits.rs`) finds where the future waits until the next poll. Tracing costs microseconds,
//! so it has a budget, and some polls are not traced. If a sample finds the future pending after a poll that was not
//! traced, the sample wakes the task. The next poll is traced, and the place that it finds counts for the sample.

use std::mem;
use std::task::Waker;

use super::recording::{Count, Doing, Place, Seen, kept};
use crate::report::awaits::AwaitCopies;
use crate::report::stack::Unwinder;
use crate::report::stack::raw::RawStack;

/// A guess of what a traced poll costs, in nanoseconds. It is not measured, because that would itself take time.
const COST: u64 = 5_000;

/// Polls are traced while the traced polls together cost less than `FREE` nanoseconds plus one `PART`th of the elapsed
/// time. After that, a poll is traced only if a sample needs it.
const FREE: u64 = 2_000_000;
const PART: u64 = 256;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Whether the future is between two polls. Always `false` for code that is no future.
    is_pending: bool,
    polls: u64,
    traced: u64,
    /// Set by a sample if it is not known where the future waits. Then the next poll is traced.
    is_wanted: bool,
    places: Places,
    /// Samples of a pending future that are not counted yet, because the place where the future waits is not known.
    owed: Count,
    /// The task's waker, if the last poll was not traced. A sample can wake the task with it, so that the next poll is
    /// traced.
    waker: Option<Waker>,
    /// A wait that has ended, whose samples are not counted yet: the stacks at which the future waited, and the
    /// samples.
    over: Option<(AwaitCopies, Count)>,
}

#[derive(Debug, Default)]
enum Places {
    #[default]
    Unknown,
    Copied(AwaitCopies),
    /// The sampler has taken the copies, and searches them for the place.
    Taken,
    Known(Place),
}

#[derive(Debug)]
pub(super) enum Found {
    /// A poll is under way.
    Polled,
    Pending(Place),
    /// The future is pending, but the place is not found yet. The caller must find the place in the copies, and pass it
    /// to [`Waiting::know`]. This sample and the `owed` earlier samples count for this place.
    Copied {
        copies: AwaitCopies,
        poll: u64,
        owed: Count,
    },
    /// The place will be known only after the next poll. The caller must wake the task, unless an earlier sample has
    /// taken the waker (`None`).
    Later(Option<Waker>),
}

impl Waiting {
    /// Begins a poll. Returns whether the poll is to be traced, and the waker of the wait that has ended. Drop this
    /// waker outside of the lock: its drop may run the user's code.
    pub(super) fn begin_poll(&mut self, elapsed: u64) -> (bool, Option<Waker>) {
        self.is_pending = false;
        self.polls += 1;
        let is_within_budget = self.traced * COST < FREE + elapsed / PART;
        let is_traced = mem::take(&mut self.is_wanted) || is_within_budget;
        self.traced += u64::from(is_traced);
        if let Places::Copied(copies) = mem::take(&mut self.places)
            && self.owed.samples > 0
        {
            self.over = Some((copies, mem::take(&mut self.owed)));
        }
        (is_traced, self.waker.take())
    }

    /// Called after a poll that has left the future pending. `copies`: the stacks, if the poll was traced. `waker`: the
    /// task's waker, if the poll was not traced.
    pub(super) fn end_poll(&mut self, copies: Option<AwaitCopies>, waker: Option<Waker>) {
        self.is_pending = true;
        self.waker = waker;
        self.places = copies.map_or(Places::Unknown, Places::Copied);
    }

    /// Called for a sample that stands for `time`. Returns where the future waits, if that is known.
    pub(super) fn look(&mut self, time: u64) -> Found {
        if !self.is_pending {
            return Found::Polled;
        }
        match mem::take(&mut self.places) {
            Places::Known(place) => {
                self.places = Places::Known(place.clone());
                Found::Pending(place)
            }
            Places::Copied(copies) => {
                self.places = Places::Taken;
                Found::Copied { copies, poll: self.polls, owed: mem::take(&mut self.owed) }
            }
            places @ (Places::Unknown | Places::Taken) => {
                self.places = places;
                self.is_wanted = true;
                self.owed.add(Count::one(time));
                Found::Later(self.waker.take())
            }
        }
    }

    /// Keeps the place that the caller has found in the copies of this poll. Does nothing if a later poll has begun.
    pub(super) fn know(&mut self, poll: u64, place: &Place) {
        if self.polls == poll {
            self.places = Places::Known(place.clone());
        }
    }

    /// Takes what a wait that has ended left behind: copies that show its place, and the count of samples that need the
    /// place.
    pub(super) fn settle(&mut self) -> Option<(AwaitCopies, Count)> {
        self.over.take()
    }

    pub(super) fn unsettled(&self) -> Count {
        let mut unsettled = self.owed;
        self.over.iter().for_each(|(_, owed)| unsettled.add(*owed));
        unsettled
    }
}

pub(super) fn pending(place: Place) -> Seen {
    Seen { by_handle: false, doing: Doing::Pending, place }
}

/// The place at which a future waits, from the stacks that its poll took. Also returns one of these stacks, because it
/// knows the modules of the process.
pub(super) fn place_of(copies: AwaitCopies, unwinder: &mut Unwinder) -> (Place, Option<RawStack>) {
    let stacks = copies.unwind(unwinder);
    if stacks.is_empty() {
        return (Place::Unknown, None);
    }
    let addresses = stacks.iter().map(|stack| kept(stack.frames.iter().map(|frame| frame.address))).collect();
    (Place::Awaits(addresses), stacks.into_iter().next())
}
