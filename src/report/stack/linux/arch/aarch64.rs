//! What unwinding needs to know of aarch64: calls, frame records, signal frames.

use framehop::UnwindRegsNative;
use framehop::aarch64::PtrAuthMask;

use super::super::super::copy::{Registers, StackCopy};
use crate::scope::ReadMemory;

/// Stands for a register that is not known. There is no memory at this address, so unwinding a frame that needs the
/// register fails.
const UNKNOWN: u64 = 0x0000_ffff_ffff_fff0;

/// The bits of a return address that are the address: the lowest 48. The bits above them may hold a signature.
fn mask() -> PtrAuthMask {
    PtrAuthMask(0x0000_ffff_ffff_ffff)
}

pub(in super::super) fn to_framehop(registers: &Registers) -> UnwindRegsNative {
    let (lr, fp) = (registers.lr.unwrap_or(UNKNOWN), registers.fp.unwrap_or(UNKNOWN));
    UnwindRegsNative::new_with_ptr_auth_mask(mask(), lr, registers.sp, fp)
}

pub(in super::super) fn knows_frame_pointer(registers: &UnwindRegsNative) -> bool {
    registers.fp() != UNKNOWN
}

/// The registers of the caller, of which only the program counter and the stack pointer are known.
pub(in super::super) fn caller(_pc: u64, sp: u64) -> UnwindRegsNative {
    UnwindRegsNative::new_with_ptr_auth_mask(mask(), UNKNOWN, sp, UNKNOWN)
}

pub(in super::super) fn moved(registers: UnwindRegsNative, pc: u64, sp: u64) -> UnwindRegsNative {
    UnwindRegsNative::new_with_ptr_auth_mask(mask(), pc, sp, registers.fp())
}

pub(in super::super) fn with_frame_pointer(
    registers: UnwindRegsNative,
    of: UnwindRegsNative,
) -> UnwindRegsNative {
    UnwindRegsNative::new_with_ptr_auth_mask(mask(), registers.lr(), registers.sp(), of.fp())
}

fn instructions<const N: usize>(memory: &impl ReadMemory, address: u64) -> Option<[u32; N]> {
    let mut code = [0; 4];
    let mut at = |index: usize| {
        let address = address.checked_add(4 * index as u64)?;
        (memory.read(address, &mut code) == 4).then(|| u32::from_le_bytes(code))
    };
    let mut found = [0; N];
    for (index, instruction) in found.iter_mut().enumerate() {
        *instruction = at(index)?;
    }
    Some(found)
}

/// Sign-extends the lowest `bits` of a number.
fn signed(number: u32, bits: u32) -> i64 {
    i64::from((number << (32 - bits)).cast_signed() >> (32 - bits))
}

pub(in super::super) fn without_signature(address: u64) -> u64 {
    address & mask().0
}

/// Where the call instruction that ends at `address` jumps to. `None` if it takes the target from a register.
fn target(memory: &impl ReadMemory, address: u64) -> Option<u64> {
    let from = address.checked_sub(4)?;
    let [call] = instructions(memory, from)?;
    (call & 0xfc00_0000 == 0x9400_0000).then(|| from.wrapping_add_signed(signed(call, 26) * 4))
}

/// The function that a stub of the linker jumps to. `None` if there is no stub at `address`.
fn behind_stub(memory: &impl ReadMemory, address: u64) -> Option<u64> {
    // bti c
    let [first] = instructions(memory, address)?;
    let stub = if first == 0xd503_245f { address + 4 } else { address };
    // adrp x16, page; ldr x17, [x16, offset]
    let [adrp, ldr] = instructions(memory, stub)?;
    if adrp & 0x9f00_001f != 0x9000_0010 || ldr & 0xffc0_03ff != 0xf940_0211 {
        return None;
    }
    let pages = signed((adrp >> 5 & 0x7_ffff) << 2 | adrp >> 29 & 3, 21);
    let pointer =
        (stub & !0xfff).wrapping_add_signed(pages << 12).wrapping_add(u64::from(ldr >> 10 & 0xfff) * 8);
    let mut word = [0; 8];
    (memory.read(pointer, &mut word) == 8).then(|| u64::from_le_bytes(word))
}

/// The function that is called by the call instruction that ends at `address`. `None` if it is called by a pointer.
pub(in super::super) fn callee(memory: &impl ReadMemory, address: u64) -> Option<u64> {
    let target = target(memory, address)?;
    Some(behind_stub(memory, target).unwrap_or(target))
}

/// Whether the call instruction that ends at `address` calls `function`: directly, or by a stub of the linker.
pub(in super::super) fn calls(memory: &impl ReadMemory, address: u64, function: u64) -> bool {
    let target = target(memory, address);
    target == Some(function) || target.and_then(|stub| behind_stub(memory, stub)) == Some(function)
}

/// Whether a call instruction ends at `address`: `bl`, or `blr` with or without authentication.
pub(in super::super) fn is_after_call(memory: &impl ReadMemory, address: u64) -> bool {
    let mut code = [0; 4];
    let Some(start) = address.checked_sub(4) else { return false };
    if address % 4 != 0 || memory.read(start, &mut code) != 4 {
        return false;
    }
    let code = u32::from_le_bytes(code);
    code & 0xfc00_0000 == 0x9400_0000 || code & 0xfeff_f000 == 0xd63f_0000
}

