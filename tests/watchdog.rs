//! The one thread behind the crate: when it starts, what it leaves alone, and that nobody waits for it.
#![cfg(all(unix, not(miri)))]

use std::process::{Command, Output};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use timebox::{CancellationToken, Hook, Limit, TimeoutError, checkpoint, timeout, with_timeout};

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
    assert_eq!((threads_named("timebox-watchdo"), threads_named("timebox-hook")), (1, 0));

    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| timeout(SHORT, || timebox::sleep(LONG)).unwrap_err());
        }
    });
    let (fired, wait) = channel();
    timeout(SHORT, || {
        let _registration = timebox::on_cancel(move || fired.send(threads_named("timebox-hook")));
        assert_eq!(wait.recv_timeout(HANG), Ok(1));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert_eq!(threads_named("timebox-watchdo"), 1);
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
