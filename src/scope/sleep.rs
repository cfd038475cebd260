use std::panic::Location;
use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::frame::{Scope, innermost};
use super::test_hooks::{self, waiting};
use crate::error::TimeoutError;
use crate::sync::{Condvar, Mutex, lock};
#[cfg(feature = "testing")]
use crate::test_env::TestEnv;
use crate::thread::{self, Thread};
use crate::time::{NEVER, clock, nanos};
use crate::watchdog::{self, NAP};

/// Sleeps, but no longer than the innermost scope lasts. Outside every scope it just sleeps.
///
/// # Errors
///
/// A [`TimeoutError`] as soon as the scope is over.
///
/// ```
/// use std::time::Duration;
///
/// let result = timebox::timeout(Duration::from_millis(5), || timebox::sleep(Duration::from_secs(60)));
/// assert!(result.unwrap_err().is_timeout());
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Result<(), TimeoutError> {
    let location = Location::caller();
    Thread::with(|thread| {
        innermost(thread, |scope| match scope {
            Some(scope) => scope.sleep_at(duration, location),
            None => {
                rest(end_of(duration));
                Ok(())
            }
        })
    })
}

impl Scope {
    /// Sleeps as the free function [`sleep`](crate::sleep()) does, but no longer than this scope lasts.
    #[track_caller]
    pub fn sleep(&self, duration: Duration) -> Result<(), TimeoutError> {
        self.sleep_at(duration, Location::caller())
    }

    fn sleep_at(&self, duration: Duration, location: &'static Location<'static>) -> Result<(), TimeoutError> {
        self.checkpoint_at(location)?;
        let _waiting = waiting(location);
        let end = end_of(duration);
        loop {
            let until = Thread::with(|thread| self.effective(thread)).min(end);
            // Scopes without a node cannot be cancelled, so only the time ends the sleep.
            match self.visible().find_map(Scope::existing_node) {
                None => rest(until),
                Some(node) if test_hooks::moves_clock() => test_hooks::move_clock(until, || !node.is_over()),
                Some(node) => {
                    let parker = Arc::new(Parker::new());
                    let waker = Waker::from(Arc::clone(&parker));
                    let key = node.add_waker(&waker);
                    // `key` is `None` if the node is over: then there is nothing to wait for. It is also `None` if the
                    // node's lock was lost in a fork: then nobody can wake this thread, and only the time ends the
                    // sleep.
                    if key.is_some() || !node.is_over() {
                        parker.sleep(until.min(node.expires_at()));
                    }
                    key.into_iter().for_each(|key| node.remove_waker(key));
                }
            }
            self.check_by_clock(location)?;
            // If the time is not up, the deadline has moved, so the loop sleeps again. But an endless sleep of the
            // thread that moves the mock clock returns, because no other thread could end it.
            if end <= clock::now() || (until == NEVER && test_hooks::moves_clock()) {
                return Ok(());
            }
        }
    }
}

impl Scope {
    /// Calls `begin` with a waker. Then waits until somebody wakes this waker, or this scope is over. `Err`: `begin`
    /// has failed, and nothing was waited for. `Ok` does not tell whether the waker was woken or the scope is over.
    pub(crate) fn wait_with<E>(
        &self,
        location: &'static Location<'static>,
        begin: impl FnOnce(Waker) -> Result<(), E>,
    ) -> Result<(), E> {
        let parker = Arc::new(Parker::new());
        let waker = Waker::from(Arc::clone(&parker));
        begin(waker.clone())?;
        let _waiting = waiting(location);
        let until = Thread::with(|thread| self.effective(thread));
        let node = self.node();
        let key = node.add_waker(&waker);
        // As in `sleep_at`: without a key, this waits only if the node's lock was lost in a fork.
        if key.is_some() || !node.is_over() {
            parker.sleep(until);
        }
        key.into_iter().for_each(|key| node.remove_waker(key));
        Ok(())
    }
}

fn end_of(duration: Duration) -> u64 {
    clock::now().saturating_add(nanos(duration))
}

/// Sleeps until a time. No waker can end this sleep earlier.
fn rest(until: u64) {
    if test_hooks::moves_clock() {
        return test_hooks::move_clock(until, || true);
    }
    if clock::is_mocked() {
        return Arc::new(Parker::new()).sleep(until);
    }
    while let Some(left) = until.checked_sub(clock::now()).filter(|&left| left > 0) {
        std::thread::sleep(Duration::from_nanos(nap(left)));
    }
}

/// How long to sleep in one go if `left` is the time left. While there is no watchdog and none can be started, this is
/// a short time, so that the sleeper soon tries again to start it.
fn nap(left: u64) -> u64 {
    let watchdog = watchdog::global();
    if watchdog.is_missing() && !thread::ensure_watchdog() { left.min(NAP) } else { left }
}

/// A place where one thread sleeps until its waker is woken or a time has come. It does not use `std::thread::park`,
/// because the user's code may use `park` for its own wake-ups.
struct Parker {
    woken: Mutex<bool>,
    changed: Condvar,
    /// Set under a mock clock. Then the thread waits with this `Wait`, and does not use the fields above.
    #[cfg(feature = "testing")]
    wait: Option<crate::scope::presence::Wait>,
}

impl Parker {
    fn new() -> Self {
        Self {
            woken: Mutex::new(false),
            changed: Condvar::new(),
            #[cfg(feature = "testing")]
            wait: TestEnv::current().mock().map(crate::scope::presence::Wait::new),
        }
    }

    fn sleep(self: &Arc<Self>, until: u64) {
        #[cfg(feature = "testing")]
        if let Some(wait) = &self.wait {
            let timer = thread::schedule_on(&TestEnv::current(), until, Arc::clone(self).into());
            wait.sleep(until);
            timer.cancel();
            return;
        }
        let mut woken = lock(&self.woken);
        while !*woken {
            let Some(left) = until.checked_sub(clock::now()).filter(|&left| left > 0) else { return };
            let waited = self.changed.wait_timeout(woken, Duration::from_nanos(nap(left)));
            woken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        #[cfg(feature = "testing")]
        if let Some(wait) = &self.wait {
            return wait.wake_up();
        }
        *lock(&self.woken) = true;
        self.changed.notify_one();
    }
}
