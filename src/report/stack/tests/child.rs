//! Runs a test that would harm its process in a child process: the test program again, with this one test.

use std::env;
use std::path::Path;
use std::process::Command;

const CHILD: &str = "TIMEBOX_STACK_TEST";

/// Cargo's variable for the emulator that runs the tests.
const RUNNER: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER";

/// A command that starts `program`: in the emulator, if this process runs in it.
pub(super) fn command(program: &Path) -> Command {
    let runner = env::var(RUNNER).unwrap_or_default();
    let mut words = runner.split_ascii_whitespace().filter(|_| cfg!(target_arch = "aarch64"));
    let Some(emulator) = words.next() else { return Command::new(program) };
    let mut command = Command::new(emulator);
    command.args(words).arg(program);
    command
}

/// Runs the calling test again, alone, in a child process; there, this function runs `body`. `test` is the path of the
/// test in this folder.
pub(super) fn in_child(test: &str, body: impl FnOnce()) {
    in_child_of(&env::current_exe().unwrap(), test, body);
}

/// Like [`in_child`], but the child runs `program`, which may be a copy of the test program.
pub(super) fn in_child_of(program: &Path, test: &str, body: impl FnOnce()) {
    let name = format!("report::stack::tests::{test}");
    if env::var_os(CHILD).is_some_and(|child| child == *name) {
        body();
        return;
    }
    let mut command = command(program);
    command.args(["--exact", &name, "--include-ignored", "--nocapture"]).env(CHILD, &name);
    let output = command.output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{}\n{said}", output.status);
}
