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

/// What a thread does, and how many percent of its stacks reach the root at least, and are exact too.
struct Kind {
    start: fn() -> Runner,
    least_rooted: u32,
    least_exact: u32,
}

const KINDS: [Kind; 5] = [
    Kind { start: || Runner::start(allocates), least_rooted: 99, least_exact: 99 },
    Kind { start: || Runner::start(panics), least_rooted: 95, least_exact: 95 },
    // The library may be gone before its tables are read, so no stack need be exact.
    Kind { start: || Runner::start(loads_a_library), least_rooted: 99, least_exact: 0 },
    Kind { start: || Runner::start(takes_a_backtrace), least_rooted: 99, least_exact: 99 },
    Kind { start: || Runner::start(starts_a_thread), least_rooted: 99, least_exact: 99 },
];

fn allocates() {
    drop(black_box((1..200).map(|size| vec![0_u8; size * 64]).collect::<Vec<_>>()));
}

fn takes_a_backtrace() {
    drop(black_box(Backtrace::force_capture()));
}

fn panics() {
    let _ = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(())));
}

fn starts_a_thread() {
    let body = || Timebox::new(Duration::from_secs(9)).run_value(|_| black_box(vec![1; 100])).unwrap();
    drop(std::thread::spawn(body).join());
}

/// Runs a thread of each of these kinds, and copies the threads in turn for this time: a thousand times a second if
/// there are processors enough, and at least twenty times for each. Returns the number of copies in a second.
fn stress(kinds: &[Kind], time: Duration) -> f64 {
    let runners: Vec<Runner> = kinds.iter().map(|kind| (kind.start)()).collect();
    let targets: Vec<Target> = runners.iter().map(|runner| runner.thread.target()).collect();
    let mut eyes = Eyes::new();
    let mut counts = vec![[0_u32; 4]; kinds.len()];
    let start = Instant::now();
    let mut tick = start;
    let mut looks = 0;
    while start.elapsed() < time || looks < 20 * kinds.len() {
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
    let all: u32 = counts.iter().map(|count| count[0]).sum();
    let rate = f64::from(all) / start.elapsed().as_secs_f64();
    println!("{rate:.0} looks a second; looks, stacks, to the root, exact: {counts:?}");
    runners.into_iter().for_each(Runner::stop);
    for (&[looks, stacks, rooted, exact], kind) in counts.iter().zip(kinds) {
        // Each assertion allows two misses more than its percentage, because among few looks one miss is already more
        // than one percent.
        assert!(stacks * 100 + 200 >= looks * 99, "{counts:?}");
        assert!(rooted * 100 + 200 >= stacks * kind.least_rooted, "{counts:?}");
        assert!(exact * 100 + 200 >= stacks * kind.least_exact, "{counts:?}");
    }
    rate
}

#[test]
fn threads_under_stress_are_seen() {
    in_child("stress::threads_under_stress_are_seen", || {
        stress(&KINDS, Duration::from_secs(3));
    });
}

/// Runs for as many seconds as `TIMEBOX_STRESS_SECONDS` says, or else for a minute: half of them with all threads, and
/// half with one thread after another. A thread that shares its processor with others copies itself only when it is its
/// turn. So only one thread alone is copied a thousand times a second on a machine with two processors.
#[test]
#[ignore = "takes a minute"]
fn threads_under_stress_are_seen_for_long() {
    let seconds = env::var("TIMEBOX_STRESS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let half = Duration::from_secs(seconds.unwrap_or(60)) / 2;
    stress(&KINDS, half);
    for kind in KINDS.chunks(1) {
        let rate = stress(kind, half / 5);
        assert!(rate > 950.0, "{rate}");
    }
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
