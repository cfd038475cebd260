//! In which group a command runs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use timebox::process::{Group, Run, output};
use timebox::timeout;

use super::{HANG, LONG, dies, number, sh, stopped_at};

/// The process, its group and its session, as a script tells them.
#[cfg(target_os = "linux")]
fn numbers(run: Run<'_>) -> [i32; 3] {
    let output = timeout(LONG, || run.output()).unwrap();
    let numbers = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<i32> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[cfg(target_os = "linux")]
const NUMBERS: &str = "cut -d ' ' -f 1,5,6 /proc/$$/stat";

#[test]
#[cfg(target_os = "linux")]
fn it_is_in_a_group_or_session_of_its_own_or_in_this_one() {
    // SAFETY: asks for numbers.
    let (our_group, our_session) = unsafe { (libc::getpgrp(), libc::getsid(0)) };
    // The same command, whatever it was before.
    let mut command = sh(NUMBERS);
    for _ in 0..2 {
        let [process, group, session] = numbers(Run::new(&mut command));
        assert_eq!((group, session), (process, our_session));
        let [process, group, session] = numbers(Run::new(&mut command).group(Group::Session));
        assert_eq!((group, session), (process, process));
        let [_, group, session] = numbers(Run::new(&mut command).group(Group::Foreground));
        assert_eq!((group, session), (our_group, our_session));
    }
}

fn with_setsid(script: &str) -> Command {
    let mut command = sh(script);
    // SAFETY: a system call that takes nothing.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command
}

#[test]
#[cfg(target_os = "linux")]
fn a_command_may_make_itself_a_session() {
    let mut command = with_setsid(NUMBERS);
    for group in [Group::Own, Group::Session, Group::Own] {
        let [process, group, session] = numbers(Run::new(&mut command).group(group));
        assert_eq!((group, session), (process, process));
    }
}

#[test]
fn what_a_session_has_started_ends_with_it() {
    let script = "sleep 1000 & echo $!; wait";
    let mut limit = super::SHORT;
    for (mut command, group) in [
        (sh(script), Group::Session),
        (with_setsid(script), Group::Own),
        (with_setsid(script), Group::Session),
    ] {
        loop {
            let result = timeout(limit, || Run::new(&mut command).group(group).grace(HANG).output());
            let stopped = super::stopped(result);
            if stopped.stdout.ends_with(b"\n") {
                dies(number(&stopped.stdout));
                break;
            }
            limit *= 3;
        }
    }
}

#[test]
fn in_the_foreground_it_is_the_command_itself_that_ends() {
    let mut limit = super::SHORT;
    let child = loop {
        let result = timeout(limit, || {
            // Who is not told holds the output for ever.
            Run::new(&mut sh("sleep 1000 & echo $!; wait")).group(Group::Foreground).output()
        });
        let stopped = super::stopped(result);
        if stopped.stdout.ends_with(b"\n") {
            assert!(stopped.status.is_some() && stopped.stdout_cut);
            break number(&stopped.stdout);
        }
        limit *= 3;
    };
    assert!(!super::is_dead(child));
    Command::new("kill").arg(child.to_string()).status().unwrap();
    dies(child);
}

#[test]
#[cfg(target_os = "linux")]
fn a_foreground_command_that_makes_itself_a_session_is_told_too() {
    let mut limit = super::SHORT;
    loop {
        let result = timeout(limit, || {
            // Not a leader when it starts; one soon after.
            let script = "sleep 0.1; exec setsid sh -c 'echo begun; exec sleep 1000'";
            Run::new(&mut sh(script)).group(Group::Foreground).output()
        });
        let stopped = super::stopped(result);
        assert!(!stopped.refused, "{stopped:?}");
        if stopped.stdout == b"begun\n" {
            assert!(stopped.status.is_some(), "{stopped:?}");
            break;
        }
        limit *= 3;
        assert!(limit < HANG, "it does not begin: {stopped:?}");
    }
}

#[test]
fn one_that_is_suspended_is_named() {
    let (stopped, _) = stopped_at("echo $$; kill -STOP $$", HANG);
    // The limit may fall between the two.
    if let Some(signal) = stopped.suspended {
        assert_eq!(signal, libc::SIGSTOP);
        assert!(stopped.to_string().contains("SIGSTOP"), "{stopped}");
    }
    let named = || stopped_at("echo $$; kill -STOP $$", HANG).0.suspended.is_some();
    assert!((0..20).any(|_| named()));
    let (stopped, _) = stopped_at("echo $$; sleep 1000", HANG);
    assert_eq!(stopped.suspended, None);
}

#[test]
fn one_that_is_suspended_and_goes_on_comes_to_its_end() {
    let mut command = sh("(sleep 0.3; kill -CONT $$) & kill -STOP $$; echo on");
    assert_eq!(timeout(LONG, || output(&mut command)).unwrap().stdout, b"on\n");
}
