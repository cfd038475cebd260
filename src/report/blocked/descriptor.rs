use std::fmt;
use std::fs;

use super::sockets;
use crate::report::proc;

/// How many descriptors of a call are named, at most.
const MOST_NAMED: usize = 4;

pub(super) struct Descriptor {
    number: i32,
    object: Option<Object>,
}

/// What a descriptor refers to, as far as that is known.
enum Object {
    /// A socket in words: `TCP 127.0.0.1:51234 -> 127.0.0.1:6379`.
    Socket(String),
    /// Any other object in words: `a pipe`, or a path.
    Other(String),
}

impl Descriptor {
    pub(super) fn unknown(number: i32) -> Self {
        Self { number, object: None }
    }

    pub(super) fn look(tid: u32, numbers: &[i32]) -> Vec<Self> {
        let links: Vec<_> = numbers.iter().map(|&number| link(tid, number)).collect();
        let socket = |link: &Option<String>| inode(link.as_ref()?.strip_prefix("socket:")?);
        let inodes: Vec<u64> = links.iter().filter_map(socket).collect();
        let mut sockets = sockets::in_words(tid, &inodes).into_iter();
        let object = |link: Option<String>| {
            if socket(&link).is_some() {
                let socket = sockets.next().flatten();
                return Some(Object::Socket(socket.unwrap_or_else(|| "a socket".into())));
            }
            Some(Object::Other(noun(&link?)))
        };
        let objects = links.into_iter().map(object);
        numbers.iter().zip(objects).map(|(&number, object)| Self { number, object }).collect()
    }

    /// The call in words: `recvfrom on fd 7, TCP 127.0.0.1:51234 -> 127.0.0.1:6379`, or `read of a pipe (fd 5)`.
    pub(super) fn called(&self, call: &str) -> String {
        match &self.object {
            Some(Object::Other(noun)) => format!("{call} of {noun} (fd {})", self.number),
            _ => format!("{call} on {self}"),
        }
    }

    /// The descriptor in words: `/path (fd 5)`, or `fd 7, TCP 127.0.0.1:51234 -> 127.0.0.1:6379`.
    pub(super) fn named(&self) -> String {
        match &self.object {
            Some(Object::Other(noun)) => format!("{noun} (fd {})", self.number),
            _ => self.to_string(),
        }
    }

    fn is_socket(&self) -> bool {
        matches!(self.object, Some(Object::Socket(_)))
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd {}", self.number)?;
        match &self.object {
            Some(Object::Socket(noun) | Object::Other(noun)) => write!(f, ", {noun}"),
            None => Ok(()),
        }
    }
}

/// Descriptors in words: `2 descriptors (fd 7, TCP 127.0.0.1:51234 -> 127.0.0.1:6379; fd 5, a pipe)`. Sockets come
/// first, since they say most.
pub(super) fn list(tid: Option<u32>, numbers: &[i32]) -> String {
    let plural = if numbers.len() == 1 { "descriptor" } else { "descriptors" };
    let count = format!("{} {plural}", numbers.len());
    let Some(tid) = tid.filter(|_| !numbers.is_empty()) else { return count };
    // Each descriptor costs a read of a link in `/proc`. So only the first 64 are read.
    let mut named = Descriptor::look(tid, &numbers[..numbers.len().min(64)]);
    named.sort_by_key(|descriptor| !descriptor.is_socket());
    named.truncate(MOST_NAMED);
    let more = numbers.len() - named.len();
    let mut named: Vec<String> = named.iter().map(Descriptor::to_string).collect();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    format!("{count} ({})", named.join("; "))
}

pub(super) fn watched_by(tid: u32, epoll: i32) -> Vec<i32> {
    let watched = |line: String| {
        let mut words = line.split_ascii_whitespace();
        let number = words.by_ref().skip_while(|word| *word != "tfd:").nth(1)?.parse().ok()?;
        let inode_of = words.find_map(|word| word.strip_prefix("ino:"));
        let watched = inode_of.and_then(|inode| u64::from_str_radix(inode, 16).ok());
        // The descriptor by which a file was added to the epoll may now refer to another file. Then the descriptor is
        // left out.
        let now = file_inode(tid, number);
        let is_same = watched.zip(now).is_none_or(|(watched, now)| watched == now);
        is_same.then_some(number)
    };
    proc::lines(&info(tid, epoll)).take(1024).filter_map(watched).collect()
}

pub(super) fn file_inode(tid: u32, number: i32) -> Option<u64> {
    proc::field(&info(tid, number), "ino")?.parse().ok()
}

/// The number of the process that a descriptor refers to. `None` if the descriptor is no pidfd.
pub(super) fn process_of(tid: u32, number: i32) -> Option<u32> {
    proc::field(&info(tid, number), "Pid")?.parse().ok()
}

fn info(tid: u32, number: i32) -> String {
    format!("/proc/self/task/{tid}/fdinfo/{number}")
}

fn link(tid: u32, number: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/task/{tid}/fd/{number}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Parses the number in a text such as `[4711]`.
fn inode(text: &str) -> Option<u64> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Describes the open file of a descriptor, from the text of its link in `/proc`.
fn noun(link: &str) -> String {
    if link.starts_with("pipe:") {
        return "a pipe".into();
    }
    if link.starts_with("pidfd:") {
        return "a pidfd".into();
    }
    if let Some(kind) = link.strip_prefix("anon_inode:") {
        let kind = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')).unwrap_or(kind);
        let kind = if kind == "eventpoll" { "epoll" } else { kind };
        let article = if kind.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
        return format!("{article} {kind}");
    }
    if link.starts_with("/dev/pts/") || link.starts_with("/dev/tty") || link == "/dev/console" {
        return format!("terminal {link}");
    }
    link.into()
}
