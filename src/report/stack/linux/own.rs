use std::arch::asm;

use super::super::copy::{Registers, StackCopy};
use super::memory::Memory;

/// How many bytes of the stack are copied at most.
const MOST: u64 = 64 << 10;

/// How many bytes above `up_to` are copied too. `up_to` is the address of a local, and the copy needs the return
/// address of the local's function, which lies above it.
const BEYOND: u64 = 1 << 10;

/// Copies the calling thread's stack from this function to the address `up_to`, which must lie further out. `None` if
/// the stack cannot be read.
#[inline(never)]
pub(crate) fn own(up_to: u64) -> Option<Box<StackCopy>> {
    let registers = registers();
    let len = up_to.checked_sub(registers.sp)?.saturating_add(BEYOND).min(MOST);
    let mut copy = Box::new(StackCopy::with_room(usize::try_from(len).ok()?));
    // 0: without an outermost address, all the room is used for the part of the stack that begins here.
    copy.fill(registers, 0, &Memory);
    copy.registers.is_some().then_some(copy)
}

/// The registers in the function that calls this.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn registers() -> Registers {
    let (pc, sp, fp): (u64, u64, u64);
    // SAFETY: reads registers, and touches neither memory nor the stack.
    unsafe {
        asm!(
            "lea {pc}, [rip]",
            "mov {sp}, rsp",
            "mov {fp}, rbp",
            pc = out(reg) pc,
            sp = out(reg) sp,
            fp = out(reg) fp,
            options(nomem, nostack, preserves_flags),
        );
    }
    Registers { pc, sp, fp: Some(fp), lr: None, in_call: false }
}

/// The registers in the function that calls this.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn registers() -> Registers {
    let (pc, sp, fp, lr): (u64, u64, u64, u64);
    // SAFETY: reads registers, and touches neither memory nor the stack.
    unsafe {
        asm!(
            "adr {pc}, .",
            "mov {sp}, sp",
            "mov {fp}, x29",
            "mov {lr}, x30",
            pc = out(reg) pc,
            sp = out(reg) sp,
            fp = out(reg) fp,
            lr = out(reg) lr,
            options(nomem, nostack, preserves_flags),
        );
    }
    Registers { pc, sp, fp: Some(fp), lr: Some(lr), in_call: false }
}
