//! Another thread of this process, seen through its files in `/proc/self/task`.
//!
//! If a thread is blocked in a system call, the file `syscall` has its stack pointer and program counter. The file
//! `schedstat` says how long the thread has run. Both files are read before and after the thread's stack is copied. If
//! they say the same both times, the thread has not run in between, so the copy is of one moment. The thread is not
//! woken, and none of its system calls is interrupted.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::super::copy::{Call, Contents, CpuTimes, Registers, State, Words};
use super::super::reason::Reason;
use super::memory::Memory;
use crate::scope::ScopeCopies;
use crate::time::clock;

/// How many times at most a copy is tried. A try fails if the thread runs meanwhile.
const ATTEMPTS: usize = 3;

/// In a `read` of this file, the stack pointer is at most this many bytes below the buffer that is read into.
const OWN_FRAMES: u64 = 64 << 10;

/// A thread of this process, with its open files in `/proc`. After the thread's end, reads of these files fail, even if
/// a new thread has got its number. So nothing is read of a wrong thread.
pub(in crate::report::stack) struct Task {
    syscall: Result<File, Failure>,
    schedstat: Option<File>,
    /// Has the counts of context switches. Opened only if `schedstat` has no times.
    status: Option<File>,
}

/// What the file `syscall` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Running,
    /// Blocked, or stopped. The stack pointer and the program counter are known.
    Blocked {
        call: Option<Call>,
        sp: u64,
        pc: u64,
    },
    Gone,
    /// The file cannot be read, has an unknown form, or describes an emulator instead of this program.
    Refused,
}

/// How long a thread has run, how long it has waited for a processor, and how often it has got or lost a processor. If
/// two readings are equal, the thread has not run in between.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Ran {
    run: u64,
    waited: u64,
    switches: u64,
}

pub(in crate::report::stack) struct Before {
    ran: Option<Ran>,
    seen: Seen,
    pub(in crate::report::stack) call: Option<Call>,
}

pub(in crate::report::stack) enum Look {
    Copied,
    Running,
    Gone,
    Refused,
}

impl Task {
    pub(in crate::report::stack) fn open(tid: u32) -> Self {
        let open = |name: &str| open(tid, name);
        let syscall = open("syscall").map_err(|error| match Failure::of(&error) {
            // If there is no `/proc` at all, the missing file does not mean that the thread is gone.
            Failure::Gone if !Path::new("/proc/self/task").exists() => Failure::Refused,
            failure => failure,
        });
        let syscall = syscall.and_then(|file| if is_emulated() { Err(Failure::Refused) } else { Ok(file) });
        let schedstat = open("schedstat").ok();
        let has_times =
            schedstat.as_ref().is_some_and(|file| Ran::of_schedstat(file).is_some_and(|ran| ran.run > 0));
        // A run time of 0 means that the system keeps no times, or that the thread has not run yet. In the second case
        // the counts are read needlessly, which does no harm.
        let status = if has_times { None } else { open("status").ok() };
        Self { syscall, schedstat, status }
    }

    /// Copies the thread, if it is blocked. Also notes the thread's state and its processor times, even if it runs.
    pub(in crate::report::stack) fn look(&self, copy: &mut Contents, words: Words) -> Look {
        for _ in 0..ATTEMPTS {
            let before = match self.copy(copy, words) {
                Ok(before) => before,
                Err(look) => return look,
            };
            if self.is_still(&before) {
                copy.state = State::Blocked;
                copy.call = before.call;
                copy.is_consistent = true;
                if copy.stack.registers.is_none() {
                    copy.because(Reason::Unreadable);
                }
                return Look::Copied;
            }
            copy.stack.clear();
            copy.scopes.clear();
            #[cfg(feature = "profile")]
            copy.visits.clear();
        }
        copy.state = State::Running;
        Look::Running
    }