/// On `x86_64` this recognises the end of a jump to the code that catches a panic, so that the stack is marked as
/// approximate. Here it recognises nothing: such a stack may be wrong, and is not marked.
pub(in super::super) fn ends_jump(_memory: &impl ReadMemory, _pc: u64) -> bool {
    false
}

pub(in super::super) struct Found {
    pub(in super::super) registers: UnwindRegsNative,
    pub(in super::super) pc: u64,
    /// If this is `false`, the frame may be that of another function.
    pub(in super::super) is_sure: bool,
}

/// Returns `registers`, but with the frame pointer of the function whose caller is `found`: it points to the function's
/// frame record, which is just below the caller's frame.
pub(in super::super) fn with_record(registers: UnwindRegsNative, found: &Found) -> UnwindRegsNative {
    let fp = found.registers.sp().wrapping_sub(16);
    UnwindRegsNative::new_with_ptr_auth_mask(mask(), registers.lr(), registers.sp(), fp)
}

/// How many bytes above the stack pointer are searched for a frame record.
const FAR: u64 = 4 << 10;

/// Finds the caller of `function`, if the frame pointer and the link register are not known. Looks on the stack for
/// frame records: a frame pointer that points further up, and a return address. Below the function's own record there
/// may be old records, of functions that have returned. So this takes the first record whose return address follows a
/// call of `function`. If there is none, this takes the first record. That one is not sure: `function` may have been
/// called by a pointer, or may have saved no record.
pub(in super::super) fn recover(
    memory: &impl ReadMemory,
    stack: &StackCopy,
    is_code: &dyn Fn(u64) -> bool,
    function: Option<u64>,
    sp: u64,
) -> Option<Found> {
    let record = |at: u64| {
        let (outer, pc) = (stack.word(at)?, without_signature(stack.word(at.checked_add(8)?)?));
        let is_record = outer > at && is_code(pc) && is_after_call(memory, pc);
        is_record.then_some((outer, pc))
    };
    let slots = (sp..sp.saturating_add(FAR)).step_by(16);
    let slots = slots.take_while(|&slot| stack.word(slot).is_some());
    let mut records = slots.filter_map(|slot| {
        let (outer, pc) = record(slot)?;
        // Two words may look like a record by chance. So the record at `outer` is checked too, except if it was not
        // copied, or is the outermost one (its frame pointer is 0).
        let goes_on = stack.word(outer).is_none_or(|next| next == 0 || record(outer).is_some());
        let registers = UnwindRegsNative::new_with_ptr_auth_mask(mask(), pc, slot.wrapping_add(16), outer);
        let is_sure = function.is_some_and(|function| calls(memory, pc, function));
        goes_on.then_some(Found { registers, pc, is_sure })
    });
    let first = records.next()?;
    if first.is_sure { Some(first) } else { records.find(|found| found.is_sure).or(Some(first)) }
}

/// The caller, if `pc` is in a stub of the linker. Unwind tables do not cover stubs. A stub changes neither the stack
/// pointer nor the link register.
pub(in super::super) fn caller_of_stub(
    memory: &impl ReadMemory,
    registers: UnwindRegsNative,
    pc: u64,
) -> Option<Found> {
    let mut starts = (0..4).map(|index| pc.wrapping_sub(4 * index));
    let start = starts.find(|&start| behind_stub(memory, start).is_some())?;
    // stp x16, x30, [sp, #-16]!: a module's first stub, which calls the loader, does change the stack pointer.
    let [before] = instructions(memory, start.wrapping_sub(4))?;
    let pc = without_signature(registers.lr());
    (before != 0xa9bf_7bf0).then_some(Found { registers, pc, is_sure: true })
}

/// Finds nothing: instructions are not followed on this processor.
pub(in super::super) fn leave(
    _memory: &impl ReadMemory,
    _stack: &StackCopy,
    _is_return: &dyn Fn(u64) -> bool,
    _registers: UnwindRegsNative,
) -> Option<Found> {
    None
}

/// Never: the outermost calls of musl are not known on this processor.
pub(in super::super) fn is_outermost(_memory: &impl ReadMemory, _address: u64) -> bool {
    false
}

/// Whether `address` has the kernel's code to which a signal handler returns: `mov x8, #139; svc #0`.
pub(in super::super) fn is_end_of_handler(memory: &impl ReadMemory, address: u64) -> bool {
    const CODE: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];
    let mut code = [0; CODE.len()];
    memory.read(address, &mut code) == CODE.len() && code == CODE
}

/// The thread's registers from before a signal. `sp` is the address of the `siginfo_t` that the kernel has written. The
/// registers are in the `ucontext_t` that follows it.
pub(in super::super) fn interrupted(stack: &StackCopy, sp: u64) -> Option<Registers> {
    let registers = sp.checked_add(128 + 176 + 8)?;
    let register = |number: u64| stack.word(registers.checked_add(8 * number)?);
    Some(Registers {
        fp: Some(register(29)?),
        lr: Some(register(30)?),
        sp: register(31)?,
        pc: register(32)?,
        in_call: false,
    })
}
