//! Threads that are stuck inside the program's allocator, and what the watchdog asks of it.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::future::{Future, pending};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{self, Kind, Policy, Report};
use timebox::{CancellationToken, Hook, Timebox, TimeoutError, future, is_expired};

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

/// Runs on the watchdog's thread, as inline hooks do.
fn on_watchdog<T: Send + 'static>(run: impl Fn() -> T + Send + 'static) -> T {
    let (sender, result) = channel();
    let token = CancellationToken::new();
    let _registration = token.on_cancel(Hook::inline(move || sender.send(run()).unwrap()));
    token.cancel();
    result.recv_timeout(MINUTE).unwrap()
}

/// The watchdog's thread and its deputy's, by number and name. They change where a deputy takes over, which may happen
/// if the watchdog is slow to come back from a hook or a waker. A deputy that is started costs memory.
fn watchdogs() -> Vec<(String, String)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |task: PathBuf| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        Some((task.file_name()?.to_str()?.to_owned(), name))
    };
    let is_one = |(_, name): &(_, String)| name == "timebox-watchdo\n" || name == "timebox-deputy\n";
    let mut threads: Vec<_> = tasks.filter_map(named).filter(is_one).collect();
    threads.sort();
    threads
}

/// Returns when there is a watchdog that has its deputy, and is through with the start of it.
fn settle_watchdog() {
    let names = || watchdogs().into_iter().map(|(_, name)| name).collect::<HashSet<_>>();
    while names().len() < 2 {
        on_watchdog(|| ());
    }
    on_watchdog(|| ());
}

/// Counts the watchdog's calls of the allocator from now on.
fn count_watchdog() {
    settle_watchdog();
    while !on_watchdog(|| IS_COUNTED.replace(true)) {}
    // Now it frees the hook. It wakes this task after that.
    let task = Arc::new(Task::default());
    let waker = Waker::from(Arc::clone(&task));
    let mut future = Box::pin(future::timeout(SLOW / 10, pending::<Result<(), TimeoutError>>()));
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(until(|| task.0.load(SeqCst)));
    // The watchdog must not free it.
    std::mem::forget(future);
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
const MINUTE: Duration = Duration::from_secs(60);

/// Runs the test with ever longer times, until a thread is at its place before the time has passed (`true`).
fn unhurried(test: impl Fn(Duration) -> bool) {
    assert!([1, 4, 8].iter().any(|&times| test(times * SLOW)), "the machine is too busy");
}

/// Whether it comes true within a minute. It does not panic, because a panic allocates.
#[must_use]
fn until(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() && began.elapsed() < MINUTE {
        thread::sleep(Duration::from_millis(1));
    }
    condition()
}

fn is_somebody_waiting() -> bool {
    WAITING.load(SeqCst) > 0
}

/// Installs a policy. Returns its reports.
fn reports(warn_after: Duration) -> Receiver<Report> {
    let (sender, reports) = channel();
    let keep = move |report: &Report| {
        let _ = sender.send(report.clone());
    };
    Policy::new().warn_after(warn_after).once_per(Duration::ZERO).to(keep).install().unwrap();
    reports
}

fn is_slow(label: &str, report: &Report) -> bool {
    report.scope.label() == Some(label) && report.kind == Kind::Slow
}

fn slow(label: &str, reports: &Receiver<Report>) -> Report {
    loop {
        let report = reports.recv_timeout(MINUTE).unwrap();
        if is_slow(label, &report) {
            return report;
        }
    }
}

#[test]
fn a_thread_that_is_stuck_in_the_allocator_is_seen_there() {
    let _alone = alone();
    unhurried(|warn_after| {
        let reports = reports(warn_after);
        IS_HELD.store(true, SeqCst);
        let began = Instant::now();
        let stuck = thread::spawn(|| {
            Timebox::new(Duration::from_secs(100)).label("stuck").run_value(|_| {
                IS_STUCK.set(true);
                drop(allocates());
            })
        });
        let is_in_time = until(is_somebody_waiting) && began.elapsed() < warn_after;
        // Others can allocate.
        let report = slow("stuck", &reports);
        IS_HELD.store(false, SeqCst);
        stuck.join().unwrap().unwrap();
        let functions: Vec<&str> =
            report.stacks[0].frames.iter().map(|frame| frame.function.as_str()).collect();
        let position = |name: &str| functions.iter().position(|function| function.ends_with(name));
        let (waits, allocates) = (position("::waits_for_the_allocator"), position("::allocates"));
        assert!(!is_in_time || (waits.is_some() && waits < allocates), "{report}");
        is_in_time
    });
    report::uninstall();
}

#[test]
fn limits_are_noticed_while_nobody_can_allocate_and_a_scope_is_due() {
    let _alone = alone();
    unhurried(|warn_after| {
        let reports = reports(warn_after);
        let (is_open, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|threads| {
            let began = Instant::now();
            threads.spawn(|| {
                Timebox::new(Duration::from_secs(100)).label("waits").run_value(|_| {
                    is_open.store(true, SeqCst);
                    until(|| is_over.load(SeqCst))
                })
            });
            let is_open = until(|| is_open.load(SeqCst));
            IS_BLOCKED.store(true, SeqCst);
            let is_in_time = is_open && began.elapsed() < warn_after;
            let _ = Timebox::new(2 * warn_after).label("other").run_value(|_| {
                while !is_expired() {
                    std::hint::spin_loop();
                }
            });
            let took = began.elapsed();
            // The report is held up.
            let is_held_up = !is_in_time || until(is_somebody_waiting);
            IS_BLOCKED.store(false, SeqCst);
            // What was held up goes on.
            let report = slow("waits", &reports);
            is_over.store(true, SeqCst);
            assert!(took < 2 * warn_after + Duration::from_secs(20), "somebody who must not allocate does");
            assert!(is_held_up, "nobody allocates for the report");
            assert!(!report.stacks.is_empty(), "{report}");
            is_in_time
        })
    });
    report::uninstall();
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
    unhurried(|warn_after| {
        let reports = reports(warn_after);
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        // Due after the look at the holder. Without a `warn_after` of its own, a look would wake it.
        let timebox = Timebox::new(4 * warn_after).warn_after(MINUTE);
        let mut future = pin!(timebox.run_future(pending::<Result<(), TimeoutError>>()));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let (is_armed, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|threads| {
            threads.spawn(|| {
                assert!(until(|| is_armed.load(SeqCst)));
                Timebox::new(Duration::from_secs(100)).label("holder").run_value(|_| {
                    IS_BLOCKED.store(true, SeqCst);
                    drop(allocates());
                    until(|| is_over.load(SeqCst))
                })
            });
            settle_watchdog();
            let began = Instant::now();
            is_armed.store(true, SeqCst);
            let is_in_time = until(is_somebody_waiting) && began.elapsed() < warn_after;
            while !task.0.load(SeqCst) && began.elapsed() < 4 * warn_after + Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(1));
            }
            let is_woken = task.0.load(SeqCst);
            IS_BLOCKED.store(false, SeqCst);
            assert!(is_woken, "the watchdog waits for the allocator");
            let report = slow("holder", &reports);
            is_over.store(true, SeqCst);
            let mut functions = report.stacks[0].frames.iter().map(|frame| frame.function.as_str());
            let is_there = functions.any(|function| function.ends_with("::waits_for_the_allocator"));
            // If the watchdog was late, the holder was not stuck any more.
            is_in_time && is_there
        })
    });
    report::uninstall();
}

