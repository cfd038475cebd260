//! A waker for one poll, which calls a listener when it is cloned. So the listener learns who clones the waker.
//!
//! A future that is pending has left a clone of its task's waker with whoever will wake the task. The traced waker lies
//! on the stack during one poll. A clone of the traced waker is a clone of the task's own waker. So nothing of this
//! module is left when the poll ends:
//!
//! 1. The traced waker borrows a [`Traced`], and `f` of [`with_traced`] cannot keep it. `f` gets a `Context` with a
//!    lifetime of its own, so `f` cannot keep the `&Waker` in there. `f` gets no `&mut Waker`, so it cannot swap the
//!    waker out.
//! 2. `clone` returns data and table of the task's own waker, never the data of a `Traced`.

use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::ptr;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

/// Called when a traced waker is cloned or woken. It may be called on any thread, since a poll may lend its `&Waker` to
/// other threads.
type Listener<'a> = dyn Fn() + Sync + 'a;

struct Traced<'a> {
    waker: &'a Waker,
    on_clone: &'a Listener<'a>,
}

/// A `static`, so that its address tells traced wakers from all other wakers.
static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake_by_ref, wake_by_ref, forget);

/// Calls `f` with a traced waker. The traced waker wakes the task of `waker`. It calls `on_clone` whenever it is cloned
/// or woken.
///
/// A panic of `on_clone` goes to the code that cloned or woke the waker.
pub(crate) fn with_traced<R>(
    waker: &Waker,
    on_clone: &Listener<'_>,
    f: impl FnOnce(&mut Context<'_>) -> R,
) -> R {
    let traced = Traced { waker, on_clone };
    // SAFETY: the functions of `TABLE` treat the data as a `Traced`. The data is `traced`, which outlives the waker
    // (invariant 1). The functions may be called on any thread, since a `Traced` is `Sync`: see `assert_sync`. `clone`
    // returns a clone of the task's own waker, which meets the contract (invariant 2). `forget` has nothing to free.
    let waker = ManuallyDrop::new(unsafe { Waker::new(ptr::from_ref(&traced).cast(), &TABLE) });
    f(&mut Context::from_waker(&waker))
}

/// The task's own waker, if `waker` is a traced waker. Otherwise `waker` itself.
///
/// Call this before cloning a waker that this crate keeps for itself: a clone of a traced waker calls `on_clone`.
#[inline]
pub(crate) fn untraced(mut waker: &Waker) -> &Waker {
    while ptr::eq(waker.vtable(), &raw const TABLE) {
        // SAFETY: only `with_traced` makes wakers with this table.
        waker = unsafe { traced(waker.data()) }.waker;
    }
    waker
}

const fn assert_sync<T: Sync>() {}
const _: () = assert_sync::<Traced<'_>>();

/// # Safety
///
/// `data` is the data of a traced waker that is borrowed for `'a`.
unsafe fn traced<'a>(data: *const ()) -> &'a Traced<'a> {
    // SAFETY: the contract of this function; the waker lives no longer than its `Traced` (invariant 1).
    unsafe { &*data.cast() }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: `data` is that of a traced waker, which lives during this call.
    let traced = unsafe { traced(data) };
    (traced.on_clone)();
    // If traced polls are nested, this calls `clone` again. `report/awaits.rs` counts the frames of this function.
    // `black_box` keeps the call from being a tail call, which would remove the frame.
    let waker = ManuallyDrop::new(black_box(traced.waker.clone()));
    RawWaker::new(waker.data(), waker.vtable())
}

/// The table has this function for `wake` as well: a traced waker owns nothing that `wake` would have to free.
unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: `data` is that of a traced waker, which lives during this call.
    let traced = unsafe { traced(data) };
    (traced.on_clone)();
    traced.waker.wake_by_ref();
    // Keeps the line above from being a tail call, as in `clone`.
    black_box(());
}

