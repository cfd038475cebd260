use std::panic::Location;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Scope;
use super::frame::innermost;
use crate::error::TimeoutError;
use crate::time::{clock, nanos};
use crate::watchdog::slots::Thread;

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
                std::thread::sleep(duration);
                Ok(())
            }
        })
    })
}

impl Scope {
    /// As the free function [`sleep`](crate::sleep()), no longer than this scope lasts.
    #[track_caller]
    pub fn sleep(&self, duration: Duration) -> Result<(), TimeoutError> {
        self.sleep_at(duration, Location::caller())
    }

    fn sleep_at(&self, duration: Duration, location: &'static Location<'static>) -> Result<(), TimeoutError> {
        self.check_by_clock(location)?;
        let end = clock::now().saturating_add(nanos(duration));
        let until = Thread::with(|thread| self.effective(thread)).min(end);
        // Nobody can cancel it but through a node.
        match self.visible().find_map(Scope::existing_node) {
            None => {
                while let Some(left) = until.checked_sub(clock::now()).filter(|&left| left > 0) {
                    std::thread::sleep(Duration::from_nanos(left));
                }
            }
            Some(node) => {
                let bed = Arc::new(Bed::default());
                let waker = Waker::from(Arc::clone(&bed));
                if let Some(key) = node.add_waker(&waker) {
                    bed.sleep(until);
                    node.remove_waker(key);
                }
            }
        }
        self.check_by_clock(location)
    }
}

/// What a thread sleeps on that a token may wake. Not the thread's own parking place: that is the user's.
#[derive(Default)]
struct Bed {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Bed {
    fn sleep(&self, until: u64) {
        let mut woken = self.woken.lock();
        while !*woken {
            let Some(left) = until.checked_sub(clock::now()).filter(|&left| left > 0) else { return };
            self.changed.wait_for(&mut woken, Duration::from_nanos(left));
        }
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}