    /// Copies the thread without stopping it. Ask [`is_still`](Self::is_still) afterwards: if the thread has run
    /// meanwhile, the copy mixes several moments. `Err`: the stack is not copied, because the thread is not known to be
    /// blocked.
    pub(in crate::report::stack) fn copy(&self, copy: &mut Contents, words: Words) -> Result<Before, Look> {
        let ran = self.ran();
        copy.at = clock::real_now();
        if let Some(times) = ran.and_then(Ran::times) {
            copy.cpu_time = Some(times.run);
            copy.waited_for_cpu = Some(times.waited);
        }
        let seen = self.seen();
        match seen {
            Seen::Blocked { call, sp, pc } => {
                let registers = Registers { pc, sp, fp: None, lr: None, in_call: call.is_some() };
                copy.fill(registers, words, &Memory);
                Ok(Before { ran, seen, call })
            }
            Seen::Running => {
                copy.state = State::Running;
                Err(Look::Running)
            }
            Seen::Gone => {
                copy.state = State::Gone;
                copy.because(Reason::Gone);
                Err(Look::Gone)
            }
            Seen::Refused => Err(Look::Refused),
        }
    }

    pub(in crate::report::stack) fn is_still(&self, before: &Before) -> bool {
        before.ran.is_some() && self.seen() == before.seen && self.ran() == before.ran
    }

    /// The thread's times; `None` if the system does not keep them, or if the thread has ended.
    pub(super) fn times(&self) -> Option<CpuTimes> {
        self.ran().and_then(Ran::times)
    }

    fn seen(&self) -> Seen {
        let mut bytes = [0; 256];
        match self.syscall.as_ref().map_err(|failure| *failure).and_then(|file| read(file, &mut bytes)) {
            Ok(text) => parse(text).unwrap_or(Seen::Refused),
            Err(Failure::Gone) => Seen::Gone,
            Err(Failure::Refused) => Seen::Refused,
        }
    }

    fn ran(&self) -> Option<Ran> {
        let times = self.schedstat.as_ref().and_then(Ran::of_schedstat);
        let Some(status) = &self.status else { return times };
        let switches = switches(status);
        match times {
            Some(times) => {
                Some(Ran { switches: switches.unwrap_or(0), ..times }).filter(|ran| *ran != Ran::default())
            }
            None => Some(Ran { switches: switches?, ..Ran::default() }),
        }
    }
}

/// Opens a file of a thread. Does not allocate.
fn open(tid: u32, name: &str) -> io::Result<File> {
    let mut path = [0; 64];
    let mut rest = &mut path[..];
    write!(rest, "/proc/self/task/{tid}/{name}")?;
    let left = rest.len();
    File::open(OsStr::from_bytes(&path[..path.len() - left]))
}

impl Ran {
    /// `None` if the system keeps no times.
    fn times(self) -> Option<CpuTimes> {
        let times =
            CpuTimes { run: Duration::from_nanos(self.run), waited: Duration::from_nanos(self.waited) };
        (self.run > 0).then_some(times)
    }

    fn of_schedstat(file: &File) -> Option<Self> {
        let mut bytes = [0; 256];
        let mut numbers =
            read(file, &mut bytes).ok()?.split_ascii_whitespace().map_while(|number| number.parse().ok());
        Some(Self { run: numbers.next()?, waited: numbers.next()?, switches: numbers.next()? })
    }
}

fn switches(status: &File) -> Option<u64> {
    let mut bytes = [0; 4096];
    let text = read(status, &mut bytes).ok()?;
    let counts = text.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
    let mut counts = counts.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    let first = counts.next()?;
    Some(counts.fold(first, u64::wrapping_add))
}

