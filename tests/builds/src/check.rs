//! Whether the stacks in a dump are right.

use std::collections::HashMap;
use std::fs;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{self, Stack};

use crate::ways::{self, BEGUN, NAMES};

/// How long the threads may take until they are blocked.
const PATIENCE: Duration = Duration::from_secs(60);

/// The names of the pools' threads. The idle ones are in the dump too, but have no functions of this program.
const POOLS: [&str; 2] = ["rayon", "tokio"];

/// Stacks that may be marked as approximate, with musl. Its functions have no unwind tables, so their instructions are
/// followed to the return. The caller is not sure if these three things come together: a call is passed on the way, the
/// caller calls by a pointer or through another function, and an older return address is left below the right one.
/// That differs from run to run: in `epoll_pwait` (`tokio`, `tokio_block_on`), in `sem_wait`, and in `qsort`.
/// `thread_exit` is always marked. Its thread is in `pthread_exit`, which never returns: one frame is too many there.
const MARKED_WITH_MUSL: [&str; 5] = ["thread_exit", "tokio", "tokio_block_on", "c_sem_wait", "c_qsort"];

static IS_RIGHT: AtomicBool = AtomicBool::new(false);

/// Blocks all threads, the calling one too, until another has looked at them. Exits with 1 if a stack is wrong.
pub(crate) fn run() {
    ways::start();
    ways::main_thread::outer();
    if !IS_RIGHT.load(Ordering::SeqCst) {
        exit(1);
    }
}

/// Prints a line for each thread.
pub(crate) fn check() {
    if !all_are_blocked() {
        println!("test result: FAILED. These threads were to block within {PATIENCE:?}: {NAMES:?}");
        println!("These have come to where they block: {:?}", BEGUN.lock().unwrap());
        return;
    }
    let dump = report::dump();
    let ways: HashMap<u32, &str> = BEGUN.lock().unwrap().iter().copied().collect();
    let mut missing: Vec<&str> = NAMES.iter().chain(&POOLS).copied().collect();
    let (mut right, mut marked, mut wrong) = (0, 0, 0);
    for found in dump.threads.iter().filter(|found| !found.asked) {
        let (way, stack) = (ways.get(&found.thread.id).copied(), &found.stack);
        let name = way.unwrap_or(&found.thread.name);
        missing.retain(|missing| *missing != name);
        let fault = fault(stack, name, way.is_some());
        let (verdict, count) = match fault {
            Some(_) => ("WRONG", &mut wrong),
            None if stack.approximate => ("marked", &mut marked),
            None => ("right", &mut right),
        };
        *count += 1;
        println!("{verdict:<6} {name:<21} {:>2} frames, {}", stack.frames.len(), found.thread.activity);
        if let Some(fault) = fault {
            println!("       {fault}:");
            stack.frames.iter().for_each(|frame| println!("           {}", frame.function));
        }
    }
    let is_right = wrong == 0 && missing.is_empty() && dump.notes.is_empty();
    println!(
        "test result: {}. {right} stacks right, {marked} right but marked, {wrong} wrong, missing {missing:?}, notes {:?}",
        if is_right { "ok" } else { "FAILED" },
        dump.notes,
    );
    IS_RIGHT.store(is_right, Ordering::SeqCst);
}

fn fault(stack: &Stack, name: &str, has_way: bool) -> Option<&'static str> {
    let expected = ["inner", "middle", "outer"].map(|function| format!("::{name}::{function}"));
    let functions = stack.frames.iter().filter(|frame| !frame.inlined).map(|frame| &frame.function);
    let from_inner = functions.skip_while(|function| !function.ends_with(&expected[0]));
    let found =
        from_inner.zip(&expected).filter(|(function, expected)| function.ends_with(*expected)).count();
    let may_be_marked = cfg!(target_env = "musl") && MARKED_WITH_MUSL.contains(&name);
    if stack.frames.is_empty() {
        Some("has no stack")
    } else if has_way && found != expected.len() {
        Some("is not in `inner`, called by `middle`, called by `outer`")
    } else if stack.truncated {
        Some("is cut before the root of the thread")
    } else if stack.approximate && !may_be_marked {
        Some("is marked as approximate")
    } else {
        None
    }
}

fn all_are_blocked() -> bool {
    let give_up = Instant::now() + PATIENCE;
    let mut before = None;
    while Instant::now() < give_up {
        let now = switches_of_sleeping_threads();
        if now.is_some() && now == before && BEGUN.lock().unwrap().len() == NAMES.len() {
            return true;
        }
        before = now;
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// How often each thread but the calling one has left its processor. `None`: one of them does not sleep.
fn switches_of_sleeping_threads() -> Option<Vec<String>> {
    let own = fs::read_link("/proc/thread-self").unwrap();
    let mut switches = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap();
        if own.file_name() == Some(&task.file_name()) {
            continue;
        }
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        if !status.contains("\nState:\tS") {
            return None;
        }
        switches.extend(status.lines().filter(|line| line.contains("ctxt_switches")).map(String::from));
    }
    Some(switches)
}
