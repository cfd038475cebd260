//! Leaves a function of `x86_64` that has no unwind table, by its instructions: they are followed until it returns.
//!
//! A function has several ways through its branches. Each way returns to the address that the caller left on the stack.
//! So this follows one way after another, adds up how the way moves the stack pointer, and takes the first way that
//! ends in a `ret`. A way is given up at an instruction that is not known here.

use std::collections::HashSet;

use framehop::UnwindRegsNative;

use super::x86_64::{Found, UNKNOWN, behind_jump, destinations};
use crate::report::stack::copy::StackCopy;
use crate::scope::ReadMemory;

/// How many instructions are followed at most.
const MOST: usize = 1000;

/// The length of the longest instruction.
const LONGEST: usize = 15;

/// A function is taken to contain an address if it begins at most this many bytes before the address.
const NEAR: u64 = 8 << 10;

const SP: u8 = 4;
const FP: u8 = 5;

#[derive(Default)]
struct Instruction {
    len: usize,
    /// The bits W, R, X and B of the prefix REX.
    rex: u8,
    /// An opcode of two bytes has the first byte (0x0f) in the upper half.
    opcode: u16,
    mode: u8,
    /// The two operands: registers, if `mode` is 3. Otherwise `operand` and `index` say how the address is made.
    register: u8,
    operand: u8,
    index: Option<u8>,
    displacement: i32,
    immediate: i32,
}

fn signed(bytes: &[u8]) -> Option<i32> {
    Some(match *bytes {
        [] => 0,
        [byte] => byte.cast_signed().into(),
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d, ..] => i32::from_le_bytes([a, b, c, d]),
        _ => return None,
    })
}

impl Instruction {
    fn parse(code: &[u8]) -> Option<Self> {
        let mut this = Self::default();
        let (mut at, mut is_short) = (0, false);
        loop {
            match *code.get(at)? {
                0x66 => is_short = true,
                0xf0 | 0xf2 | 0xf3 | 0x2e | 0x3e | 0x64 | 0x65 => {}
                rex @ 0x40..=0x4f => this.rex = rex & 0xf,
                _ => break,
            }
            at += 1;
        }
        this.opcode = (*code.get(at)?).into();
        if this.opcode == 0x0f {
            at += 1;
            this.opcode = 0x0f00 | u16::from(*code.get(at)?);
        }
        at += 1;
        let (has_operands, mut immediate) = this.form(is_short)?;
        if has_operands {
            let byte = *code.get(at)?;
            at += 1;
            (this.mode, this.register, this.operand) = (byte >> 6, byte >> 3 & 7, byte & 7);
            if this.mode != 3 && this.operand == 4 {
                this.index = Some(*code.get(at)?);
                at += 1;
            }
            let has_base = this.index.map_or(this.operand, |index| index & 7) != 5;
            let len = match this.mode {
                0 if has_base => 0,
                1 => 1,
                3 => 0,
                _ => 4,
            };
            this.displacement = signed(code.get(at..at + len)?)?;
            at += len;
            if matches!(this.opcode, 0xf6 | 0xf7) && this.register > 1 {
                immediate = 0;
            }
        }
        this.immediate = signed(code.get(at..at + immediate)?)?;
        this.len = at + immediate;
        Some(this)
    }

