//! Threads that are stuck inside the program's allocator, and what the watchdog asks of it.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{self, Kind, Policy, Report};
use timebox::{Hook, Timebox, TimeoutError, future, is_expired, on_cancel};

/// While this is set, whoever allocates or frees memory waits, at most half a minute.
static IS_BLOCKED: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// As `IS_BLOCKED`, for one thread.
    static IS_STUCK: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread's calls of the allocator are counted.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// How often counted threads have called the allocator.
static COUNTED: AtomicU32 = AtomicU32::new(0);

/// One test runs at a time: they share the policy and the allocator.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the watchdog's calls of the allocator from now on, or counts them no more.
fn count_watchdog(is_counted: bool) {
    let (sender, done) = channel();
    let _ = Timebox::new(Duration::from_millis(1)).run_value(|_| {
        // An inline hook runs on the watchdog's thread.
        let hook = move || {
            sender.send(()).unwrap();
            IS_COUNTED.set(is_counted);
        };
        let _registration = on_cancel(Hook::inline(hook));
        done.recv().unwrap();
    });
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
    if IS_COUNTED.get() {
        COUNTED.fetch_add(1, SeqCst);
    }
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

/// Installs a policy. Returns its reports.
fn reports() -> Receiver<Report> {
    let (sender, reports) = channel();
    let keep = move |report: &Report| {
        let _ = sender.send(report.clone());
    };
    Policy::new().warn_after(SLOW).once_per(Duration::ZERO).to(keep).install().unwrap();
    reports
}

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
    let _alone = alone();
    let reports = reports();

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

fn until(flag: &AtomicBool) {
    while !flag.load(SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A task. Its waker sets the flag.
#[derive(Default)]
struct Task(AtomicBool);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
        // The watchdog must not free it.
        std::mem::forget(self);
    }
}

#[test]
fn limits_act_while_the_holder_of_the_allocator_is_stuck() {
    let _alone = alone();
    let reports = reports();
    let task = Arc::new(Task::default());
    let waker = Waker::from(Arc::clone(&task));
    let (is_open, is_armed) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|threads| {
        let holder = threads.spawn(|| {
            Timebox::new(Duration::from_secs(100)).label("holder").run_value(|_| {
                is_open.store(true, SeqCst);
                until(&is_armed);
                IS_BLOCKED.store(true, SeqCst);
                drop(allocates());
            })
        });
        until(&is_open);
        // Due after the look at the holder.
        let mut future = pin!(future::timeout(4 * SLOW, pending::<Result<(), TimeoutError>>()));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        is_armed.store(true, SeqCst);
        until(&IS_BLOCKED);
        let began = Instant::now();
        while !task.0.load(SeqCst) && began.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(1));
        }
        let is_woken = task.0.load(SeqCst);
        IS_BLOCKED.store(false, SeqCst);
        assert!(is_woken, "the watchdog waits for the allocator");
        holder.join().unwrap().unwrap();
    });
    let report = slow("holder", &reports);
    let functions = || report.stacks[0].frames.iter().map(|frame| frame.function.as_str());
    assert!(functions().any(|function| function.ends_with("::waits_for_the_allocator")), "{report}");
    report::uninstall();
}

#[test]
fn a_look_of_the_watchdog_does_not_call_the_allocator() {
    let _alone = alone();
    let (sender, reports) = channel();
    let keep = move |report: &Report| {
        let _ = sender.send(report.clone());
    };
    let policy = Policy::new().warn_after(SLOW).overdue_after(SLOW).once_per(Duration::ZERO).per_minute(1000);
    let (stuck, calls) = channel();
    policy.on_stuck(2 * SLOW, move |_| stuck.send(()).unwrap()).to(keep).install().unwrap();
    count_watchdog(true);
    let before = COUNTED.load(SeqCst);
    // Blocked and running threads; scopes that are slow, expired, overdue and stuck, and their ends.
    thread::scope(|threads| {
        for number in 0..20 {
            threads.spawn(move || {
                let began = Instant::now();
                let _ = Timebox::new(2 * SLOW).label("watched").run_value(|_| {
                    while began.elapsed() < 6 * SLOW {
                        if number % 4 > 0 {
                            thread::sleep(SLOW / 10);
                        }
                    }
                });
            });
        }
    });
    calls.recv_timeout(Duration::from_secs(60)).unwrap();
    let after = COUNTED.load(SeqCst);
    assert_eq!(before, after, "the watchdog has called the allocator");
    count_watchdog(false);
    assert!(COUNTED.load(SeqCst) > after, "calls are counted");
    assert!(report::flush(Duration::from_secs(60)));
    assert!(reports.try_iter().count() > 20);
    report::uninstall();
}
