//! Functions around system calls. On a system without the call, a function does the same in another way. If the call is
//! only an improvement, the function does nothing there.

#[cfg(any(not(timebox_loom), feature = "isolate", feature = "process"))]
use std::io;

/// Nanoseconds on the monotonic clock. [`std::time::Instant`] reads the same clock.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(timebox_loom)))]
#[inline]
pub(crate) fn monotonic_nanos() -> u64 {
    nanos_on(libc::CLOCK_MONOTONIC)
}

/// The time on a clock that cannot be read. It never changes, so time stands still. It is not 0, because this crate
/// never uses 0 as a time.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(timebox_loom)))]
const STOPPED: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 1 };

#[cfg(all(any(target_os = "linux", target_os = "android"), not(timebox_loom)))]
#[cfg_attr(not(debug_assertions), inline(always))]
fn nanos_on(clock: libc::clockid_t) -> u64 {
    let mut time = STOPPED;
    // SAFETY: the pointer is to writable memory of the right type. Every kernel has this clock, but a sandbox may
    // forbid the call: then nothing is written.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    // Neither field is negative on this clock.
    #[allow(clippy::cast_sign_loss)]
    let (seconds, nanos) = (time.tv_sec as u64, time.tv_nsec as u64);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

/// Nanoseconds since the first call, plus one second, so that 0 is never a time.
#[cfg(not(any(target_os = "linux", target_os = "android", timebox_loom)))]
pub(crate) fn monotonic_nanos() -> u64 {
    use super::once::SetOnce;
    use std::time::Instant;
    static START: SetOnce<Instant> = SetOnce::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1_000_000_000)
}

/// Nanoseconds on a monotonic clock that all processes share until the next boot. `None` if there is no such clock.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(timebox_loom)))]
#[allow(clippy::unnecessary_wraps)] // `None` on other systems
pub(crate) fn boot_nanos() -> Option<u64> {
    Some(monotonic_nanos())
}

/// Nanoseconds on a monotonic clock that all processes share until the next boot. `None` if there is no such clock.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android", timebox_loom))))]
pub(crate) fn boot_nanos() -> Option<u64> {
    // The clock that std's `Instant` reads.
    #[cfg(target_vendor = "apple")]
    let clock = libc::CLOCK_UPTIME_RAW;
    #[cfg(not(target_vendor = "apple"))]
    let clock = libc::CLOCK_MONOTONIC;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to writable memory of the right type.
    let code = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
    (code == 0).then(|| seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Nanoseconds on a monotonic clock that all processes share until the next boot. `None` if there is no such clock.
#[cfg(any(not(unix), timebox_loom))]
#[allow(clippy::unnecessary_wraps)] // `Some` on other systems
pub(crate) fn boot_nanos() -> Option<u64> {
    None
}

#[cfg(timebox_loom)]
pub(crate) use super::model::now as monotonic_nanos;

/// Starts a thread of this crate. All signals are blocked on the thread from its birth, so a signal handler of the
/// program never runs there.
#[cfg(not(timebox_loom))]
#[allow(clippy::disallowed_methods)] // the one place where threads are started
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let _blocked = SignalsBlocked::new();
    // Each thread of std takes a lock (for its stack overflow handler) when it starts and when it ends. A fork may come
    // while that lock is held, and then it is held for ever in the child. So a child starts its threads without std.
    #[cfg(all(unix, not(miri)))]
    if super::fork::Process::current().is_child() {
        return spawn_bare(name, Box::new(body));
    }
    std::thread::Builder::new().name(name.into()).spawn(body).map(drop)
}

/// Starts a thread without std, so that it takes none of std's locks.
#[cfg(all(unix, not(miri), not(timebox_loom)))]
fn spawn_bare(name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    use std::ffi::c_void;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    struct Start {
        name: String,
        body: Box<dyn FnOnce() + Send>,
    }
    extern "C" fn start(data: *mut c_void) -> *mut c_void {
        // SAFETY: `data` was made by `Box::into_raw` below, for this thread alone.
        let Start { name, body } = *unsafe { Box::from_raw(data.cast::<Start>()) };
        name_this_thread(&name);
        drop(name);
        // A panic must not unwind out of a C function.
        std::mem::forget(catch_unwind(AssertUnwindSafe(body)));
        std::ptr::null_mut()
    }
    let data = Box::into_raw(Box::new(Start { name: name.to_owned(), body }));
    let mut thread = std::mem::MaybeUninit::uninit();
    // SAFETY: `start` takes the box over if it is called at all; the thread is detached, so its handle is not kept.
    unsafe {
        let code = libc::pthread_create(thread.as_mut_ptr(), std::ptr::null(), start, data.cast());
        if code != 0 {
            drop(Box::from_raw(data));
            return Err(io::Error::from_raw_os_error(code));
        }
        libc::pthread_detach(thread.assume_init());
    }
    Ok(())
}

#[cfg(not(timebox_loom))]
struct SignalsBlocked {
    /// The thread's signal mask before the signals were blocked. `None` if they could not be blocked.
    #[cfg(all(unix, not(miri)))]
    before: Option<libc::sigset_t>,
}

#[cfg(not(timebox_loom))]
impl SignalsBlocked {
    #[cfg(all(unix, not(miri)))]
    fn new() -> Self {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the second call is made only if the first has initialised `all`. `before` is read only if the second
        // call has succeeded, and so has initialised it.
        let before = unsafe {
            let blocked = libc::sigfillset(all.as_mut_ptr()) == 0
                && libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0;
            blocked.then(|| before.assume_init())
        };
        Self { before }
    }

    #[cfg(any(not(unix), miri))]
    fn new() -> Self {
        Self {}
    }
}

#[cfg(all(unix, not(miri), not(timebox_loom)))]
impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // SAFETY: `before` lives during the call; the null pointer asks for no old mask.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        }
    }
}

