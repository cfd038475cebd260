//! The work that is left for leaving a scope.

/// What leaving a scope has to undo besides the innermost frame: for most scopes nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Undo(u8);

impl Undo {
    pub(super) const NOTHING: Undo = Undo(0);
    /// Restore the deadline of the thread.
    pub(super) const DEADLINE: Undo = Undo(1);
    /// Restore the flag, and close the node or keep it with its future. An identity that was asked for is kept too.
    pub(super) const FLAG: Undo = Undo(2);
    /// Nothing to undo: an await in this poll has given the error.
    pub(super) const ERROR_GIVEN: Undo = Undo(4);
    /// Abort: a call holds the frame.
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
