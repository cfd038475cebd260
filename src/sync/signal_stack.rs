//! A stack for the signal handlers of a thread that has none.

use std::cell::OnceCell;
use std::ffi::c_void;
use std::ptr;

/// The stack on which this thread's signal handlers run. It belongs to this thread alone, and its lowest page cannot be
/// accessed.
struct SignalStack {
    lowest: *mut c_void,
    size: usize,
}

/// How many bytes the handlers may use, beside those that the kernel needs.
const ROOM: usize = 16 << 10;

thread_local! {
    static OWN: OnceCell<Option<SignalStack>> = const { OnceCell::new() };
}

/// Gives this thread a stack for its signal handlers, until the thread ends. Does nothing if the thread has such a stack
/// already (std gives one to each thread that it starts), or if there is no memory.
///
/// Without such a stack a handler runs on the thread's own stack. If that stack is nearly full, the kernel kills the
/// process.
pub(crate) fn ensure() {
    // An error means that the thread is ending. Then its stack is nearly empty.
    let _ = OWN.try_with(|own| {
        own.get_or_init(SignalStack::install_if_missing);
    });
}

impl SignalStack {
    fn install_if_missing() -> Option<Self> {
        if current()?.ss_flags & libc::SS_DISABLE == 0 {
            return None;
        }
        // SAFETY: the calls have no preconditions.
        let (page, kernel) =
            unsafe { (libc::sysconf(libc::_SC_PAGESIZE), libc::getauxval(libc::AT_MINSIGSTKSZ)) };
        let page = usize::try_from(page).ok()?;
        let kernel = usize::try_from(kernel).ok()?.max(libc::MINSIGSTKSZ);
        let size = page + (kernel + ROOM).next_multiple_of(page);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: the kernel chooses an address that nothing uses.
        let lowest = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if lowest == libc::MAP_FAILED {
            return None;
        }
        let own = Self { lowest, size };
        let ss_sp = lowest.wrapping_byte_add(page);
        let stack = libc::stack_t { ss_sp, ss_flags: 0, ss_size: size - page };
        // SAFETY: the memory is of this mapping, which nobody else uses. It is unmapped only when it is no longer the
        // stack of the handlers (`drop`).
        let is_installed = unsafe {
            libc::mprotect(ss_sp, size - page, libc::PROT_READ | libc::PROT_WRITE) == 0
                && libc::sigaltstack(&raw const stack, ptr::null_mut()) == 0
        };
        is_installed.then_some(own)
    }
}

/// The stack on which handlers run at present. `None`: a sandbox forbids the question.
fn current() -> Option<libc::stack_t> {
    let mut stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the null pointer changes nothing; the other one is to writable memory of the right type.
    (unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) } == 0).then_some(stack)
}

impl Drop for SignalStack {
    /// If the thread has installed another stack since, that one stays.
    fn drop(&mut self) {
        let is_own = |stack: libc::stack_t| {
            (self.lowest.addr()..self.lowest.addr() + self.size).contains(&stack.ss_sp.addr())
        };
        if current().is_none_or(is_own) {
            let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: from now on handlers run on the thread's own stack, which always exists.
            if unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) } != 0 {
                return; // a handler is running on the stack, so it stays
            }
        }
        // SAFETY: the mapping is this value's own, and no handler runs on it.
        unsafe { libc::munmap(self.lowest, self.size) };
    }
}
