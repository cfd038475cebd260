use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::contents::{Kind, Report};
use super::install::uninstall;
use super::policy::Policy;
use super::recent::{ScopeKey, recent_of};
use super::reporter::{Job, Make, flush, submit};
use super::sink::Sink;
use super::{dropped, recent};
use crate::error::ScopeInfo;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use crate::time::clock;

const LONG: Duration = Duration::from_secs(60);

/// Lets only one of these tests run at a time, because they share the policy and the reporter of the process.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(flush(LONG));
    guard
}

fn scope() -> ScopeKey {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ScopeKey { location: 7, entered: NEXT.fetch_add(1, SeqCst) }
}

fn send(scope: ScopeKey, make: impl FnOnce() -> Option<Report> + Send + 'static) {
    submit(Job { scope, make: Make::Once(Box::new(|_| make())) });
}

fn report(function: &str) -> Report {
    let mut report = Report::example();
    report.stacks[0].frames.truncate(5);
    report.stacks[0].frames.drain(..4);
    report.stacks[0].frames[0].function = function.into();
    report
}

fn send_one(function: &'static str) -> ScopeKey {
    let scope = scope();
    send(scope, move || Some(report(function)));
    scope
}

/// A sink that keeps the name of each report's innermost function.
fn collecting() -> (impl Sink, Arc<Mutex<Vec<String>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&all);
    let sink = move |report: &Report| into.lock().unwrap().push(function(report));
    (sink, all)
}

fn function(report: &Report) -> String {
    report.stacks.first().map_or_else(|| report.kind.to_string(), |stack| stack.frames[0].function.clone())
}

#[test]
fn a_report_reaches_each_sink_and_the_memory() {
    let _alone = alone();
    let (one, ones) = collecting();
    let (other, others) = collecting();
    Policy::new().to(one).to(other).install().unwrap();
    let scopes = ["a", "b", "c"].map(send_one);
    send(scope(), || None);
    assert!(flush(LONG));
    assert_eq!(*ones.lock().unwrap(), ["a", "b", "c"]);
    assert_eq!(*others.lock().unwrap(), ["a", "b", "c"]);
    let last: Vec<_> = recent().iter().rev().take(3).map(|report| function(report)).collect();
    assert_eq!(last, ["c", "b", "a"]);
    assert_eq!(function(&recent_of(scopes[1]).unwrap()), "b");
    assert!(recent_of(scope()).is_none());
    uninstall();
    send_one("d");
    assert!(flush(LONG));
    assert_eq!(ones.lock().unwrap().len(), 3);
    assert_eq!(function(recent().last().unwrap()), "d");
}

