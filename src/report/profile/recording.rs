//! The samples of a profile, without the names of functions. Its memory has a bound.

use std::collections::HashMap;
use std::sync::Arc;

use crate::report::stack::raw::RawStack;

/// Of a long stack, only the `INNER` innermost and the `OUTER` outermost addresses are kept.
const INNER: usize = 192;
const OUTER: usize = 63;

/// Stands in a recorded stack for the addresses that were left out of its middle.
const GAP: u64 = 0;

const MOST_REASONS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    /// The code ran, or was ready to run.
    Running,
    /// The thread was blocked in the system call with this number. `None` if the thread was in no system call, or if
    /// the number is not kept.
    Blocked(Option<i64>),
    /// The code was a future between two polls.
    Pending,
}

/// Where the code was: addresses, innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Stack(Box<[u64]>),
    /// A future waits at all these places at once.
    Awaits(Vec<Box<[u64]>>),
    /// A future is pending, and it is not known where it waits.
    Unknown,
    /// The place was not recorded, because the profile had recorded as many places as it may.
    LeftOut,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    /// Whether the sampled thread did work that came to it by a handle.
    pub(super) by_handle: bool,
    pub(super) doing: Doing,
    pub(super) place: Place,
}

/// A number of samples, and the time for which they stand, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) samples: u64,
    pub(super) time: u64,
}

impl Count {
    pub(super) fn one(time: u64) -> Self {
        Self { samples: 1, time }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.time += other.time;
    }
}

/// The profile's own code is the profiled code, without the work that came to other threads by a handle.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    /// When the profile began, on the crate's clock.
    pub(super) began: u64,
    pub(super) elapsed: u64,
    /// In nanoseconds.
    period: u64,
    /// Once `seen` has this many entries, samples that have no entry are counted with [`Place::LeftOut`].
    most: usize,
    pub(super) seen: HashMap<Arc<Seen>, Count>,
    /// The entry in `seen` of the last sample of the profile's own code. `None` if that sample saw nothing.
    /// [`end`](Self::end) may correct the entry's time.
    last: Option<Arc<Seen>>,
    /// The time for which nothing was seen of the profile's own code.
    pub(super) missed: Count,
    /// Sentences for the report: why time was missed, and what else is not certain.
    pub(super) reasons: Vec<String>,
    /// How many samples may have wrong frames.
    pub(super) approximate: u64,
    /// The time of all samples, except samples of work by a handle.
    own_time: u64,
    /// A stack without frames. It is kept for the modules of the process, which give names to addresses.
    pub(super) modules: RawStack,
}

impl Recording {
    pub(super) fn new(began: u64, period: u64, most: usize) -> Self {
        Self {
            began,
            elapsed: 0,
            period,
            most,
            seen: HashMap::new(),
            last: None,
            missed: Count::default(),
            reasons: Vec::new(),
            approximate: 0,
            own_time: 0,
            modules: RawStack::default(),
        }
    }

    pub(super) fn count(&mut self, mut seen: Seen, count: Count) {
        if count.samples == 0 {
            return;
        }
        if self.seen.len() >= self.most && !self.seen.contains_key(&seen) {
            if let Doing::Blocked(call) = &mut seen.doing {
                *call = None;
            }
            seen.place = Place::LeftOut;
        }
        let seen = Arc::new(seen);
        self.seen.entry(Arc::clone(&seen)).or_default().add(count);
        if !seen.by_handle {
            self.own_time += count.time;
            self.last = Some(seen);
        }
    }

    /// Counts a sample that saw nothing of the profile's own code.
    pub(super) fn miss(&mut self, time: u64, reasons: impl IntoIterator<Item = String>) {
        self.missed.add(Count::one(time));
        self.own_time += time;
        self.last = None;
        for reason in reasons {
            self.note(reason);
        }
    }

