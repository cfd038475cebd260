//! The stack of a thread that runs: a signal makes the thread copy itself.
//!
//! The handler makes these calls only: `gettid`, `getpid`, `process_vm_readv` (or `pread` of `/proc/self/mem`),
//! `futex`. It takes no lock, does not allocate or panic, and leaves `errno` as it was. The signal is `SIGURG`, which
//! is ignored by default. So a signal that is delivered too late, or after an `exec`, does no harm.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use super::super::copy::{Registers, Words};
use super::super::reason::Reason;
use super::slots::{self, Armed};
use super::spare::Copy;
use super::system::send;
use crate::sync::fork::PerProcess;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, lock};

const SIGNAL: c_int = libc::SIGURG;

/// How many bytes of stack the handler needs. The test `the_handler_needs_little_stack` measures it.
const ROOM: usize = if cfg!(target_arch = "aarch64") { 4 << 10 } else { 3 << 10 };

/// The handler that was installed before ours: the address of a `sigaction`, which is never freed. 0 if there is none
/// yet.
static PREVIOUS: AtomicUsize = AtomicUsize::new(0);

/// Whether the handler is installed. A forked child has the handler of its parent, so its flag begins as
/// `WAS_INSTALLED`.
static INSTALLED: PerProcess<Mutex<bool>> =
    PerProcess::new(Mutex::new(false), || Mutex::new(WAS_INSTALLED.load(Ordering::Relaxed)));

/// Tells a forked child whether its parent had the handler. Relaxed: the fork comes between the store and the load.
static WAS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// The value that this crate sends with its signals. The handler passes a signal with another value on to the handler
/// that was installed before.
fn cookie() -> usize {
    (&raw const PREVIOUS).addr() ^ 0x7469_6d65
}

fn handler_address() -> usize {
    handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize
}

fn installed() -> Option<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: the null pointer changes nothing; the call has written `action` if it has succeeded.
    unsafe { (libc::sigaction(SIGNAL, ptr::null(), action.as_mut_ptr()) == 0).then(|| action.assume_init()) }
}

/// Stores the handler that was installed before ours. Its box is never freed, because `pass_on` may read it at any
/// time.
fn keep(previous: libc::sigaction) {
    if previous.sa_sigaction != handler_address() {
        let address = Box::into_raw(Box::new(previous)).expose_provenance();
        // Release: pairs with the Acquire in `pass_on`.
        PREVIOUS.store(address, Ordering::Release);
    }
}

/// Installs the handler, if it is not installed yet. Nothing removes the handler later.
pub(super) fn install() {
    let mut is_installed = lock(INSTALLED.get());
    if *is_installed {
        return;
    }
    slots::prepare_for_forks();
    let Some(previous) = installed() else { return };
    keep(previous);
    // SAFETY: an all-zero `sigaction` is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler_address();
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_SIGINFO;
    let mut replaced = MaybeUninit::uninit();
    // SAFETY: `handle` is a handler of the form that SA_SIGINFO asks for, and safe at any moment. Both pointers are
    // valid.
    let is_done = unsafe {
        libc::sigfillset(&raw mut action.sa_mask) == 0
            && libc::sigaction(SIGNAL, &raw const action, replaced.as_mut_ptr()) == 0
    };
    if is_done {
        *is_installed = true;
        WAS_INSTALLED.store(true, Ordering::Relaxed);
        // SAFETY: the call has succeeded, so it has written `replaced`.
        let replaced = unsafe { replaced.assume_init() };
        // The program may have installed another handler between the two calls above.
        if replaced.sa_sigaction != previous.sa_sigaction {
            keep(replaced);
        }
    }
}

