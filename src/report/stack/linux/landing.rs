//! A thread that panics, at the moment at which it goes on in another frame.
//!
//! The unwinder of the C compiler (libgcc) writes the registers of the frame in which the thread goes on, over those that its
//! own function has saved for its caller. Then it leaves that function. In between, the table of the function is wrong: first
//! the caller's frame pointer is another's, then the return address is too.

use addr2line::gimli::{
    BaseAddresses, EhFrame, LittleEndian, Register, RegisterRule, UnwindContext, UnwindSection,
};
use framehop::UnwindRegsNative;

use super::super::copy::StackCopy;
use super::arch;
use super::elf::Image;
use crate::scope::ReadMemory;

/// How far above the function's frame the frame is looked for in which the thread goes on.
const FAR: u64 = 64 << 10;

/// Whether the function at `pc` leaves by a jump to code that catches. As no other function, it saves the registers in which
/// that code is given values: on all processors the first two of the tables.
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

/// Where the thread goes on, if the function that [jumps to handlers](jumps_to_handlers) has already got the return address of
/// that frame in place of its caller's. `pc` and `registers` are the caller's, as the table has them.
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
    // The address was copied from the stack, where the frame has called another.
    let sp = registers.sp();
    let mut slots = (sp..sp.saturating_add(FAR)).step_by(8).map_while(|slot| Some((slot, stack.word(slot)?)));
    let (slot, _) = slots.find(|&(_, word)| word == pc)?;
    Some(arch::moved(registers, pc, slot + 8))
}
