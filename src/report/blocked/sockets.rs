//! Sockets in words, from the tables of `/proc/net`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::report::proc;

/// Describes each socket: `TCP 127.0.0.1:51234 -> 127.0.0.1:6379`. `None` for a socket that is in no table.
///
/// Reads each table at most once.
pub(super) fn in_words(tid: u32, inodes: &[u64]) -> Vec<Option<String>> {
    let mut found = vec![None; inodes.len()];
    for table in &TABLES {
        if found.iter().all(Option::is_some) {
            break;
        }
        // This is the table of the thread's own network namespace. The first line has the names of the columns.
        for line in proc::lines(&format!("/proc/self/task/{tid}/net/{}", table.file)).skip(1) {
            let Some(inode) = table.inode(&line) else { continue };
            if let Some(index) = inodes.iter().position(|&wanted| wanted == inode) {
                found[index] = Some((table.in_words)(&line));
            }
        }
    }
    found
}

struct Table {
    file: &'static str,
    /// The column of the inode.
    inode: usize,
    in_words: fn(&str) -> String,
}

const TABLES: [Table; 5] = [
    Table { file: "tcp", inode: 9, in_words: |line| internet("TCP", line) },
    Table { file: "tcp6", inode: 9, in_words: |line| internet("TCP", line) },
    Table { file: "unix", inode: 6, in_words: unix },
    Table { file: "udp", inode: 9, in_words: |line| internet("UDP", line) },
    Table { file: "udp6", inode: 9, in_words: |line| internet("UDP", line) },
];

impl Table {
    fn inode(&self, line: &str) -> Option<u64> {
        line.split_ascii_whitespace().nth(self.inode)?.parse().ok()
    }
}

fn internet(protocol: &str, line: &str) -> String {
    let mut columns = line.split_ascii_whitespace().skip(1).map(address);
    match (columns.next().flatten(), columns.next().flatten()) {
        (Some(local), Some(remote)) if remote.port() != 0 => format!("{protocol} {local} -> {remote}"),
        (Some(local), _) => format!("{protocol} {local}"),
        _ => format!("a {protocol} socket"),
    }
}

/// The path may contain spaces. So this skips seven columns, and takes all that follows for the path.
fn unix(line: &str) -> String {
    let mut rest = line;
    for _ in 0..7 {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    if rest.is_empty() { "a unix socket".into() } else { format!("unix socket {rest}") }
}

/// Parses an address of a table: hexadecimal digits, a colon, and the port in hexadecimal. Eight digits of the address
/// are a word in the byte order of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(8 * index..8 * index + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn rows_of_the_tables() {
        let [tcp, _, unix, ..] = &TABLES;
        let shown = |table: &Table, line: &str| (table.inode(line), (table.in_words)(line));
        let line = "   0: 0100007F:C822 0100007F:18EB 01 00000000:00000000 00:00000000 00000000  1000 \
                    0 12345 1 0000000000000000 20 4 30 10 -1";
        assert_eq!(shown(tcp, line), (Some(12345), "TCP 127.0.0.1:51234 -> 127.0.0.1:6379".into()));
        let line = "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0 \
                    0 7 1 0000000000000000 100 0 0 10 0";
        assert_eq!(shown(tcp, line), (Some(7), "TCP 0.0.0.0:80".into()));
        let line = "   1: 00000000000000000000000001000000:0050 0000000000000000FFFF00000100000A:1538 01 \
                    00000000:00000000 00:00000000 00000000     0 0 8 1 0000000000000000 100 0 0 10 0";
        assert_eq!(shown(tcp, line), (Some(8), "TCP [::1]:80 -> 10.0.0.1:5432".into()));
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 28373 /run/a socket";
        assert_eq!(shown(unix, line), (Some(28373), "unix socket /run/a socket".into()));
        let line = "0000000000000000: 00000003 00000000 00000000 0001 03   273";
        assert_eq!(shown(unix, line), (Some(273), "a unix socket".into()));
        for junk in
            ["", ":", "0: 1 2", "0: é:é é:é 0 0 0 0 0 0 5 0", "0: éééé:1 ééééé:1", "a b c d e f g h i"]
        {
            let _ = (shown(tcp, junk), shown(unix, junk));
        }
    }
}
