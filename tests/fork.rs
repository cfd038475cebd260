//! `fork` in the middle of everything: the child starts afresh, waits for no lock from before, and does not hang.
#![cfg(all(unix, not(miri)))]

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Hook, Timebox, TimeoutError, checkpoint, future, interruptible, is_expired, shield,
    timeout, with_timeout,
};

const LONG: Duration = Duration::from_secs(3600);

/// How long a child may take before it counts as hung: it works for a few milliseconds.
const HANG: Duration = Duration::from_secs(30);

/// Only one test forks at a time, so that a hang is the hang of its own child.
static FORKING: Mutex<()> = Mutex::new(());

/// Runs `child` in a forked child and waits for its end; `child` says whether all was well.
fn fork(child: impl FnOnce() -> bool) {
    let code = exit_code(|| i32::from(!child()));
    assert_eq!(code, 0, "101: it panicked; 1: it saw something wrong");
}

/// Runs `child` in a forked child and waits for its end; with the exit code that `child` returns.
fn exit_code(child: impl FnOnce() -> i32) -> i32 {
    // A panic in the child must not meet the test harness's locks.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let parent = std::process::id();
        let shown_before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::process::id() != parent {
                // SAFETY: ends the process and touches nothing of it.
                unsafe { libc::_exit(101) };
            }
            shown_before(info);
        }));
    });
    // SAFETY: the child runs code of ours that is made for this, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "no fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = child();
        // SAFETY: ends the process without running what the parent's threads left behind.
        unsafe { libc::_exit(code) };
    }
    let start = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: `pid` is a child of ours that nobody else waits for, `status` is ours.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if ended == pid {
            assert!(libc::WIFEXITED(status), "the child was killed: status {status:#x}");
            return libc::WEXITSTATUS(status);
        }
        if start.elapsed() > HANG {
            // SAFETY: as above; the child is still there, since it was not waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// A sync scope, a future and a hook, each to its end.
fn use_everything() -> bool {
    let limit = Duration::from_millis(1);
    let spun = timeout(limit, || -> timebox::Result<()> {
        loop {
            checkpoint()?;
        }
    });
    let slept = timeout(limit, || timebox::sleep(LONG));
    let awaited = pollster::block_on(future::timeout_value(limit, pending::<()>()));
    let fired = AtomicBool::new(false);
    let called = timeout(limit, || {
        interruptible(Hook::inline(|| fired.store(true, SeqCst)), || {
            while !fired.load(SeqCst) {
                thread::yield_now();
            }
            Err::<(), _>("interrupted")
        })
    });
    let (sent, received) = channel();
    let runner = with_timeout(limit, |scope| {
        let _registration = scope.on_cancel(move || sent.send(()));
        Ok::<_, TimeoutError>(received.recv_timeout(HANG).is_ok())
    });
    spun.is_err() && slept.is_err() && awaited.is_err() && called.is_err() && runner.is_ok_and(|fired| fired)
}

#[test]
fn a_thousand_forks_amid_arming_firing_and_registering() {
    let _one_at_a_time = FORKING.lock();
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        // Arms and fires deadlines, sync and async.
        threads.spawn(|| {
            while !stop.load(SeqCst) {
                let _ = timeout(Duration::from_micros(200), || timebox::sleep(LONG));
                let _ =
                    pollster::block_on(future::timeout_value(Duration::from_micros(200), pending::<()>()));
            }
        });
        // Registers and drops hooks.
        threads.spawn(|| {
            let token = CancellationToken::new();
            while !stop.load(SeqCst) {
                drop(token.on_cancel(|| ()));
                let _ = timeout(LONG, || interruptible(Hook::inline(|| ()), || Ok::<_, String>(())));
                drop(token.child_token().on_cancel(Hook::inline(|| ())));
                thread::sleep(Duration::from_micros(20));
            }
        });
        // Cancels, and fires hooks on both kinds of thread.
        threads.spawn(|| {
            while !stop.load(SeqCst) {
                let token = CancellationToken::new();
                let (fired, wait) = channel();
                let tell = fired.clone();
                let _runner = token.on_cancel(move || fired.send(()));
                let _inline = token.on_cancel(Hook::inline(move || tell.send(())));
                token.cancel();
                let _ = (wait.recv_timeout(HANG), wait.recv_timeout(HANG));
            }
        });
        // Starts and ends threads: std has locks of its own there, which a child must not need.
        threads.spawn(|| {
            while !stop.load(SeqCst) {
                thread::scope(|threads| drop(threads.spawn(|| timeout(LONG, checkpoint))));
            }
        });
        let stop_at_the_end = StopOnDrop(&stop);
        for _ in 0..1000 {
            fork(use_everything);
        }
        drop(stop_at_the_end);
    });
}

