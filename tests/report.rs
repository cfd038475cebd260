//! Reports of scopes, end to end: from a thread that is blocked, runs, or polls, to the sink.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::fs;
use std::future::poll_fn;
use std::hint::black_box;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use timebox::report::{self, Activity, Kind, Policy, Report, Sink};
use timebox::{Timebox, TimeoutError, checkpoint, future, timeout, timeout_value};

/// The reports that were written. A policy is for the whole process, so one test has it at a time.
struct Written {
    reports: Arc<(Mutex<Vec<Report>>, Condvar)>,
    _only: MutexGuard<'static, ()>,
}

struct Keep(Arc<(Mutex<Vec<Report>>, Condvar)>);

impl Sink for Keep {
    fn write(&self, report: &Report) -> std::io::Result<()> {
        self.0.0.lock().unwrap().push(report.clone());
        self.0.1.notify_all();
        Ok(())
    }
}

impl Written {
    /// Keeps other tests from having a policy. No scope is opened before, so that none is seen by the policy of another
    /// test.
    fn alone() -> MutexGuard<'static, ()> {
        static ONLY: Mutex<()> = Mutex::new(());
        ONLY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under(policy: impl FnOnce(Policy) -> Policy) -> Self {
        Self::install(Self::alone(), policy)
    }

    fn install(only: MutexGuard<'static, ()>, policy: impl FnOnce(Policy) -> Policy) -> Self {
        let reports = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let unlimited = Policy::new().once_per(Duration::ZERO).per_minute(u32::MAX);
        policy(unlimited).to(Keep(Arc::clone(&reports))).install().unwrap();
        Self { reports, _only: only }
    }

