//! One thread against two, each pinned to a processor of its own.

use super::{Case, Plan, Series, calibrate, per};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::time::{Duration, Instant};

/// What a case costs per iteration in one pinned thread, and in each of two at the same time. Rounds of both take
/// turns. `None` where this process may not run on two processors, or cannot be told where to run.
pub(crate) fn one_and_two(case: &Case, plan: Plan) -> Option<(Series, Series)> {
    let processors = two_processors()?;
    let n = calibrate(&mut (case.make)(), plan.sample);
    let mut one = Vec::new();
    let mut two = Vec::new();
    for _ in 0..plan.rounds {
        std::thread::sleep(plan.settle);
        one.push(per(time_on(case, &processors[..1], n), n));
        std::thread::sleep(plan.settle);
        two.push(per(time_on(case, &processors, n), n));
    }
    Some((Series::new("pinned/one_thread", one), Series::new("pinned/two_threads", two)))
}

/// Runs the case `n` times on each of the processors at the same time, and gives the mean of what the threads took.
/// They warm up, then wait for each other spinning, so that no wake-up falls into a sample.
pub(crate) fn time_on(case: &Case, processors: &[usize], n: u64) -> Duration {
    let make = case.make;
    // Whatever background thread the case needs starts here, where there is no pinned thread to inherit from.
    make()(1);
    let ready = AtomicUsize::new(0);
    let threads = processors.len();
    let total: Duration = std::thread::scope(|scope| {
        let lanes: Vec<_> = processors
            .iter()
            .map(|&processor| {
                let ready = &ready;
                scope.spawn(move || {
                    pin_to(processor);
                    let mut run = make();
                    run((n / 8).clamp(1, 100_000));
                    ready.fetch_add(1, AcqRel);
                    while ready.load(Acquire) < threads {
                        std::hint::spin_loop();
                    }
                    let start = Instant::now();
                    run(n);
                    start.elapsed()
                })
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().expect("the case runs to its end")).sum()
    });
    total / u32::try_from(threads).unwrap_or(1)
}

#[cfg(target_os = "linux")]
pub(crate) fn two_processors() -> Option<[usize; 2]> {
    // SAFETY: a `cpu_set_t` is plain bits, all zero is the empty set; the call writes at most its size.
    let allowed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return None;
        }
        set
    };
    let mut processors = (0..libc::CPU_SETSIZE.cast_unsigned() as usize)
        // SAFETY: the index is below `CPU_SETSIZE`.
        .filter(|&processor| unsafe { libc::CPU_ISSET(processor, &allowed) });
    Some([processors.next()?, processors.next()?])
}

#[cfg(target_os = "linux")]
fn pin_to(processor: usize) {
    // SAFETY: the set is made here, and the index came out of one like it; 0 is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn two_processors() -> Option<[usize; 2]> {
    None
}

#[cfg(not(target_os = "linux"))]
fn pin_to(_processor: usize) {}