    /// Whether operands follow the opcode, and how many bytes of a constant follow them.
    #[allow(clippy::match_same_arms)] // first the opcodes of one byte, then those of two
    #[rustfmt::skip] // a table
    fn form(&self, is_short: bool) -> Option<(bool, usize)> {
        let word = if is_short { 2 } else { 4 };
        Some(match self.opcode {
            0x00..=0x3f => match self.opcode & 7 {
                0..=3 => (true, 0),
                4 => (false, 1),
                5 => (false, word),
                _ => return None,
            },
            0x50..=0x5f | 0x90..=0x99 | 0xa4..=0xa7 | 0xaa..=0xaf | 0xc3 | 0xc9 | 0x0f05 | 0x0fc8..=0x0fcf => (false, 0),
            0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xfe | 0xff => (true, 0),
            0x68 | 0xa9 => (false, word),
            0xe8 | 0xe9 | 0x0f80..=0x0f8f => (false, 4),
            0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xeb => (false, 1),
            0x69 | 0x81 | 0xc7 | 0xf7 => (true, word),
            0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 | 0xf6 => (true, 1),
            0xb8..=0xbf => (false, if self.rex & 8 == 0 { word } else { 8 }),
            0x0f10..=0x0f1f | 0x0f28..=0x0f2f | 0x0f40..=0x0f6f | 0x0f74..=0x0f76 | 0x0f7e | 0x0f7f | 0x0f90..=0x0f9f
            | 0x0fa3 | 0x0fab | 0x0fae..=0x0fb1 | 0x0fb3 | 0x0fb6 | 0x0fb7 | 0x0fbb..=0x0fc1 | 0x0fd0..=0x0fef => (true, 0),
            0x0f70..=0x0f73 | 0x0fa4 | 0x0fac | 0x0fba | 0x0fc2 | 0x0fc4..=0x0fc6 => (true, 1),
            _ => return None,
        })
    }

    fn is_register(&self, register: u8) -> bool {
        self.register == register && self.rex & 4 == 0
    }

    /// Whether the second operand is the register itself, not memory.
    fn is_operand(&self, register: u8) -> bool {
        self.mode == 3 && self.operand == register && self.rex & 1 == 0
    }

    /// Whether the second operand is memory at the stack pointer plus `displacement`.
    fn is_on_stack(&self) -> bool {
        self.mode != 3 && self.index == Some(0x24) && matches!(self.rex & 3, 0)
    }

    fn is_at_frame_pointer(&self) -> bool {
        matches!(self.mode, 1 | 2) && self.operand == FP && self.rex & 1 == 0
    }

    fn changes_stack_pointer(&self) -> bool {
        match self.opcode {
            0x03 | 0x0b | 0x13 | 0x1b | 0x23 | 0x2b | 0x33 | 0x63 | 0x69 | 0x6b | 0x8b | 0x8d => {
                self.is_register(SP)
            }
            0x87 => self.is_register(SP) || self.is_operand(SP),
            0x01 | 0x09 | 0x11 | 0x19 | 0x21 | 0x29 | 0x31 | 0x89 | 0xc1 | 0xc7 | 0xd1 | 0xd3 | 0xf7
            | 0xff => self.is_operand(SP),
            0x81 | 0x83 => self.is_operand(SP) && self.register != 7,
            0x8f => true,
            _ => false,
        }
    }
}

#[derive(Clone, Copy)]
struct Way {
    pc: u64,
    sp: u64,
    fp: u64,
    /// Whether the way went past the call of a function. Perhaps that function never returns. Then the code behind the
    /// call belongs to something else.
    passed_call: bool,
}

enum Next {
    On,
    Jump(u64),
    Branch(u64),
    Return,
}

