use std::fmt::Write;
use std::time::Duration;

use super::descriptor::{self, Descriptor};
use super::memory::Memory;
use crate::error::Rounded;

/// A system call that a thread is blocked in.
pub(super) struct Call<'a> {
    pub(super) name: &'static str,
    pub(super) arguments: &'a [u64; 6],
    /// The thread and its memory, to find out more about the call. `None` if the thread may have left the call.
    pub(super) around: Option<Around<'a>>,
}

/// The thread that is in the call, and the memory to which the call's arguments point.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) tid: u32,
    pub(super) memory: Memory<'a>,
}

impl<'a> Call<'a> {
    pub(super) fn in_words(&self) -> String {
        match self.name {
            "futex" => self.futex(),
            "read" | "readv" | "pread64" | "preadv" | "preadv2" | "write" | "writev" | "pwrite64"
            | "pwritev" | "pwritev2" | "recvfrom" | "recvmsg" | "recvmmsg" | "sendmsg" | "sendmmsg"
            | "accept" | "accept4" | "shutdown" | "ioctl" | "fsync" | "fdatasync" | "syncfs"
            | "sync_file_range" | "ftruncate" | "fallocate" | "fstat" | "getdents64" | "lseek"
            | "mq_timedreceive" | "mq_timedsend" => self.on_descriptor(),
            "sendto" => self.sendto(),
            "connect" => self.connect(),
            "flock" => self.lock("flock"),
            "fcntl" => self.fcntl(),
            "sendfile" => self.transfer(1, 0),
            "splice" | "copy_file_range" => self.transfer(0, 2),
            "tee" => self.transfer(0, 1),
            "poll" => self.poll(&self.milliseconds(2)),
            "ppoll" => self.poll(&self.timespec(2)),
            "select" => self.select(&self.timeout(4, Memory::timeval)),
            "pselect6" => self.select(&self.timespec(4)),
            "epoll_wait" | "epoll_pwait" => self.epoll_wait(&self.milliseconds(3)),
            "epoll_pwait2" => self.epoll_wait(&self.timespec(3)),
            "io_uring_enter" => self.io_uring_enter(),
            "nanosleep" => self.with_time(0),
            "clock_nanosleep" => self.clock_nanosleep(),
            "wait4" => self.wait4(),
            "waitid" => self.waitid(),
            "vfork" => self.vfork(),
            "clone" if self.arguments[0] & VFORK != 0 => self.vfork(),
            "clone3" if self.pointed(0, Memory::word).is_some_and(|flags| flags & VFORK != 0) => self.vfork(),
            "pause" | "rt_sigsuspend" => format!("{}, until a signal comes", self.name),
            "rt_sigtimedwait" => format!("rt_sigtimedwait (for a signal), {}", self.timespec(2)),
            "semop" | "semtimedop" => format!("{} on semaphore set {}", self.name, self.int(0)),
            "msgrcv" | "msgsnd" => format!("{} on message queue {}", self.name, self.int(0)),
            "restart_syscall" => "restart_syscall (goes on with a wait that a stop interrupted)".into(),
            name => match path_argument(name).and_then(|index| self.pointed(index, Memory::path)) {
                Some(path) => format!("{name} of {path}"),
                None => format!("system call {name}"),
            },
        }
    }

