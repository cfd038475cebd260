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

/// What a round has cost, per timer.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    /// Nanoseconds to make and arm one.
    pub(crate) arm: f64,
    /// Nanoseconds to cancel one.
    pub(crate) cancel: f64,
    /// Bytes that the heap has grown by, which the futures themselves are not on.
    pub(crate) bytes: f64,
}

/// Makes and arms `n` timers, and cancels them in random order.
pub(crate) fn round<F: Future>(n: usize, make: impl Fn(Duration) -> F) -> Round {
    let mut context = Context::from_waker(Waker::noop());
    let mut timers = Timers::room_for(n);
    let order = shuffled(n);
    let mut arm = Duration::ZERO;
    let bytes = grown_by(|| {
        let start = Instant::now();
        for i in 0..n {
            timers.make(i, &make);
            timers.arm(i, &mut context);
        }
        arm = start.elapsed();
    });
    let start = Instant::now();
    for i in order {
        timers.cancel(i);
    }
    let cancel = start.elapsed();
    let bytes = as_f64(u64::try_from(bytes).unwrap_or(0));
    Round { arm: per(arm, n as u64), cancel: per(cancel, n as u64), bytes: bytes / as_f64(n as u64) }
}

impl Round {
    fn least(self, other: Round) -> Round {
        let Round { arm, cancel, bytes } = self;
        Round { arm: arm.min(other.arm), cancel: cancel.min(other.cancel), bytes: bytes.max(other.bytes) }
    }
}

/// The least of `rounds` rounds of two kinds of timers in turn.
pub(crate) fn in_turn<F: Future, G: Future>(
    rounds: usize,
    n: usize,
    ours: impl Fn(Duration) -> F,
    theirs: impl Fn(Duration) -> G,
) -> [Round; 2] {
    let mut least = [round(n, &ours), round(n, &theirs)];
    for turn in 1..rounds {
        if turn % 2 == 0 {
            least[0] = least[0].least(round(n, &ours));
            least[1] = least[1].least(round(n, &theirs));
        } else {
            least[1] = least[1].least(round(n, &theirs));
            least[0] = least[0].least(round(n, &ours));
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
