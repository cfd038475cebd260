use crate::sync::{AtomicU8, Ordering};

/// How a node learns that its parent is over, and whether it may get another parent.
pub(super) struct ParentMode(AtomicU8);

impl ParentMode {
    /// The parent lists the node, and propagates to it.
    pub(super) const LISTED: u8 = 0;
    /// The parent lists the node, and the node may get another parent: it is the node of a future that is not done.
    pub(super) const REPARENTABLE: u8 = 1;
    /// The node reads its parent's flag. The parent does not list the node (invariant 6).
    pub(super) const LAZY: u8 = 2;
    /// The node reads its parent's flag. The parent also lists the node, and propagates to it.
    pub(super) const LAZY_LISTED: u8 = 3;

    pub(super) fn new(mode: u8) -> Self {
        Self(AtomicU8::new(mode))
    }

    #[inline]
    pub(super) fn is_reparentable(&self) -> bool {
        // Relaxed: an old value would do harm only to a thread that closes a scope. That thread asks about futures that
        // it has polled in the scope itself. `keep_parent` was called in such a poll, so by this thread, which sees its
        // own store.
        self.0.load(Ordering::Relaxed) == Self::REPARENTABLE
    }

    pub(super) fn keep_parent(&self) {
        // Relaxed: as in `is_reparentable`.
        self.0.store(Self::LISTED, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_lazy(&self) -> bool {
        // Relaxed: the answer never changes.
        self.0.load(Ordering::Relaxed) >= Self::LAZY
    }

    #[inline]
    pub(super) fn is_unlisted(&self) -> bool {
        // Acquire: pairs with the Release in `set_listed`.
        self.0.load(Ordering::Acquire) == Self::LAZY
    }

    pub(super) fn set_listed(&self) {
        // Release: pairs with the Acquire in `is_unlisted`.
        self.0.store(Self::LAZY_LISTED, Ordering::Release);
    }
}
