//! What the benches share: named cases, the interleaved rounds, pinned threads, timers by the million.

#![allow(clippy::disallowed_methods)] // a bench reads the clock itself

pub(crate) mod alloc;
pub(crate) mod pinned;
pub(crate) mod queue;

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// Runs a case that many times.
pub(crate) type Run = Box<dyn FnMut(u64)>;

/// One thing to measure. Its name is `group/who`; benches that compare within a group need no list of their own.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> Run,
}

impl Case {
    pub(crate) fn group(&self) -> &'static str {
        self.name.split('/').next().unwrap_or_default()
    }

    pub(crate) fn who(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(_, who)| who)
    }
}

/// A case that is one expression, run in a loop.
macro_rules! case {
    ($name:literal, $body:expr) => {
        $crate::measure::Case {
            name: $name,
            make: || {
                Box::new(|n| {
                    for _ in 0..n {
                        $body;
                    }
                })
            },
        }
    };
}

/// The loop that checks are measured in: each step depends on the one before, so nothing hides behind anything else.
macro_rules! chain {
    ($n:expr, $over:expr) => {{
        let mut x = std::hint::black_box(12_345_u64);
        for i in 0..$n {
            if $over {
                $crate::measure::over();
            }
            x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (x >> 29) ^ i;
        }
        std::hint::black_box(x);
    }};
}
pub(crate) use {case, chain};

/// Limits as a program has them: read from somewhere, not known to the compiler. Peers get theirs the same way.
#[inline]
pub(crate) fn seconds(s: u64) -> Duration {
    black_box(Duration::from_secs(s))
}

/// Nothing measured here expires.
#[cold]
#[inline(never)]
pub(crate) fn over() -> ! {
    panic!("a scope of half a minute was over in the middle of a sample");
}

/// Polls a future that is ready at once.
#[inline]
pub(crate) fn poll_ready<F: Future>(future: F) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_ready());
}

/// Polls a future that is pending once.
#[inline]
pub(crate) fn poll_pending_once<F: Future>(future: F) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    assert!(future.as_mut().poll(&mut context).is_ready());
}

/// A tree of tokens: a root and its children are made, the root is cancelled, all are dropped. One iteration is one
/// tree.
pub(crate) fn tree<T: 'static>(children: usize, root: fn() -> T, child: fn(&T) -> T, cancel: fn(&T)) -> Run {
    Box::new(move |n| {
        for _ in 0..n {
            let root = root();
            let children: Vec<T> = (0..children).map(|_| child(&root)).collect();
            cancel(&root);
            drop(black_box(children));
        }
    })
}

/// Whether to measure. Else each case only runs: `cargo bench -- --test`, `cargo test --benches`.
pub(crate) fn measuring() -> bool {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    has("--bench") && !has("--test")
}

/// How a set of cases is measured.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) sample: Duration,
    pub(crate) settle: Duration,
}

impl Plan {
    pub(crate) const FULL: Plan =
        Plan { rounds: 31, sample: Duration::from_millis(2), settle: Duration::from_micros(1500) };
    pub(crate) const QUICK: Plan =
        Plan { rounds: 1, sample: Duration::from_micros(20), settle: Duration::ZERO };
}

/// Nanoseconds per iteration of one case, one value per round.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    ns: Vec<f64>,
}

impl Series {
    pub(crate) fn new(name: &'static str, ns: Vec<f64>) -> Series {
        Series { name, ns }
    }

    pub(crate) fn min(&self) -> f64 {
        self.ns.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.ns.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Measures all cases round-robin in this thread: what disturbs the machine for a while disturbs them all. The order
/// is rotated every round, and before each sample come a pause and a warm-up.
pub(crate) fn interleave(cases: &[Case], plan: Plan) -> Vec<Series> {
    let mut runs: Vec<Run> = cases.iter().map(|case| (case.make)()).collect();
    let iterations: Vec<u64> = runs.iter_mut().map(|run| calibrate(run, plan.sample)).collect();
    let mut series: Vec<Series> = cases.iter().map(|case| Series::new(case.name, Vec::new())).collect();
    for round in 0..plan.rounds {
        for step in 0..cases.len() {
            let i = (step + round) % cases.len();
            std::thread::sleep(plan.settle);
            runs[i]((iterations[i] / 8).max(1));
            let ns = time(&mut runs[i], iterations[i]);
            series[i].ns.push(ns);
        }
    }
    series
}

/// Nanoseconds per iteration of `n` iterations.
pub(crate) fn time(run: &mut Run, n: u64) -> f64 {
    let start = Instant::now();
    run(n);
    per(start.elapsed(), n)
}

/// The number of iterations that take about as long as `sample`.
pub(crate) fn calibrate(run: &mut Run, sample: Duration) -> u64 {
    let mut n = 1;
    loop {
        let ns = (0..3).map(|_| time(run, n)).fold(f64::INFINITY, f64::min).max(0.01);
        if ns * as_f64(n) > sample.as_secs_f64() * 0.25e9 || n >= 1 << 28 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small positive count"
            )]
            return (sample.as_secs_f64() * 1e9 / ns).max(1.0) as u64;
        }
        n *= 2;
    }
}

/// A duration in nanoseconds per one of `n`.
pub(crate) fn per(duration: Duration, n: u64) -> f64 {
    duration.as_secs_f64() * 1e9 / as_f64(n)
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn as_f64(n: u64) -> f64 {
    n as f64
}

/// A criterion benchmark of each of the cases in `groups`.
pub(crate) fn criterion(criterion: &mut criterion::Criterion, cases: &[Case], groups: &[&str]) {
    for &name in groups {
        let mut group = criterion.benchmark_group(name);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for case in cases.iter().filter(|case| case.group() == name) {
            let mut run = (case.make)();
            group.bench_function(case.who(), |bencher| {
                bencher.iter_custom(|n| {
                    let start = Instant::now();
                    run(n);
                    start.elapsed()
                });
            });
        }
        group.finish();
    }
}
