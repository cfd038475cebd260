//! Workers of tokio that are stuck are reported while they are stuck, and others never.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{self, Kind, Policy, Report};
use tokio::runtime::{Builder, Runtime};

const STUCK: Duration = Duration::from_millis(200);

/// A policy is for the whole process, so one test has it at a time.
fn reports() -> (Receiver<Report>, MutexGuard<'static, ()>) {
    static ONLY: Mutex<()> = Mutex::new(());
    let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let policy = Policy::new().once_per(Duration::ZERO).per_minute(u32::MAX);
    let keep = move |report: &Report| {
        let _ = sender.lock().unwrap().send(report.clone());
    };
    policy.to(keep).install().unwrap();
    (receiver, only)
}

/// Sleeps on the thread until it is told to end, at most a minute.
async fn sleeps_on_the_thread(until: Arc<AtomicBool>) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !until.load(Ordering::Relaxed) && Instant::now() < give_up {
        thread::sleep(Duration::from_secs(1));
    }
    black_box(());
}

async fn computes(until: Arc<AtomicBool>) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !until.load(Ordering::Relaxed) && Instant::now() < give_up {
        black_box(());
    }
}

/// Runs a task on the runtime until there is a report about it.
fn report_of<F>(
    runtime: Runtime,
    task: impl FnOnce(Arc<AtomicBool>) -> F,
    reports: &Receiver<Report>,
) -> Report
where
    F: Future<Output = ()> + Send + 'static,
{
    let until = Arc::new(AtomicBool::new(false));
    let task = task(Arc::clone(&until));
    let runs = thread::spawn(move || {
        runtime.block_on(async {
            // The runtime rests once before the task begins.
            tokio::time::sleep(Duration::from_millis(20)).await;
            tokio::spawn(task).await.unwrap();
        });
    });
    let report = reports.recv_timeout(Duration::from_secs(60));
    // If this is not so, the report came after the end.
    assert!(!runs.is_finished());
    until.store(true, Ordering::Relaxed);
    runs.join().unwrap();
    report.expect("a report while the worker is stuck")
}

fn assert_is_of(report: &Report, function: &str) {
    assert_eq!(report.kind, Kind::Stalled);
    assert!(report.elapsed >= STUCK, "{report}");
    let mut functions = report.stacks.iter().flat_map(|stack| &stack.frames).map(|frame| &frame.function);
    assert!(functions.any(|name| name.contains(function)), "{report}");
    assert!(report.thread.is_some());
}

fn one_thread() -> Builder {
    Builder::new_current_thread()
}

fn two_threads() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2);
    builder
}

#[test]
fn a_worker_that_sleeps_is_reported_while_it_sleeps() {
    let (reports, _only) = reports();
    for mut builder in [one_thread(), two_threads()] {
        report::watch_runtime(&mut builder, STUCK);
        let runtime = builder.enable_all().build().unwrap();
        let report = report_of(runtime, sleeps_on_the_thread, &reports);
        assert_is_of(&report, "sleeps_on_the_thread");
        assert!(report.to_string().contains("sleeps_on_the_thread"));
    }
}

#[test]
fn a_worker_that_computes_is_reported() {
    let (reports, _only) = reports();
    for mut builder in [one_thread(), two_threads()] {
        report::watch_runtime(&mut builder, STUCK);
        let runtime = builder.enable_all().build().unwrap();
        assert_is_of(&report_of(runtime, computes, &reports), "computes");
    }
}

fn blocks_on_a_channel(over: &Receiver<()>) {
    let _ = over.recv();
    black_box(());
}