#[test]
fn a_look_of_the_watchdog_does_not_call_the_allocator() {
    let _alone = alone();
    unhurried(|slow| {
        let (sender, reports) = channel();
        let keep = move |report: &Report| {
            let _ = sender.send(report.clone());
        };
        let policy = Policy::new().warn_after(slow).overdue_after(slow).once_per(Duration::ZERO);
        let (stuck, calls) = channel();
        let policy = policy.per_minute(1000).on_stuck(2 * slow, move |_| stuck.send(()).unwrap());
        policy.to(keep).install().unwrap();
        count_watchdog();
        let (threads_before, before) = (watchdogs(), COUNTED.load(SeqCst));
        // Blocked and running threads; scopes that are slow, expired, overdue and stuck, and their ends.
        let is_over = AtomicBool::new(false);
        thread::scope(|threads| {
            for number in 0..20 {
                let is_over = &is_over;
                threads.spawn(move || {
                    let _ = Timebox::new(2 * slow).label("watched").run_value(|_| {
                        while !is_over.load(SeqCst) {
                            if number % 4 > 0 {
                                thread::sleep(SLOW / 10);
                            }
                        }
                    });
                });
            }
            let is_stuck = calls.recv_timeout(MINUTE).is_ok();
            let is_reported = (0..=20).all(|_| reports.recv_timeout(MINUTE).is_ok());
            is_over.store(true, SeqCst);
            assert!(is_stuck && is_reported);
        });
        let (threads_after, after) = (watchdogs(), COUNTED.load(SeqCst));
        let is_same = threads_before == threads_after;
        assert!(!is_same || before == after, "the watchdog has called the allocator");
        let is_counted = on_watchdog(|| {
            drop(allocates());
            IS_COUNTED.replace(false)
        });
        assert!(!is_counted || COUNTED.load(SeqCst) > after, "calls are counted");
        assert!(report::flush(MINUTE));
        is_same && is_counted
    });
    report::uninstall();
}
