//! The grace, and who is left of a group.

use std::process::Stdio;
use std::time::{Duration, Instant};

use timebox::process::{Run, output};
use timebox::timeout;

#[cfg(target_os = "linux")]
use super::programs::{passes, program};
use super::{HANG, SHORT, dies, is_dead, number, sh, stopped, stopped_at, was_started};

#[test]
fn the_grace_is_for_what_a_shell_has_started_too() {
    // The shell dies at once, the worker has yet to clean up, and for that starts another one.
    let worker =
        "trap \"sleep 0.5; (sleep 0.2; echo clean) & exit\" TERM; echo begun; while :; do sleep 0.01; done";
    for outputs in ["", " 2>/dev/null"] {
        let (stopped, _) = stopped_at(&format!("sh -c '{worker}'{outputs}; true"), HANG);
        let said = String::from_utf8_lossy(&stopped.stdout);
        assert!(said.ends_with("clean\n"), "{said}");
        assert!(!stopped.status.unwrap().success(), "the shell did not wait for it");
    }
}

#[test]
fn the_grace_is_for_those_who_have_closed_their_outputs_too() {
    let folder = tempfile::tempdir().unwrap();
    let cleaned = folder.path().join("cleaned");
    let worker =
        "exec >&- 2>&-; trap \"sleep 0.5; echo > $CLEANED; exit\" TERM; while :; do sleep 0.01; done";
    let mut limit = SHORT * 10;
    // The limit may pass before the trap is set.
    while !cleaned.exists() {
        assert!(limit < HANG, "it never comes to its end");
        let mut command = sh(&format!("sh -c '{worker}'; true"));
        command.env("CLEANED", &cleaned);
        stopped(timeout(limit, || Run::new(&mut command).grace(HANG).output()));
        limit *= 3;
    }
}

#[test]
fn one_of_a_group_that_does_not_listen_is_killed_when_the_grace_is_over() {
    let grace = Duration::from_millis(300);
    let (stopped, overrun) = stopped_at("(trap '' TERM; sleep 1000 & echo $!; wait)& wait", grace);
    assert!(overrun >= grace);
    dies(number(&stopped.stdout));
}

#[test]
fn the_grace_is_over_when_nobody_is_left() {
    for script in ["echo $$; sleep 1000", "sleep 1000 & sleep 1000 & sleep 1000 & echo $!; wait"] {
        let (_, overrun) = stopped_at(script, HANG);
        assert!(overrun < HANG / 2);
    }
}

/// Runs on a thread that is no longer root, and so may not signal root's processes; its children start as root again.
#[cfg(target_os = "linux")]
fn as_nobody<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    const NOBODY: libc::c_long = 65534;
    std::thread::scope(|threads| {
        let as_nobody = threads.spawn(|| {
            // SAFETY: numbers; without the library's help it is this thread's user that changes, and the thread ends
            // soon.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, 0) }, 0);
            f()
        });
        as_nobody.join().unwrap()
    })
}

/// A script that root runs, though it is started by a thread that is not root any more.
#[cfg(target_os = "linux")]
fn sh_as_root(script: &str) -> std::process::Command {
    use std::os::unix::process::CommandExt;
    let mut command = sh(script);
    // SAFETY: a system call that takes numbers. The saved user of the thread is root.
    unsafe {
        command.pre_exec(|| match libc::syscall(libc::SYS_setresuid, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

#[cfg(target_os = "linux")]
fn is_root() -> bool {
    // SAFETY: asks for a number.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        println!("SKIPPED: only root can start a process that it may not signal afterwards");
    }
    is_root
}

#[test]
#[cfg(target_os = "linux")]
fn one_that_may_not_be_signalled_is_told_at_once_and_reaped_when_it_ends() {
    if is_root() {
        passes(&mut program("groups::one_that_may_not_be_signalled"));
    }
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "is run alone by another test: who runs a command reaps what was left behind"]
fn one_that_may_not_be_signalled() {
    let mut limit = SHORT;
    let (process, input) = loop {
        let (theirs, ours) = std::io::pipe().unwrap();
        let start = Instant::now();
        let mut command = sh_as_root("echo $$; read line");
        command.stdin(Stdio::from(theirs));
        let stopped =
            as_nobody(|| stopped(timeout(limit, || Run::new(&mut command).grace(HANG * 10).output())));
        // A busy machine takes its time too, but not with each limit.
        let in_vain = start.elapsed() >= limit + Duration::from_secs(3);
        if was_started(&stopped) {
            assert!(stopped.refused && stopped.status.is_none() && stopped.stdout_cut, "{stopped:?}");
            assert!(stopped.to_string().contains("may not be signalled"), "{stopped}");
        }
        if !stopped.stdout.is_empty() && !in_vain {
            break (number(&stopped.stdout), ours);
        }
        limit *= 3;
        assert!(limit < HANG, "it does not begin, or somebody is waited for in vain: {stopped:?}");
    };
    assert!(!is_dead(process));
    drop(input);
    let start = Instant::now();
    while std::fs::exists(format!("/proc/{process}")).unwrap() {
        assert!(start.elapsed() < HANG, "{process} is a zombie");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn others_have_their_grace_where_one_may_not_be_signalled() {
    if !is_root() {
        return;
    }
    if std::process::Command::new("setpriv").arg("--version").output().is_err() {
        println!("SKIPPED: there is no setpriv");
        return;
    }
    let worker = "trap \"sleep 0.3; echo clean; exit\" TERM; echo begun; while :; do sleep 0.01; done";
    // What is not nobody's yet when it is told does not hear of it, and is killed when the grace is over.
    let (mut limit, grace) = (SHORT * 5, Duration::from_secs(3));
    loop {
        assert!(limit < HANG, "it never comes to its end");
        let (theirs, ours) = std::io::pipe().unwrap();
        let mut command = sh_as_root(&format!("setpriv --reuid 65534 sh -c '{worker}' & read line"));
        command.stdin(Stdio::from(theirs));
        let start = Instant::now();
        let stopped = as_nobody(|| stopped(timeout(limit, || Run::new(&mut command).grace(grace).output())));
        assert!(start.elapsed() < limit + HANG);
        assert!(!was_started(&stopped) || stopped.refused && stopped.status.is_none(), "{stopped:?}");
        drop(ours);
        if stopped.stdout.ends_with(b"clean\n") {
            break;
        }
        limit *= 3;
    }
}

#[test]
fn a_command_run_again_and_again_is_as_the_first_time() {
    let mut command = sh("echo $$");
    for _ in 0..3 {
        number(&output(&mut command).unwrap().stdout);
    }
}
