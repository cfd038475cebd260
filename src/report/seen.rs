//! What the watchdog has seen of scopes and polls. There is memory for a fixed number of them.

use super::due::next_time;
use super::look::key_of;
use super::recent::ScopeKey;
use super::reporter::{self, Job, Make};
use super::stack::Memory;
use crate::scope::{STUCK_POLL, ScopeCopies, ScopeCopy};
use crate::time::NEVER;

/// How many reported scopes and how many polls are remembered, at most. A scope that cannot be remembered is not
/// reported.
const MOST_REMEMBERED: usize = 1024;

/// After a report of a scope, the watchdog looks from time to time whether the scope is still open. The interval is the
/// time that the scope has been open, divided by `INTERVAL_FRACTION`, within these bounds in nanoseconds.
const LEAST_INTERVAL: u64 = 20_000_000;
pub(super) const MOST_INTERVAL: u64 = 1_000_000_000;
const INTERVAL_FRACTION: u64 = 50;

/// How many times one look reads the scopes of a thread, at most. A read may miss a scope, because the thread may run
/// meanwhile. So the look reads again until it has seen all reported scopes.
const PEEKS: usize = 4;

pub(super) struct Seen {
    /// The scopes of the thread that is being looked at.
    pub(super) peeked: Box<ScopeCopies>,
    /// The reported scopes that may still be open.
    pub(super) reported: Vec<Reported>,
    /// For each thread, the polls that it was in at the last look.
    pub(super) polls: Polls,
}

pub(super) struct Reported {
    slot: usize,
    frame: u64,
    scope: ScopeKey,
    /// The [`Event`]s that were reported.
    pub(super) events: u8,
    /// When the scope was last seen open.
    seen: u64,
    /// How many looks in a row have not seen the scope.
    missed: u32,
    /// Whether the frame is that of one poll of a future. If such a frame is gone, the poll has ended, but perhaps not
    /// the scope.
    is_poll: bool,
}

struct SeenPoll {
    slot: usize,
    frame: u64,
    number: u64,
    since: u64,
}

pub(super) struct Polls(Vec<SeenPoll>);

impl SeenPoll {
    fn is_of(&self, slot: usize, scope: &ScopeCopy) -> bool {
        (self.slot, self.frame, self.number) == (slot, scope.frame, scope.poll)
    }
}

impl Polls {
    /// Whether the poll was first seen at least `STUCK_POLL` ago. Remembers a poll that was not seen before.
    pub(super) fn has_lasted(&mut self, slot: usize, scope: &ScopeCopy, now: u64) -> bool {
        match self.0.iter().find(|seen| seen.is_of(slot, scope)) {
            Some(seen) => seen.since + STUCK_POLL <= now,
            None => {
                if self.0.len() < MOST_REMEMBERED {
                    self.0.push(SeenPoll { slot, frame: scope.frame, number: scope.poll, since: now });
                }
                false
            }
        }
    }
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            peeked: Box::new(ScopeCopies::new()),
            reported: Vec::with_capacity(MOST_REMEMBERED),
            polls: Polls(Vec::with_capacity(MOST_REMEMBERED)),
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.reported.clear();
        self.polls.0.clear();
    }

    pub(super) fn forget_polls(&mut self, slot: usize) {
        self.polls.0.retain(|poll| poll.slot != slot);
    }

    pub(super) fn has_reported(&self, slot: usize) -> bool {
        self.reported.iter().any(|reported| reported.slot == slot)
    }

    /// Reads the scopes of the thread, which may run meanwhile. Removes the scopes that have ended from `reported`, and
    /// reports each end (but not the end of a poll).
    pub(super) fn peek(&mut self, slot: usize, frame_word: u64, now: u64) {
        let Self { peeked, reported, polls } = self;
        for _ in 0..PEEKS {
            peeked.fill(frame_word, &Memory);
            let are_all = reported.iter().all(|reported| reported.slot != slot || reported.is_in(peeked));
            if are_all {
                break;
            }
        }
        reported.retain_mut(|reported| {
            if reported.slot != slot {
                return true;
            }
            let is_seen = reported.is_in(peeked);
            // A peek may miss an open scope, because other scopes or the call of a waker may hide the scope for a
            // moment. So a scope counts as left only after two misses in a row. (A poll counts as ended after one
            // miss.)
            reported.missed = if is_seen { 0 } else { reported.missed + 1 };
            let is_open = is_seen || peeked.is_cut || (!reported.is_poll && reported.missed < 2);
            if is_seen {
                reported.seen = now;
            } else if !is_open {
                reported.end(now);
            }
            is_open
        });
        let is_open = |poll: &SeenPoll| peeked.scopes().iter().any(|scope| poll.is_of(slot, scope));
        polls.0.retain(|poll| poll.slot != slot || is_open(poll));
    }

    /// Remembers that these events of the peeked scope at `depth` were reported. Returns the time of the scope's next
    /// report; `None` if the scope cannot be remembered.
    pub(super) fn tell(&mut self, slot: usize, depth: usize, events: u8, now: u64) -> Option<u64> {
        let Self { peeked, reported, .. } = self;
        let scope = &peeked.scopes()[depth];
        let known = reported.iter().position(|reported| reported.is_of(slot, scope));
        let at = known.unwrap_or(reported.len());
        if known.is_none() {
            if reported.len() == MOST_REMEMBERED {
                return None;
            }
            reported.push(Reported {
                slot,
                frame: scope.frame,
                scope: key_of(scope),
                events: 0,
                seen: now,
                missed: 0,
                is_poll: scope.kind.is_polled(),
            });
        }
        reported[at].events |= events;
        Some(next_time(scope, reported[at].events, now))
    }

    pub(super) fn next_look_for_ends(&self, slot: usize, now: u64) -> u64 {
        let of_thread = self.reported.iter().filter(|reported| reported.slot == slot);
        let intervals = of_thread.map(|reported| {
            let open = now.saturating_sub(reported.scope.entered);
            (open / INTERVAL_FRACTION).clamp(LEAST_INTERVAL, MOST_INTERVAL)
        });
        intervals.min().map_or(NEVER, |interval| now + interval)
    }

    /// Called when the thread has ended. Of its scopes that were reported, reports the end.
    pub(super) fn end_all(&mut self, slot: usize, now: u64) {
        self.forget_polls(slot);
        self.reported.retain(|reported| {
            if reported.slot == slot {
                reported.end(now);
            }
            reported.slot != slot
        });
    }
}

impl Reported {
    pub(super) fn is_of(&self, slot: usize, scope: &ScopeCopy) -> bool {
        self.slot == slot && self.frame == scope.frame && self.scope == key_of(scope)
    }

    fn is_in(&self, scopes: &ScopeCopies) -> bool {
        scopes.scopes().iter().any(|scope| self.is_of(self.slot, scope))
    }

    fn end(&self, now: u64) {
        if !self.is_poll {
            reporter::submit(Job { scope: self.scope, make: Make::Ended { seen: self.seen, now } });
        }
    }
}
