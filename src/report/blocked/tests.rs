use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll};
use rustix::fs::FlockOperation;

use super::{call_of, calls, describe};
use crate::report::state::state_of;
use crate::sync::os;
use crate::time::clock;

struct Blocked<T> {
    tid: u32,
    call: (i64, [u64; 6]),
    words: String,
    thread: JoinHandle<T>,
}

fn read_memory(address: u64, into: &mut [u8]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    memory.read_at(into, address).unwrap_or(0)
}

/// Runs the body on a thread, and waits until the thread is blocked in a call of this name.
fn blocked<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Blocked<T> {
    let (told, tid) = mpsc::channel();
    let tell_and_run = move || {
        told.send(os::thread_id()).unwrap();
        drop(told);
        body()
    };
    let thread = thread::Builder::new().name("the blocked one".into()).spawn(tell_and_run).unwrap();
    let tid = tid.recv().unwrap();
    let until = clock::real_now() + 60_000_000_000;
    loop {
        if let Some(call) = call_of(tid)
            && calls::name(call.0) == Some(name)
        {
            let words = describe(tid, call.0, &call.1, &read_memory);
            if call_of(tid) == Some(call) {
                return Blocked { tid, call, words, thread };
            }
        }
        let in_time = !thread.is_finished() && clock::real_now() < until;
        assert!(in_time, "not in {name}, but {:?}", call_of(tid));
        thread::yield_now();
    }
}

fn words<T>(blocked: Blocked<T>, release: impl FnOnce()) -> String {
    release();
    blocked.thread.join().unwrap();
    blocked.words
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("timebox-words-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn byte(mut from: impl Read) -> io::Result<()> {
    from.read_exact(&mut [0])
}

#[test]
fn a_pipe() {
    let (reader, writer) = io::pipe().unwrap();
    let fd = reader.as_raw_fd();
    let blocked = blocked("read", move || byte(reader).unwrap_err());
    assert_eq!(words(blocked, || drop(writer)), format!("read of a pipe (fd {fd})"));

    let (reader, mut writer) = io::pipe().unwrap();
    let fd = writer.as_raw_fd();
    let blocked = self::blocked("write", move || writer.write_all(&vec![0; 1 << 20]).unwrap_err());
    assert_eq!(words(blocked, || drop(reader)), format!("write of a pipe (fd {fd})"));
}

#[test]
fn a_named_pipe() {
    let folder = folder("fifo");
    let path = folder.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let to_open = path.clone();
    let opening = blocked("openat", move || File::open(to_open).unwrap());
    assert_eq!(opening.words, format!("openat of {}", path.display()));
    let writer = File::options().write(true).open(&path).unwrap();
    let reader = opening.thread.join().unwrap();
    let fd = reader.as_raw_fd();
    let reading = blocked("read", move || byte(reader).unwrap_err());
    assert_eq!(words(reading, || drop(writer)), format!("read of {} (fd {fd})", path.display()));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_tcp_connection() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let peer = server.accept().unwrap().0;
    let (here, there, fd) = (client.local_addr().unwrap(), client.peer_addr().unwrap(), client.as_raw_fd());
    let blocked = blocked("recvfrom", move || byte(client).unwrap_err());
    assert_eq!(words(blocked, || drop(peer)), format!("recvfrom on fd {fd}, TCP {here} -> {there}"));

    let fd = server.as_raw_fd();
    let blocked = self::blocked("accept4", move || server.accept().unwrap());
    let connect = || drop(TcpStream::connect(there).unwrap());
    assert_eq!(words(blocked, connect), format!("accept4 on fd {fd}, TCP {there}"));
}

#[test]
fn a_tcp_connection_of_version_6() {
    let Ok(server) = TcpListener::bind("[::1]:0") else { return };
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let peer = server.accept().unwrap().0;
    let (here, there, fd) = (client.local_addr().unwrap(), client.peer_addr().unwrap(), client.as_raw_fd());
    let blocked = blocked("recvfrom", move || byte(client).unwrap_err());
    assert_eq!(words(blocked, || drop(peer)), format!("recvfrom on fd {fd}, TCP {here} -> {there}"));
}

#[test]
fn a_server_whose_queue_is_full() {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&server, &"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap()).unwrap();
    listen(&server, 0).unwrap();
    let address = TcpListener::from(server.try_clone().unwrap()).local_addr().unwrap();
    let queued = TcpStream::connect(address).unwrap();
    // A queue of length 0 has room for one connection. Until the server accepts that connection, it answers no other
    // request to connect.
    let blocked = blocked("connect", move || TcpStream::connect(address).unwrap());
    let fd = blocked.call.1[0];
    // The accept makes room in the queue. The system repeats the client's request after a second, and then `connect`
    // returns.
    let accept = || drop(TcpListener::from(server.try_clone().unwrap()).accept().unwrap());
    assert_eq!(words(blocked, accept), format!("connect to {address} (fd {fd})"));
    drop(queued);
}

#[test]
fn datagrams() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (here, fd) = (socket.local_addr().unwrap(), socket.as_raw_fd());
    let blocked = blocked("recvfrom", move || socket.recv(&mut [0]).unwrap());
    let send = || {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[1], here).unwrap();
    };
    assert_eq!(words(blocked, send), format!("recvfrom on fd {fd}, UDP {here}"));
}