/// Sets this thread's timer slack: how late the kernel may wake the thread, in order to save power. The default is 50
/// us. A new thread inherits the value.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri), not(timebox_loom)))]
pub(crate) fn set_timer_slack(nanos: u32) {
    // SAFETY: the call takes a number, and changes nothing but this thread's timers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, libc::c_ulong::from(nanos)) };
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(miri), not(timebox_loom))))]
pub(crate) fn set_timer_slack(_nanos: u32) {}

/// Asks the system to wake this thread with little delay, even if all processors are busy. To get that, the thread asks
/// for short time slices. Linux before 6.12 wakes the thread like any other.
#[cfg(all(target_os = "linux", feature = "profile", not(miri), not(timebox_loom)))]
pub(crate) fn be_prompt() {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        /// The length of a time slice, in nanoseconds.
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    set_timer_slack(1_000);
    let mut attributes = Attributes::default();
    let size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    // SAFETY: the call writes at most `size` bytes to a struct of that size, for which all bit patterns are valid. The
    // number 0 is the calling thread.
    let is_known =
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size as usize, 0) } == 0;
    attributes.runtime = 100_000;
    if is_known {
        // SAFETY: the call reads a struct that says its own size.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

#[cfg(all(feature = "profile", not(timebox_loom), any(not(target_os = "linux"), miri)))]
pub(crate) fn be_prompt() {}

#[cfg(all(target_os = "linux", feature = "report", not(timebox_loom), not(miri)))]
pub(crate) fn thread_id() -> u32 {
    // SAFETY: the call has no preconditions.
    let id = unsafe { libc::gettid() };
    u32::try_from(id).unwrap_or(0)
}

/// Always 0: on this system reports do not look at threads, so they need no number.
#[cfg(all(feature = "report", not(timebox_loom), any(not(target_os = "linux"), miri)))]
pub(crate) fn thread_id() -> u32 {
    0
}

/// Names this thread, for tools that list threads. Does not allocate. The system keeps 15 bytes of the name.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri), not(timebox_loom)))]
pub(crate) fn name_this_thread(name: &str) {
    let mut bytes = [0_u8; 16];
    bytes[..15].iter_mut().zip(name.bytes()).for_each(|(byte, of_name)| *byte = of_name);
    // SAFETY: the call reads a string that ends with a zero byte and lives during the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(miri), not(timebox_loom))))]
pub(crate) fn name_this_thread(_name: &str) {}

/// The heavy half of an asymmetric fence: see `watchdog/README.md`.
#[cfg(all(target_os = "linux", not(miri), not(timebox_loom)))]
mod barrier {
    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes numbers and orders memory. An unknown command fails.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    /// Registers the process for [`heavy_barrier`]. This blocks for milliseconds in a process with threads. `false` if
    /// the system has no such barrier or denies it.
    pub(crate) fn register_barrier() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && heavy_barrier()
    }

    /// A full fence on every running thread of this process. `false` if the system denies it.
    pub(crate) fn heavy_barrier() -> bool {
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }
}

#[cfg(not(all(target_os = "linux", not(miri), not(timebox_loom))))]
mod barrier {
    pub(crate) fn register_barrier() -> bool {
        false
    }

    pub(crate) fn heavy_barrier() -> bool {
        false
    }
}

pub(crate) use barrier::{heavy_barrier, register_barrier};

/// Whether a child has ended. Does not reap the child. Fails if this process has no such child, or has reaped it.
#[cfg(all(unix, any(feature = "isolate", feature = "process")))]
pub(crate) fn has_ended(pid: rustix::process::Pid) -> io::Result<bool> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

#[cfg(all(unix, feature = "isolate"))]
pub(crate) fn replace_stdin(input: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: `input` is open during the call. Nobody owns the number 0: std only lends it. Whoever borrows it finds it
    // open all the time, but with another file after this call.
    match unsafe { libc::dup2(input.as_raw_fd(), libc::STDIN_FILENO) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether the system keeps the exit status of a child until the child is waited for. `false` if the program ignores
/// SIGCHLD, or has set `SA_NOCLDWAIT` for it.
#[cfg(all(unix, feature = "process"))]
pub(crate) fn keeps_children() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the call only asks, and writes into a struct of ours, for which all zeros are a value.
    let action = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction != libc::SIG_IGN && action.sa_flags & libc::SA_NOCLDWAIT == 0
}

/// The process group of this program; `None` if the group belongs to another namespace, and so has no number here.
#[cfg(all(unix, feature = "process"))]
pub(crate) fn own_process_group() -> Option<i32> {
    // SAFETY: the call takes nothing, returns a number, and cannot fail.
    let group = unsafe { libc::getpgrp() };
    (group > 0).then_some(group)
}

/// Starts a command. If `session` is set, the child begins a new session. If there is a pipe `tells`, the child writes
/// its process number to the pipe. The reader can pass that text to `kill`. If the child leads a group, the text has a
/// minus before the number, so that `kill` signals the group.
///
/// `session` and `tells` have no effect on later starts of `command`.
#[cfg(all(unix, feature = "process"))]
pub(crate) fn spawn_prepared(
    command: &mut std::process::Command,
    session: bool,
    tells: Option<std::os::fd::BorrowedFd<'_>>,
) -> io::Result<std::process::Child> {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    // The command keeps the closure, and would run it at later starts too. So this flag switches it off after this
    // start. Relaxed: the closure runs in the forked child, whose thread is a copy of this thread and sees its writes.
    let asked = Arc::new(AtomicBool::new(true));
    let is_asked = Arc::clone(&asked);
    let pipe = tells.map(|pipe| pipe.as_raw_fd());
    let prepare = move || {
        if !is_asked.load(Ordering::Relaxed) {
            return Ok(());
        }
        if session {
            lead_session()?;
        }
        pipe.map_or(Ok(()), tell_number)
    };
    // SAFETY: between `fork` and `exec` the closure loads an atomic, and makes system calls that are async-signal-safe.
    // It takes no lock, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn();
    asked.store(false, Ordering::Relaxed);
    child
}

/// Makes this process the leader of a session. Called in a child before `exec`, so it may only make system calls that
/// are async-signal-safe.
#[cfg(all(unix, feature = "process"))]
fn lead_session() -> io::Result<()> {
    // SAFETY: system calls that take nothing, or a number, and return numbers.
    let (new, session, process) = unsafe { (libc::setsid(), libc::getsid(0), libc::getpid()) };
    // `setsid` fails in a process that leads a session already, which is no error here.
    if new == -1 && session != process { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
}

/// Writes the number of this process as a line, with a minus before it if the process leads a group. Called in a child
/// before `exec`, so it may only make system calls that are async-signal-safe.
#[cfg(all(unix, feature = "process"))]
fn tell_number(pipe: libc::c_int) -> io::Result<()> {
    // SAFETY: system calls that take nothing, and return numbers.
    let (process, group) = unsafe { (libc::getpid(), libc::getpgrp()) };
    // The line is filled from right to left. It has room for a sign, ten digits and a line feed.
    let mut line = *b"           \n";
    let mut start = line.len() - 1;
    let mut rest = process.unsigned_abs();
    loop {
        start -= 1;
        line[start] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if group == process {
        start -= 1;
        line[start] = b'-';
    }
    let line = &line[start..];
    // SAFETY: the call reads `line`, which lives during the call. The line is short enough to be written at once.
    match unsafe { libc::write(pipe, line.as_ptr().cast(), line.len()) } {
        -1 => Err(io::Error::from_raw_os_error(libc::EPIPE)),
        _ => Ok(()),
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android"), not(timebox_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_cannot_be_read_stands_still() {
        assert_eq!(nanos_on(libc::clockid_t::MAX), 1);
        assert!(monotonic_nanos() > 1);
    }
}
