//! The one thread behind the crate: when it starts, what it leaves alone, and that nobody waits for it.
#![cfg(all(unix, not(miri)))]

use std::future::{Future, pending};
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use timebox::{CancellationToken, Hook, Limit, TimeoutError, checkpoint, future, timeout, with_timeout};

#[path = "it/polled_in_wake.rs"]
mod polled_in_wake;

use polled_in_wake::PolledInWake;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);
const HANG: Duration = Duration::from_secs(40);

/// Says in which process a test runs: set in one that is the test's own.
const CHILD: &str = "TIMEBOX_TEST_CHILD";

/// Runs the test of this name again, alone in a process of its own.
fn alone(test: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[track_caller]
fn assert_success(output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{}\n{text}", output.status);
}

/// How many threads of this process have a name that begins so.
#[cfg(target_os = "linux")]
fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}

#[cfg(target_os = "linux")]
#[test]
fn threads_start_when_they_are_first_needed_and_there_is_one_watchdog() {
    if !is_child() {
        return assert_success(&alone("threads_start_when_they_are_first_needed_and_there_is_one_watchdog"));
    }
    timeout(Limit::NONE, checkpoint).unwrap();
    timeout(Duration::ZERO, checkpoint).unwrap_err();
    assert_eq!(threads_named("timebox"), 0);

    timeout(SHORT, || timebox::sleep(LONG)).unwrap_err();
    // The kernel keeps 15 characters of a name.
    assert_eq!(threads_named("timebox-hook"), 0);
    await_threads(|watchdogs, _| watchdogs == 1);

    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| timeout(SHORT, || timebox::sleep(LONG)).unwrap_err());
        }
    });
    let (fired, wait) = channel();
    let token = CancellationToken::new();
    let _registration = token.on_cancel(move || fired.send(threads_named("timebox-hook")));
    token.cancel();
    assert_eq!(wait.recv_timeout(HANG), Ok(1));
    await_threads(|watchdogs, _| watchdogs == 1);
}