/// Why a thread that gets the signal would not copy its stack. `None` if it would.
fn obstacle() -> Option<Reason> {
    match installed() {
        Some(action) if action.sa_sigaction == handler_address() => None,
        _ if *lock(INSTALLED.get()) => Some(Reason::HandlerReplaced),
        _ => Some(Reason::NoSignal),
    }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO valid pointers to its own structures. `errno` is a thread's
    // own.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let registers = registers(context.cast());
        let tid = u32::try_from(libc::gettid()).unwrap_or(0);
        let has_room = has_room(context.cast());
        // At every `SIGURG` the handler serves the requests, because the system drops our signal if another `SIGURG` is
        // pending.
        slots::serve(tid, registers, has_room);
        if !is_ours(info) {
            pass_on(signal, info, context);
        }
        *errno = before;
    }
}

/// # Safety
///
/// `info` is what a signal handler was given.
unsafe fn is_ours(info: *mut libc::siginfo_t) -> bool {
    // SAFETY: by this function's contract. A signal with the code `SI_QUEUE` has a process number and a value.
    unsafe {
        (*info).si_code == libc::SI_QUEUE
            && (*info).si_pid() == libc::getpid()
            && (*info).si_value().sival_ptr.addr() == cookie()
    }
}

/// # Safety
///
/// The arguments are those that a signal handler was given.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // Acquire: pairs with the Release in `keep`.
    let previous = ptr::with_exposed_provenance::<libc::sigaction>(PREVIOUS.load(Ordering::Acquire));
    // SAFETY: the pointer is null, or that of a box that is never freed.
    let Some(previous) = (unsafe { previous.as_ref() }) else { return };
    let address = previous.sa_sigaction;
    // By default a process ignores `SIGURG`.
    if address == libc::SIG_DFL || address == libc::SIG_IGN {
        return;
    }
    // SAFETY: the program has installed this address as a handler. `SA_SIGINFO` says which arguments the handler takes.
    unsafe {
        if previous.sa_flags & libc::SA_SIGINFO == 0 {
            let handler: extern "C" fn(c_int) = std::mem::transmute(address);
            handler(signal);
        } else {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                std::mem::transmute(address);
            handler(signal, info, context);
        }
    }
}

/// `false`: the handler runs on the program's alternate signal stack, and that stack is too full for the handler.
///
/// # Safety
///
/// `context` is what a signal handler was given.
unsafe fn has_room(context: *const libc::ucontext_t) -> bool {
    let here = (&raw const context).addr();
    // SAFETY: by this function's contract.
    let stack = unsafe { &(*context).uc_stack };
    let below = here.wrapping_sub(stack.ss_sp.addr());
    below >= stack.ss_size || below >= ROOM
}

/// # Safety
///
/// `context` is what a signal handler was given.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::cast_sign_loss)] // registers are bits
unsafe fn registers(context: *const libc::ucontext_t) -> Registers {
    // SAFETY: by this function's contract.
    let registers = unsafe { &(*context).uc_mcontext.gregs };
    let register = |index: c_int| registers[index as usize] as u64;
    let (pc, sp, fp) = (register(libc::REG_RIP), register(libc::REG_RSP), register(libc::REG_RBP));
    Registers { pc, sp, fp: Some(fp), lr: None, in_call: false }
}

/// # Safety
///
/// `context` is what a signal handler was given.
#[cfg(target_arch = "aarch64")]
unsafe fn registers(context: *const libc::ucontext_t) -> Registers {
    // SAFETY: by this function's contract.
    let registers = unsafe { &(*context).uc_mcontext };
    let (fp, lr) = (registers.regs[29], registers.regs[30]);
    Registers { pc: registers.pc, sp: registers.sp, fp: Some(fp), lr: Some(lr), in_call: false }
}

/// Asks a thread to copy its stack into `copy`. `Err`: the thread was not asked; this is `copy`, which notes why.
pub(super) fn ask(mut copy: Copy, words: Words) -> Result<Armed, Copy> {
    if let Some(reason) = obstacle() {
        copy.because(reason);
        return Err(copy);
    }
    let tid = copy.tid;
    let armed = Armed::new(copy, words)?;
    match send(tid, SIGNAL, cookie()) {
        Ok(()) => Ok(armed),
        Err(error) => armed.cancel(if error == libc::ESRCH { Reason::Gone } else { Reason::SignalRefused }),
    }
}