impl Way {
    /// `None`: it is not known how the way goes on. `word` reads the stack.
    fn step(&mut self, instruction: &Instruction, word: &dyn Fn(u64) -> Option<u64>) -> Option<Next> {
        self.pc = self.pc.wrapping_add(instruction.len as u64);
        let behind = |distance: i32| self.pc.wrapping_add_signed(distance.into());
        let moved = |from: u64, distance: i32| from.wrapping_add_signed(distance.into());
        let known = |fp: u64| Some(fp).filter(|&fp| fp != UNKNOWN);
        match instruction.opcode {
            0xc3 => return Some(Next::Return),
            0xe9 | 0xeb => return Some(Next::Jump(behind(instruction.immediate))),
            0x70..=0x7f | 0x0f80..=0x0f8f => return Some(Next::Branch(behind(instruction.immediate))),
            0xe8 => self.passed_call = true,
            0xff if instruction.register == 2 => self.passed_call = true,
            0xff if instruction.register == 6 => self.sp = moved(self.sp, -8),
            0xff if instruction.register > 1 => return None,
            0x50..=0x57 | 0x68 | 0x6a => self.sp = moved(self.sp, -8),
            0x58..=0x5f => {
                match (instruction.opcode & 7, instruction.rex & 1) {
                    (4, 0) => return None,
                    (5, 0) => self.fp = word(self.sp)?,
                    _ => {}
                }
                self.sp = moved(self.sp, 8);
            }
            0xc9 => {
                let fp = known(self.fp)?;
                (self.sp, self.fp) = (moved(fp, 8), word(fp)?);
            }
            0x81 | 0x83 if instruction.is_operand(SP) => match instruction.register {
                0 => self.sp = moved(self.sp, instruction.immediate),
                5 => self.sp = self.sp.wrapping_add_signed(-i64::from(instruction.immediate)),
                7 => {}
                _ => return None,
            },
            0x8d if instruction.is_register(SP) => {
                let base = if instruction.is_on_stack() {
                    self.sp
                } else {
                    known(self.fp).filter(|_| instruction.is_at_frame_pointer())?
                };
                self.sp = moved(base, instruction.displacement);
            }
            0x89 if instruction.is_operand(SP) => {
                self.sp = known(self.fp).filter(|_| instruction.is_register(FP))?;
            }
            0x8b if instruction.is_register(FP) && instruction.rex & 8 != 0 && instruction.is_on_stack() => {
                self.fp = word(moved(self.sp, instruction.displacement))?;
            }
            _ if instruction.changes_stack_pointer() => return None,
            _ => {}
        }
        Some(Next::On)
    }
}

/// Finds the caller of the function that is at `registers`. `is_return`: whether an address follows a call instruction.
///
/// The caller is sure if the way passed no call. It is also sure if its call instruction leads here, or if there is no
/// other return address below the one that was found: a nearer caller would have left one.
pub(in super::super) fn leave(
    memory: &impl ReadMemory,
    stack: &StackCopy,
    is_return: &dyn Fn(u64) -> bool,
    registers: UnwindRegsNative,
) -> Option<Found> {
    let (pc, sp, fp) = (registers.ip(), registers.sp(), registers.bp());
    // What lies below `sp` has yet to be written. Only the frame pointer itself is read from there: it was saved first.
    let word = |address: u64| if address < sp { Some(fp) } else { stack.word(address) };
    let mut ways = vec![Way { pc, sp, fp, passed_call: false }];
    let mut seen = HashSet::new();
    while let Some(mut way) = ways.pop() {
        while seen.len() < MOST && seen.insert(way.pc) {
            let mut code = [0; LONGEST];
            let len = memory.read(way.pc, &mut code);
            let Some(instruction) = Instruction::parse(&code[..len]) else { break };
            match way.step(&instruction, &word) {
                None => break,
                Some(Next::On) => {}
                Some(Next::Jump(to)) => way.pc = to,
                Some(Next::Branch(to)) => ways.push(Way { pc: to, ..way }),
                Some(Next::Return) => {
                    let Some(address) = stack.word(way.sp).filter(|&pc| way.sp >= sp && is_return(pc)) else {
                        break;
                    };
                    let registers = UnwindRegsNative::new(address, way.sp.wrapping_add(8), way.fp);
                    let is_first = || {
                        let mut inner = (sp..way.sp).step_by(8).filter_map(|slot| stack.word(slot));
                        !inner.any(is_return)
                    };
                    let is_sure = !way.passed_call || calls_code_of(memory, address, pc) || is_first();
                    return Some(Found { registers, pc: address, is_sure });
                }
            }
        }
    }
    None
}

