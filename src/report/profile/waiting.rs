//! A profiled future between its polls, and where it waits.
//!
//! A poll that is *traced* (`awaits.rs`) tells where the future waits until the next poll. It costs microseconds, so polls are
//! traced only within a budget. If a sample finds the future pending after a poll that was not traced, the task is woken, and the
//! next poll is traced: it tells for that sample too.

use std::mem;
use std::task::Waker;

use super::recording::{Count, Doing, Place, Seen, kept};
use crate::report::awaits::AwaitCopies;
use crate::report::stack::Unwinder;
use crate::report::stack::raw::RawStack;

/// What a traced poll costs about, in nanoseconds. It is not measured, since a reading of the clock costs something too.
const COST: u64 = 5_000;

/// The budget in nanoseconds, and a part of the time that has elapsed.
const FREE: u64 = 2_000_000;
const PART: u64 = 256;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Whether the future is between two polls. Code that is no future never is.
    is_pending: bool,
    /// The number of polls.
    polls: u64,
    /// How many were traced.
    traced: u64,
    /// Whether a sample waits for the next poll to be traced.
    is_wanted: bool,
    places: Places,
    /// The samples that wait for the place.
    owed: Count,
    /// The task, after a poll that was not traced.
    waker: Option<Waker>,
    /// A wait that is over, and the samples that found the future in it.
    over: Option<(AwaitCopies, Count)>,
}

/// Where the future waits.
#[derive(Debug, Default)]
enum Places {
    #[default]
    Unknown,
    Copied(AwaitCopies),
    /// Somebody is finding them out.
    Taken,
    Known(Place),
}

/// What a sample finds.
#[derive(Debug)]
pub(super) enum Found {
    /// A poll is under way.
    Polled,
    Pending(Place),
    /// These copies tell where, for this sample and those that wait for it. [`Waiting::know`] takes the place.
    Copied {
        copies: AwaitCopies,
        poll: u64,
        owed: Count,
    },
    /// The place will be known after the next poll. The task is to be woken.
    Later(Option<Waker>),
}

impl Waiting {
    /// Begins a poll. Says whether the poll is to be traced. The caller drops the second value outside of the lock.
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

    /// Ends a poll. `waker` is the task's, after a poll that was not traced.
    pub(super) fn end_poll(&mut self, copies: Option<AwaitCopies>, waker: Option<Waker>) {
        self.is_pending = true;
        self.waker = waker;
        self.places = copies.map_or(Places::Unknown, Places::Copied);
    }

    /// Looks at the future for a sample that stands for this time.
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

    /// Keeps the place that the copies of a poll told.
    pub(super) fn know(&mut self, poll: u64, place: &Place) {
        if self.polls == poll {
            self.places = Places::Known(place.clone());
        }
    }

    /// The copies that tell where samples found the future, and these samples.
    pub(super) fn settle(&mut self) -> Option<(AwaitCopies, Count)> {
        self.over.take()
    }

    /// The samples of which the place is not known, or not yet.
    pub(super) fn unsettled(&self) -> Count {
        let mut unsettled = self.owed;
        self.over.iter().for_each(|(_, owed)| unsettled.add(*owed));
        unsettled
    }
}

/// A sample that found a future pending.
pub(super) fn pending(place: Place) -> Seen {
    Seen { by_handle: false, doing: Doing::Pending, place }
}

/// Where a future waits, as the copies tell.
pub(super) fn place_of(copies: AwaitCopies, unwinder: &mut Unwinder) -> (Place, Option<RawStack>) {
    let stacks = copies.unwind(unwinder);
    if stacks.is_empty() {
        return (Place::Unknown, None);
    }
    let addresses = stacks.iter().map(|stack| kept(stack.frames.iter().map(|frame| frame.address))).collect();
    (Place::Awaits(addresses), stacks.into_iter().next())
}
