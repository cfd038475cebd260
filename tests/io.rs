//! Blocking input and output that ends with its scope.
#![cfg(unix)]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use timebox::io::{Timed, accept, connect};
use timebox::{Limit, Timebox, TimeoutError, timeout};

#[path = "io/frames_and_datagrams.rs"]
mod frames_and_datagrams;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);
const HANG: Duration = Duration::from_secs(40);

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// The scope's error in one of io, whose kind must be right.
#[track_caller]
fn over<T>(result: io::Result<T>) -> TimeoutError {
    let error = result.err().expect("the scope ends it");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    error.downcast().expect("the scope's error is inside")
}

/// Makes a call that nobody answers, under a short limit.
#[track_caller]
fn runs_out<T>(call: impl FnOnce() -> io::Result<T>) {
    let start = Instant::now();
    let error = over(Timebox::new(SHORT).label("call").run(|_| call()));
    assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
    assert!(error.is_timeout() && error.started());
    assert_eq!((error.label(), error.limit()), (Some("call"), Some(SHORT)));
    assert_eq!(error.interrupted_at().file(), std::panic::Location::caller().file());
}

/// A stream is usable after a read that ran out.
fn reads(stream: impl AsFd, mut peer: impl Write) {
    let mut stream = Timed::new(stream);
    let mut buffer = [0; 8];
    runs_out(|| stream.read(&mut buffer));
    runs_out(|| stream.read_exact(&mut buffer));
    runs_out(|| stream.read_to_end(&mut Vec::new()));
    peer.write_all(b"a").unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 1, "outside of scopes");
    peer.write_all(b"b").unwrap();
    assert_eq!(timeout(LONG, || stream.read(&mut buffer)).unwrap(), 1);
    assert_eq!(buffer[0], b'b');
    drop(peer);
    assert_eq!(timeout(LONG, || stream.read(&mut buffer)).unwrap(), 0, "the end of the file");
}

/// A stream is usable after a write that ran out.
fn writes(stream: impl AsFd, mut peer: impl Read + Send) {
    let mut stream = Timed::new(stream);
    let much = vec![0; 32 << 20];
    runs_out(|| stream.write_all(&much));
    // On a busy machine that may have been before the peer was full, when a byte has room yet.
    let mut byte = || timeout(SHORT, || stream.write_all(&much[..1]));
    let full = (0..1_000_000).find_map(|_| byte().err()).expect("a peer that is never full");
    over::<()>(Err(full));
    thread::scope(|threads| {
        let reader = threads.spawn(move || {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            bytes
        });
        timeout(LONG, || stream.write_all(b"!")).unwrap();
        drop(stream);
        assert_eq!(reader.join().unwrap().last(), Some(&b'!'));
    });
}

#[test]
fn a_read_from_a_silent_peer_ends_and_the_stream_is_usable() {
    let (ours, peer) = tcp();
    reads(ours, peer);
    let (ours, peer) = UnixStream::pair().unwrap();
    reads(ours, peer);
    let (ours, peer): (PipeReader, PipeWriter) = io::pipe().unwrap();
    reads(ours, peer);
}

#[test]
fn an_error_of_a_formatted_or_vectored_call_names_the_call() {
    fn is_named<T>(line: u32, call: impl FnOnce() -> io::Result<T>) {
        let cancelled = timeout(LONG, || {
            timebox::token().cancel();
            call()
        });
        let at = over(cancelled).interrupted_at();
        assert_eq!((at.file(), at.line()), (file!(), line));
    }
    let (ours, _peer) = UnixStream::pair().unwrap();
    let mut stream = Timed::new(ours);
    is_named(line!(), || write!(stream, "{}", 7));
    is_named(line!(), || stream.write_vectored(&[IoSlice::new(b"x")]));
    is_named(line!(), || stream.read_vectored(&mut [IoSliceMut::new(&mut [0])]));
    is_named(line!(), || write!(&stream, "{}", 7));
}

#[test]
fn a_write_to_a_full_peer_ends_and_the_stream_is_usable() {
    let (ours, peer) = tcp();
    writes(ours, peer);
    let (ours, peer) = UnixStream::pair().unwrap();
    writes(ours, peer);
    let (peer, ours) = io::pipe().unwrap();
    writes(ours, peer);
}

