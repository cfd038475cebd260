//! Unwinds copies of stacks. Only this file uses framehop.
//!
//! The code here reads a copy of a stack, copies of the unwind tables, and program code, which does not change. It
//! touches no thread, so it may allocate, and may take its time.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, UnwindRegsNative,
    Unwinder as _, UnwinderNative,
};

use super::super::copy::{Registers, StackCopy};
use super::super::raw::{RawFrame, RawStack};
use super::arch;
use super::landing;
use super::memory::Memory;
use super::modules::{Module, Modules};
use crate::scope::ReadMemory;
use crate::time::clock;

const MOST_FRAMES: usize = 20_000;

/// If the unwind tables do not help, the return address is searched for in the stack, up to this many bytes above the
/// stack pointer.
const SCAN: u64 = 4 << 10;

/// The outer part of a large stack is unwound from a return address that is a guess. The guess counts as right if this
/// many frames can be unwound from it, or if the stack's outermost frame is reached.
const BELIEVED: usize = 8;

/// How many return addresses in the outer part of a stack are tried as the guess, at most.
const TRIED: usize = 256;

/// A list of modules that is older than this many nanoseconds is read again.
const FRESH: u64 = 100_000_000;

/// One table of a module, as bytes. Keeps the module alive.
#[derive(Default)]
struct Bytes(Arc<Module>, Which);

#[derive(Clone, Copy, Default)]
enum Which {
    #[default]
    Index,
    Frames,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.1 {
            Which::Index => &self.0.image.index.bytes,
            Which::Frames => &self.0.image.frames.bytes,
        }
    }
}

type Tables = UnwinderNative<Bytes, MayAllocateDuringUnwind>;
type Cache = CacheNative<MayAllocateDuringUnwind>;

pub(crate) struct Unwinder<M = Memory> {
    memory: M,
    modules: Arc<Modules>,
    tables: Tables,
    /// A cache for `tables`, never used with other tables. (Framehop numbers its tables, and the numbers wrap around.
    /// So an entry for old tables could be taken for one of new tables.)
    cache: Cache,
    /// When the list of modules was made. `None` before the first time.
    scanned: Option<u64>,
}

impl<M> std::fmt::Debug for Unwinder<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unwinder").finish_non_exhaustive()
    }
}

impl Default for Unwinder {
    fn default() -> Self {
        Self::new()
    }
}

impl Unwinder {
    pub(crate) fn new() -> Self {
        Self::with(Memory, Modules::default())
    }

    pub(crate) fn unwind(&mut self, stack: &StackCopy) -> RawStack {
        let now = clock::real_now();
        let is_fresh = self.scanned.is_some_and(|at| now.saturating_sub(at) < FRESH);
        let pc = stack.registers.map_or(0, |registers| registers.pc);
        if !is_fresh || !self.modules.is_code(pc) {
            self.rescan(&fs::read_to_string("/proc/self/maps").unwrap_or_default());
            self.scanned = Some(now);
        }
        self.unwind_known(stack)
    }
}

impl<M: ReadMemory> Unwinder<M> {
    pub(in crate::report::stack) fn with(memory: M, modules: Modules) -> Self {
        let (tables, cache) = (Tables::new(), Cache::new());
        Self { memory, modules: Arc::new(modules), tables, cache, scanned: None }
    }

    /// Reads the list of modules anew. `maps` is the text of `/proc/self/maps`.
    pub(in crate::report::stack) fn rescan(&mut self, maps: &str) {
        Arc::make_mut(&mut self.modules).rescan(maps, &self.memory);
        self.renew();
    }

    fn renew(&mut self) {
        (self.tables, self.cache) = (Tables::new(), Cache::new());
        let loaded: Vec<_> = self.modules.loaded().cloned().collect();
        loaded.into_iter().for_each(|module| self.add(&module));
    }