    /// An argument that is an `int`. The upper half of the register is ignored, because it may hold anything.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    pub(super) fn int(&self, index: usize) -> i32 {
        self.arguments[index] as i32
    }

    pub(super) fn pointed<T>(&self, index: usize, read: impl Fn(Memory<'a>, u64) -> Option<T>) -> Option<T> {
        read(self.around?.memory, self.arguments[index])
    }

    pub(super) fn tid(&self) -> Option<u32> {
        Some(self.around?.tid)
    }

    pub(super) fn descriptor(&self, index: usize) -> Descriptor {
        let number = self.int(index);
        let looked = self.tid().and_then(|tid| Descriptor::look(tid, &[number]).pop());
        looked.unwrap_or_else(|| Descriptor::unknown(number))
    }

    fn on_descriptor(&self) -> String {
        self.descriptor(0).called(self.name)
    }

    fn sendto(&self) -> String {
        let mut text = self.on_descriptor();
        let address = self.pointed(4, |memory, address| memory.address(address, self.arguments[5]));
        if let Some(address) = address {
            let _ = write!(text, ", to {address}");
        }
        text
    }

    fn connect(&self) -> String {
        let address = self.pointed(1, |memory, address| memory.address(address, self.arguments[2]));
        match address {
            Some(address) => format!("connect to {address} (fd {})", self.int(0)),
            None => self.on_descriptor(),
        }
    }

    fn transfer(&self, from: usize, to: usize) -> String {
        let (from, to) = (self.descriptor(from).named(), self.descriptor(to).named());
        format!("{} from {from} to {to}", self.name)
    }

    fn poll(&self, timeout: &str) -> String {
        let count = usize::try_from(self.arguments[1]).unwrap_or(usize::MAX);
        let entry = |memory: Memory<'_>, address: u64, index: usize| {
            let address = address.checked_add(8 * index as u64)?;
            memory.int(address).map(u32::cast_signed)
        };
        let numbers = self.pointed(0, |memory, address| {
            (0..count.min(1024)).map(|index| entry(memory, address, index)).collect::<Option<Vec<i32>>>()
        });
        // The call ignores entries with a negative number.
        let numbers = numbers.map(|numbers| numbers.into_iter().filter(|&number| number >= 0).collect());
        self.several(numbers, timeout)
    }

    fn select(&self, timeout: &str) -> String {
        let count = usize::try_from(self.int(0)).unwrap_or(0).min(1024);
        let numbers = self.around.map(|around| {
            let sets = self.arguments[1..4].iter().flat_map(|&set| around.memory.bits(set, count));
            let mut numbers: Vec<i32> = sets.map(u32::cast_signed).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        });
        self.several(numbers, timeout)
    }

    fn several(&self, numbers: Option<Vec<i32>>, timeout: &str) -> String {
        match numbers {
            Some(numbers) => {
                format!("{} of {}, {timeout}", self.name, descriptor::list(self.tid(), &numbers))
            }
            None => format!("{}, {timeout}", self.name),
        }
    }

    fn epoll_wait(&self, timeout: &str) -> String {
        let epoll = self.int(0);
        let watched = self.tid().map(|tid| descriptor::watched_by(tid, epoll)).unwrap_or_default();
        if watched.is_empty() {
            return format!("{} on fd {epoll}, {timeout}", self.name);
        }
        let list = descriptor::list(self.tid(), &watched);
        format!("{} on fd {epoll}, which watches {list}, {timeout}", self.name)
    }

    fn io_uring_enter(&self) -> String {
        let plural = if self.int(2) == 1 { "completion" } else { "completions" };
        format!("io_uring_enter on fd {}, for {} {plural}", self.int(0), self.int(2))
    }

    /// `timeout 2.5s`, from an argument in milliseconds. `no timeout` if the argument is negative.
    fn milliseconds(&self, index: usize) -> String {
        match u64::try_from(self.int(index)) {
            Ok(milliseconds) => format!("timeout {}", Rounded(Duration::from_millis(milliseconds))),
            Err(_) => "no timeout".into(),
        }
    }

    fn timespec(&self, index: usize) -> String {
        self.timeout(index, Memory::timespec)
    }

    /// `timeout 2.5s`, from an argument that points to the time. `no timeout` if the pointer is null.
    fn timeout(&self, index: usize, read: impl Fn(Memory<'a>, u64) -> Option<Duration>) -> String {
        match self.pointed(index, read) {
            _ if self.arguments[index] == 0 => "no timeout".into(),
            Some(timeout) => format!("timeout {}", Rounded(timeout)),
            None => "a timeout".into(),
        }
    }

    /// The call, and for how long it waits: `nanosleep, 2.5s`.
    pub(super) fn with_time(&self, index: usize) -> String {
        match self.pointed(index, Memory::timespec) {
            Some(time) => format!("{}, {}", self.name, Rounded(time)),
            None => self.name.into(),
        }
    }
}

/// The value of `CLONE_VFORK`.
const VFORK: u64 = 0x4000;

/// The index of the argument that is a path, for a call that may wait for the file at the path. `None` for any other
/// call.
fn path_argument(name: &str) -> Option<usize> {
    match name {
        "open" | "creat" | "stat" | "lstat" | "access" | "execve" | "unlink" | "rmdir" | "mkdir"
        | "readlink" | "chmod" | "chown" | "lchown" | "truncate" | "statfs" | "chdir" | "chroot"
        | "rename" | "link" | "umount2" | "swapoff" | "getxattr" | "lgetxattr" | "setxattr" | "lsetxattr"
        | "listxattr" | "utime" | "utimes" | "mknod" => Some(0),
        "openat" | "openat2" | "newfstatat" | "statx" | "unlinkat" | "mkdirat" | "readlinkat"
        | "faccessat" | "faccessat2" | "fchmodat" | "fchownat" | "renameat" | "renameat2" | "linkat"
        | "utimensat" | "execveat" | "mount" | "inotify_add_watch" | "mknodat" => Some(1),
        _ => None,
    }
}