    pub(super) fn note(&mut self, reason: String) {
        if self.reasons.len() < MOST_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Makes the sum of the times equal to the elapsed time. They differ because the end of the profile has cut the
    /// last period short: if that period had a sample, it was counted as a whole, and otherwise not at all. The time of
    /// the last sample is corrected by the difference. But `missed` is corrected if the last sample saw nothing, or if
    /// two periods or more have passed without a sample.
    pub(super) fn end(&mut self, now: u64) {
        self.elapsed = now.saturating_sub(self.began);
        let last = self.last.as_ref().and_then(|last| self.seen.get_mut(last)).map(|count| &mut count.time);
        let rest = self.elapsed.saturating_sub(self.own_time);
        match last {
            Some(last) if rest < 2 * self.period => {
                let excess = self.own_time.saturating_sub(self.elapsed);
                *last = (*last + rest).saturating_sub(excess);
            }
            _ => {
                let excess = self.own_time.saturating_sub(self.elapsed);
                self.missed.time = (self.missed.time + rest).saturating_sub(excess);
            }
        }
        self.own_time = self.elapsed;
    }
}

/// The innermost and the outermost addresses of a stack. `GAP` stands for the addresses between them.
pub(super) fn kept(addresses: impl ExactSizeIterator<Item = u64>) -> Box<[u64]> {
    let left_out = addresses.len().saturating_sub(INNER + OUTER);
    let mut kept = Vec::with_capacity(addresses.len().min(INNER + OUTER + 1));
    for (index, address) in addresses.enumerate() {
        if index == INNER && left_out > 0 {
            kept.push(GAP);
        }
        if !(INNER..INNER + left_out).contains(&index) {
            kept.push(address);
        }
    }
    kept.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(address: u64) -> Seen {
        Seen { by_handle: false, doing: Doing::Running, place: Place::Stack([address].into()) }
    }

    fn sum(recording: &Recording) -> u64 {
        recording.seen.iter().filter(|(seen, _)| !seen.by_handle).map(|(_, count)| count.time).sum()
    }

    #[test]
    fn the_sum_of_all_samples_is_the_elapsed_time() {
        for end in [20, 21, 25, 30, 38] {
            let mut recording = Recording::new(100, 10, 10);
            recording.count(own(1), Count::one(10));
            recording.count(own(2), Count::one(10));
            recording.count(Seen { by_handle: true, ..own(3) }, Count::one(10));
            recording.end(100 + end);
            assert_eq!((recording.elapsed, sum(&recording), recording.missed.time), (end, end, 0));
        }
        // The last period had its sample, and then was cut short by the end.
        let mut recording = Recording::new(0, 10, 10);
        recording.count(own(1), Count::one(10));
        recording.count(own(1), Count::one(10));
        recording.end(13);
        assert_eq!(sum(&recording), 13);
    }

    #[test]
    fn what_was_not_seen_is_missed() {
        let mut recording = Recording::new(0, 10, 10);
        recording.end(7);
        assert_eq!((sum(&recording), recording.missed), (0, Count { samples: 0, time: 7 }));
        let mut recording = Recording::new(0, 10, 10);
        recording.count(own(1), Count::one(10));
        recording.miss(10, ["because".to_owned(), "because".to_owned()]);
        recording.end(17);
        assert_eq!((sum(&recording), recording.missed), (10, Count { samples: 1, time: 7 }));
        assert_eq!(recording.reasons, ["because"]);
        // A long time without a sample: the sampler got no processor.
        let mut recording = Recording::new(0, 10, 10);
        recording.count(own(1), Count::one(10));
        recording.end(1000);
        assert_eq!((sum(&recording), recording.missed.time), (10, 990));
    }

    #[test]
    fn stacks_beyond_the_bound_are_counted_together() {
        let mut recording = Recording::new(0, 1, 100);
        for address in 0..100_000 {
            let doing = Doing::Blocked(Some(address % 300));
            recording.count(Seen { doing, ..own(address.cast_unsigned()) }, Count::one(1));
        }
        assert_eq!(recording.seen.len(), 101);
        let left_out = Seen { by_handle: false, doing: Doing::Blocked(None), place: Place::LeftOut };
        assert_eq!(recording.seen[&left_out], Count { samples: 99_900, time: 99_900 });
        recording.end(100_000);
        assert_eq!(sum(&recording), 100_000);
    }

    #[test]
    fn a_deep_stack_is_kept_at_both_ends() {
        let kept_of = |count: u64| kept((1..=count).collect::<Vec<_>>().into_iter());
        assert_eq!(*kept_of(3), [1, 2, 3]);
        let deep = kept_of(20_000);
        assert_eq!(deep.len(), INNER + OUTER + 1);
        assert_eq!(deep[..2], [1, 2]);
        assert_eq!(deep[INNER - 1..=INNER], [192, GAP]);
        assert_eq!(*deep.last().unwrap(), 20_000);
        assert_eq!(kept_of(255).len(), 255);
    }
}
