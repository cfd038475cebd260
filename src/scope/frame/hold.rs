use super::{Scope, Undo};

/// A frame that a call holds while foreign code runs: invariant 1 of the module `frame`.
#[must_use]
pub(crate) struct Held<'a>(&'a Scope);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Scope { holds, undo, .. } = self.0;
        holds.set(holds.get() - 1);
        if holds.get() == 0 {
            undo.set(undo.get().without(Undo::HELD));
        }
    }
}

impl Scope {
    /// Holds the frame: while the result exists, leaving the frame aborts the process.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.holds.set(self.holds.get() + 1);
        self.undo.set(self.undo.get().and(Undo::HELD));
        Held(self)
    }
}