#[test]
fn unix_sockets() {
    let folder = folder("unix");
    let path = folder.join("a socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    let fd = socket.as_raw_fd();
    let blocked = blocked("recvfrom", move || socket.recv(&mut [0]).unwrap());
    let send = || {
        UnixDatagram::unbound().unwrap().send_to(&[1], &path).unwrap();
    };
    assert_eq!(words(blocked, send), format!("recvfrom on fd {fd}, unix socket {}", path.display()));

    let (here, there) = UnixStream::pair().unwrap();
    let fd = here.as_raw_fd();
    let blocked = self::blocked("recvfrom", move || byte(here).unwrap_err());
    assert_eq!(words(blocked, || drop(there)), format!("recvfrom on fd {fd}, a unix socket"));

    let path = folder.join("server");
    let server = UnixListener::bind(&path).unwrap();
    let fd = server.as_raw_fd();
    let blocked = self::blocked("accept4", move || server.accept().unwrap());
    let connect = || drop(UnixStream::connect(&path).unwrap());
    assert_eq!(words(blocked, connect), format!("accept4 on fd {fd}, unix socket {}", path.display()));
    fs::remove_dir_all(folder).unwrap();
}

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn signal_eventfd(eventfd: &OwnedFd) {
    rustix::io::write(eventfd, &1_u64.to_ne_bytes()).unwrap();
}

#[test]
fn an_eventfd() {
    let waited = eventfd();
    let (fd, signalled) = (waited.as_raw_fd(), waited.try_clone().unwrap());
    let blocked = blocked("read", move || rustix::io::read(waited, &mut [0; 8]).unwrap());
    assert_eq!(words(blocked, || signal_eventfd(&signalled)), format!("read of an eventfd (fd {fd})"));
}

#[test]
fn several_descriptors() {
    let (pipe, writer) = io::pipe().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (here, fds) = (socket.local_addr().unwrap(), [pipe.as_raw_fd(), socket.as_raw_fd()]);
    let expected = format!("2 descriptors (fd {}, UDP {here}; fd {}, a pipe)", fds[1], fds[0]);
    let blocked = blocked("ppoll", move || {
        let mut polled = [PollFd::new(&pipe, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
        rustix::event::poll(&mut polled, None).unwrap();
    });
    assert_eq!(words(blocked, || drop(writer)), format!("ppoll of {expected}, no timeout"));
}

#[test]
fn a_poll_with_a_timeout() {
    let events: Vec<OwnedFd> = (0..6).map(|_| eventfd()).collect();
    let (fds, last): (Vec<i32>, _) =
        (events.iter().map(AsRawFd::as_raw_fd).collect(), events[5].try_clone().unwrap());
    let blocked = blocked("ppoll", move || {
        let mut polled: Vec<_> = events.iter().map(|event| PollFd::new(event, PollFlags::IN)).collect();
        let timeout = rustix::event::Timespec { tv_sec: 3600, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&timeout)).unwrap();
    });
    let named: Vec<String> = fds[..4].iter().map(|fd| format!("fd {fd}, an eventfd; ")).collect();
    let expected = format!("ppoll of 6 descriptors ({}2 more), timeout 3600s", named.concat());
    assert_eq!(words(blocked, || signal_eventfd(&last)), expected);
}

#[test]
fn an_epoll() {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let (event, socket) = (eventfd(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for fd in [&event, &OwnedFd::from(socket.try_clone().unwrap())] {
        epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
    }
    let (fd, event_fd) = (epoll.as_raw_fd(), event.as_raw_fd());
    let blocked = blocked("epoll_pwait", move || {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
    });
    // The socket was added with a descriptor that is closed by now, so the socket is not named.
    let watched = format!("1 descriptor (fd {event_fd}, an eventfd)");
    let expected = format!("epoll_pwait on fd {fd}, which watches {watched}, no timeout");
    assert_eq!(words(blocked, || signal_eventfd(&event)), expected);
}

#[test]
fn a_lock_a_condition_and_a_join() {
    const WORDS: &str = "futex (a lock, a condition, or a join)";
    let shared = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = Arc::clone(&shared);
    let held = shared.0.lock().unwrap();
    let waits_for_lock = blocked("futex", move || drop(theirs.0.lock().unwrap()));
    assert_eq!(words(waits_for_lock, || drop(held)), WORDS);

    let theirs = Arc::clone(&shared);
    let waits_for_condition = blocked("futex", move || {
        let guard = theirs.0.lock().unwrap();
        drop(theirs.1.wait_while(guard, |ready| !*ready).unwrap());
    });
    let release = || {
        *shared.0.lock().unwrap() = true;
        shared.1.notify_all();
    };
    assert_eq!(words(waits_for_condition, release), WORDS);

    let parks = blocked("futex", || thread::park_timeout(Duration::from_secs(3600)));
    let thread = parks.thread.thread().clone();
    let text = words(parks, || thread.unpark());
    let left = text.strip_prefix(&format!("{WORDS}, timeout in ")).unwrap();
    assert!(left.starts_with("359"), "{left}");
}

#[test]
fn the_join_of_a_thread() {
    let (reader, writer) = io::pipe().unwrap();
    let Blocked { tid, thread, .. } = blocked("read", move || byte(reader).unwrap_err());
    let joins = blocked("futex", move || thread.join().unwrap());
    let expected = if cfg!(target_env = "gnu") {
        format!("futex (the join of thread {tid} (the blocked one))")
    } else {
        "futex (a lock, a condition, or a join)".into()
    };
    assert_eq!(words(joins, || drop(writer)), expected);
}

#[test]
fn sleep() {
    // Nothing can end the sleep of this thread, so the thread stays until the process ends.
    let sleeps = blocked("clock_nanosleep", || thread::sleep(Duration::from_millis(3_600_500)));
    assert_eq!(sleeps.words, "clock_nanosleep, 3600.5s");
}

#[test]
fn a_child_process() {
    let mut child = Command::new("sleep").arg("3600").spawn().unwrap();
    let number = child.id();
    let blocked = blocked("wait4", move || child.wait().unwrap());
    let kill = || {
        let pid = rustix::process::Pid::from_raw(number.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    assert_eq!(words(blocked, kill), format!("wait4 for process {number} (sleep)"));
}

#[test]
fn the_lock_of_a_file() {
    let folder = folder("flock");
    let path = folder.join("database");
    let open = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
    let (held, waited) = (open(&path), open(&path));
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let fd = waited.as_raw_fd();
    let blocked = blocked("flock", move || rustix::fs::flock(waited, FlockOperation::LockExclusive).unwrap());
    let expected = format!("flock on {} (fd {fd}), held by this process", path.display());
    assert_eq!(words(blocked, || drop(held)), expected);

    // `flock` of util-linux holds the lock while its child runs.
    let Ok(mut holder) = Command::new("flock").arg(&path).args(["sleep", "3600"]).spawn() else { return };
    let waited = open(&path);
    while rustix::fs::flock(&waited, FlockOperation::NonBlockingLockShared).is_ok() {
        rustix::fs::flock(&waited, FlockOperation::Unlock).unwrap();
        thread::yield_now();
    }
    let fd = waited.as_raw_fd();
    let blocked =
        self::blocked("flock", move || rustix::fs::flock(waited, FlockOperation::LockExclusive).unwrap());
    let expected = format!("flock on {} (fd {fd}), held by process {} (flock)", path.display(), holder.id());
    let text = words(blocked, || {
        let _ = Command::new("pkill").args(["-P", &holder.id().to_string()]).status();
        let _ = holder.wait();
    });
    assert_eq!(text, expected);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_thread_that_has_left_the_call() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (here, fd) = (server.local_addr().unwrap(), server.as_raw_fd());
    let Blocked { tid, call, thread, .. } = blocked("recvfrom", move || {
        server.recv(&mut [0]).unwrap();
        server.recv(&mut [0; 2]).unwrap()
    });
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[1], here).unwrap();
    // Waits until the thread is in the second `recv`.
    while call_of(tid).is_none_or(|now| now == call) {
        thread::yield_now();
    }
    assert_eq!(describe(tid, call.0, &call.1, &read_memory), format!("recvfrom on fd {fd}"));
    client.send_to(&[1], here).unwrap();
    thread.join().unwrap();
    while state_of(tid).is_some() {
        thread::yield_now();
    }
    assert_eq!(describe(tid, call.0, &call.1, &read_memory), format!("recvfrom on fd {fd}"));
}

#[test]
fn calls_with_arguments_that_make_no_sense() {
    for number in -3..500 {
        for arguments in [[0; 6], [u64::MAX; 6], [1, 2, 3, 4, 5, 6], [0x1000, u64::MAX, 1, 1 << 63, 7, 16]] {
            assert!(!describe(1, number, &arguments, &read_memory).is_empty());
            let call = super::call::Call {
                name: calls::name(number).unwrap_or("unknown"),
                arguments: &arguments,
                around: Some(super::call::Around {
                    tid: os::thread_id(),
                    memory: super::memory::Memory(&read_memory),
                }),
            };
            let text = call.in_words();
            assert!(!text.is_empty() && text.len() < 2000, "{text}");
        }
    }
    assert_eq!(describe(1, 100_000, &[0; 6], &read_memory), "system call 100000");
    assert_eq!(describe(1, -1, &[0; 6], &read_memory), "system call -1");
}
