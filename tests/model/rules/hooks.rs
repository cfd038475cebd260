//! Hooks: when they run, and what holds them back.

use super::{Id, Model};

pub(super) struct Hook {
    /// With whom it is registered.
    node: Option<Id>,
    /// How many shields were open then.
    shields: usize,
    is_registered: bool,
    pub(super) has_run: bool,
}

impl Model {
    /// Registers a hook with the innermost scope, or with its token.
    pub(super) fn hook(&mut self) {
        let node = self.innermost();
        self.hooks.push(Hook { node, shields: self.shields, is_registered: true, has_run: false });
        // Rule 7: on a scope that is over it runs at once.
        self.fire_hooks();
    }

    /// Ends the hooks that were registered after the first so many.
    pub(super) fn end_hooks(&mut self, first: usize) {
        self.fire_hooks();
        self.hooks[first..].iter_mut().for_each(|hook| hook.is_registered = false);
    }

    /// Rule 7: a hook runs when its own or any scope around it is over. Rule 9: but not in a shield that was opened
    /// after it.
    pub(super) fn fire_hooks(&mut self) {
        for index in 0..self.hooks.len() {
            let hook = &self.hooks[index];
            let is_due = hook.is_registered && hook.shields == self.shields;
            if is_due && self.named(hook.node).is_some() {
                self.hooks[index].has_run = true;
            }
        }
    }
}
