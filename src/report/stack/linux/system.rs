//! System calls for which there is no safe function.

use std::ffi::c_int;
use std::io;

use crate::sync::AtomicU32;

// `syscall` is variadic, so its arguments must be as wide as registers.
const WAKE: usize = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG).cast_unsigned() as usize;
const WAIT: usize = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG).cast_unsigned() as usize;

pub(super) fn wake(word: &AtomicU32) {
    // SAFETY: the word lives during the call, and the kernel does not write to it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), WAKE, 1_usize) };
}

/// Returns at once if the word is not `value`. Otherwise waits for [`wake`], for at most `nanos` nanoseconds (less than
/// a second). A signal may end the wait early.
pub(super) fn wait(word: &AtomicU32, value: u32, nanos: libc::c_long) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: nanos };
    // SAFETY: as in `wake`; the time lives during the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), WAIT, value as usize, &raw const time) };
}

/// Sends a signal with a value to a thread of this process. `Err` has the `errno`.
pub(super) fn send(tid: u32, signal: c_int, value: usize) -> Result<(), c_int> {
    #[repr(C)]
    struct Info {
        signal: c_int,
        error: c_int,
        code: c_int,
        unused: c_int,
        process: c_int,
        user: u32,
        value: usize,
        rest: [u64; 12],
    }
    const { assert!(size_of::<Info>() == size_of::<libc::siginfo_t>()) };
    let process = process();
    // SAFETY: the call has no preconditions.
    let user = unsafe { libc::getuid() };
    let code = libc::SI_QUEUE;
    let info = Info { signal, error: 0, code, unused: 0, process, user, value, rest: [0; 12] };
    // SAFETY: `info` has the layout of the kernel's `siginfo_t` and lives during the call.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, wide(process), tid as usize, wide(signal), &raw const info)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}

/// Makes a number as wide as a register. A narrower argument of the variadic `syscall` would leave half of the register
/// undefined. The numbers here are never negative.
fn wide(number: c_int) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn process() -> c_int {
    // SAFETY: the call has no preconditions.
    unsafe { libc::getpid() }
}

pub(super) fn is_gone(tid: u32) -> bool {
    // SAFETY: signal 0 is not sent; the system only looks for the thread.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, wide(process()), tid as usize, 0_usize) };
    result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}