/// Whether the call that ends at `address` calls a function that begins not far before `pc`.
fn calls_code_of(memory: &impl ReadMemory, address: u64, pc: u64) -> bool {
    let called = destinations(memory, address).into_iter().flatten();
    let mut called = called.flat_map(|function| [Some(function), behind_jump(memory, function)]).flatten();
    called.any(|function| pc.checked_sub(function).is_some_and(|distance| distance <= NEAR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::stack::copy::Registers;

    const CODE: u64 = 0x1000;
    const STACK: u64 = 0x8000;

    struct Fake<'a>(&'a [u8], &'a [u64]);

    impl ReadMemory for Fake<'_> {
        fn read(&self, address: u64, into: &mut [u8]) -> usize {
            let stack: Vec<u8> = self.1.iter().flat_map(|word| word.to_le_bytes()).collect();
            let parts = [(CODE, self.0), (STACK, &stack[..])];
            let part = parts.into_iter().find_map(|(start, bytes)| {
                let at = usize::try_from(address.checked_sub(start)?).ok()?;
                bytes.get(at..).filter(|rest| !rest.is_empty())
            });
            let Some(part) = part else { return 0 };
            let count = part.len().min(into.len());
            into[..count].copy_from_slice(&part[..count]);
            count
        }
    }

    /// Returns the index of the word from which the return address is taken, the frame pointer, and whether the caller
    /// is sure.
    fn left(code: &[u8], fp: u64) -> Option<(usize, u64, bool)> {
        let words: Vec<u64> = (0..32).map(|number| 0x100 + number).collect();
        let memory = Fake(code, &words);
        let mut stack = StackCopy::with_room(8 * words.len());
        // The copy begins 128 bytes below the stack pointer that it is given.
        stack.fill(Registers { pc: CODE, sp: STACK + 128, ..Registers::default() }, 0, &memory);
        let found = leave(&memory, &stack, &|_| true, UnwindRegsNative::new(CODE, STACK, fp))?;
        let slot = usize::try_from(found.pc - 0x100).unwrap();
        assert_eq!(found.registers.sp(), STACK + 8 * (slot as u64 + 1));
        Some((slot, found.registers.bp(), found.is_sure))
    }

    #[test]
    fn a_system_call_at_the_end_of_a_function_is_left() {
        // syscall; ret
        assert_eq!(left(&[0x0f, 0x05, 0xc3], 7), Some((0, 7, true)));
        // mov %rax, %rdi; call; add $0x50, %rsp; pop %rbp; ret
        let code = [0x48, 0x89, 0xc7, 0xe8, 0, 1, 0, 0, 0x48, 0x83, 0xc4, 0x50, 0x5d, 0xc3];
        assert_eq!(left(&code, UNKNOWN), Some((11, 0x10a, false)));
        // pop %rdx; pop %rcx; neg %eax; add $8, %rsp; ret
        assert_eq!(left(&[0x5a, 0x59, 0xf7, 0xd8, 0x48, 0x83, 0xc4, 8, 0xc3], 7), Some((3, 7, true)));
    }

    #[test]
    fn jumps_are_followed() {
        // pop %rsi; jmp over a byte; ret
        assert_eq!(left(&[0x5e, 0xeb, 1, 0xcc, 0xc3], 7), Some((1, 7, true)));
        // A loop that only its branch leaves: je to `pop; ret`; jmp back.
        assert_eq!(left(&[0x74, 2, 0xeb, 0xfc, 0x58, 0xc3], 7), Some((1, 7, true)));
    }

    #[test]
    fn what_a_function_pushes_it_pops() {
        // push %rbp; push $0; pop %rax; pop %rbp; ret
        assert_eq!(left(&[0x55, 0x6a, 0, 0x58, 0x5d, 0xc3], 7), Some((0, 7, true)));
    }

    #[test]
    fn a_function_that_needs_an_unknown_frame_pointer_is_not_left() {
        // leave; ret
        assert_eq!(left(&[0xc9, 0xc3], UNKNOWN), None);
        assert_eq!(left(&[0xc9, 0xc3], STACK + 8), Some((2, 0x101, true)));
        // lea -8(%rbp), %rsp; pop %rbx; pop %rbp; ret
        assert_eq!(left(&[0x48, 0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3], STACK + 16), Some((3, 0x102, true)));
        // mov %rax, %rsp; ret, and an endless loop
        assert_eq!(left(&[0x48, 0x89, 0xc4, 0xc3], 7), None);
        assert_eq!(left(&[0xeb, 0xfe], 7), None);
    }

    #[test]
    fn no_bytes_are_harmful() {
        let mut bytes = [0_u8; 64];
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            for byte in &mut bytes {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = seed.to_be_bytes()[0];
            }
            left(&bytes, UNKNOWN);
        }
    }
}
