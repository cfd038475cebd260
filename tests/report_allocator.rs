//! Threads that are stuck inside the program's allocator.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{self, Kind, Policy, Report};
use timebox::{Timebox, is_expired};

/// While this is set, whoever allocates or frees memory waits, at most half a minute.
static IS_BLOCKED: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// As `IS_BLOCKED`, for one thread.
    static IS_STUCK: Cell<bool> = const { Cell::new(false) };
}

struct Blocks;

#[inline(never)]
fn waits_for_the_allocator() {
    IS_STUCK.set(false);
    WAITING.fetch_add(1, SeqCst);
    for _ in 0..30_000 {
        if !IS_BLOCKED.load(SeqCst) && !IS_HELD.load(SeqCst) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    WAITING.fetch_sub(1, SeqCst);
}

/// While this is set, the thread that is stuck stays so.
static IS_HELD: AtomicBool = AtomicBool::new(false);

fn is_blocked() -> bool {
    IS_BLOCKED.load(SeqCst) || IS_STUCK.get()
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Blocks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_blocked() {
            waits_for_the_allocator();
        }
        // SAFETY: by this function's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_blocked() {
            waits_for_the_allocator();
        }
        // SAFETY: by this function's contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Blocks = Blocks;

#[inline(never)]
fn allocates() -> Vec<u8> {
    std::hint::black_box(vec![1; 100])
}

const SLOW: Duration = Duration::from_millis(300);

fn slow(label: &str, reports: &Receiver<Report>) -> Report {
    loop {
        let report = reports.recv_timeout(Duration::from_secs(60)).unwrap();
        if report.scope.label() == Some(label) && report.kind == Kind::Slow {
            return report;
        }
    }
}

#[test]
fn a_thread_that_is_stuck_in_the_allocator_is_seen_there_and_nothing_hangs() {
    let (sender, reports) = channel();
    let keep = move |report: &Report| {
        let _ = sender.send(report.clone());
    };
    Policy::new().warn_after(SLOW).once_per(Duration::ZERO).to(keep).install().unwrap();

    // One thread is stuck. Others can allocate.
    IS_HELD.store(true, SeqCst);
    let stuck = thread::spawn(|| {
        Timebox::new(Duration::from_secs(100)).label("stuck").run_value(|_| {
            IS_STUCK.set(true);
            drop(allocates());
        })
    });
    let report = slow("stuck", &reports);
    IS_HELD.store(false, SeqCst);
    let functions: Vec<&str> = report.stacks[0].frames.iter().map(|frame| frame.function.as_str()).collect();
    let position = |name: &str| functions.iter().position(|function| function.ends_with(name));
    let (waits, allocates) = (position("::waits_for_the_allocator"), position("::allocates"));
    assert!(waits.is_some() && waits < allocates, "{report}");
    stuck.join().unwrap().unwrap();

    // Nobody can allocate, and a scope is due. Limits are noticed all the same.
    let open = AtomicBool::new(true);
    thread::scope(|threads| {
        threads.spawn(|| {
            Timebox::new(Duration::from_secs(100)).label("waits").run_value(|_| {
                while open.load(SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        IS_BLOCKED.store(true, SeqCst);
        let began = Instant::now();
        let _ = Timebox::new(2 * SLOW).label("other").run_value(|_| {
            while !is_expired() {
                std::hint::spin_loop();
            }
            thread::sleep(SLOW);
            IS_BLOCKED.store(false, SeqCst);
        });
        assert!(began.elapsed() < Duration::from_secs(20), "somebody who must not allocate does");
        // What was held up goes on.
        let report = slow("waits", &reports);
        open.store(false, SeqCst);
        assert!(!report.stacks.is_empty(), "{report}");
    });
    report::uninstall();
}
