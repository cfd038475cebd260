use std::mem::ManuallyDrop;
use std::sync::Weak;
use std::task::{RawWaker, RawWakerVTable, Wake, Waker};

/// A waker that calls `wake` of its target, if the target still exists. It does not keep the target alive, as std's
/// waker made of an `Arc` would.
pub(crate) fn weak_waker<T: Wake + Send + Sync + 'static>(weak: Weak<T>) -> Waker {
    // SAFETY: `raw` makes the data from a `Weak<T>`, and each function of the table takes it for one. Each function
    // keeps the weak count right: `wake` and `forget` (the drop) give the count up, `clone` and `wake_by_ref` leave it.
    // The functions may be called on any thread, since `T` is `Send` and `Sync`.
    unsafe { Waker::from_raw(raw(weak)) }
}

fn raw<T: Wake + Send + Sync + 'static>(weak: Weak<T>) -> RawWaker {
    let table = const { &RawWakerVTable::new(clone::<T>, wake::<T>, wake_by_ref::<T>, forget::<T>) };
    RawWaker::new(weak.into_raw().cast(), table)
}

/// # Safety
///
/// The data is that of a `Weak<T>` whose count the caller gives up.
unsafe fn owned<T>(data: *const ()) -> Weak<T> {
    // SAFETY: the contract of this function.
    unsafe { Weak::from_raw(data.cast()) }
}

unsafe fn clone<T: Wake + Send + Sync + 'static>(data: *const ()) -> RawWaker {
    // SAFETY: `data` is that of a `Weak<T>`. Because of `ManuallyDrop` the waker keeps its count.
    raw(Weak::clone(&ManuallyDrop::new(unsafe { owned::<T>(data) })))
}

unsafe fn wake<T: Wake>(data: *const ()) {
    // SAFETY: the waker gives its count up.
    if let Some(target) = unsafe { owned::<T>(data) }.upgrade() {
        target.wake();
    }
}

unsafe fn wake_by_ref<T: Wake>(data: *const ()) {
    // SAFETY: `data` is that of a `Weak<T>`. Because of `ManuallyDrop` the waker keeps its count.
    if let Some(target) = ManuallyDrop::new(unsafe { owned::<T>(data) }).upgrade() {
        target.wake();
    }
}

unsafe fn forget<T>(data: *const ()) {
    // SAFETY: the waker gives its count up.
    drop(unsafe { owned::<T>(data) });
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_wakes_what_is_there_and_keeps_it_no_longer_than_that() {
        let counted = Arc::new(Counted::default());
        let waker = weak_waker(Arc::downgrade(&counted));
        let other = waker.clone();
        assert!(waker.will_wake(&other));
        waker.wake_by_ref();
        waker.wake();
        assert_eq!(counted.0.load(Ordering::Relaxed), 2);
        assert_eq!((Arc::strong_count(&counted), Arc::weak_count(&counted)), (1, 1));
        drop(counted);
        other.wake_by_ref();
        other.wake();
    }
}
