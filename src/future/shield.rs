use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};

use super::task_wakeup::{TaskWakeup, task_waker};
use crate::scope::SuspendedScope;
use crate::scope::test_hooks::enter_env;
use crate::scope::{HeldOffHooks, Scope, innermost, longest};
use crate::test_env::TestEnv;
use crate::thread::Thread;
use crate::time::{NEVER, clock, nanos};
use crate::token::node::Node;
use crate::watchdog;

/// Polls cleanup that a scope around it must not cut short. The protection lasts for `max`, but never longer than a
/// day.
///
/// This is [`shield`](crate::shield()) for futures: inside, only the limit of the shield and the scopes that are opened
/// inside count. While the shield is pending, an expired scope around it polls on, up to `max`, instead of dropping its
/// future. `max` counts from the first poll. A shield that begins after the end of a scope delays the drop only until
/// `max` after the end of that scope: so the future is dropped, however many shields follow each other.
///
/// If a shield is polled after its end, it stays pending.
///
/// # Cancellation safety
///
/// The same as that of the future. A shield protects its future only from the scopes of this crate, not from any other
/// drop.
///
/// # Examples
///
/// ```
/// # pollster::block_on(async {
/// use std::time::Duration;
/// use timebox::{Timebox, TimeoutError, future};
///
/// let result = Timebox::new(Duration::from_millis(5))
///     .grace(Duration::from_secs(1))
///     .run_future(async {
///         let work = future::sleep(Duration::from_secs(60)).await;
///         // The scope is over: without the shield this sleep would not begin.
///         let roll_back = future::sleep(Duration::from_millis(5));
///         future::shield(Duration::from_secs(1), roll_back).await?;
///         work
///     })
///     .await;
/// let error: TimeoutError = result.unwrap_err();
/// assert!(error.settled());
/// # });
/// ```
#[track_caller]
pub fn shield<F: IntoFuture>(max: Duration, future: F) -> Shield<F::IntoFuture> {
    Shield {
        max: longest(max),
        location: Location::caller(),
        env: TestEnv::current(),
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
    /// The test environment whose clock the shield follows: where the shield was made. If it was made outside every
    /// environment: where it was first polled.
    env: TestEnv,
    /// The open shield, from the first poll until the future is done.
    opened: Option<Opened>,
    #[pin]
    future: Option<F>,
}

struct Opened {
    polled: SuspendedScope,
    /// Wakes the task when `max` has passed.
    wakeup: TaskWakeup,
    announced: Announced,
    /// Whether `max` has passed. Then the shield no longer keeps the scopes around from dropping their futures.
    spent: bool,
    // Declared last, so dropped last. Its drop fires the hooks that became due during the shield. They must not fire
    // before `announced` is dropped.
    suspended: HeldOffHooks,
}

/// Shields at the scopes that were opened around a future in the same poll: these scopes go on polling the future, and
/// do not drop it. This holds until this value is dropped, or until the end that was given to `to_scopes_around`. The
/// future is a [`Shield`], or an [`Interruptible`](super::Interruptible) that waits for its hook.
pub(super) struct Announced(Vec<(Arc<Node>, usize)>);

impl Announced {
    /// If the scopes around this poll, or their nodes, are not the same as in the last poll, replaces the shields by
    /// new shields.
    pub(super) fn follow(&mut self, thread: &Thread, until: u64, max: u64) {
        let same = innermost(thread, |scope| {
            let around = scope.into_iter().flat_map(Scope::polled).map(Scope::existing_node);
            around
                .map(|node| node.map(Arc::as_ptr))
                .eq(self.0.iter().map(|(node, _)| Some(Arc::as_ptr(node))))
        });
        if !same {
            *self = Self::to_scopes_around(thread, until, max);
        }
    }

    /// Adds a shield to each scope around this poll. The shield ends at `until`. If the scope is over already, the
    /// shield ends at the latest `max` after the scope's end.
    pub(super) fn to_scopes_around(thread: &Thread, until: u64, max: u64) -> Self {
        let now = clock::now();
        innermost(thread, |scope| {
            let env = TestEnv::current();
            let announce = |scope: &Scope| {
                let node = scope.node();
                let until = if node.env.shares_clock(&env) {
                    scope.ended_at(now).map_or(until, |end| until.min(end.saturating_add(max)))
                } else {
                    // `until` is not a time on this scope's clock. So this shield ends only when `Announced` is
                    // dropped.
                    NEVER
                };
                Some((Arc::clone(node), node.add_shield(until)?))
            };
            Self(scope.into_iter().flat_map(Scope::polled).filter_map(announce).collect())
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
        if this.future.as_mut().as_pin_mut().is_none() {
            return Poll::Pending;
        }
        let (max, location) = (*this.max, *this.location);
        Thread::with(|thread| {
            if this.opened.is_none() && this.env.is_real() {
                *this.env = TestEnv::current();
            }
            let _under = enter_env(thread, this.env);
            let opened = match this.opened {
                Some(opened) => {
                    opened.follow(thread);
                    opened
                }
                None => this.opened.insert(Opened::new(thread, max, location)),
            };
            let mut poll = Poll::Pending;
            // `open` returns an error only if an unwinding ends at this scope, and no unwinding ends at a shield.
            let _ = opened.polled.open(thread, None, ptr::null(), false, |_| {
                if let Some(future) = this.future.as_mut().as_pin_mut() {
                    poll = future.poll(cx);
                }
                if poll.is_ready() {
                    this.future.set(None);
                }
            });
            if poll.is_ready() {
                *this.opened = None;
            } else if let Some(opened) = this.opened {
                let own = opened.polled.own();
                if clock::now() < own {
                    opened.wakeup.wake_at(own, task_waker(cx));
                } else if !std::mem::replace(&mut opened.spent, true) {
                    opened.announced = Announced(Vec::new());
                }
            }
            poll
        })
    }
}

impl Opened {
    fn new(thread: &Thread, max: Duration, location: &'static Location<'static>) -> Self {
        // A shield holds hooks back at the nodes of scopes. So each scope around gets a node now. Otherwise a hook that
        // is registered during the shield would fire.
        innermost(thread, |scope| {
            scope.into_iter().flat_map(Scope::polled).for_each(|scope| {
                scope.node();
            });
        });
        let suspended = HeldOffHooks::outside(thread);
        let now = clock::now();
        thread.now.set(now);
        let own = now.saturating_add(nanos(max));
        if max.is_zero() {
            watchdog::global().reach(now);
        }
        let announced = Announced::to_scopes_around(thread, own, nanos(max));
        let polled = SuspendedScope::shield(own, now, location);
        Self { polled, wakeup: TaskWakeup::default(), announced, spent: false, suspended }
    }

    fn follow(&mut self, thread: &Thread) {
        if !self.spent {
            self.announced.follow(thread, self.polled.own(), self.polled.asked());
        }
        self.suspended.follow(thread);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.wakeup.clear();
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Shield<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(opened) = this.opened
            && this.future.as_mut().as_pin_mut().is_some()
        {
            // `open` returns no error, because no unwinding ends at a shield.
            let _ = Thread::with(|thread| {
                opened.polled.open(thread, None, ptr::null(), true, |_| this.future.set(None))
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
