//! What is done once no lock is held, after an end has spread.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::callback::wake_quietly;
use crate::thread::{self, without_scopes};
use crate::token::hook::Entry;
use crate::watchdog;

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
        self.wakers.into_iter().for_each(thread::post);
    }
}

/// Hooks that are due, from the outside in. One call of the watchdog's, so that one comes after the other.
struct Hooks(Vec<Arc<Entry>>);

impl Hooks {
    /// Those of inner scopes first; and those that do not block first.
    fn in_order(&self) -> impl Iterator<Item = Arc<Entry>> {
        let of = |inline| self.0.iter().rev().filter(move |entry| entry.is_inline() == inline);
        of(true).chain(of(false)).map(Arc::clone)
    }
}

impl Wake for Hooks {
    fn wake(self: Arc<Self>) {
        self.in_order().for_each(Entry::set_off);
    }
}

/// Has the watchdog set a hook off.
pub(crate) fn post(entry: Arc<Entry>) {
    post_all(vec![entry]);
}

/// Has the watchdog set hooks off, given from the outside in.
fn post_all(hooks: Vec<Arc<Entry>>) {
    if !hooks.is_empty() {
        thread::post(Arc::new(Hooks(hooks)).into());
    }
}

/// Has hooks that are due, given from the outside in, run where they belong, each one time. `false` if there is nobody who
/// would: then those that do not block have run here, and the others wait for a thread.
pub(super) fn run_soon(mut entries: Vec<Arc<Entry>>) -> bool {
    let watchdog = watchdog::global();
    if !watchdog.is_running() {
        // Tries to start it.
        thread::schedule(0, Waker::noop().clone()).cancel();
    }
    let has_threads = watchdog.is_running();
    entries.retain(|entry| entry.claim());
    if !has_threads {
        let (inline, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.is_inline());
        inline.iter().rev().for_each(Entry::run);
        entries = others;
    }
    if !entries.is_empty() {
        thread::post(Arc::new(Claimed(Hooks(entries))).into());
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