    fn add(&mut self, module: &Arc<Module>) {
        let image = &module.image;
        if image.frames.bytes.is_empty() {
            return;
        }
        let range = |address: u64, bytes: &[u8]| Some(address..address.saturating_add(bytes.len() as u64));
        let sections = ExplicitModuleSectionInfo {
            eh_frame_svma: range(image.frames.address, &image.frames.bytes),
            eh_frame: Some(Bytes(module.clone(), Which::Frames)),
            eh_frame_hdr_svma: range(image.index.address, &image.index.bytes),
            eh_frame_hdr: Some(Bytes(module.clone(), Which::Index)),
            ..ExplicitModuleSectionInfo::default()
        };
        let (name, range) = (String::new(), module.mapping.base..module.mapping.end());
        self.tables.add_module(framehop::Module::new(name, range, image.bias, sections));
    }

    fn module(&mut self, pc: u64) -> Option<Arc<Module>> {
        if let Some(module) = self.modules.get(pc) {
            return Some(module.clone());
        }
        let (module, is_new) = Arc::make_mut(&mut self.modules).load(pc, &self.memory)?;
        if is_new {
            self.add(&module);
        }
        Some(module)
    }

    /// Like [`unwind`](Self::unwind), but never reads the list of modules anew.
    pub(in crate::report::stack) fn unwind_known(&mut self, stack: &StackCopy) -> RawStack {
        let mut found = RawStack::default();
        let Some(registers) = stack.registers else { return found };
        let walk = catch_unwind(AssertUnwindSafe(|| self.walk_parts(stack, &registers, &mut found)));
        if walk.is_err() {
            self.renew();
            found.truncated = true;
            found.notes.push("The unwinder panicked, so frames are missing.".to_owned());
        }
        if found.scanned > 0 {
            found.approximate = true;
            let count = found.scanned;
            found.notes.push(format!(
                "{count} frames were found by searching the stack, since no unwind table covers the code: frames may be wrong or \
                 missing there."
            ));
        }
        found.modules = self.modules.clone();
        found
    }

    fn walk_parts(&mut self, stack: &StackCopy, registers: &Registers, found: &mut RawStack) {
        let start = FrameAddress::InstructionPointer(registers.pc);
        self.walk(stack, arch::to_framehop(registers), start, registers.in_call, found);
        let Some(part) = stack.outer_part() else { return };
        if !found.truncated {
            return;
        }
        // The registers of the outer part are not known. So this tries the return addresses in the outer part, until
        // the stack can be unwound from one of them.
        let candidates = part.clone().step_by(8).filter_map(|slot| {
            let pc = arch::without_signature(stack.word(slot)?);
            Some((slot, FrameAddress::from_return_address(pc)?))
        });
        let candidates: Vec<_> =
            candidates.filter(|(_, pc)| self.is_return(pc.address())).take(TRIED).collect();
        for (slot, pc) in candidates {
            let mut outer = RawStack::default();
            self.walk(stack, arch::caller(pc.address(), slot + 8), pc, true, &mut outer);
            if outer.scanned == 0 && (outer.frames.len() >= BELIEVED || !outer.truncated) {
                set_cfa(found, part.start);
                found.gap = Some(found.frames.len());
                found.frames.append(&mut outer.frames);
                found.truncated = outer.truncated;
                found.approximate = true;
                found.notes.push(
                    "The stack is larger than what is copied of one: frames in the middle are missing."
                        .to_owned(),
                );
                return;
            }
        }
    }

    fn is_return(&self, pc: u64) -> bool {
        self.modules.is_code(pc) && arch::is_after_call(&self.memory, pc)
    }

    /// Finds the caller by a frame pointer that may be wrong. So this checks that the code before the found address
    /// calls `function`. `None`: it does not, or no address is found.
    fn confirmed(
        &mut self,
        stack: &StackCopy,
        at: FrameAddress,
        mut registers: UnwindRegsNative,
        function: u64,
    ) -> Option<arch::Found> {
        let mut read = |address: u64| stack.word(address).ok_or(());
        let pc = self.tables.unwind_frame(at, &mut registers, &mut self.cache, &mut read).ok()??;
        arch::calls(&self.memory, pc, function).then_some(arch::Found { registers, pc, is_sure: true })
    }

