//! Child processes that end with their scope.
#![cfg(unix)]

use std::error::Error as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use timebox::process::{Error, Run, Stopped, output, status};
use timebox::{TimeoutError, timeout};

#[path = "process/choices.rs"]
mod choices;
#[path = "process/deadlines.rs"]
mod deadlines;
#[path = "process/groups.rs"]
mod groups;
#[path = "process/pipes.rs"]
mod pipes;
#[path = "process/programs.rs"]
mod programs;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);
const HANG: Duration = Duration::from_secs(40);

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

#[track_caller]
fn stopped<T>(result: Result<T, Error>) -> Stopped {
    match result {
        Err(Error::Stopped(stopped)) => stopped,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it came to its end"),
    }
}

/// Runs a script that writes a line when it has come to the point, with ever longer limits until it has.
#[track_caller]
fn stopped_at(script: &str, grace: Duration) -> (Stopped, Duration) {
    let mut limit = SHORT;
    loop {
        assert!(limit < HANG, "overtaken even with a limit of {limit:?}");
        let start = Instant::now();
        let stopped =
            stopped(timeout(limit, || Run::new(&mut sh(script)).grace(grace).linger(HANG).output()));
        assert!(start.elapsed() >= limit && start.elapsed() < HANG);
        assert_eq!(stopped.timeout.limit(), Some(limit));
        if stopped.stdout.ends_with(b"\n") {
            return (stopped, start.elapsed().saturating_sub(limit));
        }
        limit *= 3;
    }
}

/// The number that a script has written.
fn number(stdout: &[u8]) -> u32 {
    String::from_utf8_lossy(stdout).trim().parse().unwrap()
}

/// Whether a process is gone, or dead and waited for by nobody: an orphan is not ours to reap.
fn is_dead(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with(['Z', 'X']))
}