    /// Waits until there is such a report.
    fn wait_for(&self, mut is: impl FnMut(&Report) -> bool) -> Report {
        let until = Instant::now() + Duration::from_secs(60);
        let mut reports = self.reports.0.lock().unwrap();
        loop {
            if let Some(found) = reports.iter().find(|report| is(report)) {
                return found.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such report among {reports:#?}");
            reports = self.reports.1.wait_timeout(reports, left).unwrap().0;
        }
    }

    /// Whether there is such a report by now.
    fn has(&self, is: impl Fn(&Report) -> bool) -> bool {
        self.reports.0.lock().unwrap().iter().any(is)
    }

    fn all(&self) -> Vec<Report> {
        assert!(report::flush(Duration::from_secs(60)));
        self.reports.0.lock().unwrap().clone()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        report::uninstall();
        report::flush(Duration::from_secs(60));
    }
}

fn labelled(label: &'static str, kind: Kind) -> impl Fn(&Report) -> bool {
    move |report| report.kind == kind && report.scope.label() == Some(label)
}

fn functions(report: &Report) -> Vec<&str> {
    report.stacks.iter().flat_map(|stack| &stack.frames).map(|frame| &*frame.function).collect()
}

/// Whether the names stand in this order, innermost first.
#[track_caller]
fn assert_in_order(names: &[&str], expected: &[&str]) {
    let mut names_left = names.iter();
    for name in expected {
        assert!(names_left.any(|function| function.contains(name)), "no {name} in its place in {names:#?}");
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs the test with ever longer times, until everything is at its place before the time has passed (`true`). A busy
/// machine may hold it up.
#[track_caller]
fn unhurried(mut time: Duration, test: impl Fn(Duration) -> bool) {
    while !test(time) {
        time *= 4;
        assert!(time < Duration::from_secs(20), "the machine is too busy");
    }
}

/// Starts a thread, and waits until it is blocked in a read. Also says whether it was so before the time had passed.
fn start_reading<T: Send + 'static>(
    name: &str,
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> (JoinHandle<T>, bool) {
    let (sender, own) = mpsc::channel();
    let began = Instant::now();
    let run = move || {
        sender.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
        work()
    };
    let thread = thread::Builder::new().name(name.into()).spawn(run).unwrap();
    let call = Path::new("/proc").join(own.recv().unwrap()).join("syscall");
    let reads = [libc::SYS_read, libc::SYS_recvfrom].map(|number| format!("{number} "));
    loop {
        let call = fs::read_to_string(&call).unwrap();
        if reads.iter().any(|number| call.starts_with(number)) {
            return (thread, began.elapsed() < time);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "in no read: {call}");
        thread::yield_now();
    }
}

#[inline(never)]
fn reads_a_reply(peer: &mut UnixStream) -> usize {
    black_box(peer.read(&mut [0; 8]).unwrap())
}

#[inline(never)]
fn handles_a_request(peer: &mut UnixStream) -> usize {
    black_box(reads_a_reply(peer)) + 1
}

#[test]
fn a_plain_scope_that_blocks_is_reported_with_the_call_chain_and_the_call() {
    unhurried(ms(50), |time| {
        let written = Written::under(|policy| policy.warn_after(time));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let work = move || timeout_value(Duration::from_secs(600), || handles_a_request(&mut ours));
        let (worker, is_in_time) = start_reading("worker", time, work);
        let report = written.wait_for(|report| report.kind == Kind::Slow);
        drop(theirs);
        worker.join().unwrap().unwrap();
        if !is_in_time {
            return false;
        }
        assert_in_order(&functions(&report), &["reads_a_reply", "handles_a_request"]);
        let thread = report.thread.as_ref().unwrap();
        assert_eq!(thread.name, "worker");
        assert!(
            matches!(&thread.activity, Activity::Blocked(call) if call.contains("unix")),
            "{:?}",
            thread.activity
        );
        assert_eq!(report.limit, Some(Duration::from_secs(600)));
        assert!(report.elapsed >= time && report.scope.location().file().ends_with("report.rs"));
        let text = report.to_string();
        assert!(text.contains("reads_a_reply") && text.contains("worker"), "{text}");
        let ended = written.wait_for(|report| report.kind == Kind::Ended);
        assert!(ended.elapsed >= time && ended.ended_before >= Some(ended.elapsed));
        true
    });
}

#[inline(never)]
fn spins(started: &mpsc::Sender<()>, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    started.send(()).unwrap();
    while !stop.load(Ordering::Relaxed) {
        rounds = black_box(rounds + 1);
    }
    rounds
}

#[test]
fn a_scope_that_computes_is_reported_with_its_stack() {
    unhurried(ms(50), |time| {
        let written = Written::under(|policy| policy.warn_after(time));
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let (started, has_started) = mpsc::channel();
        let began = Instant::now();
        let worker =
            thread::spawn(move || timeout_value(Duration::from_secs(600), || spins(&started, &stops)));
        has_started.recv().unwrap();
        let is_in_time = began.elapsed() < time;
        let report = written.wait_for(|report| report.kind == Kind::Slow);
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap().unwrap();
        // A thread that gets no processor cannot copy its stack.
        if !is_in_time || report.stacks.is_empty() {
            return false;
        }
        assert_in_order(&functions(&report), &["spins"]);
        assert_eq!(report.thread.as_ref().unwrap().activity, Activity::Running);
        true
    });
}

#[test]
fn labels_fields_and_the_scopes_around_are_told() {
    let written = Written::under(|policy| policy);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let worker = thread::spawn(move || {
        Timebox::new(Duration::from_secs(600)).label("request").field("user", 42).run_value(|_| {
            let query =
                Timebox::new(None::<Duration>).label("query").field("sql", "select 1").warn_after(ms(30));
            query.run_value(|_| handles_a_request(&mut ours))
        })
    });
    let report = written.wait_for(labelled("query", Kind::Slow));
    drop(theirs);
    worker.join().unwrap().unwrap().unwrap();
    assert_eq!(report.limit, None);
    assert_eq!(report.scope.fields().collect::<Vec<_>>(), [("sql", "select 1")]);
    let chain: Vec<_> = report.chain.iter().map(|scope| (scope.label(), scope.limit())).collect();
    assert_eq!(chain, [(Some("query"), None), (Some("request"), Some(Duration::from_secs(600)))]);
    assert_eq!(report.chain[1].fields().collect::<Vec<_>>(), [("user", "42")]);
}

#[test]
fn expiry_and_what_comes_after_it_are_reported_and_the_error_finds_the_report() {
    unhurried(ms(60), |time| {
        let written = Written::under(|policy| policy.overdue_after(time));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let work = move || {
            Timebox::new(time).label("deaf").run(|_| -> timebox::Result<()> {
                handles_a_request(&mut ours);
                checkpoint()
            })
        };
        let (worker, is_in_time) = start_reading("worker", time, work);
        let expired = written.wait_for(labelled("deaf", Kind::Expired));
        let overdue = written.wait_for(labelled("deaf", Kind::Overdue));
        drop(theirs);
        let error = worker.join().unwrap().unwrap_err();
        if !is_in_time {
            return false;
        }
        assert_in_order(&functions(&expired), &["reads_a_reply", "handles_a_request"]);
        assert!(expired.elapsed >= time && overdue.elapsed >= 2 * time);
        written.wait_for(labelled("deaf", Kind::Ended));
        assert_eq!(error.report().unwrap().kind, Kind::Overdue);
        assert!(TimeoutError::find(&error).is_some());
        true
    });
}

#[test]
fn a_scope_in_time_is_not_reported() {
    let written = Written::under(|policy| policy.warn_after(Duration::from_secs(60)));
    for _ in 0..1_000 {
        timeout_value(Duration::from_secs(60), || ()).unwrap();
    }
    assert!(written.all().is_empty());
}

#[test]
fn exempt_scopes_are_left_out() {
    let written =
        Written::under(|policy| policy.warn_after(ms(20)).exempt(|scope| scope.label() == Some("batch")));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let batch = Timebox::new(None::<Duration>).label("batch");
    let worker = thread::spawn(move || batch.run_value(|_| handles_a_request(&mut ours)));
    let (mut ours2, theirs2) = UnixStream::pair().unwrap();
    let other = thread::spawn(move || {
        Timebox::new(None::<Duration>).label("other").run_value(|_| handles_a_request(&mut ours2))
    });
    written.wait_for(labelled("other", Kind::Slow));
    drop((theirs, theirs2));
    worker.join().unwrap().unwrap();
    other.join().unwrap().unwrap();
    assert!(written.all().iter().all(|report| report.scope.label() == Some("other")));
}

#[test]
fn a_scope_that_was_open_before_the_policy_is_reported_too() {
    let alone = Written::alone();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (begun, has_begun) = mpsc::channel();
    let worker = thread::spawn(move || {
        timeout_value(Duration::from_secs(600), || {
            begun.send(()).unwrap();
            handles_a_request(&mut ours)
        })
    });
    has_begun.recv().unwrap();
    let written = Written::install(alone, |policy| policy.warn_after(ms(20)));
    written.wait_for(|report| report.kind == Kind::Slow);
    drop(theirs);
    worker.join().unwrap().unwrap();
}

async fn waits_for_a_byte(peer: &mut tokio::net::TcpStream) {
    use tokio::io::AsyncReadExt;
    let _ = peer.read_u8().await;
}

async fn serves(peer: &mut tokio::net::TcpStream) {
    tokio::join!(waits_for_a_byte(peer), tokio::time::sleep(Duration::from_secs(600)));
}

#[test]
fn a_pending_future_is_reported_by_where_it_waits_and_a_second_time_at_its_expiry() {
    unhurried(ms(40), |time| {
        let written = Written::under(|policy| policy.warn_after(time));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (error, is_in_time) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut serve = pin!(Timebox::new(5 * time).label("serve").run_future_value(serves(&mut peer)));
            let began = Instant::now();
            assert!(poll_fn(|cx| Poll::Ready(serve.as_mut().poll(cx).is_pending())).await);
            let is_in_time = began.elapsed() < time;
            (serve.await.unwrap_err(), is_in_time)
        });
        assert!(error.is_timeout());
        written.wait_for(labelled("serve", Kind::Ended));
        // A late watchdog sees only the expiry.
        if !is_in_time || !written.has(labelled("serve", Kind::Slow)) {
            return false;
        }
        for kind in [Kind::Slow, Kind::Expired] {
            let report = written.wait_for(labelled("serve", kind));
            assert!(report.thread.is_none() && report.stacks.is_empty(), "{report}");
            assert_eq!(report.awaits.len(), 2, "{report}");
            let stacks = report.awaits.iter().map(|stack| &stack.frames);
            let names = stacks.map(|frames| frames.iter().map(|frame| &*frame.function).collect::<Vec<_>>());
            let (reads, sleeps): (Vec<_>, Vec<_>) =
                names.partition(|names| names.iter().any(|name| name.contains("waits_for_a_byte")));
            assert_in_order(&reads[0], &["waits_for_a_byte", "serves"]);
            assert_in_order(&sleeps[0], &["Sleep", "serves"]);
            assert!(report.polls.as_ref().unwrap().count >= 1);
        }
        assert_eq!(error.report().unwrap().kind, Kind::Expired);
        true
    });
}

#[inline(never)]
fn blocks_in_a_poll(peer: &mut TcpStream) {
    let _ = peer.read(&mut [0; 1]);
    black_box(());
}

#[test]
fn a_poll_that_hangs_is_reported_with_the_stack_of_its_thread() {
    unhurried(ms(40), |time| {
        let written = Written::under(|policy| policy.warn_after(time));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let work = move || {
            pollster::block_on(future::timeout_value(Duration::from_secs(600), async {
                blocks_in_a_poll(&mut ours);
            }))
        };
        let (worker, is_in_time) = start_reading("worker", time, work);
        let report = written.wait_for(|report| report.kind == Kind::Slow);
        drop(listener.accept().unwrap());
        worker.join().unwrap().unwrap();
        if !is_in_time {
            return false;
        }
        assert_in_order(&functions(&report), &["blocks_in_a_poll"]);
        let activity = &report.thread.as_ref().unwrap().activity;
        assert!(
            matches!(activity, Activity::Blocked(call) if call.contains("TCP 127.0.0.1:")),
            "{activity:?}"
        );
        true
    });
}

#[test]
fn a_ready_value_wins_and_is_not_reported() {
    let written = Written::under(|policy| policy.warn_after(Duration::from_secs(60)));
    let slow = async {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        thread::spawn(move || sender.send(()));
        receiver.await.unwrap();
    };
    pollster::block_on(future::timeout_value(Duration::from_secs(600), slow)).unwrap();
    let _: Result<(), TimeoutError> = timeout(Duration::ZERO, || Ok(()));
    assert!(written.all().is_empty());
}

#[test]
fn a_scope_that_stays_open_long_after_its_expiry_has_all_threads_dumped() {
    unhurried(ms(100), |time| {
        let (sender, dumps) = mpsc::channel();
        let sender = Mutex::new(sender);
        let written = Written::under(|policy| {
            policy.on_stuck(time, move |dump| sender.lock().unwrap().send(dump.clone()).unwrap())
        });
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let work = move || timeout_value(ms(20), || handles_a_request(&mut ours));
        let (worker, is_in_time) = start_reading("stuck", time, work);
        let dump = dumps.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(theirs);
        worker.join().unwrap().unwrap();
        if !is_in_time {
            return false;
        }
        let stuck =
            dump.threads.iter().find(|thread| thread.thread.name == "stuck").expect("the stuck thread");
        assert_eq!(stuck.scopes.len(), 1);
        let names: Vec<_> = stuck.stack.frames.iter().map(|frame| &*frame.function).collect();
        // On a busy machine, the time for the names may run out.
        if names.iter().all(|name| name.starts_with("0x")) {
            return false;
        }
        assert_in_order(&names, &["reads_a_reply", "handles_a_request"]);
        drop(written);
        assert!(dumps.try_recv().is_err(), "told twice");
        true
    });
}

#[test]
fn a_future_that_leaves_the_scope_around_it_is_reported_by_the_policy_and_its_task_sleeps() {
    let written = Written::under(|policy| policy.warn_after(ms(100)));
    let mut polls = 0;
    pollster::block_on(async {
        let waits = poll_fn(|_| {
            polls += 1;
            Poll::<()>::Pending
        });
        let job = Timebox::new(Duration::from_secs(600)).label("job").run_future_value(waits);
        let mut job = pin!(job);
        let polled_beneath = poll_fn(|cx| {
            for _ in 0..3 {
                assert!(job.as_mut().poll(cx).is_pending());
            }
            Poll::Ready(())
        });
        future::timeout_value(Duration::from_secs(700), polled_beneath).await.unwrap();
        // From here on it is outermost. A late watchdog needs longer.
        let mut time = ms(400);
        while !written.has(labelled("job", Kind::Slow)) {
            future::wait(time, &mut job).await.unwrap_err();
            time *= 4;
            assert!(time < Duration::from_secs(60), "no report");
        }
    });
    assert!(polls < 50, "polled {polls} times");
}

#[test]
fn a_watched_block_is_reported_and_not_bounded() {
    let written = Written::under(|policy| policy);
    let outer = Timebox::new(Duration::ZERO).label("over");
    assert!(outer.run_value(|_| ()).is_err());
    let (sender, slept) = mpsc::channel();
    let result = Timebox::new(Duration::from_millis(1)).label("over").run_value(|scope| {
        while !scope.is_expired() {}
        // The scope around is over, and the block runs all the same.
        report::watch("watched", Duration::from_millis(20), || {
            assert!(checkpoint().is_err());
            assert_eq!(timebox::token().cause(), Some(timebox::Cause::Deadline));
            written.wait_for(labelled("watched", Kind::Slow));
            sender.send(42).unwrap();
            7
        })
    });
    assert_eq!((result.unwrap(), slept.recv().unwrap()), (7, 42));
    let slow = written.wait_for(labelled("watched", Kind::Slow));
    assert_eq!(slow.limit, None);
    assert!(slow.elapsed >= Duration::from_millis(20));
    assert_eq!(
        slow.chain.iter().map(|scope| scope.label()).collect::<Vec<_>>(),
        [Some("watched"), Some("over")]
    );
    let stack = slow.stacks[0].frames.iter().map(|frame| frame.function.as_str()).collect::<Vec<_>>();
    assert!(stack.iter().any(|name| name.contains("a_watched_block_is_reported")), "{stack:#?}");
    written.wait_for(labelled("watched", Kind::Ended));
}

#[test]
fn scopes_in_a_watched_block_count_as_outermost() {
    let written = Written::under(|policy| policy.warn_after(Duration::from_millis(30)));
    report::watch("main loop", Duration::from_secs(3600), || {
        assert_eq!(timebox::deadline(), timebox::Deadline::NEVER);
        timeout_value(Duration::from_secs(3600), || {
            written.wait_for(|report| {
                report.kind == Kind::Slow && report.limit == Some(Duration::from_secs(3600))
            });
        })
        .unwrap();
    });
}

#[test]
fn a_block_in_a_watched_block_does_not_hide_it() {
    let written = Written::under(|policy| policy);
    report::watch("around", Duration::from_millis(60), || {
        timeout_value(Duration::from_secs(3600), || {
            written.wait_for(labelled("around", Kind::Slow));
        })
        .unwrap();
    });
}

#[test]
fn a_stuck_poll_of_a_watched_future_is_reported_while_it_is_stuck() {
    let written = Written::under(|policy| policy);
    let stuck = async {
        future::sleep(Duration::from_millis(1)).await.unwrap();
        written.wait_for(labelled("connection", Kind::Stalled));
        42
    };
    let watched = report::watched("connection", Duration::from_millis(20), stuck);
    assert_eq!(pollster::block_on(watched), 42);
    written.wait_for(labelled("connection", Kind::Ended));
}

#[test]
fn a_watched_future_that_only_waits_is_not_reported() {
    let written = Written::under(|policy| policy);
    // Its polls are short, and it waits for longer than the duration.
    let waits = future::sleep(Duration::from_millis(1200));
    pollster::block_on(report::watched("patient", Duration::from_secs(1), waits)).unwrap();
    assert!(written.all().iter().all(|report| report.scope.label() != Some("patient")));
}

#[test]
fn a_watched_future_is_dropped_by_the_limit_around_it() {
    let _written = Written::under(|policy| policy);
    let waits = report::watched("inner", Duration::from_millis(50), future::sleep(Duration::from_secs(3600)));
    let error = pollster::block_on(future::timeout(Duration::from_millis(20), waits)).unwrap_err();
    assert!(error.is_timeout() && !error.settled());
    assert_eq!(error.chain().len(), 1, "a watched poll is no scope: {error:?}");
}

#[cfg(feature = "testing")]
#[test]
fn a_scope_on_a_mock_clock_is_not_reported() {
    const SHORT: Duration = Duration::from_millis(20);
    let only = Written::alone();
    timebox::testing::MockClock::new().run(|_| {
        let _ = Timebox::new(SHORT).label("mocked").run_value(|_| {
            // The watchdog looks at all threads now.
            let written = Written::install(only, |policy| policy);
            let (end, ended) = mpsc::channel::<()>();
            let real = thread::spawn(|| Timebox::new(SHORT).label("real").run_value(move |_| ended.recv()));
            written.wait_for(labelled("real", Kind::Expired));
            drop(end);
            let _ = real.join().unwrap();
            let all = written.all();
            assert!(all.iter().all(|report| report.scope.label() != Some("mocked")), "{all:#?}");
        });
    });
}

#[inline(never)]
fn waits_for_a_peer(stream: &mut UnixStream) {
    let _ = black_box(stream.read(&mut [0]));
}

#[test]
fn each_of_200_reports_of_a_blocked_thread_is_complete() {
    const THREADS: usize = 10;
    for _ in 0..20 {
        unhurried(ms(20), are_complete::<THREADS>);
    }
}

/// Checks the reports of so many threads. `false` if one of them was not blocked in time.
fn are_complete<const THREADS: usize>(time: Duration) -> bool {
    let written = Written::under(|policy| policy);
    let start = |mut stream: UnixStream| {
        start_reading("reader", time, move || {
            let mut inner = || {
                let slow = Timebox::new(Duration::from_secs(1000)).label("inner");
                slow.warn_after(time).run_value(|_| waits_for_a_peer(&mut stream))
            };
            let outer = Timebox::new(Duration::from_secs(1000)).label("outer");
            outer.run_value(|_| inner().unwrap()).unwrap();
        })
    };
    let (peers, streams): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| UnixStream::pair().unwrap()).unzip();
    let (threads, in_time): (Vec<_>, Vec<_>) = streams.into_iter().map(start).unzip();
    let mut reports = written.reports.0.lock().unwrap();
    let is_slow = |report: &&Report| report.kind == Kind::Slow;
    while reports.iter().filter(is_slow).count() < THREADS {
        let (after, waited) = written.reports.1.wait_timeout(reports, Duration::from_secs(60)).unwrap();
        reports = after;
        assert!(!waited.timed_out(), "{} reports", reports.len());
    }
    drop((reports, peers));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    if in_time.contains(&false) {
        return false;
    }
    let reports = written.all();
    let slow: Vec<_> = reports.iter().filter(is_slow).collect();
    assert_eq!(slow.len(), THREADS);
    for report in slow {
        let labels: Vec<_> = report.chain.iter().map(|scope| scope.label().unwrap()).collect();
        assert_eq!(labels, ["inner", "outer"]);
        let [stack] = &*report.stacks else { panic!("{report}") };
        assert!(!stack.truncated && !stack.approximate && report.notes.is_empty(), "{report}");
        assert!(stack.frames.iter().any(|frame| frame.function.ends_with("waits_for_a_peer")), "{report}");
        let activity = &report.thread.as_ref().unwrap().activity;
        assert!(matches!(activity, Activity::Blocked(call) if call.contains("socket")), "{activity}");
    }
    true
}
