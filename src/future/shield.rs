use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};

use super::alert::Alert;
use super::polled::Polled;
use crate::scope::frame::{Kind, Terms, innermost};
use crate::scope::{Scope, Suspended, longest};
use crate::time::{clock, nanos};
use crate::token::node::Node;
use crate::watchdog;
use crate::watchdog::slots::Thread;

/// Polls cleanup that must not be cut short by a scope that is over, for `max` at most (and a day at most).
///
/// As [`shield`](crate::shield()) does for blocks: inside, only the shield's limit counts, and what is opened within.
/// While it is pending, an expired scope around it polls on, up to `max`, instead of dropping its future. The time
/// begins with the first poll.
///
/// # Cancellation safety
///
/// That of the future. A shield does not protect from being dropped by anything but the scopes of this crate.
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::{TimeoutError, future};
///
/// let result = future::timeout(Duration::from_millis(5), async {
///     let work = future::sleep(Duration::from_secs(60)).await;
///     let roll_back = future::sleep(Duration::from_millis(5));
///     future::shield(Duration::from_secs(1), roll_back).await?;
///     work
/// })
/// .await;
/// let error: TimeoutError = result.unwrap_err();
/// assert!(error.settled());
/// # });
/// ```
#[track_caller]
pub fn shield<F: IntoFuture>(max: Duration, future: F) -> Shield<F::IntoFuture> {
    Shield {
        max: longest(max),
        location: Location::caller(),
        opened: None,
        future: Some(future.into_future()),
    }
}

/// The future of [`shield`].
#[must_use = "futures do nothing unless polled"]
#[pin_project(PinnedDrop)]
pub struct Shield<F> {
    max: Duration,
    location: &'static Location<'static>,
    /// From the first poll on, until it is done.
    opened: Option<Opened>,
    #[pin]
    future: Option<F>,
}

struct Opened {
    polled: Polled,
    /// Wakes the task at its max.
    alert: Alert,
    announced: Announced,
    // The last to go: what is due fires when the rest is gone.
    suspended: Suspended,
}

/// Tells the scopes around a place in the same poll that something in them must be polled to its end.
pub(super) struct Announced(Vec<(Arc<Node>, usize)>);

impl Announced {
    /// Tells the scopes around this poll, if they are others than before: the future has moved, or one of them has
    /// another node.
    pub(super) fn follow(&mut self, thread: &Thread, until: u64) {
        let same = innermost(thread, |scope| {
            let around = scope.into_iter().flat_map(Scope::polled).map(Scope::existing_node);
            around
                .map(|node| node.map(Arc::as_ptr))
                .eq(self.0.iter().map(|(node, _)| Some(Arc::as_ptr(node))))
        });
        if !same {
            *self = Self::to_scopes_around(thread, until);
        }
    }

    pub(super) fn to_scopes_around(thread: &Thread, until: u64) -> Self {
        innermost(thread, |scope| {
            let around = scope.into_iter().flat_map(Scope::polled);
            Self(
                around
                    .filter_map(|scope| Some((Arc::clone(scope.node()), scope.node().add_shield(until)?)))
                    .collect(),
            )
        })
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        for (node, key) in &self.0 {
            node.remove_shield(*key);
        }
    }
}

impl<F: Future> Future for Shield<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        if this.future.is_none() {
            return Poll::Pending;
        }
        let (max, location) = (*this.max, *this.location);
        Thread::with(|thread| {
            let opened = match this.opened {
                Some(opened) => {
                    opened.follow(thread);
                    opened
                }
                None => this.opened.insert(Opened::new(thread, max, location)),
            };
            let poll = opened.polled.open(thread, ptr::null(), false, |_| {
                let poll = this.future.as_mut().as_pin_mut().map_or(Poll::Pending, |future| future.poll(cx));
                if poll.is_ready() {
                    this.future.set(None);
                }
                poll
            });
            // No unwinding ends at a shield.
            let poll = poll.unwrap_or(Poll::Pending);
            if poll.is_ready() {
                *this.opened = None;
            } else if let Some(opened) = this.opened
                && clock::now() < opened.polled.own()
            {
                opened.alert.wake_at(opened.polled.own(), cx.waker());
            }
            poll
        })
    }
}

impl Opened {
    fn new(thread: &Thread, max: Duration, location: &'static Location<'static>) -> Self {
        let suspended = Suspended::outside(thread);
        let now = clock::now();
        thread.now.set(now);
        let own = now.saturating_add(nanos(max));
        if max.is_zero() {
            watchdog::global().reach(now);
        }
        let announced = Announced::to_scopes_around(thread, own);
        let terms = Terms::measured(own, now, location, Kind::FutureShield);
        Self { polled: Polled::entered(terms), alert: Alert::default(), announced, suspended }
    }

    /// It hides what is around this poll.
    fn follow(&mut self, thread: &Thread) {
        self.announced.follow(thread, self.polled.own());
        self.suspended.follow(thread);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.alert.clear();
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Shield<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(opened) = this.opened
            && this.future.is_some()
        {
            // As above.
            let _ = Thread::with(|thread| {
                opened.polled.open(thread, ptr::null(), true, |_| this.future.set(None))
            });
        }
    }
}

impl<F> fmt::Debug for Shield<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shield")
            .field("max", &self.max)
            .field("is_open", &self.opened.is_some())
            .finish_non_exhaustive()
    }
}
