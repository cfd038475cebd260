//! Calls that end with their scope leave no descriptor and no child behind. Alone in its process: it counts them.
#![cfg(unix)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use timebox::io::{Timed, accept, connect};
use timebox::process::{Error, Group, Run, output};
use timebox::timeout;

const HANG: Duration = Duration::from_secs(40);

fn descriptors() -> usize {
    std::fs::read_dir("/dev/fd").unwrap().count()
}

/// The watchdog may hold what it wakes somebody with for a moment longer.
#[track_caller]
fn assert_descriptors(expected: usize) {
    let start = Instant::now();
    while descriptors() != expected {
        assert!(start.elapsed() < HANG, "{} descriptors, not {expected}", descriptors());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(target_os = "linux")]
fn connect_to_where_nobody_answers(limit: Duration) {
    use std::os::fd::AsRawFd;

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: shortens the queue of a listener that is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let address = listener.local_addr().unwrap();
    let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let queued: Vec<TcpStream> = std::iter::from_fn(fill).take(100).collect();
    for _ in 0..1000 {
        assert_eq!(timeout(limit, || connect(address)).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    drop(queued);
}

#[test]
fn none_is_left() {
    let limit = Duration::from_millis(1);
    let (ours, _peer) = UnixStream::pair().unwrap();
    let mut ours = Timed::new(ours);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut null = Command::new("true");
    output(null.stdin(Stdio::null())).unwrap();
    let before = descriptors();

    for run in 0..1000 {
        let error = timeout(limit, || {
            let _token = (run % 2 == 0).then(timebox::token);
            ours.read(&mut [0])
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert_descriptors(before);

    // A peer that reads nothing: its buffer is full soon.
    let mut full = 0;
    while full < 1000 {
        let written = timeout(limit, || {
            let _token = (full % 2 == 0).then(timebox::token);
            ours.write(&[0; 1 << 12])
        });
        full += usize::from(written.is_err_and(|error| error.kind() == ErrorKind::TimedOut));
    }
    assert_descriptors(before);

    for run in 0..1000 {
        let accepted = timeout(limit, || {
            let _token = (run % 2 == 0).then(timebox::token);
            accept(&listener)
        });
        assert_eq!(accepted.unwrap_err().kind(), ErrorKind::TimedOut);
        let client: TcpStream = timeout(HANG, || connect(address)).unwrap();
        drop((client, timeout(HANG, || accept(&listener)).unwrap()));
    }
    assert_descriptors(before);

    #[cfg(target_os = "linux")] // where the queue of a listener is as short as it is asked for
    connect_to_where_nobody_answers(limit);
    assert_descriptors(before);

    let captured = |run: Run<'_>| run.output().map(Output::from);
    for run in 0..270 {
        let result = timeout(limit, || {
            let _token = (run % 2 == 0).then(timebox::token);
            match run % 9 {
                0 => Run::new(Command::new("sh").args(["-c", "trap '' TERM; sleep 1000"]))
                    .grace(limit)
                    .output()
                    .map(Output::from),
                1 => output(&mut Command::new("no-such-command-anywhere")),
                2 => output(Command::new("sh").args(["-c", "sleep 1000 & wait"])),
                3 => output(&mut null),
                4 => output(Command::new("sleep").arg("1000")),
                5 => captured(Run::new(Command::new("sleep").arg("1000")).die_with_parent()),
                6 => captured(Run::new(Command::new("sleep").arg("1000")).input_from(std::io::repeat(7))),
                7 => captured(Run::new(Command::new("sleep").arg("1000")).group(Group::Session)),
                _ => output(Command::new("sleep").arg("1000").stdin(Stdio::piped())),
            }
        });
        match result {
            Ok(_) => assert_eq!(run % 9, 3),
            Err(Error::Io(error)) => {
                let expected = [(1, ErrorKind::NotFound), (8, ErrorKind::InvalidInput)];
                assert!(expected.contains(&(run % 9, error.kind())), "{run}: {error}");
            }
            Err(_) => {}
        }
    }
    assert_descriptors(before);
    // SAFETY: asks for a child of this process, dead or alive; nobody else waits for one here.
    let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    assert_eq!(child, -1, "there is no child");
}
