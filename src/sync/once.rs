//! Invariant: the pointer is null, or owns a box that is dropped with the cell. Once the pointer is set, it does not
//! change.

use std::marker::PhantomData;
use std::ptr;
// This is std's atomic even under loom, so no model checks the orderings. They are the orderings of `OnceLock`: Acquire
// and Release.
use std::sync::atomic::{AtomicPtr, Ordering};

/// Like std's `OnceLock`, but never waits for another thread that sets the value, since that thread may be gone after a
/// fork. If several threads make a value, the first value is kept.
pub(crate) struct SetOnce<T> {
    value: AtomicPtr<T>,
    owns: PhantomData<Box<T>>,
}

impl<T> SetOnce<T> {
    pub(crate) const fn new() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        // Acquire: pairs with the Release in `init`.
        // SAFETY: the invariant.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        match self.get() {
            Some(value) => value,
            None => self.init(make),
        }
    }

    #[cold]
    fn init(&self, make: impl FnOnce() -> T) -> &T {
        let new = Box::into_raw(Box::new(make()));
        // Release: pairs with the Acquire in `get`. Acquire, on failure: pairs with the Release of the thread that set
        // the value first.
        match self.value.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Acquire) {
            // SAFETY: the invariant.
            Ok(_) => unsafe { &*new },
            Err(first) => {
                // SAFETY: the box was made above, and the cell has not taken it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: the invariant.
                unsafe { &*first }
            }
        }
    }
}

impl<T> Default for SetOnce<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for SetOnce<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: the invariant; the cell is borrowed mutably, so nobody has a reference to the value.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for SetOnce<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SetOnce").field(&self.get()).finish()
    }
}

// SAFETY: as for std's `OnceLock`: any thread may set the value or borrow it, so `T` must be `Send` and `Sync`.
unsafe impl<T: Send + Sync> Sync for SetOnce<T> {}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_value_stays_and_goes_with_the_cell() {
        let value = Arc::new(());
        let cell = SetOnce::new();
        assert!(cell.get().is_none());
        let all: Vec<usize> = std::thread::scope(|threads| {
            let set = || std::ptr::from_ref(cell.get_or_init(|| Arc::clone(&value))).addr();
            let threads: Vec<_> = (0..4).map(|_| threads.spawn(set)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|&at| at == all[0]));
        assert_eq!(Arc::strong_count(&value), 2);
        drop(cell);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
