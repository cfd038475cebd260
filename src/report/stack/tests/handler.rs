//! Tests of the signal handler: which functions it calls, and for how long it stops a thread.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the disassembly is read for `x86_64` only

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Eyes;
use super::running::Runner;
use crate::sync::{AtomicU64, Ordering};

/// The functions outside of this program that the handler may call: for `errno`, for system calls (the futex has no
/// function of its own, so the handler calls `syscall`), and for copying and comparing bytes.
const ALLOWED: [&str; 10] = [
    "__errno_location",
    "getpid",
    "gettid",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "pread64",
    "process_vm_readv",
    "syscall",
];

/// The search for calls stops at these functions: they panic after a failed check, or clean up after a panic. No check
/// of the handler fails.
const PANICS: [&str; 6] = [
    "_Unwind_Resume",
    "core::alloc::layout::",
    "core::option::",
    "core::panicking::",
    "core::result::",
    "core::slice::index::",
];

#[derive(Default)]
struct Program {
    names: BTreeMap<u64, String>,
    /// For each function: the addresses that it calls or jumps to.
    calls: BTreeMap<u64, BTreeSet<u64>>,
    /// For each function: the addresses of the pointers through which it jumps. `None` stands for a register.
    by_pointer: BTreeMap<u64, BTreeSet<Option<u64>>>,
    /// What the loader writes into a pointer, by the pointer's address.
    pointers: BTreeMap<u64, Pointer>,
}

enum Pointer {
    Outside(String),
    Inside(u64),
}

fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let program = env::current_exe().unwrap();
    let output = Command::new(name).args(arguments).arg(program).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

impl Program {
    fn read() -> Option<Self> {
        let mut program = Self::default();
        // A function begins with the line `0000000000012340 <name>:`. A call is the line
        // `   12345:   call   12340 <name>`, or by a pointer `.. call *0x12(%rip)   # 12340 <name>`.
        let mut function = 0;
        let mut loaded: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for line in tool("objdump", &["--disassemble", "--demangle", "--no-show-raw-insn"])?.lines() {
            if let Some((address, name)) = line.split_once(" <")
                && let Some(name) = name.strip_suffix(">:")
                && let Some(address) = hex(address)
            {
                function = address;
                program.names.insert(address, name.to_owned());
                continue;
            }
            let Some((_, instruction)) = line.split_once(":\t") else { continue };
            let mut words = instruction.split_ascii_whitespace();
            let (Some(operation), Some(operand)) = (words.next(), words.next()) else { continue };
            let address = || hex(instruction.split_once("# ")?.1.split(' ').next()?);
            match (operation, operand.strip_prefix('*')) {
                ("mov", _) => {
                    // `mov 0x12(%rip),%rax  # 12340 <name>`
                    if let Some((_, register)) = operand.split_once("(%rip),") {
                        loaded.insert(register.to_owned(), address());
                    }
                }
                // A jump to an address in a register comes from a jump table, so it stays in the function.
                ("jmp", Some(register)) if register.starts_with('%') => {}
                ("call" | "jmp", Some(pointer)) => {
                    let pointer = address().or_else(|| loaded.get(pointer).copied().flatten());
                    program.by_pointer.entry(function).or_default().insert(pointer);
                }
                ("call" | "jmp", None) => {
                    program.calls.entry(function).or_default().extend(hex(operand));
                }
                _ => {}
            }
        }
        // The columns of a line: `offset  info  type  value  name + addend`.
        for line in tool("readelf", &["--relocs", "--wide"])?.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(offset), Some(kind)) = (words.first().and_then(|word| hex(word)), words.get(2)) else {
                continue;
            };
            let pointer = match (kind.ends_with("_RELATIVE"), words.get(3), words.get(4)) {
                (true, Some(to), _) => hex(to).map(Pointer::Inside),
                (false, _, Some(name)) => Some(Pointer::Outside(name.split('@').next()?.to_owned())),
                _ => None,
            };
            program.pointers.extend(pointer.map(|pointer| (offset, pointer)));
        }
        Some(program)
    }

    /// What the function at `start` can call: functions outside of the program, and pointers whose target is not known.
    /// Each comes with the name of the function that makes the call.
    fn reaches(&self, start: u64) -> BTreeSet<(String, String)> {
        let mut seen = BTreeSet::from([start]);
        let mut open = vec![start];
        let mut reached = BTreeSet::new();
        while let Some(function) = open.pop() {
            let name = &self.names[&function];
            if PANICS.iter().any(|panics| name.starts_with(panics)) {
                continue;
            }
            let mut next: Vec<u64> = self.calls.get(&function).into_iter().flatten().copied().collect();
            for pointer in self.by_pointer.get(&function).into_iter().flatten() {
                match pointer.and_then(|pointer| self.pointers.get(&pointer)) {
                    Some(Pointer::Inside(to)) => next.push(*to),
                    Some(Pointer::Outside(outside)) => {
                        reached.insert((outside.clone(), name.clone()));
                    }
                    None => {
                        reached.insert(("a pointer".to_owned(), name.clone()));
                    }
                }
            }
            // An address without a name is a jump inside this function.
            open.extend(next.into_iter().filter(|to| self.names.contains_key(to) && seen.insert(*to)));
        }
        reached
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_handler_calls_nothing_but_a_few_system_calls() {
    let Some(program) = Program::read() else {
        eprintln!("not run: objdump and readelf are not installed");
        return;
    };
    let is_handler = |name: &str| name.ends_with("stack::platform::signal::handle");
    let (&handler, _) = program.names.iter().find(|(_, name)| is_handler(name)).expect("the handler");
    let mut reached = program.reaches(handler);
    println!("{reached:#?}");
    // Leaves out the linker's stubs. A stub calls the loader only for a function whose address is not known yet. A Rust
    // program looks up all addresses at its start.
    reached.retain(|(_, from)| !from.contains("@plt-"));
    // If this crate has not sent the signal, `pass_on` calls the program's own handler by a pointer. That is allowed.
    let is_passed_on = |from: &str| from.contains("signal::pass_on") || is_handler(from);
    reached.retain(|(to, from)| !(to == "a pointer" && is_passed_on(from)));
    reached.retain(|(to, _)| !ALLOWED.contains(&to.as_str()));
    assert!(reached.is_empty(), "{reached:#?}");
}

fn errno_survives(looks: usize) {
    static WRONG: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    let runner = Runner::start(|| {
        // SAFETY: an invalid descriptor is refused.
        let result = unsafe { libc::close(-1) };
        std::hint::black_box((0..1000).map(std::hint::black_box).sum::<u32>());
        let errno = std::io::Error::last_os_error().raw_os_error();
        WRONG.fetch_add(u64::from(result != -1 || errno != Some(libc::EBADF)), Ordering::Relaxed);
        DONE.fetch_add(1, Ordering::Relaxed);
    });
    let target = runner.thread.target();
    for _ in 0..looks {
        assert!(Eyes::copy(&target).stack.registers.is_some());
    }
    runner.stop();
    assert!(DONE.load(Ordering::Relaxed) > 100);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0);
}