/// Waits until there are so many threads that are the watchdog, and deputies. On a busy machine a thread takes its time
/// to give itself its name; or the deputy has taken over, and the thread before it gives up the name when it has
/// returned.
#[cfg(target_os = "linux")]
#[track_caller]
fn await_threads(are: impl Fn(usize, usize) -> bool) {
    let start = Instant::now();
    loop {
        let (watchdogs, deputies) = (threads_named("timebox-watchdo"), threads_named("timebox-deputy"));
        if are(watchdogs, deputies) {
            return;
        }
        assert!(start.elapsed() < HANG, "{watchdogs} threads are the watchdog, {deputies} its deputy");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn it_notices_a_deadline_for_code_that_seldom_checks() {
    const TEST: &str = "it_notices_a_deadline_for_code_that_seldom_checks";
    if !is_child() {
        return assert_success(&alone(TEST));
    }
    // It runs, and has something to wait for.
    let _token = timeout(LONG, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
    // After many checks in little time one in thousands reads the clock.
    let often = || (0..1_000_000).try_for_each(|_| checkpoint());
    let inner = || {
        std::thread::sleep(SHORT / 2);
        Ok(())
    };
    // A block, and one around another that had an earlier deadline.
    let scopes: [&dyn Fn() -> Result<(), TimeoutError>; 2] = [&|| Ok(()), &|| timeout(SHORT / 4, inner)];
    for prepare in scopes {
        timeout(LONG, often).unwrap();
        let start = Instant::now();
        timeout(SHORT, || -> Result<(), TimeoutError> {
            prepare()?;
            loop {
                std::thread::sleep(10 * SHORT);
                checkpoint()?;
            }
        })
        .unwrap_err();
        assert!(start.elapsed() < HANG / 4, "{:?}", start.elapsed());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn where_no_thread_can_be_started_every_question_looks_at_the_clock() {
    if !is_child() {
        return assert_success(&alone("where_no_thread_can_be_started_every_question_looks_at_the_clock"));
    }
    // A sandbox: one thread, and no rights to have more.
    let one = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: calls that change only what this process, the test's own, may do from here on.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setuid(65_534), 0);
        }
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const one), 0);
    }
    if std::thread::Builder::new().spawn(|| ()).is_ok() {
        println!("nothing to see: this system lets us start threads all the same");
        return;
    }
    for _ in 0..50 {
        with_timeout(Duration::from_micros(200), |scope| {
            while !scope.deadline().has_passed() {
                std::hint::spin_loop();
            }
            assert!(timebox::is_expired() && checkpoint().is_err());
            assert!(scope.is_expired() && scope.checkpoint().is_err());
            assert!(timeout(LONG, checkpoint).is_err());
            assert!(scope.token().is_cancelled());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    }
    timeout(SHORT, || timebox::sleep(LONG)).unwrap_err();
    let busy = || -> timebox::Result<()> {
        loop {
            checkpoint()?;
        }
    };
    timeout(SHORT, busy).unwrap_err();
    assert!(timebox::shield(LONG, || timeout(LONG, checkpoint)).is_ok());
    let token = CancellationToken::new();
    assert!(token.cancel_with("first") && token.is_cancelled());
    let call = || timebox::interruptible(|| (), || Ok::<_, String>(7));
    assert_eq!(timeout(LONG, call).unwrap().unwrap(), 7);
    drop(token.on_cancel(|| ()));
}

/// A call that blocks until its hook ends it, and how long that took.
fn blocks_until(limit: Duration) -> Duration {
    let (stop, stopped) = channel::<()>();
    let start = Instant::now();
    let call = || stopped.recv_timeout(HANG).map_or(Ok(()), |()| Err("interrupted"));
    let ended = timebox::shield(LONG, || {
        timebox::timeout_value(limit, || timebox::interruptible(move || stop.send(()), call))
    });
    assert!(ended.unwrap().is_err());
    start.elapsed()
}

/// Everybody else's limits, when something that does not return has been called on the watchdog.
#[track_caller]
fn assert_limits_work() {
    for limit in [SHORT, 2 * SHORT] {
        assert!(blocks_until(limit) < HANG / 4);
    }
    pollster::block_on(future::timeout_value(SHORT, pending::<()>())).unwrap_err();
    pollster::block_on(future::sleep(SHORT)).unwrap();
    let (fired, wait) = channel();
    let token = CancellationToken::new();
    let tell = fired.clone();
    let hooks =
        [token.on_cancel(Hook::inline(move || tell.send(()))), token.on_cancel(move || fired.send(()))];
    token.cancel();
    for _ in &hooks {
        wait.recv_timeout(HANG).unwrap();
    }
}

/// Calls something on the watchdog that does not return until what comes back is dropped.
fn stuck(begin: impl FnOnce(Box<dyn Fn() + Send + Sync>)) -> Sender<()> {
    let ((entered, wait), (release, door)) = (channel(), channel::<()>());
    let (entered, door) = (Mutex::new(entered), Mutex::new(door));
    begin(Box::new(move || {
        let _ = entered.lock().unwrap().send(());
        // Like a std mutex that somebody holds.
        let _ = door.lock().unwrap().recv();
    }));
    wait.recv_timeout(HANG).unwrap();
    release
}

/// A future that is pending, and over soon; then it wakes the waker.
fn over_soon(waker: &Waker) -> Pin<Box<impl Future + use<>>> {
    loop {
        let mut future = Box::pin(future::timeout_value(SHORT, pending::<()>()));
        // Except on a machine so busy that it is over by now.
        if future.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
            return future;
        }
    }
}

/// Waits that are pending, of one token that is over soon, with a waker each.
fn wait_for_one_token(wakers: &[Waker]) -> Vec<Pin<Box<impl Future + use<>>>> {
    let mut limit = SHORT;
    loop {
        let token = timebox::timeout_value(limit, timebox::token).unwrap();
        let wait = |waker| {
            let mut wait = Box::pin(token.clone().cancelled_owned());
            wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending().then_some(wait)
        };
        if let Some(waits) = wakers.iter().map(wait).collect() {
            return waits;
        }
        // A machine so busy that it is over by now.
        limit *= 4;
        assert!(limit < HANG, "overtaken even with a quarter of this limit");
    }
}

/// Calls a closure as it is woken, or as it is dropped.
struct Calls {
    woken: Option<Box<dyn Fn() + Send + Sync>>,
    dropped: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.woken.iter().for_each(|call| call());
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.dropped.iter().for_each(|call| call());
    }
}

/// Says where it was dropped, and how long a call under a limit took there.
struct CleansUp(Sender<(ThreadId, Duration)>);

impl Drop for CleansUp {
    fn drop(&mut self) {
        let _ = self.0.send((thread::current().id(), blocks_until(SHORT)));
    }
}

#[test]
fn a_task_that_is_polled_in_wake_may_wait_for_hooks_there() {
    let mut limit = SHORT;
    loop {
        let ((dropped, drops), (done, is_done)) = (channel(), channel());
        PolledInWake::start(async move {
            let body = async {
                let _clean_up = CleansUp(dropped);
                pending::<()>().await;
            };
            assert!(future::timeout_value(limit, body).await.is_err());
            done.send(()).unwrap();
        });
        let (thread, took) = drops.recv_timeout(HANG).unwrap();
        assert!(took < HANG / 4);
        is_done.recv_timeout(HANG).unwrap();
        if thread != thread::current().id() {
            break;
        }
        // On a busy machine it may be over, and woken, before its first poll has ended.
        limit *= 4;
        assert!(limit < HANG, "it is never woken by the watchdog");
    }
    assert_limits_work();
}

#[test]
fn wakers_that_never_return_hold_up_nobody_else() {
    for _ in 0..3 {
        let mut kept = Vec::new();
        let mut at_once = |waker: &Waker| kept.push(over_soon(waker));
        let (woken, wait) = channel();
        let release = stuck(|call| {
            // The first of several that are due together.
            at_once(&Arc::new(Calls { woken: Some(call), dropped: None }).into());
            for _ in 0..200 {
                let woken = Mutex::new(woken.clone());
                let tell = Box::new(move || woken.lock().unwrap().send(()).unwrap());
                at_once(&Arc::new(Calls { woken: Some(tell), dropped: None }).into());
            }
        });
        for _ in 0..200 {
            wait.recv_timeout(HANG).unwrap();
        }
        assert_limits_work();
        drop(release);
        assert_limits_work();
    }
}

#[test]
fn a_waker_whose_drop_never_returns_holds_up_nobody_else() {
    let mut kept = None;
    let release = stuck(|call| {
        kept = Some(over_soon(&Arc::new(Calls { woken: None, dropped: Some(call) }).into()));
    });
    assert_limits_work();
    drop(release);
}

#[test]
fn wakers_of_one_token_that_never_return_hold_up_nobody_else() {
    let mut kept = Vec::new();
    let (woken, wait) = channel();
    let woken = Mutex::new(woken);
    let here = thread::current().id();
    let release = stuck(|call| {
        // On a busy machine the second poll may find the token over, and wakes the first waker here.
        let call = Box::new(move || {
            if thread::current().id() != here {
                call();
            }
        });
        let tell = Box::new(move || woken.lock().unwrap().send(()).unwrap());
        let waker = |woken| Waker::from(Arc::new(Calls { woken: Some(woken), dropped: None }));
        kept.push(wait_for_one_token(&[waker(call), waker(tell)]));
    });
    wait.recv_timeout(HANG).unwrap();
    assert_limits_work();
    drop(release);
}

#[test]
fn inline_hooks_that_wait_hold_up_nobody_else() {
    let tokens = [(); 2].map(|()| CancellationToken::new());
    let (done, wait) = channel();
    let release = stuck(|call| {
        std::mem::forget(tokens[0].on_cancel(Hook::inline(call)));
        std::mem::forget(tokens[1].on_cancel(Hook::inline(move || done.send(blocks_until(SHORT)))));
        for token in &tokens {
            token.cancel();
        }
    });
    assert!(wait.recv_timeout(HANG).unwrap() < HANG / 4);
    assert_limits_work();
    drop(release);
}

#[cfg(target_os = "linux")]
#[test]
fn the_one_that_takes_over_is_the_watchdog_and_few_threads_stay() {
    const TEST: &str = "the_one_that_takes_over_is_the_watchdog_and_few_threads_stay";
    if !is_child() {
        return assert_success(&alone(TEST));
    }
    for _ in 0..20 {
        let mut kept = None;
        let release = stuck(|call| {
            kept = Some(over_soon(&Arc::new(Calls { woken: Some(call), dropped: None }).into()));
        });
        pollster::block_on(future::sleep(SHORT / 10)).unwrap();
        drop(release);
    }
    let token = CancellationToken::new();
    let (named, name) = channel();
    let _hook = token.on_cancel(Hook::inline(move || {
        named.send(std::thread::current().name().map(ToOwned::to_owned)).unwrap();
    }));
    token.cancel();
    assert_eq!(name.recv_timeout(HANG).unwrap().as_deref(), Some("timebox-watchdog"));
    // Those that were stuck are gone, or of use.
    await_threads(|watchdogs, deputies| (watchdogs, deputies) == (1, 1));
}

/// How often the crate's threads have been switched to.
#[cfg(target_os = "linux")]
fn switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let count = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        let count: u64 = count.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum();
        if name.starts_with("timebox") { count } else { 0 }
    };
    tasks.map(|task| of(task.unwrap())).sum()
}

