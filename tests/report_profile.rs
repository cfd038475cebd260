//! Profiles of blocks and futures.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::fs;
use std::future::{pending, poll_fn};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{Doing, LiveProfile, Profile, ProfileReport, ProfileStack};
use timebox::{TimeoutError, timeout_value};

/// One test at a time, so that none takes the processor from another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the tests run for long, with the bounds that hold on a machine with nothing else to do.
fn is_thorough() -> bool {
    std::env::var_os("TIMEBOX_THOROUGH").is_some()
}

/// How many samples a test of shares takes.
fn enough() -> u64 {
    if is_thorough() { 5_000 } else { 300 }
}

/// In percentage points.
fn tolerance() -> f64 {
    if is_thorough() { 3.0 } else { 20.0 }
}

#[inline(never)]
fn spin(time: Duration) -> u64 {
    let began = Instant::now();
    let mut sum = 0_u64;
    while began.elapsed() < time {
        for n in 0..1000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
    }
    sum
}

#[inline(never)]
fn parse(time: Duration) -> u64 {
    black_box(spin(time)) + 1
}

#[inline(never)]
fn render(time: Duration) -> u64 {
    black_box(spin(time)) + 2
}

/// Computes until the other side hangs up.
#[inline(never)]
fn compute_until(is_over: &mpsc::Receiver<()>) {
    while is_over.try_recv() == Err(mpsc::TryRecvError::Empty) {
        parse(Duration::from_micros(100));
    }
}

/// Long after a sample must have come, even on a busy machine.
const HANG: Duration = Duration::from_secs(120);

/// Waits until the profile has so many samples.
fn wait_for_samples(live: &LiveProfile, count: u64) -> ProfileReport {
    let start = Instant::now();
    loop {
        let report = live.report();
        if report.samples() >= count {
            return report;
        }
        assert!(start.elapsed() < HANG, "not {count} samples: {report}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_in(stack: &ProfileStack, function: &str) -> bool {
    stack.frames.iter().any(|frame| frame.function.contains(function))
}

/// The time in a function and what it calls.
fn time_in(report: &ProfileReport, function: &str) -> Duration {
    report.stacks().iter().filter(|stack| is_in(stack, function)).map(|stack| stack.time).sum()
}

/// The percentage of the elapsed time.
fn percent(report: &ProfileReport, time: Duration) -> f64 {
    100.0 * time.as_secs_f64() / report.elapsed().as_secs_f64()
}

fn assert_near(percent: f64, expected: f64, report: &ProfileReport) {
    assert!((percent - expected).abs() < tolerance(), "{percent} and not {expected}:\n{report}");
}

fn assert_sums(report: &ProfileReport) {
    assert_eq!(report.running() + report.waiting() + report.missed(), report.elapsed());
    let own = report.stacks().iter().filter(|stack| !stack.by_handle);
    let sum = own.map(|stack| stack.time).sum::<Duration>() + report.missed();
    assert_eq!(sum, report.elapsed());
    assert!(!is_thorough() || percent(report, report.missed()) < 2.0, "{report}");
    assert!(!is_thorough() || report.samples() >= 2_500, "{report}");
}

#[test]
fn two_functions_have_their_shares() {
    let _alone = alone();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let ((), report) = profile.run(|| {
        while live.report().samples() < enough() {
            for _ in 0..100 {
                parse(Duration::from_micros(700));
                render(Duration::from_micros(300));
            }
        }
    });
    assert_sums(&report);
    assert_near(percent(&report, time_in(&report, "::parse")), 70.0, &report);
    assert_near(percent(&report, time_in(&report, "::render")), 30.0, &report);
    assert!(report.running() > 9 * report.waiting(), "{report}");
}

/// A server that answers each byte after 7 ms.
fn slow_server() -> (std::net::SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            thread::sleep(Duration::from_millis(7));
            stream.write_all(&byte).unwrap();
        }
    };
    (address, thread::spawn(serve))
}