/// Whether the files `syscall` have the registers of an emulator, and not those of this program. To find out, the
/// calling thread reads its own file. Without an emulator, the file describes this very read, and has a stack pointer
/// just below `bytes`.
fn is_emulated() -> bool {
    let mut bytes = [0; 256];
    let here = bytes.as_ptr().addr() as u64;
    let file = File::open("/proc/thread-self/syscall").map_err(|error| Failure::of(&error));
    match file.and_then(|file| read(&file, &mut bytes).map(parse)) {
        Ok(Some(Seen::Blocked { call: Some(call), sp, .. })) => {
            let is_this_read = call.number == libc::SYS_pread64 && call.arguments[1] == here;
            !is_this_read || here.wrapping_sub(sp) > OWN_FRAMES
        }
        Ok(_) => true,
        // Not known. But then the files of other threads cannot be read either, so the answer does not matter.
        Err(_) => false,
    }
}

#[derive(Clone, Copy)]
enum Failure {
    Gone,
    Refused,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => Self::Gone,
            _ => Self::Refused,
        }
    }
}

fn read<'a>(file: &File, bytes: &'a mut [u8]) -> Result<&'a str, Failure> {
    let count = file.read_at(bytes, 0).map_err(|error| Failure::of(&error))?;
    // Some of these files are empty once the thread has ended.
    let text = bytes.get(..count).filter(|text| !text.is_empty()).ok_or(Failure::Gone)?;
    std::str::from_utf8(text).map_err(|_| Failure::Refused)
}

/// Reads the text of a file `syscall`. For a running thread the text is `running`. For a thread in a system call the
/// text begins with the call's number and six arguments. For a thread that is blocked elsewhere it begins with `-1`.
/// The stack pointer and the program counter follow. `None` if the text has another form.
fn parse(text: &str) -> Option<Seen> {
    let text = text.trim_ascii_end();
    if text == "running" {
        return Some(Seen::Running);
    }
    let mut words = text.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let mut values = [0; 8];
    let mut count = 0;
    for word in words {
        *values.get_mut(count)? = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
        count += 1;
    }
    let (call, sp, pc) = match count {
        8 => {
            let [arguments @ .., sp, pc] = values;
            (Some(Call { number, arguments }), sp, pc)
        }
        2 => (None, values[0], values[1]),
        _ => return None,
    };
    // A thread that is just starting or ending has no registers.
    if sp == 0 { None } else { Some(Seen::Blocked { call, sp, pc }) }
}

/// Reads the scopes of a running thread. `true`: two readings in a row were the same. `false`: they never were, and
/// `scopes` is empty.
pub(super) fn scopes_of_running(scopes: &mut ScopeCopies, frame_word: u64) -> bool {
    let key = |scopes: &ScopeCopies| {
        let innermost =
            scopes.scopes().first().map(|scope| (scope.frame, scope.entered, scope.asked, scope.location));
        let outermost =
            scopes.scopes().last().map(|scope| (scope.frame, scope.entered, scope.asked, scope.location));
        (scopes.scopes().len(), innermost, outermost)
    };
    for _ in 0..ATTEMPTS {
        scopes.fill(frame_word, &Memory);
        let first = key(scopes);
        scopes.fill(frame_word, &Memory);
        if key(scopes) == first {
            return true;
        }
    }
    scopes.clear();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_call_is_read() {
        let seen = parse("202 0x7f1 0x80 0x2 0x0 0x0 0x0 0x7ffd10 0x401020\n");
        let call = Call { number: 202, arguments: [0x7f1, 0x80, 2, 0, 0, 0] };
        assert!(seen == Some(Seen::Blocked { call: Some(call), sp: 0x7f_fd10, pc: 0x40_1020 }));
        assert!(parse("-1 0x10 0x20") == Some(Seen::Blocked { call: None, sp: 0x10, pc: 0x20 }));
        assert!(parse("running\n") == Some(Seen::Running));
    }

    #[test]
    fn a_text_that_is_no_call_is_refused() {
        for text in ["", "1", "x 0x1 0x2", "1 0x1 2", "0 0x0 0x0", "1 0x1 0x2 0x3", &"0x1 ".repeat(40)] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
