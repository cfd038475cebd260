//! Tests of the code that works on copies of a thread. With wrong bytes this code may find anything, but it must not
//! panic, hang, or use ever more memory.
//!
//! The bytes come from this process. Some are changed: in the stack, in headers, tables and code, in the list of
//! mappings. Each run has a seed, so a fault can be found again.

use std::env;
use std::fs;
use std::panic;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::platform::{Memory, Modules, Unwinder};
use super::child::in_child;
use super::{Eyes, Thread};
use crate::scope::ReadMemory;

/// A xorshift generator: the same seed gives the same numbers.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Changes bytes at random places: on average one byte in `one_of`.
fn spoil(bytes: &mut [u8], one_of: u64, random: &mut Random) {
    let mut at = random.below(2 * one_of);
    while let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
        *byte = match random.below(4) {
            0 => 0,
            1 => 0xff,
            2 => *byte ^ 1 << random.below(8),
            _ => random.next().to_le_bytes()[0],
        };
        at += 1 + random.below(2 * one_of);
    }
}

/// Memory with wrong bytes, in which some reads are too short. All reads that begin at the same address find the same.
pub(super) struct Spoilt<M> {
    pub(super) memory: M,
    pub(super) seed: u64,
    pub(super) one_of: u64,
}

impl<M: ReadMemory> ReadMemory for Spoilt<M> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let mut random = Random(address.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seed | 1);
        let mut count = self.memory.read(address, into);
        if random.below(64) == 0 {
            count /= 2;
        }
        spoil(&mut into[..count], self.one_of, &mut random);
        count
    }
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(super) fn watch_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(place);
    }));
}

/// The places of the panics in this crate. Panics of framehop are left out.
pub(super) fn panics_of_ours() -> Vec<String> {
    let panics = PANICS.lock().unwrap();
    panics.iter().filter(|place| place.contains("src/report/")).cloned().collect()
}

fn fuzz(time: Duration) {
    watch_panics();
    let thread = Thread::start(|| std::thread::sleep(Duration::from_secs(36_000)));
    thread.until_in("sleep");
    let target = thread.target();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let start = Instant::now();
    let (mut runs, mut frames, mut worst) = (0_u64, 0, Duration::ZERO);
    while start.elapsed() < time {
        let mut random = Random(0x5eed_0000_0000_0001 + 0x9e37_79b9 * runs);
        random.next();
        let mut copy = Eyes::copy(&target);
        if random.below(2) == 0 {
            let one_of = 1 << random.below(12);
            spoil(copy.stack.bytes(), one_of, &mut random);
        }
        if let Some(registers) = &mut copy.stack.registers
            && random.below(8) == 0
        {
            registers.pc = registers.pc.wrapping_add(random.below(4096));
            registers.sp = registers.sp.wrapping_add(random.below(4096));
            registers.fp = (random.below(2) == 0).then(|| random.next());
        }
        let mut maps = maps.clone().into_bytes();
        if random.below(4) == 0 {
            spoil(&mut maps, 1 << (6 + random.below(6)), &mut random);
        }
        let memory = Spoilt { memory: Memory, seed: random.next(), one_of: 1 << (4 + random.below(16)) };
        let began = Instant::now();
        let mut unwinder = Unwinder::with(memory, Modules::default());
        unwinder.rescan(&String::from_utf8_lossy(&maps));
        frames += unwinder.unwind_known(&copy.stack).frames.len();
        worst = worst.max(began.elapsed());
        runs += 1;
    }
    let _ = panic::take_hook();
    let ours = panics_of_ours();
    let all = PANICS.lock().unwrap().len();
    println!("{runs} runs, {frames} frames, the longest {worst:?}, {} panics of framehop", all - ours.len());
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(worst < Duration::from_secs(10), "{worst:?}");
}

#[test]
fn wrong_bytes_do_no_harm() {
    in_child("fuzz::wrong_bytes_do_no_harm", || fuzz(Duration::from_secs(3)));
}

/// Runs for as many seconds as `TIMEBOX_FUZZ_SECONDS` says, or else for ten minutes.
#[test]
#[ignore = "takes ten minutes"]
fn wrong_bytes_do_no_harm_for_long() {
    let seconds = env::var("TIMEBOX_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    fuzz(Duration::from_secs(seconds.unwrap_or(600)));
}
