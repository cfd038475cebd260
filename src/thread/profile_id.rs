use crate::sync::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ProfileId(u64);

impl ProfileId {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: the numbers need only differ.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(super) fn get(self) -> u64 {
        self.0
    }
}
