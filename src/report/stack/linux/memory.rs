//! Reads memory of this process at addresses that may not be mapped. Such an address ends the read, but never the
//! process.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use crate::scope::ReadMemory;
use crate::sync::fork::generation;
use crate::sync::{AtomicU64, Ordering};

/// The memory of this process.
///
/// The system call `process_vm_readv` copies it. Where a sandbox forbids that call, `/proc/self/mem` is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory;

/// The memory of this process, for signal handlers. Reads nothing before [`Memory::prepare`] has returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreparedMemory;

/// The way to read the memory. A forked child must find its own way: a `/proc/self/mem` that its parent has opened
/// reads the parent's memory.
#[derive(Clone, Copy)]
enum Way {
    Call,
    /// The descriptor of the open `/proc/self/mem`. It is never closed.
    File(RawFd),
    None,
}

/// The lower half is the [`Way`] that a process has found. The upper half is 1 more than that process's generation
/// (`fork.rs`), so a forked child sees that the way is its parent's. 0: no process has found its way yet.
static KNOWN: AtomicU64 = AtomicU64::new(0);

impl Way {
    const CALL: u32 = u32::MAX;
    const NONE: u32 = u32::MAX - 1;

    fn find() -> Self {
        let probe = [7_u8];
        let mut copy = [0_u8];
        let address = probe.as_ptr() as u64;
        if by_call(address, &mut copy) == 1 && copy == probe {
            return Self::Call;
        }
        let Ok(file) = File::open("/proc/self/mem") else { return Self::None };
        if by_file(file.as_raw_fd(), address, &mut copy) == 1 && copy == probe {
            Self::File(file.into_raw_fd())
        } else {
            Self::None
        }
    }

    fn known() -> Option<Self> {
        // Relaxed: the word publishes nothing else.
        let known = KNOWN.load(Ordering::Relaxed);
        let [process, way] = [known >> 32, known & u64::from(u32::MAX)];
        if process != u64::from(generation()) + 1 {
            return None;
        }
        Some(match u32::try_from(way).unwrap_or(Self::NONE) {
            Self::CALL => Self::Call,
            Self::NONE => Self::None,
            file => Self::File(file.cast_signed()),
        })
    }

    fn known_or_found() -> Self {
        Self::known().unwrap_or_else(|| {
            let way = Self::find();
            let word = match way {
                Self::Call => Self::CALL,
                Self::None => Self::NONE,
                Self::File(file) => file.cast_unsigned(),
            };
            KNOWN.store((u64::from(generation()) + 1) << 32 | u64::from(word), Ordering::Relaxed);
            way
        })
    }

    fn read(self, address: u64, into: &mut [u8]) -> usize {
        match self {
            Self::Call => by_call(address, into),
            Self::File(file) => by_file(file, address, into),
            Self::None => 0,
        }
    }
}

impl Memory {
    /// Finds out how the memory can be read, so that a signal handler need not find it out.
    pub(super) fn prepare() {
        Way::known_or_found();
    }

    pub(super) fn is_readable() -> bool {
        !matches!(Way::known_or_found(), Way::None)
    }
}

impl ReadMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        Way::known_or_found().read(address, into)
    }
}

impl ReadMemory for PreparedMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        Way::known().map_or(0, |way| way.read(address, into))
    }
}

fn by_file(file: RawFd, address: u64, into: &mut [u8]) -> usize {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let offset = address.wrapping_add(done as u64).cast_signed();
        // SAFETY: the kernel writes only to `rest`.
        let count = unsafe { libc::pread64(file, rest.as_mut_ptr().cast(), rest.len(), offset) };
        match usize::try_from(count) {
            Ok(0) | Err(_) => break,
            Ok(count) => done += count,
        }
    }
    done
}

fn by_call(address: u64, into: &mut [u8]) -> usize {
    let Ok(start) = usize::try_from(address) else { return 0 };
    let here = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let there = libc::iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: into.len() };
    // `getpid` is called each time. A number in a static could be that of the parent, in a child of `vfork`, which
    // shares this memory.
    // SAFETY: the kernel writes only to `here`, which is `into`. It checks each page of `there` and stops at the first
    // that cannot be read.
    let count = unsafe { libc::process_vm_readv(libc::getpid(), &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(count).unwrap_or(0)
}

/// Up to `len` bytes from `address` on: fewer if a later page cannot be read, `None` if not even the first byte can.
pub(super) fn bytes(memory: &impl ReadMemory, address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let count = memory.read(address, &mut bytes);
    bytes.truncate(count);
    (count > 0).then_some(bytes)
}
