use std::mem::ManuallyDrop;

/// An optional box, which is empty in most futures. Dropping an empty box takes one comparison and no call.
#[repr(transparent)]
pub(super) struct ColdBox<T>(ManuallyDrop<Option<Box<T>>>);

impl<T> ColdBox<T> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn none() -> Self {
        Self(ManuallyDrop::new(None))
    }

    pub(super) fn some(value: Box<T>) -> Self {
        Self(ManuallyDrop::new(Some(value)))
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn get(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    pub(super) fn get_or_insert_with(&mut self, make: impl FnOnce() -> Box<T>) -> &mut T {
        self.0.get_or_insert_with(make)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn clear(&mut self) {
        // `take` would write to the box even if it is empty, so this checks first.
        if self.0.is_some() {
            drop_cold(self.0.take());
        }
    }
}

impl<T> Drop for ColdBox<T> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        self.clear();
    }
}

#[cold]
#[inline(never)]
fn drop_cold<T>(value: T) {
    drop(value);
}
