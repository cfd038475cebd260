//! A great many timers pending at once: armed, then cancelled in random order.

use super::alloc::grown_by;
use super::{as_f64, per};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// As many as the figures are for, or few where nothing is measured.
pub(crate) fn count(measuring: bool) -> usize {
    if measuring { 1_000_000 } else { 10_000 }
}

/// The limit of the i-th timer: none passes while they are measured, and the order they fall due in is not the order
/// they are armed in.
fn spread(i: usize) -> Duration {
    Duration::from_millis(60_000 + (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60_000)
}

/// Timers side by side in memory that is touched beforehand: neither malloc nor page faults are in what is timed,
/// and the heap one kind leaves behind does not slow the next.
struct Timers<F>(Vec<Option<F>>);

impl<F: Future> Timers<F> {
    fn room_for(n: usize) -> Timers<F> {
        Timers((0..n).map(|_| None).collect())
    }

    /// Makes the i-th timer in its place.
    fn make(&mut self, i: usize, make: &impl Fn(Duration) -> F) {
        self.0[i] = Some(make(spread(i)));
    }

    /// Polls it for the first time, which arms it.
    fn arm(&mut self, i: usize, context: &mut Context<'_>) {
        let Some(timer) = &mut self.0[i] else { return };
        // SAFETY: the vector never grows, and a timer leaves its place only by being dropped there.
        let timer = unsafe { Pin::new_unchecked(timer) };
        assert!(timer.poll(context).is_pending());
    }

    fn cancel(&mut self, i: usize) {
        self.0[i] = None;
    }
}

/// How long it takes to make and arm `n` timers, and to cancel them in random order.
pub(crate) fn arm_and_cancel<F: Future>(n: usize, make: impl Fn(Duration) -> F) -> (Duration, Duration) {
    let mut context = Context::from_waker(Waker::noop());
    let mut timers = Timers::room_for(n);
    let order = shuffled(n);
    let start = Instant::now();
    for i in 0..n {
        timers.make(i, &make);
        timers.arm(i, &mut context);
    }
    let arm = start.elapsed();
    let start = Instant::now();
    for i in order {
        timers.cancel(i);
    }
    (arm, start.elapsed())
}

/// Bytes per timer that arming `n` of them adds to the heap, beside the futures themselves.
pub(crate) fn bytes<F: Future>(n: usize, make: impl Fn(Duration) -> F) -> f64 {
    let mut context = Context::from_waker(Waker::noop());
    let mut timers = Timers::room_for(n);
    (0..n).for_each(|i| timers.make(i, &make));
    let grown = grown_by(|| (0..n).for_each(|i| timers.arm(i, &mut context)));
    as_f64(u64::try_from(grown).unwrap_or(0)) / as_f64(n as u64)
}

/// The least of `rounds` rounds of two kinds of timers in turn: (arm, cancel) in nanoseconds per timer, of each.
pub(crate) fn in_turn<F: Future, G: Future>(
    rounds: usize,
    n: usize,
    ours: impl Fn(Duration) -> F,
    theirs: impl Fn(Duration) -> G,
) -> [(f64, f64); 2] {
    let mut least = [(f64::INFINITY, f64::INFINITY); 2];
    let mut keep = |i: usize, (arm, cancel): (Duration, Duration)| {
        least[i].0 = least[i].0.min(per(arm, n as u64));
        least[i].1 = least[i].1.min(per(cancel, n as u64));
    };
    for round in 0..rounds {
        if round % 2 == 0 {
            keep(0, arm_and_cancel(n, &ours));
            keep(1, arm_and_cancel(n, &theirs));
        } else {
            keep(1, arm_and_cancel(n, &theirs));
            keep(0, arm_and_cancel(n, &ours));
        }
    }
    least
}

/// The numbers below `n` in an order that is random, and the same each time.
fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut x = 88_172_645_463_325_252_u64;
    for i in (1..n).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        order.swap(i, usize::try_from(x % (i as u64 + 1)).unwrap_or(0));
    }
    order
}
