//! The copy of a thread: registers, stack, scopes. Made without unwinding and without allocation.

use std::time::Duration;

use super::reason::{Reason, Reasons};
#[cfg(feature = "profile")]
use super::visits::Visits;
use crate::scope::{ReadMemory, ScopeCopies};

/// How many bytes of a stack are copied at least, unless the stack has fewer. A copy for a profile may have fewer,
/// because it has only the part that is profiled.
const LEAST: usize = 64 << 10;

/// How many bytes of a stack are copied at most.
pub(super) const MOST: usize = 256 << 10;

/// How many bytes are copied above the outermost `Scope`. The `Scope` is a local of the function that opened the scope,
/// and the rest of that function's frame must be copied too. (For a profile: above the address of the outermost visit.)
const BEYOND: u64 = 16 << 10;

/// How many bytes below the stack pointer a function may use, on `x86_64`.
const RED_ZONE: u64 = 128;

/// The addresses of words in which a thread says what it does. 0 for a word that is not to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words {
    /// The address of the word that points to the thread's innermost `Scope`.
    pub(crate) frame: u64,
    /// The address of the word that points to the record of the thread's innermost visit to a profile.
    #[cfg(feature = "profile")]
    pub(crate) visit: u64,
}

impl Words {
    pub(super) fn of_frame(frame: u64) -> Self {
        Self {
            frame,
            #[cfg(feature = "profile")]
            visit: 0,
        }
    }
}

/// The registers from which unwinding begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) pc: u64,
    pub(crate) sp: u64,
    pub(crate) fp: Option<u64>,
    /// The link register, on aarch64. `None` if it is not known.
    pub(crate) lr: Option<u64>,
    /// Whether the thread is in a system call. If so, `pc` is just after the instruction that made the call.
    pub(crate) in_call: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    address: u64,
    len: usize,
    offset: usize,
}

/// The copied bytes of a stack: the innermost part, and, if the stack is large, a second part around the outermost
/// scope (for a profile: around the outermost visit).
pub(crate) struct StackCopy {
    /// `None` if there is no stack: [`Contents::reasons`] say why.
    pub(crate) registers: Option<Registers>,
    parts: [Part; 2],
    buffer: Box<[u8]>,
}

impl StackCopy {
    pub(super) fn with_room(len: usize) -> Self {
        Self { registers: None, parts: [Part::default(); 2], buffer: vec![0; len].into_boxed_slice() }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.registers.is_some()
    }

    pub(super) fn clear(&mut self) {
        self.registers = None;
        self.parts = [Part::default(); 2];
    }

    /// Copies the stack of the calling thread, or of a thread that does not run. `outermost`: the highest address that
    /// the copy must contain; 0 if no such address is known. Neither allocates nor panics.
    pub(super) fn fill(&mut self, registers: Registers, outermost: u64, memory: &impl ReadMemory) {
        self.fill_at_least(LEAST, registers, outermost, memory);
    }

    fn fill_at_least(
        &mut self,
        least: usize,
        registers: Registers,
        outermost: u64,
        memory: &impl ReadMemory,
    ) {
        self.clear();
        let start = registers.sp.saturating_sub(RED_ZONE) & !7;
        let wanted = outermost.saturating_add(BEYOND).saturating_sub(start);
        let room = self.buffer.len().min(MOST);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if outermost < start || wanted <= room {
            self.copy_part(0, start, 0, wanted.clamp(least.min(room), room), memory);
        } else {
            let half = room / 2;
            self.copy_part(0, start, 0, half, memory);
            let second = outermost.saturating_add(BEYOND).saturating_sub(half as u64) & !7;
            self.copy_part(1, second, half, half, memory);
        }
        if self.parts[0].len > 0 {
            self.registers = Some(registers);
        }
    }

    fn copy_part(&mut self, part: usize, address: u64, offset: usize, len: usize, memory: &impl ReadMemory) {
        let Some(into) = self.buffer.get_mut(offset..offset + len) else { return };
        let len = memory.read(address, into).min(len);
        self.parts[part] = Part { address, len, offset };
    }

    pub(super) fn word(&self, address: u64) -> Option<u64> {
        self.parts.iter().find_map(|part| {
            let at = usize::try_from(address.checked_sub(part.address)?).ok()?;
            let end = at.checked_add(8).filter(|&end| end <= part.len)?;
            let bytes = self.buffer.get(part.offset + at..part.offset + end)?;
            bytes.try_into().ok().map(u64::from_le_bytes)
        })
    }

    /// The addresses of the second part, if the copy has one.
    pub(super) fn outer_part(&self) -> Option<std::ops::Range<u64>> {
        let part = self.parts[1];
        (part.len > 0).then(|| part.address..part.address + part.len as u64)
    }

