//! Describes calls that wait for another thread, for another process, or for a time.

use std::time::{Duration, SystemTime};

use super::call::Call;
use super::descriptor;
use super::memory::Memory;
use crate::error::Rounded;
use crate::report::proc;
use crate::time::clock;

impl Call<'_> {
    pub(super) fn futex(&self) -> String {
        let operation = self.int(1);
        let timeout = self.pointed(3, Memory::timespec).filter(|_| self.arguments[3] != 0);
        let is_real_time = operation & libc::FUTEX_CLOCK_REALTIME != 0;
        let left = match operation & libc::FUTEX_CMD_MASK {
            libc::FUTEX_WAIT => timeout,
            libc::FUTEX_LOCK_PI => timeout.and_then(|until| left(until, true)),
            _ => timeout.and_then(|until| left(until, is_real_time)),
        };
        let for_whom = match operation & libc::FUTEX_CMD_MASK {
            libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2 => self.holder(),
            libc::FUTEX_WAIT_BITSET => self.joined(),
            _ => None,
        };
        let for_whom = for_whom.as_deref().unwrap_or("a lock, a condition, or a join");
        match left {
            Some(left) => format!("futex ({for_whom}), timeout in {}", Rounded(left)),
            None => format!("futex ({for_whom})"),
        }
    }

    /// Says which thread is joined. `None` if the wait is not a join. To join a thread, the C library waits for a word
    /// that holds the thread's number. When the thread ends, the kernel clears the word, and wakes only waiters without
    /// `FUTEX_PRIVATE_FLAG`.
    fn joined(&self) -> Option<String> {
        let number = self.arguments[2];
        let is_private = self.int(1) & libc::FUTEX_PRIVATE_FLAG != 0;
        let is_same = u64::from(self.pointed(0, Memory::int)?) == number;
        // The word may also be a lock that several processes share. Then the word holds a small number, which is not
        // that of a thread.
        if is_private || !is_same || number < 16 {
            return None;
        }
        Some(format!("the join of {}", thread(u32::try_from(number).ok()?)?))
    }

    /// The thread that holds a lock with priority inheritance. The word of such a lock has the thread's number.
    fn holder(&self) -> Option<String> {
        let holder = self.pointed(0, Memory::int)? & libc::FUTEX_TID_MASK;
        Some(format!("a lock that {} holds", thread(holder)?))
    }

    pub(super) fn clock_nanosleep(&self) -> String {
        if self.int(1) & libc::TIMER_ABSTIME == 0 {
            return self.with_time(2);
        }
        let until = self.pointed(2, Memory::timespec);
        let left = match self.int(0) {
            libc::CLOCK_MONOTONIC => until.and_then(|until| left(until, false)),
            libc::CLOCK_REALTIME => until.and_then(|until| left(until, true)),
            _ => None,
        };
        match left {
            Some(left) => format!("clock_nanosleep, {} more", Rounded(left)),
            None => "clock_nanosleep".into(),
        }
    }

    pub(super) fn wait4(&self) -> String {
        match u32::try_from(self.int(0)) {
            Ok(number @ 1..) => format!("wait4 for {}", self.process(number)),
            _ => "wait4 for a child".into(),
        }
    }

    pub(super) fn waitid(&self) -> String {
        #[allow(clippy::cast_sign_loss)] // constants
        const PROCESS: u64 = libc::P_PID as u64;
        #[allow(clippy::cast_sign_loss)]
        const DESCRIPTOR: u64 = libc::P_PIDFD as u64;
        let number = match self.arguments[0] {
            PROCESS => u32::try_from(self.int(1)).ok(),
            DESCRIPTOR => self.tid().and_then(|tid| descriptor::process_of(tid, self.int(1))),
            _ => None,
        };
        match number {
            Some(number) => format!("waitid for {}", self.process(number)),
            None => "waitid for a child".into(),
        }
    }

    pub(super) fn vfork(&self) -> String {
        format!("{}, until the child starts its program or ends", self.name)
    }

    pub(super) fn fcntl(&self) -> String {
        match self.int(1) {
            libc::F_SETLKW | libc::F_OFD_SETLKW => self.lock("fcntl lock"),
            _ => format!("fcntl on fd {}", self.int(0)),
        }
    }

    /// A wait for a file lock, in words: `flock on /path (fd 5), held by process 4711 (sqlite3)`.
    pub(super) fn lock(&self, what: &str) -> String {
        let file = self.descriptor(0).named();
        let holder = self.tid().and_then(|tid| {
            let inode = descriptor::file_inode(tid, self.int(0))?;
            holder(inode)
        });
        match holder {
            Some(holder) if holder == std::process::id() => format!("{what} on {file}, held by this process"),
            Some(holder) => format!("{what} on {file}, held by {}", self.process(holder)),
            None => format!("{what} on {file}"),
        }
    }

    /// Describes a process: `process 4711 (sleep)`.
    fn process(&self, number: u32) -> String {
        let name = self.around.and_then(|_| proc::line(&format!("/proc/{number}/comm")));
        name.map_or_else(|| format!("process {number}"), |name| format!("process {number} ({name})"))
    }
}

/// Describes a thread: `thread 4711 (worker)`. `None` if this process has no such thread.
fn thread(number: u32) -> Option<String> {
    let name = proc::line(&format!("/proc/self/task/{number}/comm"))?;
    Some(format!("thread {number} ({name})"))
}

/// The time from now to `until`. With `is_real_time`, `until` is a time of day. Otherwise `until` is a time on the
/// clock of this crate.
fn left(until: Duration, is_real_time: bool) -> Option<Duration> {
    let now = if is_real_time {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?
    } else {
        Duration::from_nanos(clock::real_now())
    };
    Some(until.saturating_sub(now))
}

/// Finds the process that holds a lock of the file `inode`, for which this process waits. `None` if that process cannot
/// be found. A waiting process has a line of its own in `/proc/locks`, with the number of the lock and an arrow:
/// `1: -> FLOCK ADVISORY WRITE 4712 00:13:1047 0 EOF`.
fn holder(inode: u64) -> Option<u32> {
    let own = std::process::id().to_string();
    let of_file = |line: String| {
        let mut words = line.split_ascii_whitespace();
        let number = words.next()?.to_owned();
        let mut words = words.peekable();
        let waits = words.next_if_eq(&"->").is_some();
        let process = words.nth(3)?.to_owned();
        let file: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
        (file == inode).then_some((number, waits, process))
    };
    let locks: Vec<_> = proc::lines("/proc/locks").filter_map(of_file).collect();
    let mut waits = locks.iter().filter(|(_, waits, process)| *waits && *process == own);
    let (number, ..) = waits.next()?;
    // If threads of this process wait for several locks of the file, nothing tells which of the locks the thread waits
    // for.
    if waits.any(|(other, ..)| other != number) {
        return None;
    }
    let (.., holder) = locks.iter().find(|(lock, waits, _)| !waits && lock == number)?;
    holder.parse().ok().filter(|&holder: &u32| holder != 0)
}