struct Gate {
    began: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Sink for Gate {
    fn write(&self, _: &Report) -> io::Result<()> {
        let _ = self.began.send(());
        self.go.lock().unwrap().recv().map_err(io::Error::other)
    }
}

struct Failing;

impl Sink for Failing {
    fn write(&self, _: &Report) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

fn gate() -> (Gate, Receiver<()>, Sender<()>) {
    let (began, has_begun) = channel();
    let (open, go) = channel();
    (Gate { began, go: Mutex::new(go) }, has_begun, open)
}

#[test]
fn a_sink_that_hangs_fails_or_panics_harms_no_other() {
    let _alone = alone();
    let before = dropped();
    let panicking = |_: &Report| std::panic::resume_unwind(Box::new("a sink"));
    let (hanging, has_begun, open) = gate();
    let (good, written) = collecting();
    Policy::new().per_minute(u32::MAX).to(hanging).to(panicking).to(Failing).to(good).install().unwrap();
    send_one("first");
    has_begun.recv().unwrap();
    // The sink hangs in the first report. Its queue takes 64 more reports.
    for n in 0..70 {
        send(scope(), move || Some(report(&format!("f{n}"))));
        assert!(!flush(Duration::ZERO), "one sink hangs");
        while written.lock().unwrap().len() < n + 2 {
            std::thread::yield_now();
        }
    }
    // Waits until this many reports are lost: 71 by each of the sinks that panic and fail, and the 6 for which the
    // queue of the hanging sink had no room.
    while dropped() < before + 2 * 71 + 6 {
        std::thread::yield_now();
    }
    drop(open);
    assert!(flush(LONG));
    // The drop of `open` makes the hanging write fail, and the writes of the 64 reports in the queue too. So 65 more
    // reports are lost.
    assert_eq!(dropped(), before + 2 * 71 + 6 + 65);
    assert_eq!(written.lock().unwrap().len(), 71);
    uninstall();
}

#[test]
fn a_full_queue_loses_reports_and_holds_nobody_up() {
    let _alone = alone();
    let before = dropped();
    let (sink, written) = collecting();
    Policy::new().per_minute(u32::MAX).once_per(Duration::ZERO).to(sink).install().unwrap();
    let (began, has_begun) = channel();
    let (open, go) = channel::<()>();
    send(scope(), move || {
        began.send(()).unwrap();
        let _ = go.recv();
        Some(report("first"))
    });
    has_begun.recv().unwrap();
    let start = clock::real_now();
    for _ in 0..100_000 {
        send_one("flood");
    }
    let each = (clock::real_now() - start) / 100_000;
    assert!(each < 100_000, "{each} ns");
    assert_eq!(dropped(), before + 100_000 - 64);
    drop(open);
    assert!(flush(LONG));
    // The sink has a queue of its own. That queue may have been full and have lost reports: `dropped` counts them.
    let written = written.lock().unwrap().len() as u64;
    assert_eq!(written + dropped() - before, 100_001);
    assert!(written > 32 && recent().len() <= 64);
    uninstall();
}

#[test]
fn a_flood_that_is_made_is_bounded_too() {
    let _alone = alone();
    let (sink, written) = collecting();
    Policy::new().to(sink).install().unwrap();
    let alive = Arc::new(());
    let made = Arc::new(AtomicUsize::new(0));
    let before = dropped();
    let mut most = 0;
    for n in 0..100_000_usize {
        let (job, count) = (Arc::clone(&alive), Arc::clone(&made));
        send(scope(), move || {
            drop(job);
            count.fetch_add(1, SeqCst);
            Some(report(&format!("f{}", n % 5_000)))
        });
        most = most.max(Arc::strong_count(&alive));
    }
    assert!(flush(LONG));
    // 64 jobs in the queue, one job that is being made, and `alive` itself.
    assert!(most <= 64 + 2, "{most} jobs at a time");
    assert_eq!(made.load(SeqCst) as u64 + dropped() - before, 100_000);
    assert!(written.lock().unwrap().len() <= 60);
    assert_eq!(Arc::strong_count(&alive), 1);
    uninstall();
}

#[test]
fn the_same_stack_is_written_once_and_its_end_with_it() {
    let _alone = alone();
    let (counts, all) = channel();
    let sink = move |report: &Report| counts.send((report.kind, report.suppressed)).unwrap();
    let sink = Mutex::new(sink);
    let sink = move |report: &Report| sink.lock().unwrap()(report);
    Policy::new().once_per(Duration::from_millis(200)).to(sink).install().unwrap();
    let ended = || Report { kind: Kind::Ended, stacks: Vec::new(), ..Report::example() };
    let first = send_one("same");
    let second = send_one("same");
    send_one("same");
    send(second, move || Some(ended()));
    send(first, move || Some(ended()));
    assert!(flush(LONG));
    assert_eq!(all.try_iter().collect::<Vec<_>>(), [(Kind::Slow, 0), (Kind::Ended, 0)]);
    // The sink did not get the second report. But it is kept, so that an error of its scope can show it.
    assert!(recent_of(second).is_some_and(|report| report.kind == Kind::Slow));
    let start = clock::real_now();
    while clock::real_now() < start + 200_000_000 {
        std::thread::yield_now();
    }
    send_one("same");
    assert!(flush(LONG));
    assert_eq!(all.try_iter().collect::<Vec<_>>(), [(Kind::Slow, 2)]);
    uninstall();
}

#[test]
fn exempt_scopes_are_not_reported_and_panics_of_the_users_lose_one_report() {
    let _alone = alone();
    let (sink, written) = collecting();
    let exempt = |scope: &ScopeInfo| match scope.label() {
        Some("batch") => true,
        Some("broken") => std::panic::resume_unwind(Box::new("exempt")),
        _ => false,
    };
    Policy::new().exempt(exempt).to(sink).install().unwrap();
    let before = dropped();
    for (function, label) in [("a", "batch"), ("b", "broken"), ("c", "page")] {
        send(scope(), move || {
            let mut report = report(function);
            report.scope.label = Some(label.into());
            Some(report)
        });
    }
    send(scope(), || std::panic::resume_unwind(Box::new("a job")));
    send_one("d");
    assert!(flush(LONG));
    assert_eq!(*written.lock().unwrap(), ["b", "c", "d"]);
    assert_eq!(dropped(), before + 1);
    uninstall();
}

#[test]
fn the_branches_of_a_future_are_one_stack_in_any_order() {
    let _alone = alone();
    let (sink, written) = collecting();
    Policy::new().to(sink).install().unwrap();
    for order in [["a", "b"], ["b", "a"]] {
        send(scope(), move || {
            let mut report = Report::example();
            report.awaits = order.map(|function| self::report(function).stacks.remove(0)).into();
            report.stacks.clear();
            Some(report)
        });
    }
    assert!(flush(LONG));
    assert_eq!(*written.lock().unwrap(), ["slow"]);
    uninstall();
}

#[test]
fn a_policy_is_quiet_at_first() {
    let _alone = alone();
    let (sink, written) = collecting();
    Policy::new().quiet_for(LONG).to(sink).install().unwrap();
    send_one("early");
    assert!(flush(LONG));
    assert!(written.lock().unwrap().is_empty());
    uninstall();
}

struct Dropped(Arc<AtomicBool>, Gate);

impl Sink for Dropped {
    fn write(&self, report: &Report) -> io::Result<()> {
        self.1.write(report)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_policy_that_is_replaced_writes_what_it_has_and_goes() {
    let _alone = alone();
    let (gate, has_begun, open) = gate();
    let is_dropped = Arc::new(AtomicBool::new(false));
    Policy::new().to(Dropped(Arc::clone(&is_dropped), gate)).install().unwrap();
    send_one("a");
    send_one("b");
    has_begun.recv().unwrap();
    // Waits until the reporter has handed over both reports.
    while recent().last().is_none_or(|report| function(report) != "b") {
        std::thread::yield_now();
    }
    let (sink, written) = collecting();
    Policy::new().to(sink).install().unwrap();
    send_one("c");
    while written.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    assert!(!flush(Duration::ZERO) && !is_dropped.load(SeqCst), "the first still writes");
    open.send(()).unwrap();
    has_begun.recv().unwrap();
    open.send(()).unwrap();
    assert!(flush(LONG));
    assert_eq!(*written.lock().unwrap(), ["c"]);
    // The thread of the first sink ends, and drops the sink.
    while !is_dropped.load(SeqCst) {
        std::thread::yield_now();
    }
    uninstall();
}

#[test]
fn policies_change_while_reports_are_in_flight() {
    let _alone = alone();
    let before = dropped();
    let count = Arc::new(AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|threads| {
        let sender = threads.spawn(|| {
            let mut sent = 0;
            while !stop.load(SeqCst) {
                send_one("x");
                sent += 1;
                assert!(flush(LONG));
            }
            sent
        });
        for n in 0..500 {
            if n % 5 == 4 {
                uninstall();
                continue;
            }
            let count = Arc::clone(&count);
            let sink = move |_: &Report| {
                count.fetch_add(1, SeqCst);
            };
            Policy::new().once_per(Duration::ZERO).per_minute(u32::MAX).to(sink).install().unwrap();
            std::thread::yield_now();
        }
        stop.store(true, SeqCst);
        sender.join().unwrap()
    });
    assert!(flush(LONG));
    assert!(count.load(SeqCst) <= sent && sent > 0);
    assert_eq!(dropped(), before);
    uninstall();
}

struct OnDrop<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Sink for OnDrop<F> {
    fn write(&self, _: &Report) -> io::Result<()> {
        Ok(())
    }
}

impl<F: Fn() + Send + Sync> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Makes the reporter the last owner of `sink`: uninstalls the policy with this sink while the reporter uses it.
fn leave_the_last_to_the_reporter(sink: impl Sink + 'static) {
    let (began, has_begun) = channel();
    let (open, go) = channel::<()>();
    let go = Mutex::new(go);
    let exempt = move |_: &ScopeInfo| {
        began.send(()).unwrap();
        go.lock().unwrap().recv().unwrap();
        true
    };
    Policy::new().exempt(exempt).to(sink).install().unwrap();
    send_one("exempt");
    has_begun.recv().unwrap();
    uninstall();
    open.send(()).unwrap();
}

#[test]
fn a_sink_whose_drop_panics_or_hangs_ends_no_reports() {
    let _alone = alone();
    let (_open, never) = channel::<()>();
    let never = Mutex::new(never);
    leave_the_last_to_the_reporter(OnDrop(|| std::panic::resume_unwind(Box::new("a drop"))));
    assert!(flush(Duration::from_secs(10)), "a drop that panics");
    leave_the_last_to_the_reporter(OnDrop(move || {
        let _ = never.lock().unwrap().recv();
    }));
    assert!(flush(Duration::from_secs(10)), "a drop that hangs");
    let (sink, written) = collecting();
    Policy::new().to(sink).install().unwrap();
    send_one("later");
    assert!(flush(LONG));
    assert_eq!(*written.lock().unwrap(), ["later"]);
    uninstall();
}
