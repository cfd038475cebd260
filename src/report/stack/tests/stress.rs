//! Copies threads many times while they allocate, panic, load libraries, take backtraces or start threads: moments at
//! which a copy could do harm. Also tests how much stack the signal handler needs.

use std::backtrace::Backtrace;
use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::super::raw::RawStack;
use super::child::in_child;
use super::running::Runner;
use super::{Eyes, Target, is_to_the_root};
use crate::scope::Timebox;
use crate::sync::{AtomicUsize, Ordering};

fn loads_a_library() {
    // SAFETY: the C library's own library of mathematics may be loaded at any time.
    unsafe {
        let library = libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW);
        if !library.is_null() {
            libc::dlclose(library);
        }
    }
}

/// Whether the outermost frame is a function in which threads begin. Finds only the name of this frame, because to find
/// all names would take longer than the copy.
fn ends_at_the_root(raw: &RawStack, eyes: &mut Eyes) -> bool {
    let outermost = RawStack { frames: raw.frames.last().copied().into_iter().collect(), ..raw.clone() };
    is_to_the_root(&eyes.names.resolve(&outermost, None))
}

/// Copies the threads for this time: a thousand times a second if the machine is fast enough, and at least a hundred
/// times in all.
fn stress(time: Duration) {
    let runners = [
        Runner::start(|| drop(black_box((1..200).map(|size| vec![0_u8; size * 64]).collect::<Vec<_>>()))),
        Runner::start(|| {
            let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(())));
        }),
        Runner::start(loads_a_library),
        Runner::start(|| {
            let _ = black_box(Backtrace::force_capture());
        }),
        Runner::start(|| {
            let body =
                || Timebox::new(Duration::from_secs(9)).run_value(|_| black_box(vec![1; 100])).unwrap();
            drop(std::thread::spawn(body).join());
        }),
    ];
    let targets: Vec<Target> = runners.iter().map(|runner| runner.thread.target()).collect();
    let mut eyes = Eyes::new();
    let mut counts = [[0_u32; 4]; 5];
    let start = Instant::now();
    let mut tick = start;
    let mut looks = 0;
    while start.elapsed() < time || looks < 100 {
        let which = looks % targets.len();
        let (copy, raw) = eyes.raw(&targets[which]);
        let is_rooted = !raw.truncated && ends_at_the_root(&raw, &mut eyes);
        counts[which][0] += 1;
        counts[which][1] += u32::from(copy.stack.registers.is_some());
        counts[which][2] += u32::from(is_rooted);
        counts[which][3] += u32::from(is_rooted && !raw.approximate);
        looks += 1;
        tick += Duration::from_millis(1);
        std::thread::sleep(tick.saturating_duration_since(Instant::now()));
    }
    println!("{looks} looks in {:?}", start.elapsed());
    println!("looks, stacks, to the root, exact; of malloc, panic, dlopen, Backtrace, threads: {counts:?}");
    runners.into_iter().for_each(Runner::stop);
    // The least percentages, for each thread. The third thread (`dlopen`) loads and unloads a library. The library may
    // be gone before its tables are read, so no stack of this thread need be exact.
    let least_rooted = [99, 95, 99, 99, 99];
    let least_exact = [99, 95, 0, 99, 99];
    for (which, [looks, stacks, rooted, exact]) in counts.into_iter().enumerate() {
        // Two misses more than the percentages are allowed, because one miss in few looks is already more than one
        // percent.
        assert!(stacks * 100 + 200 >= looks * 99, "{counts:?}");
        assert!(rooted * 100 + 200 >= stacks * least_rooted[which], "{which}: {counts:?}");
        assert!(exact * 100 + 200 >= stacks * least_exact[which], "{which}: {counts:?}");
    }
}

#[test]
fn threads_under_stress_are_seen() {
    in_child("stress::threads_under_stress_are_seen", || stress(Duration::from_secs(3)));
}

/// Runs for as many seconds as `TIMEBOX_STRESS_SECONDS` says, or else for a minute.
#[test]
#[ignore = "takes a minute"]
fn threads_under_stress_are_seen_for_long() {
    let seconds = env::var("TIMEBOX_STRESS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    stress(Duration::from_secs(seconds.unwrap_or(60)));
}

const PAINT: u8 = 0xa5;
const SIZE: usize = 64 << 10;

static STACK: AtomicUsize = AtomicUsize::new(0);

/// The handler runs on the thread's alternate stack, which is small: std gives it 8 KiB, and the kernel uses more than
/// 3 KiB of them.
#[test]
fn the_handler_needs_little_stack() {
    in_child("stress::the_handler_needs_little_stack", || {
        let mut is_first = true;
        let runner = Runner::start(move || {
            if std::mem::take(&mut is_first) {
                let stack = Box::leak(vec![PAINT; SIZE].into_boxed_slice());
                STACK.store(stack.as_ptr().expose_provenance(), Ordering::Relaxed);
                let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
                // SAFETY: the stack is never freed.
                assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
            }
            let spin = || {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(5) {}
            };
            let inner =
                || Timebox::new(Duration::from_secs(9)).label("a label").run_value(|_| spin()).unwrap();
            Timebox::new(Duration::from_secs(9)).label("another").run_value(|_| inner()).unwrap();
        });
        let target = runner.thread.target();
        for _ in 0..200 {
            assert!(Eyes::copy(&target).stack.registers.is_some());
        }
        let stack = std::ptr::with_exposed_provenance::<u8>(STACK.load(Ordering::Relaxed));
        // SAFETY: the stack is never freed, and no handler runs now.
        let stack = unsafe { std::slice::from_raw_parts(stack, SIZE) };
        let used = SIZE - stack.iter().position(|&byte| byte != PAINT).unwrap();
        // SAFETY: the call has no preconditions.
        let kernel = usize::try_from(unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) }).unwrap();
        let kernel = kernel.max(libc::MINSIGSTKSZ); // an emulator does not say how much
        println!("{used} bytes of the alternate stack, of which the kernel may need {kernel}");
        assert!(used < kernel + (3 << 10), "{used} of {kernel}");
        runner.stop();
    });
}
