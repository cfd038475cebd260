//! What depends on the program that runs a command: its terminal, its end, how it waits for children. Each such program
//! is this one, started for one of the tests that are ignored here.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use timebox::process::{Error, Group, Run, Why, output, status};
use timebox::timeout;

use super::{HANG, LONG, dies, is_dead, sh};

/// This program, for one of its tests.
pub(crate) fn program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).stdin(Stdio::null());
    command
}

#[track_caller]
pub(crate) fn passes(program: &mut Command) {
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Both ends of a terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    use std::ptr::null_mut;
    let (mut master, mut slave) = (0, 0);
    // SAFETY: the two numbers are ours, the rest is not asked for.
    let opened =
        unsafe { libc::openpty(&raw mut master, &raw mut slave, null_mut(), null_mut(), null_mut()) };
    assert_eq!(opened, 0);
    // SAFETY: they were just opened, for us alone.
    unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

#[test]
fn what_a_terminal_does_to_a_command() {
    let (_master, slave) = terminal();
    let mut program = program("programs::in_a_terminal");
    // SAFETY: system calls that take numbers; the terminal is open until the program has been started.
    unsafe {
        let slave = slave.as_raw_fd();
        program.pre_exec(move || {
            if libc::setsid() == -1 || libc::ioctl(slave, libc::TIOCSCTTY as _, 0) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    passes(&mut program);
}

#[test]
#[ignore = "is run in a terminal by another test"]
fn in_a_terminal() {
    for (script, signal, name) in [
        ("stty -echo </dev/tty", libc::SIGTTOU, "SIGTTOU"),
        ("read line </dev/tty", libc::SIGTTIN, "SIGTTIN"),
    ] {
        // It is told before the limit.
        let Err(Error::Halted(halted)) = timeout(HANG, || output(&mut sh(script))) else {
            panic!("{script}")
        };
        assert!(matches!(halted.why, Why::Suspended { signal: by, .. } if by == signal), "{halted:?}");
        assert!(halted.to_string().contains(name), "{halted}");
        assert!(halted.status.is_some(), "it is gone");
    }
    let run =
        |script, group| timeout(LONG, || Run::new(&mut sh(script)).group(group).output()).unwrap().status;
    assert!(run("stty -echo </dev/tty && stty echo </dev/tty", Group::Foreground).success());
    assert!(!run(": </dev/tty", Group::Session).success(), "a session of its own has no terminal");
    assert!(run(": </dev/tty", Group::Own).success(), "only to read it or set it suspends");
}

/// The numbers of a shell and of what it has started, as they are in a file.
fn shell_and_child(file: &std::path::Path) -> Option<[u32; 2]> {
    let numbers = fs::read_to_string(file).ok()?;
    let numbers = numbers.strip_suffix('\n')?.split(' ').map(|number| number.parse().unwrap());
    numbers.collect::<Vec<_>>().try_into().ok()
}

#[test]
fn a_command_may_end_with_its_program() {
    let folder = tempfile::tempdir().unwrap();
    for (choice, ends, both) in
        [("own", true, true), ("session", true, true), ("foreground", true, false), ("none", false, false)]
    {
        // Ctrl-C is SIGINT for the program; nothing tells of SIGKILL. It may be killed as soon as the command has
        // begun.
        for signal in [libc::SIGKILL, libc::SIGINT] {
            let file = folder.path().join(format!("{choice}{signal}"));
            let mut program = program("programs::that_dies");
            let child = program.env("TIMEBOX_TEST_CHOICE", choice).env("TIMEBOX_TEST_FILE", &file);
            let mut child = child.stdout(Stdio::null()).process_group(0).spawn().unwrap();
            let start = Instant::now();
            let [shell, sleeper] = loop {
                assert!(start.elapsed() < HANG, "{choice} {signal} does not begin: {:?}", child.try_wait());
                if let Some(numbers) = shell_and_child(&file) {
                    break numbers;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            assert!(!is_dead(shell) && !is_dead(sleeper));
            let pid = i32::try_from(child.id()).unwrap();
            // A terminal sends to all of the foreground; there the command must not die of that.
            let target = if choice == "foreground" { pid } else { -pid };
            // SAFETY: a child that is not reaped, and its group.
            assert_eq!(unsafe { libc::kill(target, signal) }, 0);
            child.wait().unwrap();
            if ends {
                dies(shell);
            }
            if both {
                dies(sleeper);
            }
            for process in [shell, sleeper] {
                Command::new("kill")
                    .args(["-KILL", &process.to_string()])
                    .stderr(Stdio::null())
                    .status()
                    .unwrap();
            }
        }
    }
}

#[test]
#[ignore = "is run, and killed, by another test"]
fn that_dies() {
    // A test that is run in the background of a script inherits that it is ignored.
    // SAFETY: no handler is set, but the default.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    let mut command = sh("sleep 1000 & echo $$ $! > \"$TIMEBOX_TEST_FILE\"; wait");
    let run = Run::new(&mut command);
    let run = match std::env::var("TIMEBOX_TEST_CHOICE").as_deref() {
        Ok("own") => run.die_with_parent(),
        Ok("session") => run.group(Group::Session).die_with_parent(),
        Ok("foreground") => run.group(Group::Foreground).die_with_parent(),
        _ => run,
    };
    let _ended = timeout(LONG, || run.status());
}

#[test]
fn a_command_that_ends_with_its_program_is_not_killed_before() {
    let start = Instant::now();
    for script in ["exit 3", "sleep 0.2; exit 3"] {
        let status = Run::new(&mut sh(script)).die_with_parent().status().unwrap();
        assert_eq!(status.code(), Some(3));
    }
    // Nor is what it leaves behind.
    let output =
        Run::new(&mut sh("sleep 1000 >/dev/null 2>&1 & echo $!")).die_with_parent().output().unwrap();
    let daemon = super::number(&output.stdout);
    assert!(!is_dead(daemon) && start.elapsed() < HANG);
    Command::new("kill").arg(daemon.to_string()).status().unwrap();
    dies(daemon);
}

#[test]
fn where_children_are_not_kept_the_error_says_so() {
    passes(&mut program("programs::where_sigchld_is_ignored"));
    passes(&mut program("programs::where_another_waits_for_all"));
}

#[test]
#[ignore = "is run alone by another test, since it is about all of a program's children"]
fn where_sigchld_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("started");
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut command = Command::new("touch");
    let error = timeout(LONG, || status(command.arg(&file))).unwrap_err();
    assert!(error.to_string().contains("SIGCHLD"), "{error}");
    // While the signal is ignored this returns when all children have ended.
    // SAFETY: waits for children, of which nothing is asked.
    assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }, -1);
    assert!(!file.exists(), "it was not started");
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    assert!(status(&mut sh("true")).unwrap().success());
}

#[test]
#[ignore = "is run alone by another test, since it is about all of a program's children"]
fn where_another_waits_for_all() {
    std::thread::spawn(|| {
        loop {
            // SAFETY: waits for a child, whoever has started it.
            if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } == -1 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // The child ends at once. Its output ends when the other has waited for it.
    let script = "while kill -0 $$ 2>/dev/null; do sleep 0.01; done & echo hi";
    let error = timeout(LONG, || output(&mut sh(script))).unwrap_err();
    assert!(error.to_string().contains("another part of this program"), "{error}");
}
