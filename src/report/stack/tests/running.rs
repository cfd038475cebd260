//! Tests with threads that run. A signal makes such a thread copy itself.

use crate::sync::{AtomicBool, AtomicU64, Ordering};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::reason::Reason;
use super::super::{Copy, State};
use super::{Eyes, Thread, is_to_the_root, names};
use crate::report::contents::Stack;

use corosensei::Coroutine;

const LOOKS: usize = 100;

pub(super) struct Runner {
    pub(super) thread: Thread,
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
}

impl Runner {
    pub(super) fn start(mut body: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), turns.clone());
        let thread = Thread::start(move || {
            while !stopped.load(Ordering::Relaxed) {
                body();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let runner = Self { thread, stop, turns };
        runner.until_it_went_on();
        runner
    }

    /// Waits until the thread has called the body again. Otherwise the thread may get no processor between two looks,
    /// and both looks see it at the same instruction.
    pub(super) fn until_it_went_on(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        while self.turns.load(Ordering::Relaxed) == turns {
            std::thread::yield_now();
        }
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join();
    }
}

/// Copies a thread [`LOOKS`] times, while it calls `body` again and again. Returns for how many copies `is_right` was
/// `true`.
fn check(body: impl FnMut() + Send + 'static, is_right: impl Fn(&Copy, &Stack) -> bool) -> usize {
    check_often(LOOKS, body, is_right)
}

fn check_often(
    looks: usize,
    body: impl FnMut() + Send + 'static,
    is_right: impl Fn(&Copy, &Stack) -> bool,
) -> usize {
    let runner = Runner::start(body);
    let target = runner.thread.target();
    let mut eyes = Eyes::new();
    let mut complete = 0;
    for _ in 0..looks {
        runner.until_it_went_on();
        let (copy, stack) = eyes.look(&target);
        assert_eq!(copy.state, if copy.call.is_some() { State::Blocked } else { State::Running }, "{copy:?}");
        assert!(copy.stack.registers.is_some() && copy.is_consistent, "{copy:?}");
        if is_right(&copy, &stack) {
            complete += 1;
        } else {
            println!("{:#?} {copy:?} {} {}", names(&stack), stack.truncated, stack.approximate);
        }
    }
    runner.stop();
    complete
}

/// Makes an `is_right` for [`check`]. `true`: the stack is exact, and reaches from this function, or from the loop that
/// calls it, to the start of the thread.
fn is_complete_with(function: &'static str) -> impl Fn(&Copy, &Stack) -> bool {
    move |_, stack| {
        let names = names(stack);
        let innermost = names.iter().position(|name| name.contains(function));
        let caller = names.iter().position(|name| name.contains("Runner::start"));
        let in_order = caller.is_some_and(|caller| innermost.is_none_or(|innermost| innermost < caller));
        is_to_the_root(stack) && !stack.approximate && in_order
    }
}

#[inline(never)]
fn spins() {
    for i in 0..10_000_u32 {
        black_box(i);
    }
}

#[test]
fn a_loop() {
    assert_eq!(check(spins, is_complete_with("spins")), LOOKS);
}

#[inline(never)]
fn copies(buffer: &mut [u8]) {
    let half = buffer.len() / 2;
    buffer.copy_within(..half, half);
}

#[test]
fn a_copy_of_memory() {
    let mut buffer = vec![1; 8 << 20];
    assert_eq!(check(move || copies(&mut buffer), is_complete_with("copies")), LOOKS);
}

#[inline(never)]
fn allocates() {
    for size in 1..200 {
        black_box(vec![0_u8; size * 64]);
    }
}

#[test]
fn an_allocator() {
    assert_eq!(check(allocates, is_complete_with("allocates")), LOOKS);
}

#[inline(never)]
fn sorts(numbers: &mut [u64]) {
    for (index, number) in (0..).zip(&mut *numbers) {
        *number = index * 0x9e37_79b9 % 1009;
    }
    numbers.sort_by(|a, b| black_box(b).cmp(a));
}

#[test]
fn a_sort() {
    let mut numbers = vec![0; 1000];
    assert_eq!(check(move || sorts(&mut numbers), is_complete_with("sorts")), LOOKS);
}

#[inline(never)]
fn reads_the_clock() {
    for _ in 0..1000 {
        black_box(Instant::now());
    }
}

#[test]
fn the_kernels_page_of_code() {
    assert_eq!(check(reads_the_clock, is_complete_with("reads_the_clock")), LOOKS);
}

#[inline(never)]
fn takes_a_backtrace() {
    let _ = black_box(Backtrace::force_capture());
}

#[test]
fn a_backtrace_that_is_being_taken() {
    assert_eq!(check(takes_a_backtrace, is_complete_with("takes_a_backtrace")), LOOKS);
}

#[inline(never)]
fn recurses(depth: usize, bottom: &dyn Fn()) -> usize {
    if depth == 0 {
        bottom();
        return 0;
    }
    black_box(recurses(depth - 1, bottom)) + 1
}

#[test]
fn a_recursion() {
    let runner = Runner::start(|| {
        recurses(100, &spins);
    });
    let target = runner.thread.target();
    let mut eyes = Eyes::new();
    for _ in 0..LOOKS {
        let (_, stack) = eyes.look(&target);
        assert!(is_to_the_root(&stack), "{stack:#?}");
        assert!(stack.frames.len() < 200);
    }
    runner.stop();
}

/// On aarch64 a function may sign its return address, and save it with the signature.
#[cfg(target_arch = "aarch64")]
mod signed {
    use super::{LOOKS, check, is_complete_with, spins};

    // `paciasp`, and at the end `autiasp`: written as hints, which older processors ignore.
    std::arch::global_asm!(
        ".globl timebox_test_signs",
        ".hidden timebox_test_signs",
        "timebox_test_signs:",
        ".cfi_startproc",
        "hint #25",
        ".cfi_negate_ra_state",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset w29, -16",
        ".cfi_offset w30, -8",
        "mov x29, sp",
        "blr x0",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore w29",
        ".cfi_restore w30",
        "hint #29",
        ".cfi_negate_ra_state",
        "ret",
        ".cfi_endproc",
    );

    unsafe extern "C" {
        fn timebox_test_signs(function: extern "C" fn());
    }

    extern "C" fn spins_inside() {
        spins();
    }

    #[test]
    fn a_signed_return_address() {
        // SAFETY: the function calls its argument and does nothing else.
        let body = || unsafe { timebox_test_signs(spins_inside) };
        assert_eq!(check(body, is_complete_with("spins")), LOOKS);
    }
}

#[inline(never)]
fn panics() {
    let result = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(())));
    assert!(result.is_err());
}