/// While a third worker makes polls, the one that computes cannot be told from it, so it may be found later.
#[test]
fn two_stuck_workers_are_both_reported() {
    let (reports, _only) = reports();
    let mut builder = Builder::new_multi_thread();
    report::watch_runtime(&mut builder, STUCK);
    let runtime = builder.worker_threads(3).enable_all().build().unwrap();
    // The watch has begun before a worker parks.
    while (0..3).all(|worker| runtime.metrics().worker_park_count(worker) == 0) {
        thread::yield_now();
    }
    let (until, polls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (over, is_over) = channel();
    let is_polled = Arc::clone(&polls);
    runtime.spawn(async move {
        while is_polled.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    });
    runtime.spawn(async move { blocks_on_a_channel(&is_over) });
    runtime.spawn(computes(Arc::clone(&until)));
    let (mut is_blocked_found, mut is_running_found) = (false, false);
    while !(is_blocked_found && is_running_found) {
        let report = reports.recv_timeout(Duration::from_secs(60)).expect("a report of each");
        for frame in report.stacks.iter().flat_map(|stack| &stack.frames) {
            is_blocked_found |= frame.function.contains("::blocks_on_a_channel");
            is_running_found |= frame.function.contains("::computes");
        }
        polls.store(!is_blocked_found, Ordering::Relaxed);
    }
    until.store(true, Ordering::Relaxed);
    drop(over);
}

#[test]
fn a_runtime_is_watched_from_inside() {
    let (reports, _only) = reports();
    for mut builder in [one_thread(), two_threads()] {
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async { report::watch_current_runtime(STUCK) });
        assert_is_of(&report_of(runtime, sleeps_on_the_thread, &reports), "sleeps_on_the_thread");
    }
}

#[test]
fn blocking_tasks_and_code_outside_of_the_runtime_may_take_their_time() {
    let (reports, _only) = reports();
    for mut builder in [one_thread(), two_threads()] {
        let is_one_thread = builder.build().unwrap().metrics().num_workers() == 1;
        report::watch_runtime(&mut builder, STUCK);
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tokio::task::spawn_blocking(|| thread::sleep(5 * STUCK)).await.unwrap();
            if !is_one_thread {
                tokio::spawn(async { tokio::task::block_in_place(|| thread::sleep(5 * STUCK)) })
                    .await
                    .unwrap();
            }
        });
        // Nobody drives the runtime now.
        thread::sleep(5 * STUCK);
    }
    assert!(report::flush(Duration::from_secs(60)));
    assert!(reports.try_recv().is_err());
}

/// How long the two tests below last: 5 s, or as many seconds as the environment says.
fn for_how_long() -> Duration {
    let seconds = std::env::var("TIMEBOX_RUNTIME_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// A server whose tasks compute for half a millisecond each, on a runtime that is never idle.
fn serves(runtime: &Runtime, until: Instant) {
    let work = || {
        let end = Instant::now() + Duration::from_micros(500);
        while Instant::now() < end {
            black_box(());
        }
    };
    runtime.block_on(async {
        let clients = (0..16).map(|_| {
            tokio::spawn(async move {
                while Instant::now() < until {
                    work();
                    tokio::task::yield_now().await;
                    tokio::spawn(async move { work() }).await.unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    });
}

#[test]
fn a_busy_server_that_is_healthy_is_not_reported() {
    let (reports, _only) = reports();
    for mut builder in [one_thread(), two_threads()] {
        report::watch_runtime(&mut builder, STUCK);
        let runtime = builder.enable_all().build().unwrap();
        serves(&runtime, Instant::now() + for_how_long() / 2);
    }
    assert!(report::flush(Duration::from_secs(60)));
    assert!(reports.try_recv().is_err());
}

#[test]
fn a_worker_that_waits_for_a_processor_is_not_reported() {
    let (reports, _only) = reports();
    let mut builder = two_threads();
    report::watch_runtime(&mut builder, STUCK);
    let runtime = builder.enable_all().build().unwrap();
    let until = Instant::now() + for_how_long();
    let hogs: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                while Instant::now() < until {
                    black_box(());
                }
            })
        })
        .collect();
    serves(&runtime, until);
    hogs.into_iter().for_each(|hog| hog.join().unwrap());
    assert!(report::flush(Duration::from_secs(60)));
    assert!(reports.try_recv().is_err());
}