#[track_caller]
fn dies(process: u32) {
    let start = Instant::now();
    while !is_dead(process) {
        assert!(start.elapsed() < HANG, "{process} lives");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a command that goes on for ever, with ever longer limits until one is over when the command has been started.
#[track_caller]
fn stopped_once_started<T>(run: impl Fn() -> Result<T, Error>) -> Stopped {
    let mut limit = SHORT;
    loop {
        let start = Instant::now();
        let stopped = stopped(timeout(limit, &run));
        assert!(start.elapsed() >= limit && start.elapsed() < HANG);
        assert_eq!(stopped.timeout.limit(), Some(limit));
        if was_started(&stopped) {
            return stopped;
        }
        limit *= 3;
        assert!(limit < HANG, "overtaken even with a third of this limit: {stopped:?}");
    }
}

/// Whether the scope was over only when the command had been started: on a busy machine it may be over before.
fn was_started(stopped: &Stopped) -> bool {
    stopped.status.is_some() || stopped.refused
}

#[test]
fn a_command_that_ends_is_as_std_runs_it() {
    for script in [
        "echo hi",
        "echo a; echo b >&2; exit 3",
        "true",
        "kill -9 $$",
        "cat",
        // What a pipe does not hold at a time.
        "head -c 3000000 /dev/zero; echo end >&2",
    ] {
        let expected = sh(script).output().unwrap();
        assert_eq!(output(&mut sh(script)).unwrap(), expected, "{script}, outside of scopes");
        assert_eq!(timeout(LONG, || output(&mut sh(script))).unwrap(), expected, "{script}");
        let quiet = || sh(&format!("({script}) >/dev/null 2>&1"));
        assert_eq!(timeout(LONG, || status(&mut quiet())).unwrap(), quiet().status().unwrap(), "{script}");
    }
}

#[test]
fn megabytes_through_both_pipes_at_once_are_read() {
    let mut command = sh("head -c 4000000 /dev/zero & head -c 4000000 /dev/zero >&2; wait");
    let output = timeout(HANG, || output(&mut command)).unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (4_000_000, 4_000_000));
    assert!(output.status.success());
}

#[test]
fn a_runaway_command_is_told_to_end() {
    let ways: [fn() -> Result<(), Error>; 2] = [
        || Run::new(Command::new("sleep").arg("1000")).grace(HANG).output().map(drop),
        || status(Command::new("sleep").arg("1000")).map(drop),
    ];
    for way in ways {
        let stopped = stopped_once_started(way);
        assert!(!stopped.refused);
        assert_eq!(stopped.status.unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(stopped.timeout.interrupted_at().file(), file!());
    }
}

#[test]
fn one_that_does_not_listen_is_killed_after_the_grace() {
    let grace = Duration::from_millis(100);
    let (stopped, overrun) = stopped_at("trap '' TERM; echo $$; while :; do sleep 1; done", grace);
    assert_eq!(stopped.status.unwrap().signal(), Some(libc::SIGKILL));
    assert!(overrun >= grace);
}

#[test]
fn one_that_listens_may_say_goodbye() {
    let script = "trap 'echo bye >&2; exit 4' TERM; echo $$; while :; do sleep 0.01; done";
    let (stopped, _) = stopped_at(script, HANG);
    assert_eq!(stopped.status.unwrap().code(), Some(4));
    assert!(stopped.stderr.ends_with(b"bye\n"), "a shell may tell of its own children before");
}

#[test]
fn one_that_is_suspended_is_told_too() {
    let (stopped, _) = stopped_at("echo $$; kill -STOP $$", HANG);
    assert_eq!(stopped.status.unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn its_output_so_far_is_kept_and_it_is_reaped() {
    let (stopped, _) = stopped_at("echo $$; sleep 1000", HANG);
    assert!(!fs::exists(format!("/proc/{}", number(&stopped.stdout))).unwrap_or(false));
}

#[test]
fn a_grandchild_that_holds_the_pipe_is_gone_too() {
    let (stopped, _) = stopped_at("sleep 1000 & echo $!; wait", HANG);
    dies(number(&stopped.stdout));
}

#[test]
fn a_grandchild_that_outlives_the_child_ends_with_the_scope() {
    let ended_by_itself = || {
        let (stopped, _) = stopped_at("sleep 1000 & echo $!", HANG);
        dies(number(&stopped.stdout));
        stopped.status.unwrap().success()
    };
    // The limit may fall between the child's line and its end.
    assert!((0..20).any(|_| ended_by_itself()));
}

#[test]
fn a_grandchild_that_outlives_the_child_is_left_alone_after_a_while() {
    let start = Instant::now();
    let mut command = sh("sleep 1000 & echo $!");
    let linger = Duration::from_millis(50);
    let output = timeout(LONG, || Run::new(&mut command).linger(linger).output()).unwrap();
    assert!(start.elapsed() >= linger && start.elapsed() < HANG);
    assert!(output.stdout_cut && output.stderr_cut, "it may write more");
    let process = number(&output.stdout);
    assert!(!is_dead(process));
    Command::new("kill").arg(process.to_string()).status().unwrap();
    dies(process);
}

#[test]
fn a_grandchild_that_writes_without_end_is_left_alone_after_a_while() {
    let mut command = sh("yes & echo $! >&2");
    let linger = Duration::from_millis(20);
    let output = timeout(LONG, || Run::new(&mut command).linger(linger).output()).unwrap();
    assert!(output.stdout_cut);
    dies(number(&output.stderr)); // nobody reads any more
}

#[test]
fn a_cancellation_from_elsewhere_stops_it() {
    for run in 0..20 {
        let result = timeout(LONG, || {
            let token = timebox::token();
            let canceller = std::thread::spawn(move || {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(200 * run) {}
                token.cancel_with("not needed")
            });
            let result = output(Command::new("sleep").arg("1000"));
            canceller.join().unwrap();
            result
        });
        assert_eq!(stopped(result).timeout.reason(), Some("not needed"));
    }
}

#[test]
fn a_scope_that_is_over_starts_nothing() {
    let result = timeout(LONG, || {
        timebox::token().cancel();
        output(&mut sh("echo hi"))
    });
    let stopped = stopped(result);
    assert_eq!((stopped.status, stopped.stdout), (None, Vec::new()));
    let error = timeout(Duration::ZERO, || output(&mut sh("echo hi"))).unwrap_err();
    assert!(!error.timeout().unwrap().started());
}

#[test]
fn the_error_leads_to_the_scopes() {
    let sleeper = || output(Command::new("sleep").arg("1000"));
    let stopped = stopped_once_started(sleeper);
    let limit = stopped.timeout.limit();
    let run = || -> Result<(), Box<dyn std::error::Error>> { Err(Error::Stopped(stopped))? };
    let error = run().unwrap_err();
    assert!(error.to_string().contains("SIGTERM"), "{error}");
    let source = error.source().unwrap().downcast_ref::<TimeoutError>().unwrap();
    assert_eq!(source.limit(), limit);
    let error = *error.downcast::<Error>().unwrap();
    assert!(error.timeout().unwrap().is_timeout() && error.source().is_some());
}

#[test]
fn lateness() {
    let mut late: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            stopped(timeout(SHORT, || output(Command::new("sleep").arg("1000"))));
            start.elapsed().saturating_sub(SHORT)
        })
        .collect();
    late.sort();
    println!("told, dead and reaped {:?} after the limit, at most {:?}", late[10], late[19]);
}

#[cfg(feature = "testing")]
#[test]
fn a_command_is_an_interruption_point() {
    stopped(timebox::testing::expire_at_checkpoint(1, || output(&mut sh("echo hi"))));
}

#[test]
fn its_error_goes_anywhere() {
    fn check<T: Send + Sync + Unpin + 'static>() {}
    check::<Error>();
}