#[cfg(target_os = "linux")]
#[test]
fn while_nothing_is_due_no_thread_wakes_up() {
    if !is_child() {
        return assert_success(&alone("while_nothing_is_due_no_thread_wakes_up"));
    }
    let mut long = Box::pin(future::timeout_value(LONG, pending::<()>()));
    assert!(long.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    pollster::block_on(future::sleep(SHORT)).unwrap();
    await_threads(|watchdogs, deputies| (watchdogs, deputies) == (1, 1));
    // The deputy has looked at that call for a while, and lies down: on a busy machine that takes its time.
    let settled = || {
        let before = switches();
        thread::sleep(10 * SHORT);
        switches() == before
    };
    let start = Instant::now();
    while !settled() {
        assert!(start.elapsed() < HANG, "they wake up again and again");
    }
}

/// Has this process, the test's own, without a thread more than it has for the time it is there.
#[cfg(target_os = "linux")]
struct Drought;

#[cfg(target_os = "linux")]
impl Drought {
    /// `None` where the system lets us start threads all the same.
    fn begin() -> Option<Self> {
        // SAFETY: changes only what this process may do from here on.
        unsafe {
            if libc::geteuid() == 0 {
                assert_eq!(libc::setuid(65_534), 0);
            }
        }
        let drought = Self;
        Self::set(Some(1));
        if std::thread::Builder::new().spawn(|| ()).is_ok() {
            println!("nothing to see: this system lets us start threads all the same");
            return None;
        }
        Some(drought)
    }

    fn set(most: Option<libc::rlim_t>) {
        // SAFETY: as above; the pointers are to a local variable.
        unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            assert_eq!(libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit), 0);
            limit.rlim_cur = most.unwrap_or(limit.rlim_max);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit), 0);
        }
    }

    #[allow(clippy::unused_self)] // it has begun
    fn end(self) {
        Self::set(None);
    }
}