/// During a panic the unwind tables are wrong for a few instructions: the unwinder has overwritten saved registers of
/// one frame with those of another (see `landing.rs`). A stack from these instructions may be wrong, but must say so.
#[test]
fn a_panic() {
    const LOOKS: usize = 1000;
    let is_complete = is_complete_with("panics");
    let wrong = Cell::new(0);
    let complete = check_often(LOOKS, panics, |copy, stack| {
        let is_complete = is_complete(copy, stack);
        wrong.set(wrong.get() + u32::from(!is_complete && !stack.truncated && !stack.approximate));
        is_complete
    });
    assert_eq!(wrong.get(), 0, "frames are missing, and the stack does not say so");
    assert!(complete >= LOOKS * 95 / 100, "{complete}");
}

#[inline(never)]
fn spins_on_a_stack_of_its_own() {
    let mut coroutine: Coroutine<(), (), ()> = Coroutine::new(|_, ()| {
        for _ in 0..100 {
            spins();
        }
    });
    coroutine.resume(());
}

/// A coroutine has a stack of its own. The copy does not have the thread's own stack, so the result is marked as
/// truncated or approximate.
#[test]
fn a_coroutine() {
    let runner = Runner::start(spins_on_a_stack_of_its_own);
    let target = runner.thread.target();
    let mut eyes = Eyes::new();
    let mut in_coroutine = 0;
    for _ in 0..LOOKS {
        let (copy, stack) = eyes.look(&target);
        assert!(copy.is_consistent);
        let names = names(&stack);
        if names.iter().any(|name| name.contains("spins_on_a_stack_of_its_own::{{closure}}")) {
            in_coroutine += 1;
            assert!(stack.truncated || stack.approximate, "{names:#?}");
        }
    }
    runner.stop();
    assert!(in_coroutine > LOOKS / 2, "{in_coroutine}");
}

fn block_all_signals() {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

#[test]
fn a_thread_that_blocks_signals_is_reported_without_a_stack() {
    let mut is_first = true;
    let runner = Runner::start(move || {
        if std::mem::take(&mut is_first) {
            block_all_signals();
        }
        spins();
    });
    let target = runner.thread.target();
    Eyes::new();
    for _ in 0..5 {
        let super::super::Begun::Asked(request) = super::super::begin(&target) else { panic!("not asked") };
        let copy = request.wait(Duration::from_millis(20));
        assert!(copy.stack.registers.is_none());
        assert!(copy.reasons.has(Reason::NotTaken), "{copy:?}");
        assert_eq!(copy.state, State::Running);
        assert!(copy.cpu_time.is_some());
    }
    runner.stop();
}

#[test]
fn a_thread_that_has_ended_is_gone() {
    let thread = Thread::start(|| {});
    let target = thread.target();
    thread.join();
    let start = Instant::now();
    while Eyes::copy(&target).state != State::Gone {
        // The system may need a moment to take the thread down.
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(Eyes::copy(&target).reasons.has(Reason::Gone));
}