#[test]
fn a_block_computes_and_waits_on_a_socket() {
    let _alone = alone();
    let (address, server) = slow_server();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let (waited, report) = profile.run(|| {
        let mut waited = Duration::ZERO;
        while live.report().samples() < enough() {
            parse(Duration::from_millis(3));
            stream.write_all(&[1]).unwrap();
            let asked = Instant::now();
            stream.read_exact(&mut [0]).unwrap();
            waited += asked.elapsed();
        }
        waited
    });
    drop(stream);
    server.join().unwrap();
    assert_sums(&report);
    // Where other programs take the processor, the thread is ready to run at the end of its wait, and does not wait any
    // more.
    assert_near(percent(&report, time_in(&report, "__recv")), percent(&report, waited), &report);
    assert!(report.waiting() > report.elapsed() / 20 && !time_in(&report, "::parse").is_zero(), "{report}");
    let is_wait = |stack: &&ProfileStack| stack.doing == Doing::Blocked("recvfrom".to_owned());
    assert!(report.stacks().iter().filter(is_wait).all(|stack| is_in(stack, "__recv")), "{report}");
    let folded = report.folded();
    assert!(folded.contains(";[waiting] recvfrom at "), "{folded}");
}

fn on_tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Asks, and says in which line it waits for the answer.
async fn fetch(stream: &mut tokio::net::TcpStream) -> u32 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(&[1]).await.unwrap();
    let line = line!() + 1;
    stream.read_exact(&mut [0]).await.unwrap();
    line
}

#[test]
fn a_future_computes_and_waits_on_a_socket() {
    let _alone = alone();
    let (address, server) = slow_server();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let request = async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut asked_for, mut place) = (Duration::ZERO, 0);
        while live.report().samples() < enough() {
            parse(Duration::from_millis(3));
            let asked = Instant::now();
            place = fetch(&mut stream).await;
            asked_for += asked.elapsed();
        }
        (asked_for, place)
    };
    let ((asked_for, place), report) = on_tokio(profile.run_future(request));
    server.join().unwrap();
    assert_sums(&report);
    assert_near(
        percent(&report, time_in(&report, "::fetch::{{closure}}")),
        percent(&report, asked_for),
        &report,
    );
    let is_wait = |stack: &&ProfileStack| stack.doing == Doing::Pending;
    let pending: Duration = report.stacks().iter().filter(is_wait).map(|stack| stack.time).sum();
    assert_eq!(pending, report.waiting());
    let folded = report.folded();
    let place = format!("tests/report_profile.rs:{place} ");
    assert!(
        folded.lines().any(|line| line.contains(";[waiting] await at ") && line.contains(&place)),
        "{folded}"
    );
}

async fn left() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
async fn right() {
    pending::<()>().await;
}
async fn middle() {
    tokio::sync::Notify::new().notified().await;
}

#[test]
fn each_branch_of_a_future_is_seen() {
    let _alone = alone();
    let request = async {
        tokio::select! { () = left() => {}, () = right() => {}, () = middle() => {} }
    };
    let ((), report) = on_tokio(Profile::new().frequency(997).run_future(request));
    assert_sums(&report);
    // `pending` clones no waker.
    let times = ["left", "middle", "right"].map(|branch| time_in(&report, &format!("::{branch}")));
    let most = times[0].max(times[1]);
    assert!(2 * times[0].min(times[1]) > most && times[2].is_zero(), "{times:?} {report}");
}

