//! Reads what the pointers among the arguments of a system call point to.

use std::ffi::c_int;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Read;

/// How many bytes of a path are read, at most.
const LONGEST_PATH: usize = 512;

/// The memory of this process. A read returns `None` if the memory cannot be read, or if its contents make no sense.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a>(pub(super) &'a Read<'a>);

impl Memory<'_> {
    pub(super) fn bytes<const N: usize>(self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (address != 0 && (self.0)(address, &mut bytes) == N).then_some(bytes)
    }

    pub(super) fn word(self, address: u64) -> Option<u64> {
        self.bytes(address).map(u64::from_ne_bytes)
    }

    pub(super) fn int(self, address: u64) -> Option<u32> {
        self.bytes(address).map(u32::from_ne_bytes)
    }

    /// Reads `len` bytes, or fewer if not all of them can be read.
    fn some(self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = if address == 0 { 0 } else { (self.0)(address, &mut bytes) };
        bytes.truncate(read);
        bytes
    }

    /// Reads a path, which ends with a zero byte. A path that is longer than [`LONGEST_PATH`] is cut.
    pub(super) fn path(self, address: u64) -> Option<String> {
        let bytes = self.some(address, LONGEST_PATH);
        let path = bytes.split(|&byte| byte == 0).next()?;
        let cut = if path.len() == bytes.len() { ".." } else { "" };
        (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned() + cut)
    }

    pub(super) fn timespec(self, address: u64) -> Option<Duration> {
        let (seconds, nanos) = self.two_words(address)?;
        (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
    }

    pub(super) fn timeval(self, address: u64) -> Option<Duration> {
        let (seconds, micros) = self.two_words(address)?;
        (micros < 1_000_000).then(|| Duration::new(seconds, micros * 1000))
    }

    fn two_words(self, address: u64) -> Option<(u64, u32)> {
        let seconds = self.word(address)?;
        let fraction = self.word(address.checked_add(8)?)?;
        (i64::try_from(seconds).is_ok()).then_some((seconds, u32::try_from(fraction).ok()?))
    }

    /// The address in a `sockaddr`, such as `127.0.0.1:6379` or `unix socket /run/postgresql`.
    pub(super) fn address(self, address: u64, len: u64) -> Option<String> {
        let bytes = self.some(address, usize::try_from(len).ok()?.min(128));
        let (family, rest) = bytes.split_first_chunk()?;
        let port = || rest.first_chunk().map(|&port| u16::from_be_bytes(port));
        match c_int::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let ip: [u8; 4] = *rest.get(2..)?.first_chunk()?;
                Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port()?).to_string())
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = *rest.get(6..)?.first_chunk()?;
                Some(SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port()?).to_string())
            }
            libc::AF_UNIX => Some(match rest.split_first() {
                None => "a unix socket".to_owned(),
                // A name in the abstract namespace begins with a zero byte and has no end.
                Some((0, name)) => format!("unix socket @{}", String::from_utf8_lossy(name)),
                _ => {
                    let path = rest.split(|&byte| byte == 0).next()?;
                    format!("unix socket {}", String::from_utf8_lossy(path))
                }
            }),
            _ => None,
        }
    }

    /// The numbers of the bits that are set, among the first `count` bits at `address`.
    pub(super) fn bits(self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.some(address, count.div_ceil(8));
        let numbers = 0..u32::try_from(count).unwrap_or(0);
        let is_set = |number: &u32| {
            let number = *number as usize;
            bytes.get(number / 8).is_some_and(|byte| byte & (1 << (number % 8)) != 0)
        };
        numbers.filter(is_set).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_with_and_without_a_name() {
        let shown = |name: &str| {
            let family = u16::try_from(libc::AF_UNIX).unwrap();
            let bytes = [&family.to_ne_bytes(), name.as_bytes()].concat();
            let read = |_: u64, into: &mut [u8]| {
                into.copy_from_slice(&bytes);
                bytes.len()
            };
            Memory(&read).address(1, bytes.len() as u64)
        };
        assert_eq!(shown("").as_deref(), Some("a unix socket"));
        assert_eq!(shown("/run/a\0b").as_deref(), Some("unix socket /run/a"));
        assert_eq!(shown("\0abstract").as_deref(), Some("unix socket @abstract"));
    }
}