/// How late anything may be after a drought: 50 ms are promised, the rest is for a busy machine.
#[cfg(target_os = "linux")]
const SOON: Duration = Duration::from_secs(2);

/// Says that the drought may end.
#[cfg(target_os = "linux")]
type EndSoon = Box<dyn FnOnce() + Send>;

/// Runs `work` in a process of its own, in a drought: no thread can be started, so there is no watchdog. `work` calls
/// its argument once it has met the drought. 300 ms later the drought ends. `work` returns the moment at which it
/// noticed that its limit was over.
#[cfg(target_os = "linux")]
fn in_a_drought(test: &str, work: impl FnOnce(EndSoon) -> Instant) {
    const DROUGHT: Duration = Duration::from_millis(300);
    if !is_child() {
        return assert_success(&alone(test));
    }
    let ((may_end, told), (ended, ends)) = (channel::<Drought>(), channel());
    std::thread::spawn(move || {
        let Ok(drought) = told.recv() else { return };
        std::thread::sleep(DROUGHT);
        let end = Instant::now();
        drought.end();
        ended.send(end).unwrap();
    });
    let Some(drought) = Drought::begin() else { return };
    let noticed = work(Box::new(move || may_end.send(drought).unwrap()));
    let end = ends.recv_timeout(HANG).unwrap();
    let late = noticed.saturating_duration_since(end);
    println!("{late:?} after a thread could be had");
    assert!(late < SOON, "{late:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_of_a_future_holds_where_no_thread_can_be_had() {
    if !is_child() {
        return assert_success(&alone("a_limit_of_a_future_holds_where_no_thread_can_be_had"));
    }
    let Some(_drought) = Drought::begin() else { return };
    // SAFETY: ends this process if it hangs: it needs no thread to be on time.
    unsafe { libc::alarm(HANG.as_secs().try_into().unwrap()) };
    pollster::block_on(future::timeout_value(SHORT, pending::<()>())).unwrap_err();
}

#[cfg(target_os = "linux")]
#[test]
fn futures_sleep_where_no_thread_can_be_had_and_let_others_run() {
    in_a_drought("futures_sleep_where_no_thread_can_be_had_and_let_others_run", |end_soon| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let beats = tokio::spawn(async {
                let mut latest = Duration::ZERO;
                for _ in 0..20 {
                    let start = Instant::now();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    latest = latest.max(start.elapsed());
                }
                latest
            });
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..100 {
                tasks.spawn(async {
                    future::sleep(5 * SHORT).await.unwrap();
                    let inner = future::timeout_value(HANG, future::sleep(SHORT));
                    inner.await.unwrap().unwrap();
                    future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
                });
            }
            // Begins when those before it wait.
            tasks.spawn(async move { end_soon() });
            while tasks.join_next().await.is_some() {}
            let latest = beats.await.unwrap();
            assert!(latest < HANG / 40, "{latest:?}");
        });
        Instant::now()
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_token_tells_of_its_deadline_where_no_thread_can_be_had() {
    in_a_drought("a_token_tells_of_its_deadline_where_no_thread_can_be_had", |end_soon| {
        let token = timebox::timeout_value(SHORT, timebox::token).unwrap();
        pollster::block_on(token.cancelled());
        end_soon();
        let token = timebox::timeout_value(SHORT, timebox::token).unwrap();
        assert_eq!(pollster::block_on(token.run_until_cancelled(pending::<()>())), None);
        Instant::now()
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_hook_fires_soon_after_a_thread_can_be_had_while_somebody_sleeps() {
    in_a_drought("a_hook_fires_soon_after_a_thread_can_be_had_while_somebody_sleeps", |end_soon| {
        let (fired, wait) = channel();
        let token = timebox::timeout_value(SHORT, timebox::token).unwrap();
        let _hook = token.on_cancel(Hook::inline(move || fired.send(Instant::now())));
        end_soon();
        timebox::sleep(2 * SOON).unwrap();
        wait.recv_timeout(HANG).unwrap()
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_hook_of_one_thread_fires_while_another_checks_where_no_thread_could_be_had() {
    const TEST: &str = "a_hook_of_one_thread_fires_while_another_checks_where_no_thread_could_be_had";
    let (first, blocked) = channel::<EndSoon>();
    let blocks = std::thread::spawn(move || {
        if let Ok(end_soon) = blocked.recv() {
            end_soon();
            blocks_until(SHORT);
        }
        Instant::now()
    });
    in_a_drought(TEST, move |end_soon| {
        first.send(end_soon).unwrap();
        while !blocks.is_finished() {
            let _ = timeout(SHORT, || (0..1000).try_for_each(|_| checkpoint()));
        }
        blocks.join().unwrap()
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_interruptible_call_is_not_begun_without_somebody_to_interrupt_it() {
    in_a_drought("an_interruptible_call_is_not_begun_without_somebody_to_interrupt_it", |end_soon| {
        // Over before a thread can be had; and after.
        let error = timeout(SHORT, || -> timebox::Result<()> {
            timebox::interruptible(|| (), || -> Result<(), String> { panic!("nobody could end it") })?
                .unwrap();
            Ok(())
        });
        assert!(error.unwrap_err().is_timeout());
        end_soon();
        blocks_until(20 * SHORT);
        Instant::now()
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_runner_with_nothing_to_do_becomes_the_watchdog_where_no_thread_can_be_had() {
    const TEST: &str = "a_runner_with_nothing_to_do_becomes_the_watchdog_where_no_thread_can_be_had";
    if !is_child() {
        return assert_success(&alone(TEST));
    }
    // One that is there without a watchdog, as may be left from before a long pause.
    timebox::abandon(LONG, || ()).unwrap();
    if threads_named("timebox-watchdo") > 0 {
        println!("nothing to see: the watchdog is there");
        return;
    }
    let Some(_drought) = Drought::begin() else { return };
    assert!(blocks_until(SHORT) < HANG / 4);
}

#[test]
fn its_threads_block_all_signals() {
    fn unblocked() -> Vec<i32> {
        // Those that cannot be blocked, those of a fault, and those the C library keeps for itself, are its affair.
        let ours = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];
        let ours = ours.into_iter().chain([libc::SIGCHLD, libc::SIGPIPE, libc::SIGURG, libc::SIGPROF]);
        // SAFETY: a mask that is read into and looked at; nothing is changed.
        unsafe {
            let mut mask = std::mem::zeroed();
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask), 0);
            ours.filter(|&signal| libc::sigismember(&raw const mask, signal) == 0).collect()
        }
    }
    let token = CancellationToken::new();
    let (fired, wait) = channel();
    let tell = fired.clone();
    let _inline = token.on_cancel(Hook::inline(move || tell.send(unblocked())));
    let _runner = token.on_cancel(move || fired.send(unblocked()));
    token.cancel();
    for _ in 0..2 {
        assert_eq!(wait.recv_timeout(HANG).unwrap(), [] as [i32; 0]);
    }
    assert!(!unblocked().is_empty(), "this thread's mask is left alone");
}

#[test]
fn the_process_ends_although_hooks_and_timers_are_pending() {
    if !is_child() {
        let start = Instant::now();
        assert_success(&alone("the_process_ends_although_hooks_and_timers_are_pending"));
        assert!(start.elapsed() < HANG);
        return;
    }
    let token = CancellationToken::new();
    let (stuck, wait) = channel();
    std::mem::forget(token.on_cancel(move || {
        stuck.send(()).unwrap();
        // A server that never answers.
        loop {
            std::thread::park();
        }
    }));
    token.cancel();
    wait.recv_timeout(HANG).unwrap();
    std::thread::spawn(|| timeout(LONG, || timebox::sleep(LONG)));
    let mut pending = Box::pin(timebox::future::timeout_value(LONG, std::future::pending::<()>()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(pending.as_mut(), &mut context).is_pending());
    std::mem::forget(pending);
}

#[test]
fn a_sleep_takes_no_processor_time() {
    fn processor_time() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local variable.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    }
    // One that nobody can wake, and one that a token may.
    for prepare in [|| None, || Some(timebox::token())] {
        let before = processor_time();
        let error = timeout(10 * SHORT, || {
            let _token = prepare();
            timebox::sleep(LONG)
        });
        assert!(error.is_err());
        assert!(processor_time() < before + 5 * SHORT);
    }
}
