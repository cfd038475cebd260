//! What is done once no lock is held, after an end has spread.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::callback::wake_quietly;
use crate::token::hook::Entry;
use crate::watchdog;
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
        post_all(self.hooks);
        // The last: a waker may run its task right here, which may wait for what a hook does.
        for waker in self.wakers {
            without_scopes(|| wake_quietly(waker));
        }
    }

    /// On the watchdog: leaves each waker to a call of its own, since any may not return.
    pub(super) fn carry_out(self) {
        post_all(self.hooks);
        self.wakers.into_iter().for_each(|waker| watchdog::global().post(waker));
    }
}

/// Hooks that are due, from the outside in. One call of the watchdog's, so that one comes after the other.
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

impl Wake for Hooks {
    fn wake(self: Arc<Self>) {
        self.dispatch();
    }
}

/// Has the watchdog set a hook off.
pub(crate) fn post(entry: Arc<Entry>) {
    post_all(vec![entry]);
}

/// Has the watchdog set hooks off, given from the outside in.
fn post_all(hooks: Vec<Arc<Entry>>) {
    if !hooks.is_empty() {
        watchdog::global().post(Arc::new(Hooks(hooks)).into());
    }
}

/// Has hooks, given from the outside in, run where they belong, and waits until each has.
#[cfg(not(timebox_loom))]
pub(super) fn run_and_wait(entries: Vec<Arc<Entry>>) {
    let watchdog = watchdog::global();
    if watchdog.would_wait_for_itself() {
        // A waker has polled the task right here.
        Hooks(entries).dispatch();
        return;
    }
    post_all(entries.clone());
    // Without threads nobody comes to run them, and those that have gone elsewhere are run there.
    entries.iter().for_each(|entry| entry.await_run(|| watchdog.is_running()));
}
