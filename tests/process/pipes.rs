//! What goes in and what comes out.

use std::io::{self, ErrorKind, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use timebox::process::{Error, Halted, Run, Why, output, status};
use timebox::{TimeoutError, timeout};

use super::{HANG, LONG, SHORT, dies, number, sh, stopped, stopped_once_started};

#[track_caller]
fn halted<T>(result: Result<T, Error>) -> Halted {
    match result {
        Err(Error::Halted(halted)) => halted,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it came to its end"),
    }
}

#[track_caller]
fn io_error<T>(result: Result<T, Error>) -> io::Error {
    match result {
        Err(Error::Io(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it came to its end"),
    }
}

#[test]
fn what_a_helper_writes_after_the_child_has_ended_is_waited_for() {
    let script = "(sleep 0.7; echo late) & echo hi";
    for result in [timeout(LONG, || Run::new(&mut sh(script)).output()), Run::new(&mut sh(script)).output()] {
        let output = result.unwrap();
        assert_eq!(output.stdout, b"hi\nlate\n");
        assert!(!output.stdout_cut && !output.stderr_cut);
    }
    if Command::new("bash").arg("--version").output().is_ok() {
        let mut bash = Command::new("bash");
        bash.args(["-c", "exec > >(sleep 0.7; sed 's/^/> /'); echo hello"]).stdin(Stdio::null());
        assert_eq!(timeout(LONG, || output(&mut bash)).unwrap().stdout, b"> hello\n");
    }
}

#[test]
fn what_was_written_is_whole_if_all_who_wrote_it_have_ended() {
    let (stopped, _) = super::stopped_at("sleep 1000 & echo $!; wait", HANG);
    assert!(!stopped.stdout_cut && !stopped.stderr_cut);
}

#[test]
fn a_writer_outside_of_the_group_is_not_waited_for_once_the_scope_is_over() {
    let (stopped, _) = super::stopped_at("setsid sh -c 'echo $$; exec sleep 1000' & wait", HANG);
    let daemon = number(&stopped.stdout);
    assert!(stopped.stdout_cut, "{daemon} may write more");
    Command::new("kill").arg(daemon.to_string()).status().unwrap();
    dies(daemon);
}

#[test]
fn one_that_writes_too_much_is_stopped() {
    let mut noisy = sh("sh -c 'echo $$ >&2; exec yes' & wait");
    let halted = halted(timeout(LONG, || Run::new(&mut noisy).max_output(100_000).output()));
    assert!(matches!(halted.why, Why::TooMuchOutput { most: 100_000, .. }));
    assert_eq!(halted.stdout.len(), 100_000);
    assert!(halted.stdout_cut && !halted.stderr_cut);
    assert!(halted.stdout.iter().step_by(2).all(|&byte| byte == b'y'), "it is the beginning that is kept");
    dies(number(&halted.stderr));
    assert!(Error::Halted(halted).to_string().contains("100000 bytes"));
}

#[test]
fn one_that_writes_as_much_as_it_may_is_not_stopped() {
    for truncates in [false, true] {
        let mut command = sh("head -c 100000 /dev/zero");
        let run = Run::new(&mut command);
        let run = if truncates { run.truncate_output(100_000) } else { run.max_output(100_000) };
        let output = run.output().unwrap();
        assert_eq!((output.stdout.len(), output.stdout_cut), (100_000, false));
    }
}

#[test]
fn what_is_too_much_is_thrown_away_and_the_result_says_so() {
    let mut command = sh("head -c 30000000 /dev/zero; echo end >&2; exit 7");
    let output = timeout(LONG, || Run::new(&mut command).truncate_output(10).output()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 10), "it came to its end");
    assert!(output.stdout_cut && !output.stderr_cut);
    assert!(output.stdout.capacity() < 1_000_000);

    let mut limit = SHORT;
    let stopped = loop {
        let stopped = stopped(timeout(limit, || Run::new(&mut sh("yes")).truncate_output(10).output()));
        assert!(stopped.stdout.len() <= 10 && limit < HANG, "{stopped:?}");
        if !stopped.stdout.is_empty() {
            break stopped;
        }
        limit *= 3;
    };
    assert!(stopped.stdout_cut);
}

#[test]
fn it_is_given_bytes_and_what_a_reader_reads() {
    let much: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let cat = || sh("cat");
    for limit in [timebox::Limit::NONE, LONG.into()] {
        let run = |command: Run<'_>| timeout(limit.clone(), || command.output()).unwrap().stdout;
        assert_eq!(run(Run::new(&mut cat()).input(&much)), much);
        assert_eq!(run(Run::new(&mut cat()).input("")), b"");
        assert_eq!(run(Run::new(&mut cat()).input(String::from("owned"))), b"owned");
        assert_eq!(
            run(Run::new(&mut cat()).input_from(much.chunks(7000).next().unwrap().chain(&b"!"[..])))[7000..],
            *b"!"
        );
    }
    // It does not want all of it, and reads nothing when the limit passes.
    assert_eq!(Run::new(&mut sh("head -c 3")).input(&much).output().unwrap().stdout, much[..3]);
    assert!(Run::new(&mut sh("exec <&-; sleep 0.1")).input(&much).status().unwrap().success());
    stopped_once_started(|| Run::new(&mut sh("sleep 1000")).input(&much).status());
}

#[test]
fn a_command_is_left_without_input() {
    let mut cat = Command::new("cat");
    assert_eq!(Run::new(&mut cat).input("once").output().unwrap().stdout, b"once");
    assert_eq!(output(&mut cat).unwrap().stdout, b"");
}

#[test]
fn one_that_is_stopped_does_not_see_the_end_of_its_input() {
    // What has come so far must not be taken for all.
    let script = "trap '' TERM; echo $$; cat > /dev/null; echo all";
    let mut limit = SHORT;
    let stopped = loop {
        let stopped = stopped(timeout(limit, || {
            Run::new(&mut sh(script)).grace(SHORT * 10).input_from(io::repeat(b'x')).output()
        }));
        if !stopped.stdout.is_empty() {
            break stopped;
        }
        limit *= 3;
        assert!(limit < HANG, "it does not begin: {stopped:?}");
    };
    let said = String::from_utf8(stopped.stdout).unwrap();
    assert!(!said.contains("all"), "{said}");
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("a broken source"))
    }
}