/// A FIFO, open at both ends so that opening it does not wait.
fn fifo() -> (File, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    (OpenOptions::new().read(true).write(true).open(&path).unwrap(), folder)
}

#[test]
fn a_read_from_a_fifo_that_nobody_writes_to_ends() {
    let (fifo, _folder) = fifo();
    let mut fifo = Timed::new(fifo);
    let mut late: Vec<Duration> = (0..50)
        .map(|_| over(timeout(Duration::from_millis(5), || fifo.read(&mut [0; 8]))).overshoot())
        .collect();
    late.sort();
    println!("FIFO: late by {:?}, at most {:?}", late[25], late[49]);
    fifo.write_all(b"x").unwrap();
    assert_eq!(timeout(LONG, || fifo.read(&mut [0; 8])).unwrap(), 1);
}

#[test]
fn where_there_is_nothing_to_read_or_write_it_does_not_wait() {
    let (reader, writer) = io::pipe().unwrap();
    let (mut reader, mut writer) = (Timed::new(reader), Timed::new(writer));
    runs_out(|| writer.write_all(&vec![0; 32 << 20]));
    assert_eq!(timeout(HANG, || writer.write(&[])).unwrap(), 0);
    over(timeout(Duration::ZERO, || writer.write(&[])));
    let (silent, _writer) = io::pipe().unwrap();
    assert_eq!(timeout(HANG, || Timed::new(silent).read(&mut [])).unwrap(), 0);
    over(timeout(Duration::ZERO, || reader.read(&mut [])));
}

#[test]
fn a_write_to_a_full_terminal_ends() {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::ptr::null_mut;
    let (mut master, mut slave) = (0, 0);
    // SAFETY: the two numbers are ours, the rest is not asked for.
    let opened =
        unsafe { libc::openpty(&raw mut master, &raw mut slave, null_mut(), null_mut(), null_mut()) };
    assert_eq!(opened, 0);
    // SAFETY: they were just opened, for us alone.
    let (_master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let (send, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut terminal = Timed::new(slave);
        let line = b"a line of a log that is written to a terminal, again and again\n";
        let write = || (0..1 << 20).try_for_each(|_| terminal.write_all(line));
        send.send(timeout(SHORT * 10, write))
    });
    over(ended.recv_timeout(HANG).expect("it hangs"));
}

/// Whether a thread of this process is in a call that sleeps.
fn sleeps(thread: libc::pid_t) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('S')
}

#[test]
fn a_cancel_in_a_forked_child_does_not_wake_the_parent() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let (send, token) = std::sync::mpsc::channel();
    let waits = thread::spawn(move || {
        timeout(LONG, || {
            // SAFETY: takes nothing, returns a number.
            send.send((timebox::token(), unsafe { libc::gettid() })).unwrap();
            Timed::new(ours).read_exact(&mut [0])
        })
    });
    let (token, thread) = token.recv().unwrap();
    let start = Instant::now();
    while !sleeps(thread) {
        assert!(start.elapsed() < HANG, "it does not wait");
        thread::yield_now();
    }
    // SAFETY: the child cancels, which is made for this, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the process, also if it hangs.
        unsafe {
            libc::alarm(30);
            token.cancel();
            libc::_exit(0);
        }
    }
    // SAFETY: a child of ours that nobody else waits for.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    // One that spins never sleeps, whether it has a processor or not.
    let asleep = (0..100).filter(|_| sleeps(thread)).count();
    peer.write_all(b"x").unwrap();
    waits.join().unwrap().unwrap();
    assert!(asleep > 50, "it spins");
}

#[test]
fn accept_ends_where_nobody_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    runs_out(|| accept(&listener));
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (_, peer) = timeout(LONG, || accept(&listener)).unwrap();
    assert_eq!(peer, client.local_addr().unwrap());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    runs_out(|| accept(&listener));
    let mut client = UnixStream::connect(&path).unwrap();
    let (mut stream, _) = timeout(LONG, || accept(&listener)).unwrap();
    client.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_listener_that_is_non_blocking_is_waited_for_and_gives_blocking_streams() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    runs_out(|| accept(&listener));
    assert_eq!(accept(&listener).unwrap_err().kind(), ErrorKind::WouldBlock, "outside it is the plain call");
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = timeout(LONG, || accept(&listener)).unwrap();
    assert!(!is_nonblocking(&stream));
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    // SAFETY: asks for the flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) };
    flags & libc::O_NONBLOCK != 0
}

