//! What unwinding needs to know of `x86_64`: calls, prologues, signal frames.

use framehop::UnwindRegsNative;

use super::super::super::copy::{Registers, StackCopy};
use crate::scope::ReadMemory;

/// Stands for a frame pointer that is not known. There is no memory at this address, so unwinding a frame that needs
/// the frame pointer fails. (From 0 framehop would conclude that the stack ends.)
pub(super) const UNKNOWN: u64 = !7;

/// The length of the longest call instruction, without prefixes.
const CALL: usize = 7;

pub(in super::super) fn to_framehop(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.pc, registers.sp, registers.fp.unwrap_or(UNKNOWN))
}

pub(in super::super) fn knows_frame_pointer(registers: &UnwindRegsNative) -> bool {
    registers.bp() != UNKNOWN
}

/// The registers of the caller, of which only the program counter and the stack pointer are known.
pub(in super::super) fn caller(pc: u64, sp: u64) -> UnwindRegsNative {
    UnwindRegsNative::new(pc, sp, UNKNOWN)
}

pub(in super::super) fn moved(registers: UnwindRegsNative, pc: u64, sp: u64) -> UnwindRegsNative {
    UnwindRegsNative::new(pc, sp, registers.bp())
}

pub(in super::super) fn with_frame_pointer(
    registers: UnwindRegsNative,
    of: UnwindRegsNative,
) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.ip(), registers.sp(), of.bp())
}

/// Return addresses are not signed on this processor.
pub(in super::super) fn without_signature(address: u64) -> u64 {
    address
}

/// Finds nothing: only the search for a missing return address needs this, and on this processor none is missing.
pub(in super::super) fn callee(_memory: &impl ReadMemory, _address: u64) -> Option<u64> {
    None
}

/// Finds nothing: linkers for this processor write unwind tables for their stubs.
pub(in super::super) fn caller_of_stub(
    _memory: &impl ReadMemory,
    _registers: UnwindRegsNative,
    _pc: u64,
) -> Option<Found> {
    None
}

fn word(memory: &impl ReadMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (memory.read(address, &mut bytes) == 8).then(|| u64::from_le_bytes(bytes))
}

fn before(memory: &impl ReadMemory, address: u64) -> Option<[u8; CALL]> {
    let mut bytes = [0; CALL];
    (memory.read(address.checked_sub(CALL as u64)?, &mut bytes) == CALL).then_some(bytes)
}

