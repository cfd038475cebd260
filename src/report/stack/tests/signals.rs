//! Tests of the signal that asks a thread for a copy: the program itself sends the same signal, or has a handler for
//! it, or the signal comes late.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use std::mem;
use std::ptr;
use std::time::{Duration, Instant};

use super::super::reason::Reason;
use super::super::{Begun, begin};
use super::child::in_child;
use super::running::Runner;
use super::{Eyes, is_to_the_root, names};

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn install(signal: libc::c_int, handler: Handler) {
    // SAFETY: all-zero is a valid `sigaction`, and the handlers of these tests are safe at any moment.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &raw const action, ptr::null_mut()), 0);
    }
}

fn mask(how: libc::c_int, signal: libc::c_int) {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        assert_eq!(libc::pthread_sigmask(how, &raw const set, ptr::null_mut()), 0);
    }
}

fn send(tid: u32, signal: libc::c_int) {
    // SAFETY: the signal has a handler, and the thread is one of this process.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
    assert_eq!(result, 0);
}

fn spin() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(50) {}
}

fn wait_for(is_done: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

fn is_pending(tid: u32, signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & 1 << (signal - 1) != 0
}

static FOREIGN: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_foreign(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    FOREIGN.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn the_signals_of_others_are_passed_on() {
    in_child("signals::the_signals_of_others_are_passed_on", || {
        install(libc::SIGURG, count_foreign);
        Eyes::new();
        let runner = Runner::start(spin);
        let target = runner.thread.target();
        for sent in 1..=200 {
            // The system drops a signal if a signal of the same number is pending. So this waits until none is pending.
            wait_for(|| !is_pending(runner.thread.tid, libc::SIGURG));
            send(runner.thread.tid, libc::SIGURG);
            // While the foreign signal is pending, the system drops this crate's signal. But the crate's handler also
            // runs for the foreign signal, and then serves the request.
            assert!(Eyes::copy(&target).stack.registers.is_some());
            wait_for(|| FOREIGN.load(Ordering::Relaxed) == sent);
        }
        // SAFETY: the signal has a handler.
        unsafe { libc::kill(libc::getpid(), libc::SIGURG) };
        wait_for(|| FOREIGN.load(Ordering::Relaxed) == 201);
        runner.stop();
    });
}

#[test]
fn a_signal_of_others_that_is_pending_does_not_lose_the_request() {
    static PHASE: AtomicUsize = AtomicUsize::new(0);
    in_child("signals::a_signal_of_others_that_is_pending_does_not_lose_the_request", || {
        install(libc::SIGURG, count_foreign);
        Eyes::new();
        let runner = Runner::start(|| match PHASE.load(Ordering::Relaxed) {
            1 => {
                mask(libc::SIG_BLOCK, libc::SIGURG);
                PHASE.store(2, Ordering::Relaxed);
            }
            3 => {
                mask(libc::SIG_UNBLOCK, libc::SIGURG);
                PHASE.store(0, Ordering::Relaxed);
            }
            _ => spin(),
        });
        let target = runner.thread.target();
        for sent in 1..=100 {
            PHASE.store(1, Ordering::Relaxed);
            wait_for(|| PHASE.load(Ordering::Relaxed) == 2);
            send(runner.thread.tid, libc::SIGURG);
            let begun = begin(&target);
            PHASE.store(3, Ordering::Relaxed);
            if let Begun::Asked(request) = begun {
                let copy = request.wait(Duration::from_secs(5));
                assert!(copy.stack.registers.is_some(), "{copy:?}");
            }
            wait_for(|| FOREIGN.load(Ordering::Relaxed) == sent && PHASE.load(Ordering::Relaxed) == 0);
        }
        runner.stop();
    });
}

#[test]
fn a_late_signal_disturbs_no_other_request() {
    static PHASE: AtomicUsize = AtomicUsize::new(0);
    in_child("signals::a_late_signal_disturbs_no_other_request", || {
        let late = Runner::start(|| match PHASE.load(Ordering::Relaxed) {
            1 => {
                mask(libc::SIG_BLOCK, libc::SIGURG);
                PHASE.store(2, Ordering::Relaxed);
            }
            3 => {
                mask(libc::SIG_UNBLOCK, libc::SIGURG);
                PHASE.store(0, Ordering::Relaxed);
            }
            _ => spin(),
        });
        let other = Runner::start(spin);
        let (late_target, other_target) = (late.thread.target(), other.thread.target());
        let mut eyes = Eyes::new();
        for _ in 0..100 {
            PHASE.store(1, Ordering::Relaxed);
            wait_for(|| PHASE.load(Ordering::Relaxed) == 2);
            let Begun::Asked(request) = begin(&late_target) else { continue };
            assert!(request.wait(Duration::from_millis(2)).reasons.has(Reason::NotTaken));
            PHASE.store(3, Ordering::Relaxed);
            let (copy, raw) = eyes.raw(&other_target);
            assert_eq!(copy.tid, other.thread.tid);
            assert!(copy.stack.registers.is_some() && !raw.truncated, "{copy:?}");
            wait_for(|| PHASE.load(Ordering::Relaxed) == 0);
        }
        late.stop();
        other.stop();
    });
}

#[test]
fn a_handler_that_was_installed_over_ours_is_reported() {
    in_child("signals::a_handler_that_was_installed_over_ours_is_reported", || {
        Eyes::new();
        install(libc::SIGURG, count_foreign);
        let runner = Runner::start(spin);
        let copy = Eyes::copy(&runner.thread.target());
        assert!(copy.stack.registers.is_none() && copy.reasons.has(Reason::HandlerReplaced), "{copy:?}");
        assert!(copy.notes().iter().any(|note| note.contains("replaced")));
        runner.stop();
    });
}

static IN_HANDLER: AtomicU64 = AtomicU64::new(0);

extern "C" fn spins_in_a_handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IN_HANDLER.store(1, Ordering::Relaxed);
    while IN_HANDLER.load(Ordering::Relaxed) == 1 {
        spin();
    }
}

extern "C" fn sleeps_in_a_handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let time = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
    IN_HANDLER.store(1, Ordering::Relaxed);
    // SAFETY: the time is valid.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
}

fn in_handler(handler: Handler, name: &str, flags: libc::c_int) {
    // SAFETY: as in `install`.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()), 0);
    }
    let runner = Runner::start(spin);
    send(runner.thread.tid, libc::SIGUSR2);
    wait_for(|| IN_HANDLER.load(Ordering::Relaxed) == 1);
    let target = runner.thread.target();
    let mut eyes = Eyes::new();
    for _ in 0..100 {
        let (_, stack) = eyes.look(&target);
        let names = names(&stack);
        let handler = names.iter().position(|found| found.ends_with(name));
        let caller = names.iter().position(|name| name.contains("Runner::start"));
        assert!(handler.is_some() && handler < caller, "{names:#?}");
        assert!(is_to_the_root(&stack), "{names:#?}");
    }
    IN_HANDLER.store(0, Ordering::Relaxed);
    mem::forget(runner);
}

#[test]
fn below_a_handler_that_runs_the_frames_are_right() {
    in_child("signals::below_a_handler_that_runs_the_frames_are_right", || {
        in_handler(spins_in_a_handler, "spins_in_a_handler", 0);
    });
}

#[test]
fn below_a_handler_that_is_blocked_the_frames_are_right() {
    in_child("signals::below_a_handler_that_is_blocked_the_frames_are_right", || {
        in_handler(sleeps_in_a_handler, "sleeps_in_a_handler", 0);
    });
}