/// A listener that drops whoever asks for a connection: its queue is full.
struct Silent {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Silent {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: shortens the queue of a listener that is open.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let queued = std::iter::from_fn(|| connect().ok()).take(100).collect();
        Self { listener, _queued: queued }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

#[test]
#[cfg(target_os = "linux")] // where the queue is as short as it is asked for
fn connect_ends_where_nobody_answers_and_shares_its_time_among_the_addresses() {
    let silent = Silent::new();
    runs_out(|| connect(silent.address()));
    runs_out(|| connect(&[silent.address(), silent.address()][..]));

    let answering = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.address(), answering.local_addr().unwrap()];
    let start = Instant::now();
    let limit = Duration::from_secs(2);
    let stream = timeout(limit, || connect(&addresses[..])).expect("half of the time is for the second");
    assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
    assert!(start.elapsed() >= Duration::from_millis(900), "the first had its share");
    assert!(!is_nonblocking(&stream));
}

#[test]
fn connect_goes_on_after_a_refusal_and_tells_of_the_last() {
    let answering = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = [refusing, answering.local_addr().unwrap()];
    for limit in [Limit::NONE, LONG.into()] {
        let stream = timeout(limit.clone(), || connect(&addresses[..])).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        let error = timeout(limit, || connect(refusing)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(timeout(LONG, || connect(&[][..])).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(connect(addresses[1]).is_ok(), "outside of scopes");
}

#[test]
fn it_names_the_outermost_scope_that_is_over() {
    let (ours, _peer) = UnixStream::pair().unwrap();
    let mut ours = Timed::new(ours);
    let error = Timebox::new(SHORT).label("outer").run(|_| timeout(LONG, || ours.read(&mut [0])));
    assert_eq!(over(error).label(), Some("outer"));
}

#[test]
fn a_cancellation_from_elsewhere_ends_it() {
    let (ours, _peer) = UnixStream::pair().unwrap();
    let mut ours = Timed::new(ours);
    // Before the read waits, and while it does.
    for run in 0..100 {
        let error = over(timeout(LONG, || {
            let token = timebox::token();
            let canceller = thread::spawn(move || {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(5 * run) {}
                token.cancel_with("not needed")
            });
            // The token is of the scope around: its cancellation must be heard in here.
            let result = timeout(LONG, || ours.read(&mut [0]));
            canceller.join().unwrap();
            result
        }));
        assert!(error.is_cancelled());
        assert_eq!(error.reason(), Some("not needed"));
    }
}

#[test]
fn the_end_of_a_handles_scope_ends_it() {
    let (ours, _peer) = UnixStream::pair().unwrap();
    let mut ours = Timed::new(ours);
    let error = timeout(SHORT, || {
        let handle = timebox::handle();
        thread::spawn(move || handle.enter(Limit::NONE, |_| ours.read(&mut [0]))).join().unwrap()
    });
    assert_eq!(over(error).limit(), Some(SHORT));
}

#[test]
fn what_is_ready_is_read_and_a_scope_that_is_over_does_not_read() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let mut ours = Timed::new(ours);
    peer.write_all(b"ab").unwrap();
    let mut byte = [0];
    assert_eq!(timeout(LONG, || ours.read(&mut byte)).unwrap(), 1);
    let error = timeout(LONG, || {
        timebox::token().cancel();
        ours.read(&mut byte)
    });
    assert!(over(error).is_cancelled());
    ours.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"b", "it took nothing");
    assert_eq!(timeout(LONG, || ours.read(&mut [])).unwrap(), 0, "nothing to wait for");
}

#[test]
fn a_socket_keeps_its_mode_and_a_non_blocking_one_is_waited_for() {
    let (ours, peer) = UnixStream::pair().unwrap();
    let stream = Timed::new(&ours);
    runs_out(|| (&stream).read(&mut [0]));
    assert!(!is_nonblocking(&ours));
    ours.set_nonblocking(true).unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    runs_out(|| (&stream).read(&mut [0]));
    (&peer).write_all(b"x").unwrap();
    assert_eq!(timeout(LONG, || (&stream).read(&mut [0])).unwrap(), 1);
}

#[test]
fn one_thread_reads_while_another_writes() {
    let (ours, peer) = tcp();
    let stream = Timed::new(ours);
    let much = 4 << 20;
    thread::scope(|threads| {
        // Sends back what it gets.
        threads.spawn(|| io::copy(&mut &peer, &mut &peer).map(|_| peer.shutdown(Shutdown::Write)));
        threads.spawn(|| {
            timeout(HANG, || (&stream).write_all(&vec![7; much])).unwrap();
            stream.get_ref().shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        timeout(HANG, || (&stream).read_to_end(&mut back)).unwrap();
        assert_eq!(back.len(), much);
    });
}

#[test]
fn a_write_to_a_closed_peer_is_its_error() {
    let (ours, peer) = UnixStream::pair().unwrap();
    drop(peer);
    let error = timeout(LONG, || Timed::new(ours).write_all(b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let error = timeout(LONG, || Timed::new(writer).write_all(b"x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn lateness() {
    let (ours, _peer) = tcp();
    let (mut stream, full) = (Timed::new(ours), UnixStream::pair().unwrap());
    let mut writer = Timed::new(full.0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = cfg!(target_os = "linux").then(Silent::new);
    let much = vec![0; 8 << 20];
    let measure = |what: &str, call: &mut dyn FnMut() -> io::Result<()>| {
        for with_token in [false, true] {
            let mut late: Vec<Duration> = (0..50)
                .map(|_| {
                    let error = timeout(Duration::from_millis(5), || {
                        let _token = with_token.then(timebox::token);
                        call()
                    });
                    over(error).overshoot()
                })
                .collect();
            late.sort();
            println!("{what}: late by {:?}, at most {:?}; token: {with_token}", late[25], late[49]);
            assert!(late[25] < HANG);
        }
    };
    measure("silent peer", &mut || stream.read(&mut [0]).map(drop));
    measure("full peer", &mut || writer.write_all(&much));
    measure("accept", &mut || accept(&listener).map(drop));
    if let Some(silent) = silent {
        measure("dropped SYN", &mut || connect(silent.address()).map(drop));
    }
}

#[cfg(feature = "testing")]
mod testing {
    use super::*;
    use timebox::testing::{MockClock, expire_at_checkpoint};

    #[test]
    fn each_call_is_an_interruption_point() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let mut ours = Timed::new(ours);
        peer.write_all(b"x").unwrap();
        over(expire_at_checkpoint(1, || ours.read(&mut [0])));
        over(expire_at_checkpoint(1, || ours.write(&[0])));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        over(expire_at_checkpoint(1, || connect(listener.local_addr().unwrap())));
        over(expire_at_checkpoint(1, || accept(&listener)));
    }

    #[test]
    fn under_a_mock_clock_it_ends_when_the_clock_is_moved() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let mut ours = Timed::new(ours);
        MockClock::new().run(|clock| {
            for with_token in [false, true] {
                let error = timeout(LONG, || {
                    let _token = with_token.then(timebox::token);
                    let clock = clock.clone();
                    let mover = thread::spawn(move || clock.advance(LONG));
                    let result = ours.read(&mut [0]);
                    mover.join().unwrap();
                    result
                });
                let error = over(error);
                assert_eq!((error.elapsed(), error.overshoot()), (LONG, Duration::ZERO));
            }
            // It is not the time that passes that counts.
            let error = timeout(SHORT, || {
                let (clock, mut peer) = (clock.clone(), peer.try_clone().unwrap());
                let other = thread::spawn(move || {
                    thread::sleep(SHORT * 2);
                    peer.write_all(b"x").unwrap();
                    clock
                });
                assert_eq!(ours.read(&mut [0]).unwrap(), 1);
                other.join().unwrap().advance(SHORT);
                ours.read(&mut [0])
            });
            assert_eq!(over(error).limit(), Some(SHORT));
        });
        peer.write_all(b"x").unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 1);
    }
}

#[test]
fn a_timed_stream_goes_where_its_stream_goes() {
    fn check<T: Send + Sync + Unpin>() {}
    check::<Timed<TcpStream>>();
    check::<Timed<&UnixStream>>();
}