    /// Finds the caller of `function` on the stack. `sp` is the stack pointer in the function. `is_unwound`: the
    /// function's table needs no frame pointer, so `registers` are those of the caller. Only the return address is not
    /// known, because it is in a register.
    fn recovered(
        &mut self,
        stack: &StackCopy,
        at: FrameAddress,
        registers: UnwindRegsNative,
        sp: u64,
        function: Option<u64>,
        is_unwound: bool,
    ) -> Option<arch::Found> {
        let is_code = |pc: u64| self.modules.is_code(pc);
        let caller = arch::recover(&self.memory, stack, &is_code, function, sp)?;
        if is_unwound
            && !caller.is_sure
            && let Some((pc, is_sure)) = function.and_then(|leaf| self.skipped(leaf, caller.pc))
        {
            return Some(arch::Found { registers: arch::caller(pc, registers.sp()), pc, is_sure });
        }
        let registers = self.by_table(stack, at, registers, &caller).unwrap_or(caller.registers);
        Some(arch::Found { registers, ..caller })
    }

    /// Unwinds the function at `at` by its table. `caller` was found without the table, so its stack pointer may be
    /// that of another frame. `None`: the table leads to another caller, or to none.
    fn by_table(
        &mut self,
        stack: &StackCopy,
        at: FrameAddress,
        registers: UnwindRegsNative,
        caller: &arch::Found,
    ) -> Option<UnwindRegsNative> {
        let mut read = |address: u64| stack.word(address).ok_or(());
        let mut registers = arch::with_record(registers, caller);
        let pc = self.tables.unwind_frame(at, &mut registers, &mut self.cache, &mut read).ok()??;
        (pc == caller.pc).then_some(registers)
    }

    /// Finds the caller of a function that no unwind table covers.
    fn without_table(
        &self,
        stack: &StackCopy,
        at: FrameAddress,
        registers: UnwindRegsNative,
        sp: u64,
    ) -> Option<arch::Found> {
        let is_return = |pc: u64| self.is_return(pc);
        let stub =
            || arch::caller_of_stub(&self.memory, registers, at.address()).filter(|stub| is_return(stub.pc));
        let caller = if at.is_return_address() { None } else { stub() };
        caller.or_else(|| {
            let registers = arch::moved(registers, at.address(), sp);
            arch::leave(&self.memory, stack, &is_return, registers)
        })
    }

    /// Finds the caller of `leaf`, which the stack does not show: the return address of `leaf` is only in a register.
    /// The innermost return address on the stack, `outer`, is that of the caller. So the call just before `outer` calls
    /// the caller, and the caller's code is searched for calls of `leaf`. Returns the address after the first such
    /// call, and `true` if it is the only one. `None`: no such call was found.
    fn skipped(&mut self, leaf: u64, outer: u64) -> Option<(u64, bool)> {
        let caller = arch::callee(&self.memory, outer)?;
        let end = self.module(caller)?.image.function_end(caller)?;
        let mut returns = (caller..=end).step_by(4).skip(1).filter(|&pc| arch::calls(&self.memory, pc, leaf));
        Some((returns.next()?, returns.next().is_none()))
    }

