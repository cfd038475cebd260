//! Shields. A shield suspends the hooks of a scope. An async shield also delays the drop of its future.

use std::sync::Arc;
use std::task::Waker;

use super::data::Node;
use super::wake_list::WakeList;

impl Node {
    /// Called when a shield opens. Suspends the hooks that belong to the scope, and waits until none of them is
    /// running.
    pub(crate) fn suspend_hooks(&self) {
        let Some(mut state) = self.state.lock() else { return };
        state.suspensions += 1;
        let mut entries = Vec::new();
        for (_, hook) in state.hooks.iter_mut().filter(|(_, hook)| hook.owner.is_of_scope()) {
            hook.suspensions += 1;
            // The entry is suspended under the same lock under which `hook.suspensions` is changed. So a thread that
            // takes the hook off the list knows how often to resume the entry.
            hook.entry.suspend();
            entries.push(Arc::clone(&hook.entry));
        }
        drop(state);
        entries.iter().for_each(|entry| entry.wait_until_idle());
    }

    /// Called when a shield closes. Resumes the hooks, and starts those that became due during the shield.
    pub(crate) fn resume_hooks(&self) {
        let Some(mut state) = self.state.lock() else { return };
        state.suspensions -= 1;
        let mut entries = Vec::new();
        for (_, hook) in state.hooks.iter_mut().filter(|(_, hook)| hook.suspensions > 0) {
            hook.suspensions -= 1;
            entries.push(Arc::clone(&hook.entry));
        }
        drop(state);
        entries.iter().for_each(|entry| entry.resume());
    }

    /// Records that an async shield is pending in the future, and ends at `until` at the latest. Returns the key for
    /// `remove_shield`; `None` if a fork has lost the lock.
    pub(crate) fn add_shield(&self, until: u64) -> Option<usize> {
        Some(self.state.lock()?.shields.insert(until))
    }

    pub(crate) fn remove_shield(&self, key: usize) {
        let Some(mut state) = self.state.lock() else { return };
        state.shields.try_remove(key);
        let is_last = state.shields.is_empty();
        let waiter = if is_last { state.shield_waiter.take() } else { None };
        drop(state);
        WakeList { wakers: waiter.into_iter().collect(), ..WakeList::default() }.deliver();
    }

    pub(crate) fn has_shields(&self) -> bool {
        self.state.lock().is_some_and(|state| !state.shields.is_empty())
    }

    /// If shields of the future are pending, returns the time by which the last of them ends, and keeps `waker`: it is
    /// woken when the last of them closes. If no shield is pending, returns 0.
    pub(crate) fn shielded_until(&self, waker: &Waker) -> u64 {
        let until = self.with_waker(waker, |state, waker| {
            let until = state.shields.iter().map(|(_, until)| *until).max();
            if until.is_some() {
                std::mem::swap(&mut state.shield_waiter, waker);
            }
            until
        });
        until.flatten().unwrap_or(0)
    }
}
