//! Unwinds recorded stacks, as they are and with wrong bytes. They were recorded on `x86_64`, from a small library,
//! together with its unwind tables and its code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, mem, panic, ptr, thread};

use super::super::State;
use super::super::copy::{Registers, StackCopy};
use super::super::platform::{Memory, Modules, Unwinder};
use super::super::raw::RawStack;
use super::child::in_child;
use super::fuzz::{Spoilt, panics_of_ours, watch_panics};
use super::{Eyes, Thread};
use crate::scope::ReadMemory;

const RECORDED: [(&str, &str); 3] = [
    ("sleeps", include_str!("../../../../tests/fixtures/stacks/sleeps.txt")),
    ("spins", include_str!("../../../../tests/fixtures/stacks/spins.txt")),
    ("handles", include_str!("../../../../tests/fixtures/stacks/handles.txt")),
];

const STACK: usize = 3 << 10;

#[derive(Default)]
struct Recorded {
    registers: Registers,
    maps: String,
    /// By address: the stack, and the other memory that the unwinder has read.
    memory: BTreeMap<u64, Vec<u8>>,
    frames: Vec<u64>,
}

impl ReadMemory for &Recorded {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let parts = self.memory.range(..=address).filter_map(|(&start, bytes)| {
            bytes.get(usize::try_from(address - start).ok()?..).filter(|rest| !rest.is_empty())
        });
        let Some(longest) = parts.max_by_key(|rest| rest.len()) else { return 0 };
        let count = longest.len().min(into.len());
        into[..count].copy_from_slice(&longest[..count]);
        count
    }
}

impl Recorded {
    fn parse(text: &str) -> Self {
        let mut recorded = Self::default();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ').unwrap();
            let words: Vec<&str> = rest.split(' ').collect();
            match kind {
                "registers" => {
                    let fp = (words[2] != "-").then(|| hex(words[2]));
                    let (pc, sp, in_call) = (hex(words[0]), hex(words[1]), words[3] == "call");
                    recorded.registers = Registers { pc, sp, fp, lr: None, in_call };
                }
                "map" => recorded.maps.extend([rest, "\n"]),
                "memory" => {
                    let bytes = words[1].as_bytes().chunks(2);
                    let byte = |digits: &[u8]| hex(std::str::from_utf8(digits).unwrap()).to_le_bytes()[0];
                    recorded.memory.insert(hex(words[0]), bytes.map(byte).collect());
                }
                "frames" => recorded.frames = words.into_iter().map(hex).collect(),
                _ => panic!("{line}"),
            }
        }
        recorded
    }

    fn to_text(&self) -> String {
        let Registers { pc, sp, fp, in_call, .. } = self.registers;
        let fp = fp.map_or("-".to_owned(), |fp| format!("{fp:x}"));
        let mut text = format!("registers {pc:x} {sp:x} {fp} {}\n", if in_call { "call" } else { "-" });
        self.maps.lines().for_each(|line| writeln!(text, "map {line}").unwrap());
        for (address, bytes) in &self.memory {
            write!(text, "memory {address:x} ").unwrap();
            bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            text.push('\n');
        }
        let frames: Vec<_> = self.frames.iter().map(|frame| format!("{frame:x}")).collect();
        writeln!(text, "frames {}", frames.join(" ")).unwrap();
        text
    }

    fn stack(&self, memory: &impl ReadMemory) -> StackCopy {
        let mut stack = StackCopy::with_room(STACK);
        stack.fill(self.registers, 0, memory);
        stack
    }

    fn unwind(&self, memory: impl ReadMemory, stack: &StackCopy) -> RawStack {
        let mut unwinder = Unwinder::with(memory, Modules::default());
        unwinder.rescan(&self.maps);
        unwinder.unwind_known(stack)
    }
}

fn addresses(raw: &RawStack) -> Vec<u64> {
    raw.frames.iter().map(|frame| frame.address).collect()
}

#[test]
fn recorded_stacks_are_unwound_again() {
    for (name, text) in RECORDED {
        let recorded = Recorded::parse(text);
        let raw = recorded.unwind(&recorded, &recorded.stack(&&recorded));
        assert_eq!(addresses(&raw), recorded.frames, "{name}");
        assert!(raw.truncated && !raw.approximate, "{name}: {:?}", raw.notes);
    }
}