async fn rest() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[test]
fn the_place_of_a_wait_is_found_after_a_million_polls() {
    let _alone = alone();
    let request = async {
        for _ in 0..1_000_000 {
            let mut is_first = true;
            poll_fn(|cx| {
                if std::mem::take(&mut is_first) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
        }
        let began = Instant::now();
        rest().await;
        began.elapsed()
    };
    let (rested, report) = on_tokio(Profile::new().run_future(request));
    assert_sums(&report);
    let resting = time_in(&report, "rest::{{closure}}");
    assert!(resting > rested / 2 && resting < 2 * rested, "{rested:?} {report}");
}

#[test]
fn a_future_that_clones_no_waker_waits_at_no_known_place() {
    let _alone = alone();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let stuck = profile.run_future(pending::<()>());
    on_tokio(async {
        let looks = async {
            while live.report().samples() < 20 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { _ = stuck => unreachable!(), () = looks => {} }
    });
    let report = live.report();
    assert_sums(&report);
    assert_eq!(report.running() + report.missed() + report.waiting(), report.elapsed());
    assert!(report.folded().contains("[waiting] await "), "{}", report.folded());
}

/// Each poll is on a thread of its own, which then does other work.
#[test]
fn a_future_that_moves_between_threads() {
    let _alone = alone();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let request = async move {
        while live.report().samples() < enough() {
            parse(Duration::from_millis(1));
            let mut is_first = true;
            poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
        }
    };
    let mut request = Box::pin(profile.run_future(request));
    let ((), report) = loop {
        let polled = thread::scope(|threads| {
            let poll = || {
                let polled = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                render(Duration::from_micros(100));
                polled
            };
            threads.spawn(poll).join().unwrap()
        });
        if let Poll::Ready(output) = polled {
            break output;
        }
    };
    assert_sums(&report);
    assert!(report.running() > report.elapsed() / 5, "{report}");
    assert!(time_in(&report, "::render").is_zero(), "of other work: {report}");
}

#[test]
fn work_that_came_by_a_handle_is_seen_and_kept_apart() {
    let _alone = alone();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let (started, has_started) = mpsc::channel();
    let stranger = AtomicBool::new(true);
    let ((), report) = thread::scope(|threads| {
        threads.spawn(|| {
            while stranger.load(Ordering::Relaxed) {
                render(Duration::from_micros(100));
            }
        });
        let report = profile.run(|| {
            let (over, is_over) = mpsc::channel();
            let work = timebox::handle().wrap_value(move || {
                started.send(()).unwrap();
                compute_until(&is_over);
            });
            let worker = threads.spawn(work);
            has_started.recv().unwrap();
            wait_for_samples(&live, 100);
            drop(over);
            worker.join().unwrap().unwrap();
        });
        stranger.store(false, Ordering::Relaxed);
        report
    });
    assert_sums(&report);
    let by_handle = report.stacks().iter().filter(|stack| stack.by_handle);
    assert_eq!(by_handle.clone().map(|stack| stack.time).sum::<Duration>(), report.on_other_threads());
    // A sample may find the work where it begins or ends.
    let computed: Duration =
        by_handle.filter(|stack| is_in(stack, "compute_until")).map(|stack| stack.time).sum();
    assert!(computed > report.on_other_threads() / 2, "{report}");
    assert!(time_in(&report, "::render").is_zero(), "of a stranger: {report}");
    assert!(report.folded().contains("[other threads];"));
}

#[test]
fn a_future_of_a_handle_is_seen_in_its_polls() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let request = async move {
        let work = timebox::handle().enter_future(None::<Duration>, async {
            loop {
                parse(Duration::from_millis(1));
                tokio::task::yield_now().await;
                if false {
                    return Ok::<(), TimeoutError>(());
                }
            }
        });
        let task = tokio::spawn(work);
        while live.report().on_other_threads() < Duration::from_millis(50) {
            tokio::task::yield_now().await;
        }
        task.abort();
    };
    let ((), report) = runtime.block_on(profile.run_future(request));
    assert_sums(&report);
    let by_handle = report.stacks().iter().filter(|stack| stack.by_handle);
    assert!(by_handle.clone().any(|stack| is_in(stack, "::parse")), "{report}");
}

#[test]
fn profiles_within_a_profile_and_beside_it() {
    let _alone = alone();
    let beside = thread::spawn(|| Profile::new().frequency(499).run(|| render(Duration::from_millis(500))).1);
    let (inner, outer) = Profile::new().frequency(997).run(|| {
        parse(Duration::from_millis(250));
        Profile::new().frequency(499).run(|| spin(Duration::from_millis(250))).1
    });
    let beside = beside.join().unwrap();
    [&inner, &outer, &beside].into_iter().for_each(assert_sums);
    assert!(time_in(&inner, "::parse").is_zero() && time_in(&inner, "::render").is_zero(), "{inner}");
    assert!(time_in(&beside, "::parse").is_zero() && !time_in(&beside, "::render").is_zero(), "{beside}");
    assert!(time_in(&outer, "::parse") > outer.elapsed() / 5, "{outer}");
    assert!(time_in(&outer, "::spin") > outer.elapsed() / 2, "the inner one's are its own too: {outer}");
    assert!(time_in(&outer, "::render").is_zero(), "{outer}");
}

#[test]
fn a_block_that_ends_at_once() {
    let _alone = alone();
    let (seven, report) = Profile::new().frequency(1).run(|| 7);
    assert_eq!((seven, report.samples()), (7, 0));
    assert_sums(&report);
    assert_eq!(report.missed(), report.elapsed());
    assert!(report.stacks().is_empty() && report.functions().is_empty());
    assert!(report.to_string().contains("; 0 samples at 1 Hz"), "{report}");
    let (seven, report) = on_tokio(Profile::new().frequency(1).run_future(async { 7 }));
    assert_eq!((seven, report.samples()), (7, 0));
}

#[test]
fn a_block_that_never_ends_is_seen_while_it_runs_in_bounded_memory() {
    let _alone = alone();
    let profile = Profile::new().frequency(10_000).max_stacks(3);
    let live = profile.live();
    assert_eq!((live.report().samples(), live.report().elapsed()), (0, Duration::ZERO), "it has not begun");
    let (over, is_over) = mpsc::channel();
    let running = thread::spawn(move || profile.run(|| compute_until(&is_over)).1);
    let early = wait_for_samples(&live, 10);
    let later = wait_for_samples(&live, 200);
    assert_sums(&early);
    assert_sums(&later);
    assert!(later.elapsed() > early.elapsed());
    assert!(later.stacks().len() <= 6, "three, and the sums of others: {:?}", later.stacks());
    drop(over);
    let report = running.join().unwrap();
    assert_eq!(live.report().elapsed(), report.elapsed());
    assert!(report.folded().contains("(stacks that are left out)"), "{}", report.folded());
}

#[test]
fn a_block_that_panics() {
    let _alone = alone();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let panics = AssertUnwindSafe(|| {
        profile.run(|| {
            wait_for_samples(&live, 5);
            std::panic::resume_unwind(Box::new("fault"))
        })
    });
    assert!(catch_unwind(panics).is_err());
    let report = live.report();
    assert_sums(&report);
    assert!(report.samples() >= 5 && live.report().elapsed() == report.elapsed(), "it has ended: {report}");
}

#[test]
fn a_future_that_is_dropped_in_the_middle() {
    let _alone = alone();
    let profile = Profile::new().frequency(997);
    let live = profile.live();
    let request = profile.run_future(timebox::future::sleep(Duration::from_secs(3600)));
    let limited = timebox::future::timeout_value(Duration::from_millis(200), request);
    assert!(pollster::block_on(limited).is_err());
    let report = live.report();
    assert_sums(&report);
    assert_eq!(live.report().elapsed(), report.elapsed(), "it has ended");
    assert!(report.waiting() > report.elapsed() / 2, "{report}");
}

#[test]
fn threads_that_end() {
    let _alone = alone();
    let ((), report) = Profile::new().frequency(10_000).run(|| {
        for _ in 0..200 {
            let work = timebox::handle().wrap_value(|| parse(Duration::from_micros(500)));
            thread::spawn(work).join().unwrap().unwrap();
        }
    });
    assert_sums(&report);
    let profiles = (0..50)
        .map(|_| thread::spawn(|| Profile::new().frequency(10_000).run(|| spin(Duration::from_millis(1)))));
    for profile in profiles.collect::<Vec<_>>() {
        assert_sums(&profile.join().unwrap().1);
    }
}

/// The processor time of the calling thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The processor time for the same work, in rounds that take turns with and without a profile.
#[test]
#[ignore = "measures: run it optimised, on a machine with nothing else to do, with --ignored --nocapture"]
fn the_cost_for_the_profiled_thread() {
    let _alone = alone();
    let work = || {
        let began = processor_time();
        let mut sum = 0_u64;
        for n in 0..400_000_000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
        processor_time().saturating_sub(began).as_secs_f64()
    };
    for (hertz, most) in [(99, 1.5), (997, 4.0)] {
        let rounds = (0..15).map(|_| (work(), Profile::new().frequency(hertz).run(work).0));
        let mut costs: Vec<f64> = rounds.map(|(without, with)| 100.0 * (with / without - 1.0)).collect();
        costs.sort_by(f64::total_cmp);
        let median = costs[costs.len() / 2];
        println!("{hertz} Hz: {median:+.2} %, from {:+.2} to {:+.2}", costs[0], costs[costs.len() - 1]);
        assert!(median < most, "{hertz} Hz: {median} %");
    }
}

/// How many threads of the process have the sampler's name.
fn samplers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("timebox-profil")).count()
}

