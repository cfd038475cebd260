//! The mock clock and injected expiry: what `timebox::testing` promises.

mod auto_advance;
mod clock;
mod ends;
mod firings;
mod gaps;
mod injection;
mod nesting;
mod panics;
mod shields;
mod sweep;
#[path = "../it/waiter.rs"]
mod waiter;

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use timebox::testing::{self, MockClock, Point, expire_at, expire_at_checkpoint, try_for_each_checkpoint};
use timebox::{
    CancellationToken, Deadline, Hook, Limit, Quota, Timebox, TimeoutError, checkpoint, future, is_expired,
    shield, sleep, timeout,
};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
/// A second but for a nanosecond.
const ALMOST_SECOND: Duration = Duration::from_nanos(999_999_999);
/// An hour but for a nanosecond.
const ALMOST_HOUR: Duration = Duration::new(3599, 999_999_999);

type Done = Result<(), TimeoutError>;

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// How often a task was woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