#[test]
fn recorded_stacks_with_wrong_bytes_do_no_harm() {
    in_child("recorded::recorded_stacks_with_wrong_bytes_do_no_harm", || {
        watch_panics();
        let start = Instant::now();
        for (_, text) in RECORDED {
            let recorded = Recorded::parse(text);
            for seed in 1..=1000_u64 {
                let one_of = 1 << (2 + seed % 10);
                let spoilt = || Spoilt { memory: &recorded, seed: seed.wrapping_mul(0x9e37_79b9), one_of };
                let stack = recorded.stack(&spoilt());
                recorded.unwind(spoilt(), &stack);
            }
        }
        let _ = panic::take_hook();
        let ours = panics_of_ours();
        assert!(ours.is_empty(), "{ours:#?}");
        assert!(start.elapsed() < Duration::from_secs(300));
    });
}

struct Recorder(RefCell<BTreeMap<u64, Vec<u8>>>);

impl ReadMemory for &Recorder {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let count = Memory.read(address, into);
        let mut read = self.0.borrow_mut();
        let before = read.entry(address).or_default();
        if before.len() < count {
            *before = into[..count].to_vec();
        }
        count
    }
}

/// Whether the address is in this function.
fn is_in(function: usize, address: u64) -> bool {
    let address = ptr::without_provenance(usize::try_from(address).unwrap());
    // SAFETY: zero is a valid `Dl_info`.
    let mut info: libc::Dl_info = unsafe { mem::zeroed() };
    // SAFETY: `dladdr` only looks the address up, and `info` is valid for writes.
    let found = unsafe { libc::dladdr(address, &raw mut info) };
    found != 0 && info.dli_saddr.addr() == function
}

/// Writes the stack of the thread, as soon as it is in this function.
fn record(folder: &Path, name: &str, thread: &Thread, function: usize, blocked: bool) {
    let target = thread.target();
    let start = Instant::now();
    let copy = loop {
        let copy = Eyes::copy(&target);
        let is_there = copy.stack.registers.is_some_and(|registers| is_in(function, registers.pc));
        if copy.stack.is_there() && is_there && (copy.state == State::Blocked) == blocked {
            break copy;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not in `{name}`");
        thread::sleep(Duration::from_millis(1));
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let maps: Vec<&str> = maps.lines().filter(|line| line.contains("librecorded")).collect();
    let maps = maps.join("\n").replace(folder.to_str().unwrap(), "") + "\n";
    let reads = Recorder(RefCell::default());
    let mut recorded = Recorded { registers: copy.stack.registers.unwrap(), maps, ..Recorded::default() };
    let stack = recorded.stack(&&reads);
    recorded.frames = addresses(&recorded.unwind(&reads, &stack));
    recorded.memory = reads.0.into_inner();
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stacks").join(format!("{name}.txt"));
    fs::write(to, recorded.to_text()).unwrap();
}

/// Writes the recorded stacks in `tests/fixtures/stacks` anew. Run it with
/// `cargo test --lib --features report record_stacks -- --ignored`.
#[test]
#[ignore = "writes the fixtures anew"]
fn record_stacks() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stacks/library.c");
    let library = folder.path().join("librecorded.so");
    let mut compiler = Command::new("cc");
    compiler.args([
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-O1",
        "-s",
        "-fcf-protection=none",
        "-Wl,--build-id",
        "-o",
    ]);
    assert!(compiler.arg(&library).arg(source).status().unwrap().success());
    let path = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: the library has no code that runs when it is loaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: `library` is open, and `name` ends with a zero byte.
    let symbol = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) }.expose_provenance();
    let (enter, sleeps, spins) = (symbol(c"enter"), symbol(c"sleeps"), symbol(c"spins"));
    let start = |leaf: usize| {
        Thread::start(move || {
            static TIME: libc::timespec = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
            // SAFETY: the function has this type, and the leaf reads a time, or nothing.
            unsafe {
                let enter: extern "C" fn(usize, *const libc::timespec) -> libc::c_long =
                    mem::transmute(enter);
                enter(leaf, &raw const TIME);
            }
        })
    };
    let (sleeper, spinner) = (start(sleeps), start(spins));
    record(folder.path(), "sleeps", &sleeper, sleeps, true);
    record(folder.path(), "spins", &spinner, spins, false);
    let handles = symbol(c"handles");
    // SAFETY: the handler is safe at any moment.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handles;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()), 0);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), spinner.tid, libc::SIGUSR2);
    }
    record(folder.path(), "handles", &spinner, handles, false);
}
