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
    fn in_order(&self) -> impl Iterator<Item = Arc<Entry>> {
        let of = |inline| self.0.iter().rev().filter(move |entry| entry.is_inline() == inline);
        of(true).chain(of(false)).map(Arc::clone)
    }

    fn dispatch(&self) {
        self.in_order().for_each(Entry::set_off);
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

/// Has hooks that are due, given from the outside in, run where they belong, each one time. `false` if there is nobody who
/// would: then those that do not block have run here, and the others wait for a thread.
pub(super) fn run_soon(mut entries: Vec<Arc<Entry>>) -> bool {
    let watchdog = watchdog::global();
    if !watchdog.is_running() {
        // Tries to start it.
        watchdog.schedule(0, Waker::noop().clone()).cancel();
    }
    let has_threads = watchdog.is_running();
    entries.retain(|entry| entry.claim());
    if !has_threads {
        let (inline, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.is_inline());
        inline.iter().rev().for_each(Entry::run);
        entries = others;
    }
    if !entries.is_empty() {
        watchdog.post(Arc::new(Claimed(Hooks(entries))).into());
    }
    has_threads
}

/// Hooks that nobody else sets off.
struct Claimed(Hooks);

impl Wake for Claimed {
    fn wake(self: Arc<Self>) {
        self.0.in_order().for_each(Entry::dispatch);
    }
}

impl Wake for Hooks {
    fn wake(self: Arc<Self>) {
        self.dispatch();
    }
}
