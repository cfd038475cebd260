//! Reads memory of this process that may not be there: an address without memory ends the read, and never the process.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::scope::ReadMemory;
use crate::sync::SetOnce;
use crate::sync::fork::PerProcess;

/// The memory of this process.
///
/// The system call `process_vm_readv` copies it. Where a sandbox forbids that call, the file `/proc/self/mem` does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory;

/// How the memory can be read. Each process finds that out for itself, because an open `/proc/self/mem` belongs to the
/// process that opened it.
enum Way {
    Call,
    File(File),
    None,
}

static WAY: PerProcess<SetOnce<Way>> = PerProcess::new(SetOnce::new(), SetOnce::new);

impl Way {
    fn find() -> Self {
        let probe = [7_u8];
        let mut copy = [0_u8];
        let address = probe.as_ptr() as u64;
        if by_call(address, &mut copy) == 1 && copy == probe {
            return Self::Call;
        }
        let Ok(file) = File::open("/proc/self/mem") else { return Self::None };
        match file.read_at(&mut copy, address) {
            Ok(1) if copy == probe => Self::File(file),
            _ => Self::None,
        }
    }
}

impl Memory {
    /// Finds out how the memory can be read, so that a signal handler need not find it out.
    pub(super) fn prepare() {
        WAY.get().get_or_init(Way::find);
    }

    /// Whether the memory can be read at all.
    pub(super) fn is_readable() -> bool {
        !matches!(WAY.get().get_or_init(Way::find), Way::None)
    }
}

impl ReadMemory for Memory {
    /// Safe in a signal handler, once [`Memory::prepare`] has returned: it makes one or a few system calls.
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        match WAY.get().get() {
            Some(Way::Call) => by_call(address, into),
            Some(Way::File(file)) => by_file(file, address, into),
            Some(Way::None) => 0,
            None => {
                Self::prepare();
                if WAY.get().get().is_some() { self.read(address, into) } else { 0 }
            }
        }
    }
}

fn by_file(file: &File, address: u64, into: &mut [u8]) -> usize {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], address.wrapping_add(done as u64)) {
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
    // SAFETY: the kernel writes only to `here`, which is `into`. It checks each page of `there` and stops at the first that
    // cannot be read. The process number is asked for each time, since a child of `vfork` shares this memory.
    let count = unsafe { libc::process_vm_readv(libc::getpid(), &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(count).unwrap_or(0)
}

/// The bytes of a range, as far as they can be read: `None` if there are none.
pub(super) fn bytes(memory: &impl ReadMemory, address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let count = memory.read(address, &mut bytes);
    bytes.truncate(count);
    (count > 0).then_some(bytes)
}
