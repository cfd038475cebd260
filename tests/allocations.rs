//! After a thread's first scope, a plain `timeout` allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use timebox::{
    Deadline, Limit, Timebox, TimeoutError, checkpoint, is_expired, remaining, timeout, timeout_value,
    with_timeout,
};

const LONG: Duration = Duration::from_secs(3600);

thread_local! {
    /// Allocations of this thread; the harness and the watchdog have their own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to `System` unchanged; beside it only a thread-local without a destructor is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of `body` on a thread that has had its first scope.
fn allocations(body: impl Fn()) -> usize {
    timeout(LONG, checkpoint).unwrap();
    // Once for what the body itself does for the first time.
    body();
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        body();
    }
    ALLOCATIONS.get() - before
}

#[test]
fn a_plain_timeout_allocates_nothing() {
    assert_eq!(allocations(|| timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap()), 0);
}

#[test]
fn the_very_next_timeout_after_a_threads_first_allocates_nothing() {
    std::thread::spawn(|| {
        timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap();
        let before = ALLOCATIONS.get();
        timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap();
        assert_eq!(ALLOCATIONS.get() - before, 0);
    })
    .join()
    .unwrap();
}

#[test]
fn every_kind_of_limit_allocates_nothing() {
    let deadline = Deadline::after(LONG);
    let instant = std::time::Instant::now() + LONG;
    let body = || {
        timeout_value(Limit::NONE, || ()).unwrap();
        timeout_value(deadline, || ()).unwrap();
        timeout_value(instant, || ()).unwrap();
        timeout_value(Duration::MAX, || ()).unwrap();
        Timebox::new(LONG).label("a borrowed label").run_value(|_| ()).unwrap();
    };
    assert_eq!(allocations(body), 0);
}

#[test]
fn questions_allocate_nothing() {
    let body = || {
        with_timeout(LONG, |scope| {
            assert!(!is_expired() && remaining().is_some());
            scope.require(Duration::from_secs(1))?;
            scope.checkpoint()
        })
        .unwrap();
    };
    assert_eq!(allocations(body), 0);
}

#[test]
fn nested_timeouts_allocate_nothing() {
    let body = || timeout(LONG, || timeout(LONG / 2, || timeout(LONG / 4, checkpoint))).unwrap();
    assert_eq!(allocations(body), 0);
}

#[test]
fn a_scope_that_passes_its_deadline_without_asking_allocates_nothing() {
    let body =
        || timeout_value(Duration::from_micros(1), || std::thread::sleep(Duration::from_micros(50))).unwrap();
    assert_eq!(allocations(body), 0);
}
