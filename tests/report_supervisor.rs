//! The recipe for a process that is stuck: this test is its supervisor.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::env;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use supervisor::{abort_when_stuck, withhold_ping_when_stuck};
use timebox::report::{Policy, Stderr};
use timebox::timeout_value;

#[path = "../src/recipes/supervisor.rs"]
#[allow(unreachable_pub, reason = "a recipe is a user's code")]
mod supervisor;

const CHILD: &str = "TIMEBOX_STUCK_CHILD";
const STUCK_AFTER: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_millis(500);

/// The process, again, for one test: then it is the child.
fn child(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Takes no notice of its limit: waits until the standard input ends.
#[inline(never)]
fn stuck_in_a_read() {
    timeout_value(LIMIT, || io::stdin().read_to_end(&mut Vec::new()).unwrap()).unwrap();
}

fn check_evidence(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    let dump = text.find("Dump of process ").unwrap_or_else(|| panic!("no dump: {text}"));
    // The reports of the policy's own sinks were written too.
    assert!(text.contains("expired"), "{text}");
    let dump = &text[dump..];
    assert!(dump.contains("blocked in read of a pipe (fd 0)"), "{dump}");
    assert!(dump.contains("limit 500ms, over") && dump.contains("stuck_in_a_read"), "{dump}");
}

#[test]
fn a_stuck_process_aborts_with_everything_written_out() {
    if is_child() {
        abort_when_stuck(Policy::new().to(Stderr), STUCK_AFTER).install().unwrap();
        return stuck_in_a_read();
    }
    let mut child = child("a_stuck_process_aborts_with_everything_written_out").spawn().unwrap();
    // Nothing comes, and the child does not read its end.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    check_evidence(&output);
}

#[test]
fn a_stuck_process_pings_no_more() {
    if is_child() {
        let policy = Policy::new().to(Stderr);
        withhold_ping_when_stuck(policy, STUCK_AFTER).unwrap().install().unwrap();
        return stuck_in_a_read();
    }
    // As systemd does it, with `WatchdogSec=3`.
    let patience = Duration::from_secs(3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    let mut command = child("a_stuck_process_pings_no_more");
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", patience.as_micros().to_string());
    command.env_remove("WATCHDOG_PID");
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let input = child.stdin.take();
    let next = |at_most| {
        notify.set_read_timeout(Some(at_most)).unwrap();
        let mut message = [0; 256];
        match notify.recv(&mut message) {
            Ok(len) => Some(String::from_utf8_lossy(&message[..len]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    };
    // On a busy machine a message may take any time.
    let hang = Duration::from_secs(60);
    assert_eq!(next(hang).as_deref(), Some("WATCHDOG=1\n"));
    loop {
        let message = next(hang).expect("the status or a ping");
        if message == "STATUS=stuck: see the dump in the journal\n" {
            break;
        }
        assert_eq!(message, "WATCHDOG=1\n");
    }
    // One ping may be under way. Then there is none for twice the time that systemd waits.
    assert!(next(patience * 2).is_none() || next(patience * 2).is_none());
    assert!(began.elapsed() >= LIMIT + STUCK_AFTER);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    check_evidence(&output);
}
