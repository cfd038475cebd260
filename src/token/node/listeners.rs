//! Who is told when a node is over: hooks and tasks; and the shields that are pending in its future.

use std::sync::Arc;
use std::task::Waker;

use super::found::{self, Found};
use super::{Hooked, Node, State, Tie};
use crate::sync::Ordering;
use crate::sync::callback::drop_quietly;
use crate::token::hook::Entry;

impl Node {
    /// Registers a hook; `None` if the node is over, so that it would never be told.
    pub(crate) fn add_hook(self: &Arc<Self>, entry: &Arc<Entry>, tie: Tie) -> Option<usize> {
        if crate::sync::fork::generation() != 0 {
            // The timers of the scopes that were open at the fork are lost there; who asks anew is told all the same.
            self.walk(|node| {
                node.update();
            });
        }
        let mut state = self.state.lock()?;
        // Relaxed: under the lock.
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        Some(state.list_hook(entry, tie))
    }

    /// Registers a hook with a node that is over: not to be fired, but to end with the scope.
    pub(crate) fn add_fired_hook(&self, entry: &Arc<Entry>, tie: Tie) -> Option<usize> {
        Some(self.state.lock()?.list_hook(entry, tie))
    }

    pub(crate) fn remove_hook(&self, key: usize, entry: &Arc<Entry>) {
        let Some(mut state) = self.state.lock() else { return };
        // The scope may have ended it, and the place be another's.
        if state.hooks.get(key).is_some_and(|hooked| Arc::ptr_eq(&hooked.entry, entry)) {
            let hooked = state.hooks.remove(key);
            drop(state);
            hooked.resume();
            drop_quietly(hooked);
        }
    }

    /// A shield opens: keeps the hooks that belong to the scope from firing, and waits for those that do.
    pub(crate) fn suspend_hooks(&self) {
        let Some(mut state) = self.state.lock() else { return };
        state.suspensions += 1;
        let mut entries = Vec::new();
        for (_, hooked) in state.hooks.iter_mut().filter(|(_, hooked)| hooked.tie != Tie::Token) {
            hooked.suspensions += 1;
            // Under the lock: whoever takes it off the list resumes it as often.
            hooked.entry.suspend();
            entries.push(Arc::clone(&hooked.entry));
        }
        drop(state);
        entries.iter().for_each(|entry| entry.wait_until_idle());
    }

    /// It closes: what is due fires.
    pub(crate) fn resume_hooks(&self) {
        let Some(mut state) = self.state.lock() else { return };
        state.suspensions -= 1;
        let mut entries = Vec::new();
        for (_, hooked) in state.hooks.iter_mut().filter(|(_, hooked)| hooked.suspensions > 0) {
            hooked.suspensions -= 1;
            entries.push(Arc::clone(&hooked.entry));
        }
        drop(state);
        entries.iter().for_each(|entry| entry.resume());
    }

    /// The hooks that belong to the scope.
    fn scoped_hooks(&self, into: &mut Vec<Arc<Entry>>) {
        if let Some(state) = self.state.lock() {
            let scoped = state.hooks.iter().filter(|(_, hooked)| hooked.tie != Tie::Token);
            into.extend(scoped.map(|(_, hooked)| Arc::clone(&hooked.entry)));
        }
    }

    /// Its future is over and about to be dropped: has those hooks in it run that are due and have not yet, and waits
    /// for them.
    ///
    /// They are those of this node and of the nodes beneath that are of futures too: these are polled, and dropped, by
    /// this one. What was entered by a handle is on its own.
    #[cfg(not(timebox_loom))]
    pub(crate) fn await_hooks(self: &Arc<Self>) {
        let mut entries = Vec::new();
        let mut stack = vec![Arc::clone(self)];
        while let Some(node) = stack.pop() {
            node.scoped_hooks(&mut entries);
            // Relaxed: a child of this thread's poll was made by it.
            stack.extend(
                node.inner_children().into_iter().filter(|child| child.roams.load(Ordering::Relaxed)),
            );
        }
        entries.retain(|entry| !entry.has_begun());
        if !entries.is_empty() {
            found::run_and_wait(entries);
        }
    }

    /// Has a task woken when it is over; `None` if it is.
    pub(crate) fn add_waker(&self, waker: &Waker) -> Option<usize> {
        let waker = waker.clone();
        let mut state = self.state.lock()?;
        if self.over.load(Ordering::Relaxed) {
            drop(state);
            drop(waker);
            return None;
        }
        Some(state.wakers.insert(waker))
    }

    /// Wakes another task in place of the one before; `false` if it is over.
    pub(crate) fn update_waker(&self, key: usize, waker: &Waker) -> bool {
        let same = |state: &State| state.wakers.get(key).map(|place| place.will_wake(waker));
        match self.state.lock().and_then(|state| same(&state)) {
            Some(true) => return true,
            Some(false) => {}
            None => return false,
        }
        // To clone and to drop a waker is foreign code: not under the lock.
        let mut waker = waker.clone();
        let Some(mut state) = self.state.lock() else { return false };
        let Some(place) = state.wakers.get_mut(key) else { return false };
        std::mem::swap(place, &mut waker);
        drop(state);
        drop(waker);
        true
    }

    pub(crate) fn remove_waker(&self, key: usize) {
        // When it is over all of them are gone.
        let waker = self.state.lock().and_then(|mut state| state.wakers.try_remove(key));
        drop(waker);
    }

    // ===== Shields =====

    /// A shield is pending in its future, until this time at most.
    pub(crate) fn add_shield(&self, until: u64) -> Option<usize> {
        Some(self.state.lock()?.shields.insert(until))
    }

    pub(crate) fn remove_shield(&self, key: usize) {
        let Some(mut state) = self.state.lock() else { return };
        state.shields.try_remove(key);
        let last = state.shields.is_empty();
        let held_up = if last { state.held_up.take() } else { None };
        drop(state);
        Found { wakers: held_up.into_iter().collect(), ..Found::default() }.hand_over();
    }

    /// Until when the shields that are pending in its future last; with the last of them the task is woken.
    pub(crate) fn shielded_until(&self, waker: &Waker) -> u64 {
        // To clone and to drop a waker is foreign code: not under the lock.
        let mut waker = Some(waker.clone());
        let Some(mut state) = self.state.lock() else { return 0 };
        let until = state.shields.iter().map(|shield| *shield.1).max();
        if until.is_some() {
            std::mem::swap(&mut state.held_up, &mut waker);
        }
        drop(state);
        drop(waker);
        until.unwrap_or(0)
    }
}

impl State {
    fn list_hook(&mut self, entry: &Arc<Entry>, tie: Tie) -> usize {
        let suspensions = if tie == Tie::Future { self.suspensions } else { 0 };
        (0..suspensions).for_each(|_| entry.suspend());
        self.hooks.insert(Hooked { entry: Arc::clone(entry), tie, suspensions })
    }
}

impl Hooked {
    /// It is on the list no more.
    pub(super) fn resume(&self) {
        (0..self.suspensions).for_each(|_| self.entry.resume());
    }
}
