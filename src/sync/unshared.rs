//! For models: a value that no two threads may touch at one time.

use loom::cell::UnsafeCell;

#[derive(Default)]
pub(crate) struct Unshared(UnsafeCell<u32>);

// SAFETY: none; whether it holds is what a model is to find.
unsafe impl Sync for Unshared {}

impl Unshared {
    pub(crate) fn touch(&self) {
        // SAFETY: none, as above.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }
}
