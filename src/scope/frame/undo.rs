/// What must be undone when a scope is left, besides making the outer frame the innermost again. For most scopes this
/// is nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Undo(u8);

impl Undo {
    pub(super) const NOTHING: Undo = Undo(0);
    /// Restore the deadline of the thread.
    pub(super) const DEADLINE: Undo = Undo(1);
    /// Point the thread's flag at the outer scope again. Then close the node, if the scope is a block. A future keeps
    /// its node and its `ScopeId` for the next poll.
    pub(super) const FLAG: Undo = Undo(2);
    /// Records that an await has returned the error of a scope that is over (`Scope::has_given_error`). There is
    /// nothing to undo for it.
    pub(super) const ERROR_GIVEN: Undo = Undo(4);
    /// A call holds the frame (`Scope::hold`). If the scope is left nevertheless, the process aborts.
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