#[test]
fn an_error_of_the_reader_ends_the_command() {
    let mut command = sh("cat; sleep 1000");
    let error = io_error(timeout(LONG, || Run::new(&mut command).input_from(Broken).output()));
    assert_eq!(error.to_string(), "a broken source");
}

/// A reader that runs out of a limit of its own.
struct Late;

impl Read for Late {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        timeout(SHORT, || Ok(timebox::sleep(LONG).map(|()| 0)?))
    }
}

#[test]
fn a_timeout_that_a_reader_returns_is_found_and_the_text_of_other_errors_stands_once() {
    let error = Run::new(&mut sh("cat; sleep 1000")).input_from(Late).output().unwrap_err();
    assert_eq!(TimeoutError::find(&error).unwrap().limit(), Some(SHORT));

    let error = status(&mut Command::new("no-such-program")).unwrap_err();
    assert!(TimeoutError::find(&error).is_none());
    let text = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(text.matches("no-such-program").count(), 1, "{text}");
}

#[test]
fn outputs_are_shown_as_text_where_they_are_text() {
    let shown = format!("{:?}", Run::new(&mut sh("echo hi; printf '\\377' >&2")).output().unwrap());
    assert!(shown.contains(r#"stdout: "hi\n", "#) && shown.contains("stderr: [255]"), "{shown}");

    let halted = halted(Run::new(&mut sh("printf abcdef; sleep 1000")).max_output(5).output());
    assert!(format!("{halted:?}").contains(r#"stdout: "abcde"#), "{halted:?}");

    let stopped = stopped(timeout(Duration::ZERO, || output(&mut sh("true"))));
    assert!(format!("{stopped:?}").contains(r#"stdout: "", "#), "{stopped:?}");
}

#[test]
#[cfg(feature = "io")]
fn a_reader_whose_reads_end_with_the_scope_does_not_hold_it_up() {
    let (silent, _writer) = io::pipe().unwrap();
    let input = timebox::io::Timed::new(silent);
    stopped_once_started(|| Run::new(&mut sh("cat")).input_from(&input).output());
}

#[test]
fn a_pipe_to_which_nobody_writes_is_an_error() {
    for run in
        [|command: &mut Command| output(command).map(drop), |command: &mut Command| status(command).map(drop)]
    {
        let error = io_error(timeout(LONG, || run(sh("sleep 1000").stdin(Stdio::piped()))));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("Run::input"), "{error}");
    }
}

#[test]
fn what_status_does_not_return_is_not_kept() {
    let mut noisy = sh("head -c 30000000 /dev/zero");
    assert!(timeout(LONG, || status(noisy.stdout(Stdio::piped()))).unwrap().success());
}

#[test]
fn a_command_that_cannot_be_started_is_named() {
    for run in
        [|command: &mut Command| output(command).map(drop), |command: &mut Command| status(command).map(drop)]
    {
        let error = io_error(timeout(LONG, || run(&mut Command::new("no-such-command-anywhere"))));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("\"no-such-command-anywhere\""), "{error}");
        let source = error.into_inner().unwrap();
        let system = source.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(system.raw_os_error(), Some(libc::ENOENT));

        let error = io_error(run(sh("true").current_dir("/no/such/directory")));
        assert!(error.to_string().contains("\"sh\" in /no/such/directory"), "{error}");
        let error = io_error(run(&mut Command::new("/dev/null")));
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("\"/dev/null\""), "{error}");
    }
}
