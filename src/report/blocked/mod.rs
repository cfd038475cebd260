//! Describes the system call that a thread is blocked in, in words for a person on call.
//!
//! What cannot be found out is left out. All facts come from `/proc` and from the arguments of the call. Nothing here
//! waits for another thread, another process or a file system. So this never reads the command line of a process,
//! because that would wait for locks of the process. And this asks no file for its type, because that would wait for
//! the file system.

#[cfg(target_os = "linux")]
mod call;
#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod descriptor;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod sockets;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(target_os = "linux")]
mod waits;

/// Reads the memory of this process: copies the bytes at an address, and returns how many could be read.
pub(crate) type Read<'a> = dyn Fn(u64, &mut [u8]) -> usize + 'a;

/// Describes the system call that a thread is blocked in: `recvfrom on fd 7, TCP 127.0.0.1:51234 -> 127.0.0.1:6379`.
///
/// If the thread has left the call meanwhile, the call's descriptors may by now stand for other files. Then only the
/// arguments are described.
#[cfg(target_os = "linux")]
pub(crate) fn describe(tid: u32, number: i64, arguments: &[u64; 6], read: &Read<'_>) -> String {
    let Some(name) = calls::name(number) else { return format!("system call {number}") };
    let around = call::Around { tid, memory: memory::Memory(read) };
    let text = call::Call { name, arguments, around: Some(around) }.in_words();
    if is_still_in(tid, number, arguments) {
        text
    } else {
        call::Call { name, arguments, around: None }.in_words()
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn describe(_tid: u32, number: i64, _arguments: &[u64; 6], _read: &Read<'_>) -> String {
    format!("system call {number}")
}

/// The name of a system call, without the call's arguments. It is for a stack that was seen many times, each time with
/// other arguments.
#[cfg(feature = "profile")]
pub(crate) fn name_of(number: i64) -> String {
    #[cfg(target_os = "linux")]
    if let Some(name) = calls::name(number) {
        return name.to_owned();
    }
    format!("system call {number}")
}

/// The system call that a thread is blocked in, and its arguments. `None` if the thread runs, is gone, or is blocked
/// outside of system calls.
#[cfg(target_os = "linux")]
fn call_of(tid: u32) -> Option<(i64, [u64; 6])> {
    let line = super::proc::line(&format!("/proc/self/task/{tid}/syscall"))?;
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, arguments))
}

#[cfg(target_os = "linux")]
fn is_still_in(tid: u32, number: i64, arguments: &[u64; 6]) -> bool {
    call_of(tid) == Some((number, *arguments))
}
