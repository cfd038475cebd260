//! The recipe for signals, in processes of their own that get the real ones.
#![cfg(all(unix, not(miri)))]

use std::future::pending;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use timebox::{CancellationToken, Limit, Timebox, timeout_value};

#[path = "../src/guide/signals.rs"]
#[allow(unreachable_pub, reason = "it is a page too")]
mod signals;

use signals::cancel_on_signals;

const LONG: Duration = Duration::from_secs(3600);

/// Says that a test runs as the program that gets the signal.
const PROGRAM: &str = "TIMEBOX_TEST_SIGNALLED";

/// What the program says once it may get the signal.
const READY: &str = "ready for signals";

fn is_program() -> bool {
    std::env::var_os(PROGRAM).is_some()
}

/// A program that is the test of this name, once it is ready.
struct Program {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PROGRAM, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut program = Self { output: BufReader::new(child.stdout.take().unwrap()), child };
        program.wait_for(READY);
        program
    }

    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended without {text:?}");
        }
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: no memory is involved, and the child is not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn end(mut self) -> (std::process::ExitStatus, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

/// Each signal ends `test`, which then says for what reason.
fn ends_by_each_signal(test: &str) {
    for (signal, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")] {
        for _ in 0..5 {
            let program = Program::start(test);
            program.signal(signal);
            let (status, output) = program.end();
            assert!(status.success(), "{status}\n{output}");
            assert!(output.contains(&format!("ended by {name}")), "{output}");
        }
    }
}

fn shutdown() -> CancellationToken {
    let shutdown = CancellationToken::new();
    cancel_on_signals(&shutdown).unwrap();
    shutdown
}

#[test]
fn a_signal_ends_a_block() {
    if is_program() {
        let shutdown = shutdown();
        let served = Timebox::new(Limit::NONE).cancel_on(&shutdown).run(|scope| {
            println!("{READY}");
            scope.sleep(LONG)
        });
        println!("ended by {}", served.unwrap_err().reason().unwrap());
        return;
    }
    ends_by_each_signal("a_signal_ends_a_block");
}

#[test]
fn a_signal_ends_tasks() {
    if is_program() {
        let shutdown = shutdown();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..4)
                .map(|_| tokio::spawn(shutdown.child_token().run_until_cancelled_owned(pending::<()>())))
                .collect();
            println!("{READY}");
            for task in tasks {
                assert_eq!(task.await.unwrap(), None);
            }
        });
        println!("ended by {}", shutdown.reason().unwrap());
        return;
    }
    ends_by_each_signal("a_signal_ends_tasks");
}

#[test]
fn a_second_signal_ends_a_program_that_does_not_listen() {
    if is_program() {
        let shutdown = shutdown();
        let in_vain = Timebox::new(Limit::NONE).cancel_on(&shutdown).run_value(|_| {
            println!("{READY}");
            // No checkpoint.
            while !shutdown.is_cancelled() {
                std::thread::yield_now();
            }
            println!("not listening");
            std::thread::sleep(LONG);
        });
        unreachable!("{in_vain:?}");
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut program = Program::start("a_second_signal_ends_a_program_that_does_not_listen");
        program.signal(signal);
        program.wait_for("not listening");
        program.signal(signal);
        let (status, output) = program.end();
        assert_eq!(status.signal(), Some(signal), "{status}\n{output}");
    }
}

#[test]
fn cleanup_in_a_shield_is_not_cut_off_by_the_signal() {
    if is_program() {
        let shutdown = shutdown();
        let served = Timebox::new(Limit::NONE).cancel_on(&shutdown).run(|scope| {
            println!("{READY}");
            let result = scope.sleep(LONG);
            let cleaned = timebox::shield(LONG, || {
                timeout_value(LONG, || {
                    timebox::checkpoint().and_then(|()| timebox::sleep(Duration::from_millis(1)))
                })
            });
            cleaned.unwrap().unwrap();
            result
        });
        println!("ended by {}", served.unwrap_err().reason().unwrap());
        return;
    }
    ends_by_each_signal("cleanup_in_a_shield_is_not_cut_off_by_the_signal");
}
