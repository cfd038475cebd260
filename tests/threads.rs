//! Ten thousand threads and a hundred thousand futures, three times over: what they needed is given back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::{Future, pending};
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use timebox::{future, timeout};

const LONG: Duration = Duration::from_secs(3600);

/// What the third round may hold more than the first.
const SLACK: isize = 64 * 1024;

/// Bytes allocated and not freed, of the whole process.
static LIVE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: every call goes to `System` unchanged; beside it only a number is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size().cast_signed(), Relaxed);
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size().cast_signed(), Relaxed);
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test counts at a time.
static COUNTING: Mutex<()> = Mutex::new(());

/// Live bytes after each of three rounds.
fn three(round: impl Fn()) {
    let _alone = COUNTING.lock();
    let live = [(); 3].map(|()| {
        round();
        LIVE.load(Relaxed)
    });
    assert!(live[2] - live[0] <= SLACK, "live bytes after each round: {live:?}");
}

#[test]
fn ten_thousand_threads_with_a_scope_each_give_back_what_they_took() {
    const WAVES: usize = 50;
    three(|| {
        for _ in 0..WAVES {
            let threads: Vec<_> = (0..10_000 / WAVES)
                .map(|number| {
                    let work = move || match number % 4 {
                        // Expires, is bounded, is asked for a token, has a hook.
                        0 => timeout(Duration::from_micros(100), || timebox::sleep(LONG))
                            .unwrap_err()
                            .is_timeout(),
                        1 => timeout(LONG, || timeout(LONG, timebox::checkpoint)).is_ok(),
                        2 => timeout(LONG, || {
                            timebox::token().cancel();
                            timebox::checkpoint()
                        })
                        .is_err(),
                        _ => timeout(LONG, || timebox::interruptible(|| (), || Ok::<_, String>(()))).is_ok(),
                    };
                    thread::Builder::new().stack_size(256 * 1024).spawn(work).unwrap()
                })
                .collect();
            for thread in threads {
                assert!(thread.join().unwrap());
            }
        }
    });
}

/// A hundred thousand futures, all pending at once.
fn pending_futures() {
    let mut context = Context::from_waker(Waker::noop());
    let limit = |number: u64| LONG + Duration::from_millis(number * 7919 % 100_000);
    let mut futures: Vec<_> =
        (0..100_000).map(|number| Box::pin(future::timeout_value(limit(number), pending::<()>()))).collect();
    for future in &mut futures {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
}

#[test]
fn a_hundred_thousand_pending_futures_give_back_what_they_took() {
    three(pending_futures);
}

#[test]
fn a_hundred_thousand_futures_that_expire_give_back_what_they_took() {
    // What is kept for reuse follows the most there ever were at once, and how many expire before others are made
    // depends on the machine.
    pending_futures();
    three(|| {
        let mut context = Context::from_waker(Waker::noop());
        let mut futures: Vec<_> = (0..100_000)
            .map(|number| {
                Box::pin(future::timeout_value(Duration::from_micros(number % 1000), pending::<()>()))
            })
            .collect();
        for future in &mut futures {
            let _ = future.as_mut().poll(&mut context);
        }
        // All are over when this one is.
        pollster::block_on(future::timeout_value(Duration::from_millis(2), pending::<()>())).unwrap_err();
    });
}

#[test]
fn tokens_hooks_and_handles_give_back_what_they_took() {
    three(|| {
        let root = timebox::CancellationToken::new();
        for number in 0..20_000 {
            let child = root.child_token();
            let registration = child.on_cancel(|| ());
            if number % 100 == 0 {
                child.cancel();
            }
            drop((registration, child.child_token().drop_guard()));
            let handle = timebox::handle();
            handle.enter(LONG, |scope| scope.checkpoint()).unwrap();
            // A timer goes with the last that could hear of it.
            drop(timeout(LONG, || Ok::<_, timebox::TimeoutError>(timebox::token())).unwrap());
        }
    });
}