/// Ends the other threads when a fork has failed, too.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_scope_open_at_the_fork_expires_in_the_child_at_its_checkpoints() {
    let _one_at_a_time = FORKING.lock();
    with_timeout(Duration::from_millis(20), |scope| {
        fork(|| {
            let start = Instant::now();
            while checkpoint().is_ok() {
                if start.elapsed() > HANG / 2 {
                    return false;
                }
            }
            is_expired() && scope.is_expired() && timebox::sleep(LONG).is_err()
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn without_a_watchdog_every_question_looks_at_the_clock() {
    let _one_at_a_time = FORKING.lock();
    with_timeout(Duration::from_millis(20), |scope| {
        fork(|| {
            // No watchdog was started here: the first question after the deadline must be right.
            while !scope.deadline().has_passed() {
                std::hint::spin_loop();
            }
            scope.is_expired() && checkpoint().is_err()
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn hooks_from_before_do_not_fire_in_the_child() {
    let _one_at_a_time = FORKING.lock();
    let fired = Arc::new(AtomicU32::new(0));
    let token = CancellationToken::new();
    let count = Arc::clone(&fired);
    let on_token = token.on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst)));
    with_timeout(Duration::from_millis(20), |scope| {
        let count = Arc::clone(&fired);
        let on_scope = scope.on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst)));
        let at_the_fork = fired.load(SeqCst);
        let in_the_child = Arc::clone(&fired);
        let child_token = token.clone();
        fork(move || {
            child_token.cancel();
            while !scope.deadline().has_passed() {
                std::hint::spin_loop();
            }
            // The child's own watchdog is up and has dealt with what is due.
            let own = shield(LONG, use_everything);
            own && in_the_child.load(SeqCst) == at_the_fork
        });
        drop(on_scope);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    drop(on_token);
}

#[test]
fn the_parent_goes_on_as_before() {
    let _one_at_a_time = FORKING.lock();
    with_timeout(Duration::from_millis(20), |scope| {
        let (fired, wait) = channel();
        let _registration = scope.on_cancel(move || fired.send(()));
        fork(|| shield(LONG, use_everything));
        assert!(wait.recv_timeout(HANG).is_ok());
        assert!(scope.checkpoint().is_err());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert!(use_everything());
}

#[test]
fn a_child_of_a_child_starts_afresh_too() {
    let _one_at_a_time = FORKING.lock();
    fork(|| {
        if !use_everything() {
            return false;
        }
        // SAFETY: as in `fork`; the grandchild leaves by `_exit`, and the child waits for it.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = i32::from(!use_everything());
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: `pid` is a child of ours; the parent above bounds the wait.
        pid > 0 && unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid && status == 0
    });
}

#[test]
fn a_token_says_in_a_child_that_its_deadline_has_passed_each_time_it_is_asked() {
    const TOO_LATE: i32 = 2;
    let _one_at_a_time = FORKING.lock();
    let code = |limit| {
        let token = with_timeout(limit, |scope| Ok::<_, TimeoutError>(scope.token())).unwrap();
        exit_code(|| {
            let start = Instant::now();
            // Many questions in quick succession, so that the next would be far off.
            let mut asked = 0;
            while start.elapsed() < limit / 2 && !token.is_cancelled() {
                asked += 1;
            }
            if asked < 1_000 {
                return TOO_LATE;
            }
            thread::sleep(limit);
            i32::from(!token.is_cancelled())
        })
    };
    let mut limit = Duration::from_millis(100);
    let mut ended = code(limit);
    while ended == TOO_LATE {
        limit *= 4;
        assert!(limit < HANG / 2, "a child is always too late");
        ended = code(limit);
    }
    assert_eq!(ended, 0, "101: it panicked; 1: it was asked in vain");
}

#[test]
fn a_scope_in_a_child_sees_by_the_clock_that_a_token_it_is_cancelled_on_has_expired() {
    let _one_at_a_time = FORKING.lock();
    let limit = Duration::from_millis(50);
    let token = with_timeout(limit, |scope| Ok::<_, TimeoutError>(scope.token())).unwrap();
    fork(|| {
        let on_token = || Timebox::new(None::<Duration>).cancel_on(&token);
        // Without a limit of its own nothing here starts a watchdog.
        let spun = on_token().run(|_| -> timebox::Result<()> {
            loop {
                checkpoint()?;
            }
        });
        let entered = on_token().run(|_| Ok::<_, TimeoutError>(()));
        spun.is_err_and(|error| error.is_timeout()) && entered.is_err_and(|error| !error.started())
    });
    let token = with_timeout(limit, |scope| Ok::<_, TimeoutError>(scope.token())).unwrap();
    fork(|| {
        let slept = Timebox::new(None::<Duration>).cancel_on(&token).run(|scope| scope.sleep(LONG));
        slept.is_err_and(|error| error.is_timeout())
    });
}

/// The parent's threads are gone in the child, and its locks may be held for ever: here the parent's reporter and a
/// sink of it are in the middle of a report.
#[cfg(all(feature = "report", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn a_child_keeps_the_policy_of_reports_and_has_threads_of_its_own() {
    use timebox::report::{Directory, Policy, Report, dropped, flush, recent, uninstall};

    /// Stays in a scope until its report was made. Says whether that was so.
    fn is_reported() -> bool {
        let (before, start) = (recent().len(), Instant::now());
        let slow = Timebox::new(LONG).warn_after(Duration::from_millis(20));
        slow.run_value(|_| {
            while recent().len() == before && start.elapsed() < HANG / 3 {
                thread::sleep(Duration::from_millis(1));
            }
            recent().len() > before
        })
        .unwrap()
    }

    let _one_at_a_time = FORKING.lock();
    let folder = tempfile::tempdir().unwrap();
    let (began, has_begun) = channel();
    let (open, go) = channel::<()>();
    let in_parent = Mutex::new((began, go));
    let parent = std::process::id();
    let hangs_in_parent = move |_: &Report| {
        if std::process::id() == parent {
            let hang = in_parent.lock().unwrap();
            let _ = hang.0.send(());
            let _ = hang.1.recv();
        }
    };
    let directory = Directory::new(folder.path()).json();
    Policy::new().once_per(Duration::ZERO).to(hangs_in_parent).to(directory).install().unwrap();
    assert!(is_reported());
    has_begun.recv_timeout(HANG).unwrap();
    let children = folder.path().join("children");
    fork(|| {
        let is_afresh = recent().is_empty() && dropped() == 0;
        let is_written = is_reported() && flush(HANG / 3);
        uninstall();
        let is_installed = Policy::new().to(Directory::new(&children)).install().is_ok();
        is_afresh && is_written && is_installed && is_reported() && flush(HANG / 3)
    });
    drop(open);
    assert!(flush(HANG));
    uninstall();
    let files = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let names = files(folder.path());
    let is_of_parent = |name: &&String| name.contains(&format!("Z-{parent}-"));
    assert!(names.iter().any(|name| is_of_parent(&name)), "{names:?}");
    assert!(names.iter().any(|name| name.contains("Z-") && !is_of_parent(&name)), "{names:?}");
    assert!(!files(&children).is_empty());
}