#[test]
fn errno_is_left_alone() {
    errno_survives(2000);
}

#[test]
#[ignore = "takes a minute"]
fn errno_is_left_alone_in_100_000_looks() {
    errno_survives(100_000);
}

/// Measures for how long a copy stops a running thread. The thread reads the clock all the time. The longest gap
/// between two of its readings counts.
#[test]
#[ignore = "measures time: for a machine that has nothing else to do, and optimised code"]
fn a_running_thread_stops_for_microseconds() {
    const LOOKS: usize = 2000;
    static LONGEST: AtomicU64 = AtomicU64::new(0);
    let mut last = Instant::now();
    let runner = Runner::start(move || {
        for _ in 0..100 {
            let now = Instant::now();
            let gap = u64::try_from(now.duration_since(last).as_nanos()).unwrap();
            LONGEST.fetch_max(gap, Ordering::Relaxed);
            last = now;
        }
    });
    let target = runner.thread.target();
    let mut pauses: Vec<Duration> = (0..LOOKS)
        .map(|_| {
            runner.until_it_went_on();
            LONGEST.store(0, Ordering::Relaxed);
            assert!(Eyes::copy(&target).stack.is_there());
            runner.until_it_went_on();
            Duration::from_nanos(LONGEST.load(Ordering::Relaxed))
        })
        .collect();
    runner.stop();
    pauses.sort_unstable();
    let [half, most] = [pauses[LOOKS / 2], pauses[LOOKS * 99 / 100]];
    println!("half of the pauses are shorter than {half:?}, 99 of 100 than {most:?}");
    assert!(half < Duration::from_micros(30), "{half:?}");
}