    #[cfg(test)]
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let len = self.parts[0].len;
        &mut self.buffer[..len]
    }
}

impl std::fmt::Debug for StackCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { registers, parts, buffer: _ } = self;
        f.debug_struct("StackCopy")
            .field("registers", registers)
            .field("parts", parts)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// The thread ran, or was ready to run.
    Running,
    /// The thread was blocked, in the system call [`Contents::call`].
    Blocked,
    Gone,
    #[default]
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
}

/// For how long a thread has run, and has waited for a processor, since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuTimes {
    pub(crate) run: Duration,
    pub(crate) waited: Duration,
}

pub(crate) struct Contents {
    pub(crate) tid: u32,
    pub(crate) stack: StackCopy,
    pub(crate) scopes: ScopeCopies,
    /// The thread's visits to profiles. Empty if they were not asked for.
    #[cfg(feature = "profile")]
    pub(crate) visits: Visits,
    /// If this is `true`, the scopes (and the stack, if there is one) were copied at one moment, while the thread stood
    /// still. If it is `false`, the scopes were read twice while the thread ran, and were the same both times.
    pub(crate) is_consistent: bool,
    pub(crate) call: Option<Call>,
    pub(crate) state: State,
    /// The processor time that the thread has used since it began, if that is known.
    pub(crate) cpu_time: Option<Duration>,
    /// For how long, since its start, the thread was ready to run but got no processor, if that is known.
    pub(crate) waited_for_cpu: Option<Duration>,
    /// The time of the copy, on the crate's clock.
    pub(crate) at: u64,
    pub(crate) reasons: Reasons,
}

impl Contents {
    /// `room`: how many bytes of the stack can be copied.
    pub(super) fn new(room: usize) -> Self {
        Self {
            tid: 0,
            stack: StackCopy::with_room(room),
            scopes: ScopeCopies::new(),
            #[cfg(feature = "profile")]
            visits: Visits::default(),
            is_consistent: false,
            call: None,
            state: State::Unknown,
            cpu_time: None,
            waited_for_cpu: None,
            at: 0,
            reasons: Reasons::default(),
        }
    }

    pub(super) fn clear(&mut self, tid: u32) {
        self.tid = tid;
        self.stack.clear();
        self.scopes.clear();
        #[cfg(feature = "profile")]
        self.visits.clear();
        self.is_consistent = false;
        self.call = None;
        self.state = State::Unknown;
        self.cpu_time = None;
        self.waited_for_cpu = None;
        self.at = 0;
        self.reasons = Reasons::default();
    }

    /// Copies the scopes (for a profile: the visits) and the stack of a thread. The thread must stand still, or be the
    /// calling thread. Does not allocate, and does not panic.
    pub(super) fn fill(&mut self, registers: Registers, words: Words, memory: &impl ReadMemory) {
        #[cfg(feature = "profile")]
        if words.visit != 0 {
            return self.fill_for_profiles(registers, words.visit, memory);
        }
        if words.frame != 0 {
            self.scopes.fill(words.frame, memory);
        }
        let outermost = self.scopes.scopes().iter().map(|scope| scope.frame);
        // A frame with a lower address than the stack pointer is on another stack, so it does not count.
        let outermost = outermost.filter(|&frame| frame >= registers.sp).max().unwrap_or(0);
        self.stack.fill(registers, outermost, memory);
    }

    #[cfg(feature = "profile")]
    fn fill_for_profiles(&mut self, registers: Registers, word: u64, memory: &impl ReadMemory) {
        self.visits.fill(word, memory);
        let addresses = self.visits.iter().map(|visit| visit.stack);
        match addresses.filter(|&address| address >= registers.sp).max() {
            Some(outermost) => self.stack.fill_at_least(0, registers, outermost, memory),
            None if self.visits.is_empty() => {}
            None => self.stack.fill(registers, 0, memory),
        }
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.reasons.sentences()
    }

    pub(super) fn because(&mut self, reason: Reason) {
        self.reasons.add(reason);
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tid, stack, call, state, is_consistent, reasons, .. } = self;
        f.debug_struct("Copy")
            .field("tid", tid)
            .field("state", state)
            .field("call", call)
            .field("stack", stack)
            .field("is_consistent", is_consistent)
            .field("reasons", reasons)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;

    impl ReadMemory for Zeros {
        fn read(&self, _: u64, into: &mut [u8]) -> usize {
            into.len()
        }
    }

    #[test]
    fn an_outermost_address_near_the_end_of_the_address_space_is_no_overflow() {
        let mut copy = StackCopy::with_room(MOST);
        copy.fill(Registers { sp: 1 << 20, ..Registers::default() }, u64::MAX - 7, &Zeros);
        assert!(copy.outer_part().is_some_and(|part| part.end > u64::MAX - 16));
    }
}