#[test]
fn nothing_is_sampled_while_no_profile_runs() {
    let _alone = alone();
    let (there, report) = Profile::new().frequency(997).run(|| {
        spin(Duration::from_millis(20));
        samplers()
    });
    assert_eq!(there, 1, "{report}");
    // The thread ends with the last profile.
    while samplers() > 0 {
        thread::yield_now();
    }
}

#[test]
fn a_profile_changes_nothing_for_the_code() {
    let _alone = alone();
    let result = timeout_value(Duration::ZERO, || ());
    assert!(result.is_err());
    let error = timebox::timeout(Duration::from_millis(10), || -> timebox::Result<()> {
        while !timebox::is_expired() {}
        // Over already, and yet the block runs.
        Profile::new().run(|| timebox::checkpoint()).0
    });
    let error = error.unwrap_err();
    assert_eq!(error.chain().len(), 1);
    let work = async { Profile::new().run_future(timebox::future::sleep(Duration::from_secs(60))).await.0 };
    let error = pollster::block_on(timebox::future::timeout(Duration::from_millis(10), work)).unwrap_err();
    assert!(!error.settled() && error.chain().len() == 1, "{error:?}");
}

/// Forks, runs `body` in the child, and says whether it returned true.
fn in_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs code that is made for this, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_good = catch_unwind(AssertUnwindSafe(body)).unwrap_or(false);
        // SAFETY: ends the process without running what the parent's threads left behind.
        unsafe { libc::_exit(i32::from(!is_good)) }
    }
    let mut status = 0;
    // SAFETY: the child is ours, and nobody else waits for it.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status == 0
}