pub(in super::super) fn is_after_call(memory: &impl ReadMemory, address: u64) -> bool {
    let Some(code) = before(memory, address) else { return false };
    // `call rel32`, or `call r/m64` of 2, 3, 4, 6 or 7 bytes.
    let is_indirect = |len: usize| {
        let at = CALL - len;
        if code[at] != 0xff || code[at + 1] >> 3 & 7 != 2 {
            return false;
        }
        let (mode, operand) = (code[at + 1] >> 6, code[at + 1] & 7);
        let has_index = operand == 4 && mode != 3;
        let displacement = match mode {
            0 if operand == 5 => 4,
            0 if has_index && code.get(at + 2).is_some_and(|index| index & 7 == 5) => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        2 + usize::from(has_index) + displacement == len
    };
    code[2] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(is_indirect)
}

/// Whether the instructions at `pc` are the last of a jump to the code that catches a panic. At these instructions, the
/// frame pointer already belongs to the frame that the jump leads to.
pub(in super::super) fn ends_jump(memory: &impl ReadMemory, pc: u64) -> bool {
    const END: [u8; 6] = [0x48, 0x89, 0xcc, 0x59, 0xff, 0xe1]; // mov %rcx, %rsp; pop %rcx; jmp *%rcx
    let mut code = [0; END.len()];
    let len = memory.read(pc, &mut code);
    [0, 3, 4].into_iter().any(|from| code[..len].starts_with(&END[from..]))
}

fn displaced(from: u64, bytes: &[u8]) -> Option<u64> {
    let displacement = i32::from_le_bytes(bytes.try_into().ok()?);
    Some(from.wrapping_add_signed(displacement.into()))
}

/// Where the call instruction that ends at `address` leads: its target, and the target of the linker's stub that it
/// calls. A target may also be in the linker's table of addresses.
pub(super) fn destinations(memory: &impl ReadMemory, address: u64) -> [Option<u64>; 2] {
    let destinations = || {
        let code = before(memory, address)?;
        let target = displaced(address, &code[3..])?;
        match code {
            [_, _, 0xe8, ..] => Some([Some(target), behind_stub(memory, target)]),
            [_, 0xff, 0x15, ..] => Some([word(memory, target), None]),
            _ => None,
        }
    };
    destinations().unwrap_or_default()
}

fn behind_stub(memory: &impl ReadMemory, stub: u64) -> Option<u64> {
    let mut code = [0; 10];
    let len = memory.read(stub, &mut code);
    let at = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    if len < at + 6 || code[at..at + 2] != [0xff, 0x25] {
        return None;
    }
    word(memory, displaced(stub.wrapping_add(at as u64 + 6), &code[at + 2..at + 6])?)
}

/// Where the function at `address` jumps to, if it does nothing else.
pub(super) fn behind_jump(memory: &impl ReadMemory, address: u64) -> Option<u64> {
    let mut code = [0; 5];
    let len = memory.read(address, &mut code);
    (len == code.len() && code[0] == 0xe9).then(|| displaced(address.wrapping_add(5), &code[1..]))?
}

/// Whether the call instruction that ends at `address` calls `function`: directly, through a stub of the linker, or
/// through the linker's table of addresses.
pub(in super::super) fn calls(memory: &impl ReadMemory, address: u64, function: u64) -> bool {
    destinations(memory, address).contains(&Some(function))
}

/// Whether the call that ends at `address` is the outermost of its thread. So it is in musl, which writes no unwind
/// tables for this code: a thread calls its function, and then leaves by the system call `exit`. A program begins with
/// a stack pointer that is rounded, and a call.
pub(in super::super) fn is_outermost(memory: &impl ReadMemory, address: u64) -> bool {
    const EXIT: [u8; 8] = [0x89, 0xc7, 0x31, 0xc0, 0xb0, 60, 0x0f, 0x05]; // mov %eax, %edi; xor %eax, %eax; mov $60, %al; syscall
    const BEGIN: [u8; 5] = [0x48, 0x83, 0xe4, 0xf0, 0xe8]; // and $-16, %rsp; call
    let has = |address: u64, expected: &[u8]| {
        let mut code = [0; 8];
        let code = &mut code[..expected.len()];
        memory.read(address, code) == expected.len() && code == expected
    };
    has(address, &EXIT) || has(address.wrapping_sub(9), &BEGIN)
}

/// How far the frame pointer is above the stack pointer in the body of a function. `None` if the function keeps no
/// frame pointer, or if its prologue does not tell.
fn frame_pointer_offset(memory: &impl ReadMemory, function: u64) -> Option<u64> {
    let mut bytes = [0; 48];
    let len = memory.read(function, &mut bytes);
    let mut code = bytes.get(..len)?;
    code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    // push rbp; mov rbp, rsp
    code = code.strip_prefix(&[0x55, 0x48, 0x89, 0xe5])?;
    let mut offset = 0;
    loop {
        match code {
            [0x50..=0x57, rest @ ..] | [0x41, 0x50..=0x57, rest @ ..] => {
                offset += 8;
                code = rest;
            }
            // sub rsp
            [0x48, 0x83, 0xec, room, ..] => return Some(offset + u64::from(*room)),
            [0x48, 0x81, 0xec, a, b, c, d, ..] => {
                return Some(offset + u64::from(u32::from_le_bytes([*a, *b, *c, *d])));
            }
            // and rsp: this aligns the stack pointer, so the distance is not known.
            [0x48, 0x83, 0xe4, ..] | [] => return None,
            _ => return Some(offset),
        }
    }
}

pub(in super::super) struct Found {
    pub(in super::super) registers: UnwindRegsNative,
    pub(in super::super) pc: u64,
    /// If this is `false`, the frame may be that of another function.
    pub(in super::super) is_sure: bool,
}

/// Returns `registers`, but with the frame pointer of the function whose caller is `found`: it points to the value that
/// the function has saved, just below the return address.
pub(in super::super) fn with_record(registers: UnwindRegsNative, found: &Found) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.ip(), registers.sp(), found.registers.sp().wrapping_sub(16))
}

/// How many bytes above the stack pointer are searched for a frame.
const FAR: u64 = 64 << 10;

/// Finds the caller of `function`, if the frame pointer is not known. `function` must save the frame pointer, because
/// the return address is next to the saved value. Looks first where the function's prologue puts both. If there is no
/// return address there, takes the first return address on the stack that follows a call of `function`.
pub(in super::super) fn recover(
    memory: &impl ReadMemory,
    stack: &StackCopy,
    is_code: &dyn Fn(u64) -> bool,
    function: Option<u64>,
    sp: u64,
) -> Option<Found> {
    let function = function?;
    let found = |fp: u64| {
        let (outer, pc) = (stack.word(fp)?, stack.word(fp.checked_add(8)?)?);
        let registers = UnwindRegsNative::new(pc, fp.wrapping_add(16), outer);
        let found = || Found { registers, pc, is_sure: true };
        is_code(pc).then(found)
    };
    if let Some(offset) = frame_pointer_offset(memory, function)
        && let Some(found) = found(sp.wrapping_add(offset))
        && is_after_call(memory, found.pc)
    {
        return Some(found);
    }
    let slots = (sp..sp.saturating_add(FAR)).step_by(8);
    let mut slots = slots.take_while(|&slot| stack.word(slot).is_some());
    slots.find_map(|slot| found(slot).filter(|found| calls(memory, found.pc, function)))
}

/// Whether `address` has the C library's code to which a signal handler returns: `mov rax, 15; syscall`.
pub(in super::super) fn is_end_of_handler(memory: &impl ReadMemory, address: u64) -> bool {
    const CODE: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
    let mut code = [0; CODE.len()];
    memory.read(address, &mut code) == CODE.len() && code == CODE
}

/// The thread's registers from before a signal. `sp` is the address of the `ucontext_t` in which the kernel has saved
/// them.
pub(in super::super) fn interrupted(stack: &StackCopy, sp: u64) -> Option<Registers> {
    let register = |offset: u64| stack.word(sp.checked_add(offset)?);
    Some(Registers {
        fp: Some(register(120)?),
        sp: register(160)?,
        pc: register(168)?,
        ..Registers::default()
    })
}
