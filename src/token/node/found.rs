//! What is done once no lock is held, after an end has spread.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::callback::wake_quietly;
use crate::token::hook::Entry;
use crate::watchdog;
#[cfg(not(timebox_loom))]
use crate::watchdog::Watchdog;
use crate::watchdog::slots::without_scopes;

/// What spreading an end has found to do, once no lock is held.
#[derive(Default)]
pub(super) struct Found {
    /// From the outside in.
    pub(super) hooks: Vec<Arc<Entry>>,
    pub(super) wakers: Vec<Waker>,
}

impl Found {
    /// On a thread of the user's: leaves the hooks to the watchdog, and wakes the tasks.
    pub(super) fn hand_over(self) {
        if !self.hooks.is_empty() {
            watchdog::global().post(Arc::new(Hooks(self.hooks)).into());
        }
        Self::wake(self.wakers);
    }

    /// On the watchdog.
    pub(super) fn carry_out(self) {
        Hooks(self.hooks).dispatch();
        Self::wake(self.wakers);
    }

    /// The last: a waker may run its task right here, which may wait for what a hook does.
    fn wake(wakers: Vec<Waker>) {
        for waker in wakers {
            without_scopes(|| wake_quietly(waker));
        }
    }
}

/// Hooks that are due, from the outside in.
struct Hooks(Vec<Arc<Entry>>);

impl Hooks {
    /// Those of inner scopes first; and those that do not block first.
    fn dispatch(&self) {
        for inline in [true, false] {
            for entry in self.0.iter().rev().filter(|entry| entry.is_inline() == inline) {
                Arc::clone(entry).set_off();
            }
        }
    }
}

/// Has the watchdog set a hook off.
pub(crate) fn post(entry: Arc<Entry>) {
    watchdog::global().post(Arc::new(Hooks(vec![entry])).into());
}

/// Has hooks, given from the outside in, run where they belong, and waits until each has.
#[cfg(not(timebox_loom))]
pub(super) fn run_and_wait(entries: Vec<Arc<Entry>>) {
    let watchdog = watchdog::global();
    if Watchdog::is_this_thread() {
        // A waker has polled the task right here: whoever waits would wait for itself.
        Hooks(entries).dispatch();
        return;
    }
    watchdog.post(Arc::new(Hooks(entries.clone())).into());
    // Without threads nobody comes to run them, and those that have gone elsewhere are run there.
    entries.iter().for_each(|entry| entry.await_run(|| watchdog.is_running()));
}

impl Wake for Hooks {
    fn wake(self: Arc<Self>) {
        self.dispatch();
    }
}
