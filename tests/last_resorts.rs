//! What is left behind when nothing else helps. One process has one set of threads for it, so these tests take turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use timebox::abandon::set_max_threads;
use timebox::{Limit, Saturated, TimeoutError, abandon, abandoned, checkpoint, interruptible, timeout};

const SHORT: Duration = Duration::from_millis(20);
const HANG: Duration = Duration::from_secs(40);

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    all_come_back();
    turn
}

fn all_come_back() {
    let start = Instant::now();
    while abandoned() > 0 {
        assert!(start.elapsed() < HANG);
        std::thread::yield_now();
    }
}

/// A loop that looks at nothing but its own flag.
struct Loop(Arc<AtomicBool>);

impl Loop {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    fn work(&self) -> impl FnOnce() + Send + 'static {
        let stop = Arc::clone(&self.0);
        move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_ends_in_time_is_handed_back() {
    let _turn = turn();
    assert_eq!(abandon(HANG, || 7).unwrap(), 7);
    assert_eq!(abandon(Limit::NONE, || "no limit").unwrap(), "no limit");
    assert_eq!(abandoned(), 0);
}

#[test]
fn a_busy_loop_is_left_behind_and_counted_until_it_ends() {
    let _turn = turn();
    let busy = Loop::new();
    let mut limit = SHORT;
    let error = loop {
        let start = Instant::now();
        let error = abandon(limit, busy.work()).unwrap_err();
        assert!(start.elapsed() >= limit && start.elapsed() < HANG);
        assert!(error.is_timeout());
        assert_eq!(error.limit(), Some(limit));
        if error.started() {
            break error;
        }
        // A busy machine: it had not begun.
        limit *= 2;
    };
    assert!(error.overshoot() < HANG);
    assert_eq!(abandoned(), 1);
    drop(busy);
    all_come_back();
}

/// Shown with `--nocapture`; only a hang fails it.
#[test]
fn it_returns_at_its_limit() {
    let _turn = turn();
    let mut late: Vec<Duration> = (0..50)
        .map(|_| {
            let busy = Loop::new();
            abandon(SHORT, busy.work()).unwrap_err().overshoot()
        })
        .collect();
    late.sort();
    println!("late by {:?}, at most {:?}", late[25], late[49]);
    assert!(late[49] < HANG);
}

#[test]
fn the_limit_around_it_counts() {
    let _turn = turn();
    let busy = Loop::new();
    let error = timeout(SHORT, || abandon(HANG, busy.work())).unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn a_cancellation_ends_the_wait() {
    let _turn = turn();
    let busy = Loop::new();
    let error = timeout(HANG, || {
        let token = timebox::token();
        let canceller = std::thread::spawn(move || token.cancel_with("not needed"));
        let result = abandon(HANG, busy.work());
        canceller.join().unwrap();
        result
    });
    assert_eq!(error.unwrap_err().reason(), Some("not needed"));
}

#[test]
fn the_work_is_in_a_scope_and_may_end_by_itself() {
    let _turn = turn();
    let mut limit = SHORT;
    loop {
        let (send, ended) = channel();
        let result = abandon(limit, move || {
            let error = loop {
                if let Err(error) = checkpoint() {
                    break error;
                }
            };
            send.send(error.limit()).unwrap();
        });
        // It may have been quicker than its caller.
        if result.is_ok() || result.is_err_and(|error| error.is_timeout() && error.started()) {
            assert_eq!(ended.recv_timeout(HANG), Ok(Some(limit)));
            return;
        }
        // A busy machine: it had not begun.
        limit *= 2;
        assert!(limit < HANG);
    }
}

#[test]
fn when_all_threads_are_stuck_it_refuses_at_once_and_recovers() {
    let _turn = turn();
    let loops: Vec<Loop> = (0..MOST).map(|_| Loop::new()).collect();
    let start = Instant::now();
    // On a busy machine a limit may pass before its work has begun.
    for (already, busy) in loops.iter().enumerate() {
        while abandoned() == already {
            assert!(start.elapsed() < HANG);
            assert!(abandon(Duration::from_millis(2), busy.work()).is_err());
        }
    }
    let error: TimeoutError = abandon(HANG, || ()).unwrap_err();
    assert!(!error.started() && !error.is_timeout());
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Saturated>());
    assert_eq!(source.map(|saturated| saturated.threads), Some(MOST));
    drop(loops);
    let start = Instant::now();
    while abandon(HANG, || ()).is_err() {
        assert!(start.elapsed() < HANG);
    }
    all_come_back();
}

/// Whether the limit passes before a thread takes the work, as it does, or after that.
#[test]
fn work_has_begun_if_and_only_if_the_error_says_so() {
    let _turn = turn();
    let mut unstarted = Vec::new();
    for round in 0..5000 {
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let result = abandon(Duration::from_micros(round * 7919 % 200), move || {
            begins.store(true, Ordering::Relaxed);
        });
        if result.is_err_and(|error| !error.started()) {
            unstarted.push(begun);
            continue;
        }
        let start = Instant::now();
        while !begun.load(Ordering::Relaxed) {
            assert!(start.elapsed() < HANG / 10, "it is said to have begun");
            std::thread::yield_now();
        }
    }
    all_come_back();
    assert!(unstarted.iter().all(|begun| !begun.load(Ordering::Relaxed)), "it is said not to have begun");
}

#[test]
fn work_that_finds_no_free_thread_in_time_is_not_begun() {
    let _turn = turn();
    let (enter, entered) = channel();
    let busy: Vec<Loop> = (0..MOST).map(|_| Loop::new()).collect();
    std::thread::scope(|threads| {
        for one in &busy {
            let (work, enter) = (one.work(), enter.clone());
            threads.spawn(move || {
                abandon(HANG, move || {
                    enter.send(()).unwrap();
                    work();
                })
            });
        }
        for _ in 0..MOST {
            entered.recv_timeout(HANG).unwrap();
        }
        let error = abandon(SHORT, || unreachable!("no thread is free")).unwrap_err();
        assert!(error.is_timeout() && !error.started());
        assert_eq!(abandoned(), 0);
        drop(busy);
    });
}

/// How many pieces of work run at one time, until it is set.
const MOST: usize = 8;

/// Runs the work `width` times at the same time, each time from a thread of its own; all that it came to.
fn at_the_same_time<R: Send>(width: usize, work: impl Fn() -> R + Sync) -> Vec<R> {
    std::thread::scope(|threads| {
        let threads: Vec<_> = (0..width).map(|_| threads.spawn(&work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// What would else hang.
fn bounded<R: Send + 'static>(call: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, result) = channel();
    std::thread::spawn(move || send.send(call()));
    result.recv_timeout(HANG).expect("it hangs")
}

/// Work that waits for work, and so on.
fn nested(depth: usize) -> usize {
    match depth {
        0 => 0,
        _ => 1 + abandon(Limit::NONE, move || nested(depth - 1)).unwrap(),
    }
}

#[test]
fn work_within_work_never_waits_for_its_own_place_however_deep_and_wide() {
    let _turn = turn();
    for (width, depth) in [(1, 40), (MOST, 2), (4 * MOST, 2), (4 * MOST, 5)] {
        let depths = bounded(move || at_the_same_time(width, || nested(depth)));
        assert_eq!(depths, vec![depth; width]);
    }
    assert_eq!(abandoned(), 0);
}

/// All of the outer ones run before the first inner one is called.
#[test]
fn inner_work_is_not_late_where_outer_work_has_all_the_places() {
    let _turn = turn();
    let all_run = Arc::new(std::sync::Barrier::new(MOST));
    let late = bounded(move || {
        at_the_same_time(MOST, || {
            let all_run = Arc::clone(&all_run);
            let outer = abandon(HANG, move || {
                all_run.wait();
                let start = Instant::now();
                abandon(HANG, || ()).map(|()| start.elapsed())
            });
            outer.unwrap().unwrap()
        })
    });
    assert!(late.iter().all(|late| *late < HANG / 4), "{late:?}");
}

#[test]
fn work_that_fans_out_over_threads_of_its_own_does_not_wait_for_its_own_place() {
    let _turn = turn();
    let all_run = Arc::new(std::sync::Barrier::new(MOST));
    let sums = bounded(move || {
        at_the_same_time(MOST, || {
            let all_run = Arc::clone(&all_run);
            let outer = abandon(Limit::NONE, move || {
                all_run.wait();
                let handle = timebox::handle();
                let one = || handle.enter(Limit::NONE, |_| abandon(Limit::NONE, || 1)).unwrap();
                at_the_same_time(2 * MOST, one).into_iter().sum::<usize>()
            });
            outer.unwrap()
        })
    });
    assert_eq!(sums, [2 * MOST; MOST]);
}

/// Each piece of work waits for its hook, which waits for work.
#[test]
fn a_hook_of_work_may_call_for_work() {
    let _turn = turn();
    let fired = bounded(|| {
        at_the_same_time(MOST, || {
            let outer = abandon(Limit::NONE, || {
                let (send, done) = channel();
                timeout(HANG, || {
                    // Fires more than once if it takes long.
                    let hook = move || send.send(abandon(Limit::NONE, || ()).is_ok());
                    interruptible(hook, || {
                        timebox::token().cancel();
                        done.recv()
                    })
                })
            });
            outer.unwrap()
        })
    });
    assert!(fired.iter().all(|fired| matches!(fired, Ok(Ok(true)))), "{fired:?}");
}

/// Sets the bound for as long as it is there.
struct Bound;

impl Bound {
    fn set(most: usize) -> Self {
        set_max_threads(most);
        Self
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        set_max_threads(MOST);
    }
}

#[test]
fn a_hundred_slow_lookups_run_at_the_same_time_where_the_program_allows_it() {
    let _turn = turn();
    let _bound = Bound::set(100);
    let all_run = Arc::new(std::sync::Barrier::new(100));
    let found = bounded(move || {
        at_the_same_time(100, || {
            let all_run = Arc::clone(&all_run);
            // None gets past it before all have begun.
            abandon(HANG, move || all_run.wait().is_leader()).unwrap()
        })
    });
    assert_eq!(found.into_iter().filter(|leads| *leads).count(), 1);
}

#[test]
fn a_bound_that_is_raised_counts_for_those_that_wait() {
    let _turn = turn();
    let _bound = Bound::set(1);
    let (enter, entered) = channel();
    let busy = Loop::new();
    let (work, begun) = (busy.work(), enter.clone());
    let first = std::thread::spawn(move || {
        abandon(HANG, move || {
            begun.send("first").unwrap();
            work();
        })
    });
    assert_eq!(entered.recv_timeout(HANG), Ok("first"));
    let waiting = std::thread::spawn(move || abandon(HANG, move || enter.send("second").unwrap()));
    let error = abandon(SHORT, || unreachable!("no place is free")).unwrap_err();
    assert!(error.is_timeout() && !error.started());
    let _raised = Bound::set(2);
    assert_eq!(entered.recv_timeout(HANG), Ok("second"));
    waiting.join().unwrap().unwrap();
    drop(busy);
    first.join().unwrap().unwrap();
}

#[test]
fn a_bound_that_is_lowered_disturbs_nothing_that_runs_and_is_told_by_the_error() {
    let _turn = turn();
    let _bound = Bound::set(2);
    let loops = [Loop::new(), Loop::new()];
    let start = Instant::now();
    for (already, busy) in loops.iter().enumerate() {
        while abandoned() == already {
            assert!(start.elapsed() < HANG);
            assert!(abandon(Duration::from_millis(2), busy.work()).is_err());
        }
    }
    for most in [1, 0] {
        let _lowered = Bound::set(most);
        let error = abandon(HANG, || ()).unwrap_err();
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Saturated>());
        assert_eq!(source.map(|saturated| saturated.threads), Some(most));
    }
    assert_eq!(abandoned(), 2);
}

#[test]
fn inner_work_is_refused_where_all_the_inner_places_are_taken_for_good() {
    let _turn = turn();
    let _bound = Bound::set(1);
    let busy = Loop::new();
    let start = Instant::now();
    while abandoned() == 0 {
        assert!(start.elapsed() < HANG);
        let work = busy.work();
        // On a busy machine the limit may pass before the inner work has begun.
        let _ = abandon(HANG, || abandon(Duration::from_millis(2), work)).unwrap();
    }
    assert_eq!(abandon(HANG, || "outside").unwrap(), "outside");
    let error = abandon(HANG, || abandon(HANG, || "inside")).unwrap().unwrap_err();
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Saturated>());
    assert_eq!(source.map(|saturated| saturated.threads), Some(1));
}

#[test]
fn a_panic_passes_through_unless_it_was_left_behind() {
    let _turn = turn();
    let panic = std::panic::catch_unwind(|| abandon(HANG, || panic!("mine")));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"mine"));
    let busy = Loop::new();
    let work = busy.work();
    let late = abandon(SHORT, move || {
        work();
        panic!("too late to be heard of");
    });
    assert!(late.is_err());
}

#[test]
fn with_no_time_left_it_is_not_begun() {
    let _turn = turn();
    assert!(!abandon(Duration::ZERO, || unreachable!("no time")).unwrap_err().started());
}

/// In a forked child, which has no thread yet, and so little address space that none can be started.
#[cfg(target_os = "linux")]
#[test]
fn where_no_thread_can_be_started_the_error_says_so() {
    let _turn = turn();
    // SAFETY: the child runs code of ours that is made for this, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        let most = pages * 4096 + 300_000;
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: `limit` is ours; a child that hangs is ended.
        unsafe {
            libc::setrlimit(libc::RLIMIT_AS, &raw const limit);
            libc::alarm(30);
        }
        let error = abandon(HANG, || ()).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let right = !error.started() && source.as_deref() == Some("no thread could be started");
        // SAFETY: ends the process and touches nothing of it.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let mut status = 0;
    // SAFETY: a child of ours that nobody else waits for; `status` is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}
