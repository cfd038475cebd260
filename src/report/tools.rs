//! What the reporter thread keeps from report to report, because it is expensive to make: the unwinder and the names.

use super::awaits::{AwaitCopies, Awaits};
use super::contents::{Stack, note_on_nameless};
use super::stack::{Names, StackCopy, Unwinder};

#[derive(Debug)]
pub(crate) struct Tools {
    unwinder: Unwinder,
    names: Names,
}

impl Tools {
    pub(super) fn new() -> Self {
        Self { unwinder: Unwinder::new(), names: Names::new() }
    }

    /// Unwinds a copied stack and finds the names. Trims the stack to the scope whose frame has the address `within`.
    /// Returns the stack, if there is one, and sentences that say what is not certain.
    pub(super) fn stack_of(
        &mut self,
        stack: &StackCopy,
        within: Option<u64>,
    ) -> (Option<Stack>, Vec<String>) {
        if !stack.is_there() {
            return (None, Vec::new());
        }
        let mut raw = self.unwinder.unwind(stack);
        let mut notes = std::mem::take(&mut raw.notes);
        let stack = self.names.resolve(&raw, within);
        notes.extend(stack.nameless_modules().into_iter().map(note_on_nameless));
        (Some(stack), notes)
    }

    pub(super) fn awaits_of(&mut self, copies: AwaitCopies) -> Awaits {
        copies.resolve(&mut self.unwinder, &mut self.names)
    }
}