    /// Walks from frame to frame until the stack ends. `is_steady`: the innermost function has surely set up its frame.
    /// `false`: it may still be in its prologue.
    fn walk(
        &mut self,
        stack: &StackCopy,
        mut registers: UnwindRegsNative,
        mut at: FrameAddress,
        mut is_steady: bool,
        found: &mut RawStack,
    ) {
        let mut read = |address: u64| stack.word(address).ok_or(());
        // Registers whose frame pointer may belong to another frame. Used only if no better frame pointer is known.
        let mut doubtful: Option<UnwindRegsNative> = None;
        loop {
            let pc = at.address_for_lookup();
            found.frames.push(RawFrame { address: pc, cfa: u64::MAX });
            if found.frames.len() >= MOST_FRAMES {
                found.truncated = true;
                return;
            }
            let sp = registers.sp();
            let knows = arch::knows_frame_pointer(&registers);
            let module = self.module(pc);
            let covered = module.as_ref().filter(|module| module.image.covers(pc));
            let mut next = None;
            if let Some(module) = covered {
                let unwound = self.tables.unwind_frame(at, &mut registers, &mut self.cache, &mut read);
                match unwound {
                    Ok(None) => return,
                    Ok(Some(address)) if arch::is_end_of_handler(&self.memory, address) => {
                        let Some(interrupted) = arch::interrupted(stack, registers.sp()) else {
                            found.truncated = true;
                            return;
                        };
                        set_cfa(found, registers.sp());
                        found.frames.push(RawFrame { address, cfa: registers.sp() });
                        at = FrameAddress::InstructionPointer(interrupted.pc);
                        registers = arch::to_framehop(&interrupted);
                        is_steady = true;
                        continue;
                    }
                    // A function that jumps to the code that catches a panic. While it overwrites the registers that
                    // it saved, its unwind table is wrong: see `landing`. It overwrites them itself, or in a function
                    // that it calls for this. So only the two innermost functions are checked: further out, the table
                    // is right.
                    Ok(Some(address))
                        if found.frames.len() <= 2 && landing::jumps_to_handlers(&module.image, pc) =>
                    {
                        let function = module.image.function_start(pc).unwrap_or(pc);
                        match landing::destination(&self.memory, stack, function, address, registers) {
                            Some(destination) => registers = destination,
                            None => {
                                found.approximate |= arch::ends_jump(&self.memory, pc);
                                doubtful = Some(registers);
                                registers = arch::caller(address, registers.sp());
                            }
                        }
                        next = self.is_return(address).then_some(address);
                    }
                    Ok(Some(address)) if self.is_return(address) => next = Some(address),
                    Err(_) if knows => {
                        found.truncated = true;
                        return;
                    }
                    Ok(Some(_)) if knows => {}
                    // To find the caller, the frame pointer is needed, but it is not known here.
                    _ => {
                        let function = module.image.function_start(pc);
                        let doubtful = doubtful.take().map(|of| arch::with_frame_pointer(registers, of));
                        let confirmed =
                            doubtful.and_then(|registers| self.confirmed(stack, at, registers, function?));
                        if let Some(caller) = confirmed {
                            (registers, next) = (caller.registers, Some(caller.pc));
                        } else if let Some(caller) =
                            self.recovered(stack, at, registers, sp, function, unwound.is_ok())
                        {
                            (registers, next) = (caller.registers, Some(caller.pc));
                            // A function in its prologue has not set up its frame yet, so this caller may be wrong.
                            found.scanned += usize::from(!is_steady || !caller.is_sure);
                        }
                    }
                }
            }
            if covered.is_none() {
                if at.is_return_address() && arch::is_outermost(&self.memory, at.address()) {
                    return;
                }
                if let Some(caller) = self.without_table(stack, at, registers, sp) {
                    (registers, next) = (caller.registers, Some(caller.pc));
                    found.scanned += usize::from(!caller.is_sure);
                }
            }
            let pc = match next {
                Some(pc) => pc,
                // The tables have not led to a caller, so this searches the stack. (framehop would follow frame
                // pointers, and not say that its result may be wrong.)
                None => {
                    let slots = (sp..sp.saturating_add(SCAN)).step_by(8);
                    let mut slots =
                        slots.map_while(|slot| Some((slot, arch::without_signature(stack.word(slot)?))));
                    let Some((slot, pc)) = slots.find(|&(_, pc)| self.is_return(pc)) else {
                        found.truncated = true;
                        return;
                    };
                    // The search takes the first return address. So if that is the outermost one, it is the right one.
                    found.scanned += usize::from(!arch::is_outermost(&self.memory, pc));
                    registers = arch::caller(pc, slot + 8);
                    pc
                }
            };
            set_cfa(found, registers.sp());
            let Some(address) = FrameAddress::from_return_address(pc) else {
                found.truncated = true;
                return;
            };
            at = address;
            is_steady = true;
        }
    }
}

fn set_cfa(found: &mut RawStack, cfa: u64) {
    if let Some(frame) = found.frames.last_mut() {
        frame.cfa = cfa;
    }
}