unsafe fn forget(_: *const ()) {}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A waker, the count of its wakes, and a counter for its clones.
    fn counted() -> (Waker, Arc<Wakes>, AtomicUsize) {
        let woken = Arc::new(Wakes::default());
        (Waker::from(Arc::clone(&woken)), woken, AtomicUsize::new(0))
    }

    fn count(calls: &AtomicUsize) -> usize {
        calls.load(Ordering::Relaxed)
    }

    #[test]
    fn a_clone_is_the_tasks_own_waker() {
        let (waker, woken, calls) = counted();
        let kept = with_traced(
            &waker,
            &|| {
                calls.fetch_add(1, Ordering::Relaxed);
            },
            |cx| {
                assert!(!cx.waker().will_wake(&waker));
                let mut kept = cx.waker().clone();
                assert_eq!(count(&calls), 1);
                kept.clone_from(cx.waker());
                assert_eq!(count(&calls), 2);
                cx.waker().wake_by_ref();
                assert_eq!(count(&calls), 3);
                kept
            },
        );
        // The comparison is with a clone: under miri, std's first waker and its clones have different tables.
        assert!(kept.will_wake(&waker.clone()));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        kept.wake();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        drop(waker);
        assert_eq!(Arc::strong_count(&woken), 1);
    }

    #[test]
    fn traced_wakers_nest() {
        let (waker, woken, calls) = counted();
        let listener = || {
            calls.fetch_add(1, Ordering::Relaxed);
        };
        let kept = with_traced(&waker, &listener, |cx| {
            with_traced(cx.waker(), &listener, |cx| {
                assert!(ptr::eq(untraced(cx.waker()), &raw const waker));
                let kept = cx.waker().clone();
                assert_eq!(count(&calls), 2);
                cx.waker().wake_by_ref();
                assert_eq!(count(&calls), 4);
                kept
            })
        });
        assert!(kept.will_wake(&waker.clone()));
        assert!(ptr::eq(untraced(&kept), &raw const kept));
        drop((kept, waker));
        assert_eq!(Arc::strong_count(&woken), 1);
    }

    #[test]
    fn other_threads_may_clone_during_the_poll() {
        let (waker, woken, calls) = counted();
        let kept = with_traced(
            &waker,
            &|| {
                calls.fetch_add(1, Ordering::Relaxed);
            },
            |cx| {
                let waker = cx.waker();
                std::thread::scope(|scope| {
                    let clones: Vec<_> = (0..3).map(|_| scope.spawn(|| waker.clone())).collect();
                    clones.into_iter().map(|clone| clone.join().unwrap()).collect::<Vec<_>>()
                })
            },
        );
        assert_eq!(count(&calls), 3);
        assert!(kept.iter().all(|kept| kept.will_wake(&waker.clone())));
        drop((kept, waker));
        assert_eq!(Arc::strong_count(&woken), 1);
    }

    #[test]
    fn a_panic_of_the_listener_or_of_the_poll_leaves_nothing() {
        let (waker, woken, _) = counted();
        let panics = || std::panic::resume_unwind(Box::new(()));
        let clone = AssertUnwindSafe(|| with_traced(&waker, &panics, |cx| drop(cx.waker().clone())));
        assert!(catch_unwind(clone).is_err());
        let poll = AssertUnwindSafe(|| {
            with_traced(&waker, &|| {}, |cx| {
                let _kept = cx.waker().clone();
                std::panic::resume_unwind(Box::new(()))
            })
        });
        assert!(catch_unwind(poll).is_err());
        drop(waker);
        assert_eq!(Arc::strong_count(&woken), 1);
    }

    #[test]
    fn a_waker_that_unsafe_code_makes_of_the_parts_frees_nothing() {
        let (waker, woken, calls) = counted();
        with_traced(
            &waker,
            &|| {
                calls.fetch_add(1, Ordering::Relaxed);
            },
            |cx| {
                let part = || {
                    // SAFETY: the waker in `cx` outlives the copy. The drop of a traced waker does nothing.
                    unsafe { Waker::new(cx.waker().data(), cx.waker().vtable()) }
                };
                part().wake();
                drop(part());
            },
        );
        assert_eq!((count(&calls), woken.0.load(Ordering::Relaxed)), (1, 1));
        drop(waker);
        assert_eq!(Arc::strong_count(&woken), 1);
    }
}
