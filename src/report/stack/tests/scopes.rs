//! Tests of the scopes of a copy, and of stacks that are trimmed to a scope.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::super::copy::Words;
use super::super::platform::Task;
use super::super::{Copy, Names, Unwinder, location, own};
use super::running::Runner;
use super::{Eyes, Thread, names};
use crate::report::contents::Stack;
use crate::scope::Timebox;
use crate::time::Limit;

#[inline(never)]
fn works(for_how_long: Duration) {
    let start = Instant::now();
    while start.elapsed() < for_how_long {
        black_box(start);
    }
}

#[inline(never)]
fn inner(body: &mut dyn FnMut()) {
    Timebox::new(Duration::from_secs(100)).label("inner").run_value(|_| body()).unwrap();
}

#[inline(never)]
fn outer(body: &mut dyn FnMut()) {
    Timebox::new(Limit::NONE).label("outer").run_value(|_| inner(body)).unwrap();
}

fn position(stack: &Stack, function: &str) -> Option<usize> {
    names(stack).iter().position(|name| name.ends_with(function))
}

fn check(target: &super::Target, function: &str) {
    let mut eyes = Eyes::new();
    for _ in 0..100 {
        let (copy, raw) = eyes.raw(target);
        assert!(copy.is_consistent);
        let scopes = copy.scopes.scopes();
        if scopes.len() != 2 {
            // At this moment the thread is not in both scopes.
            continue;
        }
        assert_eq!((scopes[0].label.to_text(), scopes[1].label.to_text()), ("inner".into(), "outer".into()));
        assert!(location(&scopes[0], true).unwrap().file().ends_with("scopes.rs"));
        let whole = eyes.names.resolve(&raw, None);
        let inside = eyes.names.resolve(&raw, Some(scopes[0].frame));
        let around = eyes.names.resolve(&raw, Some(scopes[1].frame));
        assert!(!inside.truncated && !around.truncated);
        assert!(inside.frames.len() < around.frames.len() && around.frames.len() < whole.frames.len());
        assert_eq!(whole.frames[..around.frames.len()], around.frames[..]);
        assert!(
            position(&around, "outer").is_some_and(|outer| outer + 12 > around.frames.len()),
            "{around:#?}"
        );
        assert!(position(&inside, "scopes::outer").is_none(), "{inside:#?}");
        assert!(position(&whole, function).is_some() || copy.call.is_none());
    }
}

#[test]
fn a_stack_is_trimmed_to_a_scope_of_a_thread_that_is_blocked() {
    let thread = Thread::start(|| outer(&mut || std::thread::sleep(Duration::from_secs(3600))));
    thread.until_in("sleep");
    check(&thread.target(), "sleep");
}

#[test]
fn a_stack_is_trimmed_to_a_scope_of_a_thread_that_runs() {
    let runner = Runner::start(|| outer(&mut || works(Duration::from_millis(20))));
    check(&runner.thread.target(), "works");
    runner.stop();
}

#[inline(never)]
fn asks_for_its_own_stack(up_to: u64) -> super::super::StackCopy {
    *own(up_to).unwrap()
}

#[inline(never)]
fn calls_for_its_own_stack(up_to: u64) -> super::super::StackCopy {
    black_box(asks_for_its_own_stack(up_to))
}

#[test]
fn a_thread_copies_its_own_stack() {
    let local = 0_u64;
    let up_to = (&raw const local) as u64;
    let copy = calls_for_its_own_stack(up_to);
    let raw = Unwinder::new().unwind(&copy);
    let stack = Names::new().resolve(&raw, Some(up_to));
    let names = names(&stack);
    let found: Vec<_> = names.iter().map(|name| name.rsplit("::").next().unwrap()).collect();
    let expected =
        ["own", "asks_for_its_own_stack", "calls_for_its_own_stack", "a_thread_copies_its_own_stack"];
    assert!(found.ends_with(&expected[1..]), "{names:#?}");
    assert!(!stack.approximate && !stack.truncated, "{names:#?} {:?}", raw.notes);
}

macro_rules! eight {
    ($statement:expr) => {
        $statement;
        $statement;
        $statement;
        $statement;
        $statement;
        $statement;
        $statement;
        $statement;
    };
}

/// Stands at the end of a function. It makes the function longer than [`LENGTH`], because [`is_at`] takes so many bytes
/// for the function's own. `$value` is different in each function, so that the compiler does not merge two functions.
macro_rules! distinct {
    ($value:expr) => {
        eight!({
            eight!({
                black_box($value);
            });
        });
    };
}

/// The thread works here while its scope is open, and in `outside` while it has no scope.
#[inline(never)]
fn in_the_scope() {
    works(Duration::from_micros(20));
    distinct!(1);
}

