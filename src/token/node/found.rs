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

    /// On the watchdog: leaves each to a call of its own, since any may not return.
    pub(super) fn carry_out(self) {
        post_all(self.hooks);
        self.wakers.into_iter().for_each(|waker| watchdog::global().post(waker));
    }
}

/// A hook that is due.
struct Due(Arc<Entry>);

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        Arc::clone(&self.0).set_off();
    }
}

/// Has the watchdog set a hook off.
pub(crate) fn post(entry: Arc<Entry>) {
    watchdog::global().post(Arc::new(Due(entry)).into());
}

/// Has the watchdog set hooks off, given from the outside in.
fn post_all(hooks: Vec<Arc<Entry>>) {
    in_order(hooks).for_each(post);
}

/// Those of inner scopes first; and those that do not block first.
fn in_order(hooks: Vec<Arc<Entry>>) -> impl Iterator<Item = Arc<Entry>> {
    let (inline, others): (Vec<_>, Vec<_>) = hooks.into_iter().rev().partition(|entry| entry.is_inline());
    inline.into_iter().chain(others)
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
    in_order(entries).for_each(|entry| watchdog.post(Arc::new(Claimed(entry)).into()));
    has_threads
}

/// A hook that nobody else sets off.
struct Claimed(Arc<Entry>);

impl Wake for Claimed {
    fn wake(self: Arc<Self>) {
        Arc::clone(&self.0).dispatch();
    }
}
