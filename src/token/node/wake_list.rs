//! The tasks and hooks of nodes that have ended. They are collected under locks, and woken once no lock is held.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::callback::wake_quietly;
use crate::thread::{self, without_scopes};
use crate::token::hook::Entry;
use crate::watchdog;

#[derive(Default)]
pub(super) struct WakeList {
    /// The hooks of outer scopes come first.
    pub(super) hooks: Vec<Arc<Entry>>,
    pub(super) wakers: Vec<Waker>,
}

impl WakeList {
    /// Makes the watchdog start the hooks, and wakes the tasks on this thread. Called on a user's thread.
    pub(super) fn deliver(self) {
        post_all(self.hooks);
        // The hooks are posted first, because a waker may run its task during this call, and the task may wait for a
        // hook.
        for waker in self.wakers {
            without_scopes(|| wake_quietly(waker));
        }
    }

    /// Called on the watchdog. Posts each waker separately: the call of one waker may never return, and must not keep
    /// the others from being called.
    pub(super) fn deliver_on_watchdog(self) {
        post_all(self.hooks);
        self.wakers.into_iter().for_each(thread::post);
    }
}

/// Hooks that are due. `entries` begins with the hooks of outer scopes. The watchdog starts all of them in one call, so
/// that they start [in order](Self::in_order).
struct DueHooks {
    entries: Vec<Arc<Entry>>,
    /// Whether all entries were claimed ([`Entry::claim`]) before they were posted.
    are_claimed: bool,
}

impl DueHooks {
    /// First the inline hooks, then the other hooks. Among each kind, the hooks of inner scopes come first.
    fn in_order(&self) -> impl Iterator<Item = Arc<Entry>> {
        let of = |inline| self.entries.iter().rev().filter(move |entry| entry.is_inline() == inline);
        of(true).chain(of(false)).map(Arc::clone)
    }
}

impl Wake for DueHooks {
    fn wake(self: Arc<Self>) {
        let start = if self.are_claimed { Entry::dispatch } else { Entry::trigger };
        self.in_order().for_each(start);
    }
}

pub(crate) fn post(entry: Arc<Entry>) {
    post_all(vec![entry]);
}

fn post_all(entries: Vec<Arc<Entry>>) {
    if !entries.is_empty() {
        thread::post(Arc::new(DueHooks { entries, are_claimed: false }).into());
    }
}

/// Claims hooks that are due, makes the watchdog run them, and returns `true`. If no watchdog can be started, runs the
/// inline hooks on this thread, posts the others for a watchdog that may start later, and returns `false`. `entries`
/// begins with the hooks of outer scopes.
pub(super) fn run_soon(mut entries: Vec<Arc<Entry>>) -> bool {
    let watchdog = watchdog::global();
    if !watchdog.is_running() {
        // Arming a timer starts the watchdog, if a thread can be had.
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
        watchdog.post(Arc::new(DueHooks { entries, are_claimed: true }).into());
    }
    has_threads
}