#[inline(never)]
fn outside() {
    works(Duration::from_micros(20));
    distinct!(2);
}

/// [`is_at`] takes this many bytes for a function's own. All calls that the function makes before `distinct!` are in
/// them.
const LENGTH: u64 = 200;

fn is_in(address: u64, function: fn()) -> bool {
    is_at(address, function as usize)
}

fn is_at(address: u64, function: usize) -> bool {
    (function as u64..function as u64 + LENGTH).contains(&address)
}

fn flip(looks: usize) {
    let runner = Runner::start(|| {
        Timebox::new(Duration::from_secs(100)).run_value(|_| in_the_scope()).unwrap();
        outside();
    });
    let target = runner.thread.target();
    let mut eyes = Eyes::new();
    let mut counts = [0; 2];
    for _ in 0..looks {
        let (copy, raw) = eyes.raw(&target);
        if copy.stack.registers.is_none() {
            continue;
        }
        let scope = copy.scopes.scopes().first().map(|scope| scope.frame);
        let is_inside = raw.frames.iter().position(|frame| is_in(frame.address, in_the_scope));
        let is_outside = raw.frames.iter().any(|frame| is_in(frame.address, outside));
        if let Some(frame) = is_inside {
            let scope = scope.expect("a stack in a scope without the scope");
            assert!(raw.frames[frame].cfa <= scope);
            counts[0] += 1;
        }
        if is_outside {
            assert!(scope.is_none(), "a scope with a stack from elsewhere");
            counts[1] += 1;
        }
    }
    runner.stop();
    assert!(counts.iter().all(|&count| count > looks / 20), "{counts:?}");
}

#[test]
fn a_scope_never_has_a_stack_from_elsewhere() {
    flip(2000);
}

#[test]
#[ignore = "takes a minute"]
fn a_scope_never_has_a_stack_from_elsewhere_in_100_000_looks() {
    flip(100_000);
}

type Chain = fn(u32, &'static libc::timespec);

/// A call chain that ends in a short sleep. Two chains do the same in different functions.
macro_rules! chain {
    ($name:ident, $value:literal) => {
        #[inline(never)]
        fn $name(depth: u32, time: &'static libc::timespec) {
            if depth == 0 {
                // SAFETY: the time is valid. The null pointer asks for no report of the rest of the sleep.
                unsafe { libc::syscall(libc::SYS_nanosleep, &raw const *time, 0_usize) };
            } else {
                $name(depth - 1, black_box(time));
            }
            distinct!(depth + $value);
        }
    };
}

chain!(goes_left, 1);
chain!(goes_right, 2);

static LEFT: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 1 };
static RIGHT: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 2 };

/// Copies a thread that runs two call chains in turn, until there are `enough` copies. Returns the number of copies,
/// and how many of them are torn. A copy is torn if it shows a frame of the chain that the thread was not in, or not
/// all frames of the chain that it was in. With `looks_twice`, a copy counts only if the thread did not run meanwhile.
fn flip_between_chains(looks_twice: bool, enough: u64) -> [u64; 2] {
    const DEPTH: u32 = 20;
    let runner = Runner::start(|| {
        goes_left(DEPTH, &LEFT);
        goes_right(DEPTH, &RIGHT);
    });
    let task = Task::open(runner.thread.tid);
    let mut eyes = Eyes::new();
    let mut copy = Copy::new(runner.thread.tid);
    let [mut copies, mut torn] = [0; 2];
    while copies < enough {
        let Ok(before) = task.copy(&mut copy, Words::default()) else { continue };
        if looks_twice && !task.is_still(&before) {
            continue;
        }
        let Some(call) = before.call.filter(|call| call.number == libc::SYS_nanosleep) else { continue };
        let is_left = call.arguments[0] == (&raw const LEFT).addr() as u64;
        let (own, other): (Chain, Chain) =
            if is_left { (goes_left, goes_right) } else { (goes_right, goes_left) };
        let raw = eyes.unwinder.unwind(&copy.stack);
        let count =
            |chain: Chain| raw.frames.iter().filter(|frame| is_at(frame.address, chain as usize)).count();
        copies += 1;
        torn += u64::from((count(own), count(other)) != (DEPTH as usize + 1, 0));
    }
    runner.stop();
    [copies, torn]
}

#[test]
fn a_copy_is_of_one_moment_since_the_thread_is_looked_at_twice() {
    let [copies, torn] = flip_between_chains(true, 500);
    assert_eq!(torn, 0, "of {copies}");
    // A control: without the second look, some copies must be torn. Otherwise the assertion above would prove nothing.
    let start = Instant::now();
    while flip_between_chains(false, 20)[1] == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "the second look is of no use");
    }
}