#[test]
fn a_forked_child_has_profiles_of_its_own_and_ends_those_of_its_parent() {
    let _alone = alone();
    let (is_good, report) = Profile::new().frequency(997).run(|| {
        parse(Duration::from_millis(50));
        (0..20).all(|_| {
            in_child(|| {
                let profile = Profile::new().frequency(997);
                let live = profile.live();
                // The first sample may find the child where the profile begins.
                let ((), report) = profile.run(|| {
                    while time_in(&live.report(), "::parse").is_zero() {
                        parse(Duration::from_millis(5));
                    }
                });
                !time_in(&report, "::parse").is_zero()
            })
        })
    });
    assert!(is_good);
    assert_sums(&report);
    let profile = Profile::new().frequency(10_000);
    let live = profile.live();
    let is_good = (0..20).all(|_| in_child(|| live.report().samples() == 0));
    assert!(is_good);
    let mut is_child = false;
    let (status, report) = profile.run(|| {
        parse(Duration::from_millis(5));
        // SAFETY: as in `in_child`.
        let child = unsafe { libc::fork() };
        is_child = child == 0;
        let mut status = 0;
        if !is_child {
            // SAFETY: the child is ours, and nobody else waits for it.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        }
        status
    });
    if is_child {
        let is_told = report.notes().iter().any(|note| note.contains("forked"));
        // SAFETY: as in `in_child`.
        unsafe { libc::_exit(i32::from(!is_told)) }
    }
    assert_eq!(status, 0);
    assert_sums(&report);
}

#[test]
fn a_profile_is_serialized() {
    let _alone = alone();
    let (_, report) = Profile::new().label("GET /").frequency(997).run(|| parse(Duration::from_millis(100)));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["label"], &json["frequency"]), (&"GET /".into(), &997.into()));
    let times = ["running", "waiting", "missed"].map(|name| json[name].as_f64().unwrap());
    assert!((times.iter().sum::<f64>() - json["elapsed"].as_f64().unwrap()).abs() < 1e-6);
    assert!(json["stacks"][0]["frames"][0]["function"].is_string());
    assert!(json["functions"][0]["total"].as_f64().unwrap() > 0.0);
    assert!(report.to_string().starts_with("`GET /`: "), "{report}");
}

#[cfg(feature = "flamegraph")]
#[test]
fn a_flame_graph_is_drawn_even_of_nothing() {
    let _alone = alone();
    let profile = Profile::new().label("GET /<x>").frequency(997);
    let live = profile.live();
    // Until both have been sampled.
    let ((), report) = profile.run(|| {
        let start = Instant::now();
        while live.report().running().is_zero() {
            assert!(start.elapsed() < HANG, "no sample of code that runs");
            parse(Duration::from_millis(50));
        }
        while live.report().waiting().is_zero() {
            assert!(start.elapsed() < HANG, "no sample of a wait");
            thread::sleep(Duration::from_millis(50));
        }
    });
    let svg = report.flame_graph();
    for part in ["GET /&lt;x&gt;", "::parse", "[waiting] clock_nanosleep", "rgb(116,169,207)", "</svg>"] {
        assert!(svg.contains(part), "{part}\n{svg}");
    }
    let ((), report) = Profile::new().run(|| ());
    assert!(report.flame_graph().contains("</svg>"));
}
