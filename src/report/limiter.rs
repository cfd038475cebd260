//! Which reports are written, and which are left out because there are too many.

use std::collections::{HashMap, VecDeque};

const MOST_STACKS: usize = 1024;

/// At most this many scopes are remembered whose reports were written. The end of a scope is reported only if the scope
/// is remembered.
const MOST_SCOPES: usize = 1024;

/// A bound of this many reports a minute, or more, counts as no bound.
const UNBOUNDED: u32 = 1 << 16;

const MINUTE: u64 = 60_000_000_000;

/// Times and durations are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) per_minute: u32,
    /// For this long after a report is written, no report with the same stack is written.
    pub(super) once_per: u64,
    pub(super) quiet_until: u64,
}

#[derive(Debug)]
pub(super) struct Limiter {
    bounds: Bounds,
    /// When the reports of the last minute were written, oldest first.
    written: VecDeque<u64>,
    stacks: HashMap<u64, Stack>,
    /// The scopes (hashes) of the last written reports, oldest first. The end of a scope is written only if the scope
    /// is in this list.
    scopes: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Stack {
    /// When a report with this stack was last written. `None` if none was.
    written: Option<u64>,
    /// When a report with this stack was last made.
    made: u64,
    /// How many reports with this stack were left out since the last written one.
    left_out: u64,
}

impl Limiter {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, written: VecDeque::new(), stacks: HashMap::new(), scopes: VecDeque::new() }
    }

    /// Returns `None` if the report is not to be written. Otherwise returns how many reports with the same stack were
    /// left out before.
    ///
    /// `stack` and `scope` are hashes. `now` never goes back.
    pub(super) fn admit(&mut self, stack: u64, scope: u64, now: u64) -> Option<u64> {
        if self.stacks.len() >= MOST_STACKS && !self.stacks.contains_key(&stack) {
            self.forget_some(now);
        }
        let has_room = self.has_room(now);
        let Bounds { once_per, quiet_until, per_minute } = self.bounds;
        let known = self.stacks.entry(stack).or_insert(Stack { written: None, made: now, left_out: 0 });
        known.made = now;
        let is_new = known.written.is_none_or(|written| now.saturating_sub(written) >= once_per);
        if now < quiet_until || !is_new || !has_room {
            known.left_out += 1;
            return None;
        }
        known.written = Some(now);
        let left_out = std::mem::take(&mut known.left_out);
        if per_minute < UNBOUNDED {
            self.written.push_back(now);
        }
        if !self.scopes.contains(&scope) {
            if self.scopes.len() == MOST_SCOPES {
                self.scopes.pop_front();
            }
            self.scopes.push_back(scope);
        }
        Some(left_out)
    }

    /// Returns `true` if the end of a scope is to be written: a report of the scope was written, and this is the first
    /// call for the scope.
    pub(super) fn admit_end(&mut self, scope: u64) -> bool {
        let at = self.scopes.iter().rposition(|&written| written == scope);
        at.and_then(|at| self.scopes.remove(at)).is_some()
    }

    fn has_room(&mut self, now: u64) -> bool {
        while self.written.front().is_some_and(|&written| now.saturating_sub(written) >= MINUTE) {
            self.written.pop_front();
        }
        self.bounds.per_minute >= UNBOUNDED || self.written.len() < self.bounds.per_minute as usize
    }

    /// Forgets a quarter of the stacks. First go the stacks that are not needed: none of their reports was left out,
    /// and their next report would not be held back by `once_per`. Among equals, the stack whose last report is the
    /// oldest goes first.
    fn forget_some(&mut self, now: u64) {
        let once_per = self.bounds.once_per;
        let is_needed = |stack: &Stack| {
            stack.left_out > 0 || stack.written.is_some_and(|written| now.saturating_sub(written) < once_per)
        };
        let order = |stack: &Stack| (is_needed(stack), stack.made);
        let mut all: Vec<_> = self.stacks.values().map(order).collect();
        let (_, &mut last, _) = all.select_nth_unstable(MOST_STACKS / 4);
        self.stacks.retain(|_, stack| order(stack) > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(per_minute: u32, once_per: u64) -> Limiter {
        Limiter::new(Bounds { per_minute, once_per, quiet_until: 0 })
    }

    #[test]
    fn a_stack_is_written_once_in_a_while_and_the_next_counts_what_was_left_out() {
        let mut limiter = limiter(60, 60 * SECOND);
        assert_eq!(limiter.admit(1, 1, 5 * SECOND), Some(0));
        assert_eq!(limiter.admit(1, 2, 6 * SECOND), None);
        assert_eq!(limiter.admit(2, 3, 7 * SECOND), Some(0));
        assert_eq!(limiter.admit(1, 4, 65 * SECOND - 1), None);
        assert_eq!(limiter.admit(1, 5, 65 * SECOND), Some(2));
        assert_eq!(limiter.admit(1, 6, 200 * SECOND), Some(0));
    }

    #[test]
    fn no_minute_has_more_reports_than_allowed() {
        let mut limiter = limiter(3, 0);
        let mut written = Vec::new();
        // Stacks that differ, ten a second, for ten minutes.
        for tick in 0..6_000 {
            let now = tick * SECOND / 10;
            if limiter.admit(tick, tick, now).is_some() {
                written.push(now);
            }
        }
        assert!(written.windows(4).all(|four| four[3] - four[0] >= MINUTE));
        assert_eq!(written.len(), 30);
    }

    #[test]
    fn what_the_minute_left_out_is_counted_in_the_next_with_its_stack() {
        let mut limiter = limiter(1, 0);
        assert_eq!(limiter.admit(1, 1, 0), Some(0));
        assert_eq!(limiter.admit(2, 2, SECOND), None);
        assert_eq!(limiter.admit(2, 3, 2 * SECOND), None);
        assert_eq!(limiter.admit(2, 4, 61 * SECOND), Some(2));
    }

    #[test]
    fn it_is_quiet_at_first() {
        let bounds = Bounds { per_minute: 60, once_per: 0, quiet_until: 10 * SECOND };
        let mut limiter = Limiter::new(bounds);
        assert_eq!(limiter.admit(1, 1, 10 * SECOND - 1), None);
        assert!(!limiter.admit_end(1), "the end of a scope that was not reported is no news");
        assert_eq!(limiter.admit(1, 2, 10 * SECOND), Some(1));
    }

    #[test]
    fn the_end_is_written_of_scopes_that_were_reported_and_once() {
        let mut limiter = limiter(1, 60 * SECOND);
        assert_eq!(limiter.admit(1, 1, 0), Some(0));
        assert_eq!(limiter.admit(1, 2, 0), None);
        assert!(!limiter.admit_end(2));
        assert!(limiter.admit_end(1));
        assert!(!limiter.admit_end(1));
    }

    #[test]
    fn no_bounds() {
        let mut limiter = limiter(u32::MAX, 0);
        assert!((0..200_000).all(|n| limiter.admit(7, n, 0) == Some(0)));
        assert_eq!(limiter.written.len(), 0);
        assert_eq!(limiter.scopes.len(), MOST_SCOPES);
        let mut none = Limiter::new(Bounds { per_minute: 0, once_per: 0, quiet_until: 0 });
        assert!((0..100).all(|n| none.admit(n, n, n * MINUTE).is_none()));
    }

    #[test]
    fn a_flood_of_stacks_is_forgotten_before_a_stack_that_comes_again() {
        let mut limiter = limiter(60, 60 * SECOND);
        assert_eq!(limiter.admit(0, 0, 0), Some(0));
        for n in 1..100_000 {
            let now = n * SECOND / 2_000;
            limiter.admit(n, n, now);
            if n % 100 == 0 {
                assert_eq!(limiter.admit(0, n, now), None);
            }
        }
        assert!(limiter.stacks.len() <= MOST_STACKS && limiter.stacks.capacity() < 4 * MOST_STACKS);
        assert!(limiter.written.len() <= 60 && limiter.scopes.len() <= MOST_SCOPES);
        assert_eq!(limiter.admit(0, 0, 60 * SECOND), Some(999));
    }
}
