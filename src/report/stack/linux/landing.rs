//! Finds the frame in which a panicking thread goes on, while the unwinder is about to jump to that frame.
//!
//! The jump is made by the last function of libgcc's unwinder. It has saved its caller's registers on the stack. It
//! overwrites them with the registers of the frame in which the thread goes on, and then returns. In between, its
//! unwind table is wrong, because the saved registers are no longer the caller's: first the frame pointer is wrong,
//! then the return address too.

use addr2line::gimli::{
    BaseAddresses, EhFrame, LittleEndian, Register, RegisterRule, UnwindContext, UnwindSection,
};
use framehop::UnwindRegsNative;

use super::super::copy::StackCopy;
use super::arch;
use super::elf::Image;
use crate::scope::ReadMemory;

/// How many bytes above the function's frame are searched for the frame in which the thread goes on.
const FAR: u64 = 64 << 10;

/// Whether the function at `pc` leaves by a jump to code that catches a panic. That code gets its values in two
/// registers, which have the numbers 0 and 1 in the unwind tables of both processors. Only a function that makes such a
/// jump saves both registers.
pub(super) fn jumps_to_handlers(image: &Image, pc: u64) -> bool {
    let saves_both = || {
        let frames = EhFrame::new(&image.frames.bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(image.frames.address);
        let record =
            frames.fde_from_offset(&bases, image.record(pc)?.into(), EhFrame::cie_from_offset).ok()?;
        let mut context = UnwindContext::new();
        let mut rows = record.rows(&frames, &bases, &mut context).ok()?;
        while let Ok(Some(row)) = rows.next_row() {
            let is_saved = |number| matches!(row.register(Register(number)), Some(RegisterRule::Offset(_)));
            if is_saved(0) && is_saved(1) {
                return Some(true);
            }
        }
        Some(false)
    };
    saves_both().unwrap_or(false)
}

/// The registers of the frame in which the thread goes on after `function` has jumped out of itself. `function` must
/// [jump to handlers](jumps_to_handlers).
///
/// `pc` and `registers` are those of the caller of `function`, by the unwind table of `function`. The table is right
/// if the instruction before `pc` calls `function`: then this returns `None`. Also returns `None` if the frame is not
/// found.
pub(super) fn destination(
    memory: &impl ReadMemory,
    stack: &StackCopy,
    function: u64,
    pc: u64,
    registers: UnwindRegsNative,
) -> Option<UnwindRegsNative> {
    if arch::calls(memory, pc, function) {
        return None;
    }
    // The thread goes on at `pc`, after a call that its frame made. That call pushed the return address `pc`. So the
    // frame begins just above the slot that contains `pc`.
    let sp = registers.sp();
    let mut slots = (sp..sp.saturating_add(FAR)).step_by(8).map_while(|slot| Some((slot, stack.word(slot)?)));
    let (slot, _) = slots.find(|&(_, word)| arch::without_signature(word) == pc)?;
    Some(arch::moved(registers, pc, slot + 8))
}
