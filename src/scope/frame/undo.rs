//! The work that is left for leaving a scope.

/// What leaving a scope has to undo besides the innermost frame: for most scopes nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Undo(u8);

impl Undo {
    pub(super) const NOTHING: Undo = Undo(0);
    /// The effective deadline.
    pub(super) const DEADLINE: Undo = Undo(1);
    /// The flag. Also: there is a node to close, or to keep with its future, as is an identity that was asked for.
    pub(super) const FLAG: Undo = Undo(2);
    /// Nothing; but an await in this poll has given the error.
    pub(super) const TOLD: Undo = Undo(4);
    /// None of it: a call holds the frame, so that it must not be left.
    pub(super) const HELD: Undo = Undo(8);

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn and(self, other: Undo) -> Undo {
        Undo(self.0 | other.0)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn has(self, other: Undo) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn without(self, other: Undo) -> Undo {
        Undo(self.0 & !other.0)
    }
}
