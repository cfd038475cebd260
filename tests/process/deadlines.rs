//! The deadline that a command gets, and what it makes of it.

use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use timebox::process::{Run, output};
use timebox::{Deadline, Limit, TimeoutError, timeout, timeout_value};

use super::programs::program;
use super::{LONG, sh};

const ECHO: &str = "echo \"<$TIMEBOX_DEADLINE>\"";

/// The text between `<` and `>` in what the command says.
#[track_caller]
fn says(run: Run<'_>) -> String {
    let output = run.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    text.expect("it says nothing").0.to_owned()
}

/// The deadline in a value of the variable, in nanoseconds on the system's clock.
#[track_caller]
fn instant(value: &str) -> u128 {
    let (left, reading) = value.split_once('@').unwrap();
    left.parse::<u128>().unwrap() + reading.parse::<u128>().unwrap()
}

/// The deadline of this scope on the same clock; a little later, if anything.
fn own_instant() -> u128 {
    let left = timebox::remaining().unwrap();
    let now = clock_gettime(ClockId::Monotonic);
    left.as_nanos()
        + Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap()).as_nanos()
}

#[test]
fn a_command_gets_the_deadline_of_its_scope() {
    timeout_value(LONG, || {
        let command = instant(&says(Run::new(&mut sh(ECHO))));
        assert!(command <= own_instant());
        let less = instant(&says(Run::new(&mut sh(ECHO)).allowance(Duration::from_secs(60))));
        assert!(less + 60_000_000_000 <= own_instant());
    })
    .unwrap();
}

#[test]
fn without_a_deadline_a_command_gets_none() {
    assert_eq!(says(Run::new(&mut sh(ECHO))), "");
    assert_eq!(timeout_value(Limit::NONE, || says(Run::new(&mut sh(ECHO)))).unwrap(), "");
}

#[test]
fn the_way_to_the_program_does_not_lengthen_the_deadline() {
    let program = program("deadlines::tells_its_deadline");
    let mut command = sh("sleep 0.2; exec \"$0\" \"$@\"");
    command.arg(program.get_program()).args(program.get_args());
    timeout_value(LONG, || assert!(instant(&says(Run::new(&mut command))) <= own_instant())).unwrap();
}

#[test]
#[ignore = "is run by another test"]
fn tells_its_deadline() {
    let deadline = Deadline::from_env().unwrap();
    timeout_value(deadline, || {
        println!("<{}>", timebox::deadline().to_env().unwrap().into_string().unwrap());
    })
    .unwrap();
}

#[test]
fn a_command_ends_by_itself_before_it_is_signalled() {
    let mut program = program("deadlines::ends_at_its_deadline");
    let limited = timeout(Duration::from_secs(60), || {
        Run::new(&mut program).allowance(Duration::from_millis(59_500)).output()
    });
    let output = limited.unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("rolled back"));
}

#[test]
#[ignore = "is run by another test"]
fn ends_at_its_deadline() {
    let result = timeout(Deadline::from_env().unwrap(), || timebox::sleep(LONG));
    assert!(result.unwrap_err().is_timeout());
    println!("rolled back");
}

#[test]
fn a_deadline_of_its_own_is_only_shortened() {
    let mut command = sh(ECHO);
    command.env(Deadline::VARIABLE, "60000000000@0"); // a minute after the system was booted
    timeout_value(LONG, || assert_eq!(instant(&says(Run::new(&mut command))), 60_000_000_000)).unwrap();
    command.env(Deadline::VARIABLE, "never");
    timeout_value(LONG, || assert!(instant(&says(Run::new(&mut command))) <= own_instant())).unwrap();
    assert_eq!(says(Run::new(&mut command)), "never");
}

#[test]
fn a_later_run_gets_no_deadline_of_an_earlier_one() {
    let mut command = sh(ECHO);
    timeout_value(LONG, || assert!(!says(Run::new(&mut command)).is_empty())).unwrap();
    assert_eq!(says(Run::new(&mut command)), "");
    let first = timeout_value(Duration::from_secs(600), || instant(&says(Run::new(&mut command)))).unwrap();
    let second = timeout_value(LONG, || instant(&says(Run::new(&mut command)))).unwrap();
    assert!(first < second);
}

#[test]
fn a_variable_that_holds_no_deadline_is_an_error_of_the_command() {
    let mut program = program("deadlines::tells_its_error");
    program.env(Deadline::VARIABLE, "soon");
    assert!(says(Run::new(&mut program)).contains("TIMEBOX_DEADLINE holds no deadline"));
}

#[test]
#[ignore = "is run by another test"]
fn tells_its_error() {
    println!("<{}>", Deadline::from_env().unwrap_err());
}

#[test]
fn what_a_program_inherits_its_commands_inherit() {
    let mut program = program("deadlines::passes_its_deadline_on");
    let value = "3600000000000@18446744073709551615";
    program.env(Deadline::VARIABLE, value);
    assert_eq!(says(Run::new(&mut program)), value);
}

#[test]
#[ignore = "is run by another test"]
fn passes_its_deadline_on() {
    let mut command = sh(ECHO);
    let in_scope = timeout_value(2 * LONG, || says(Run::new(&mut command))).unwrap();
    assert_eq!(in_scope, says(Run::new(&mut command)), "the inherited deadline is earlier");
    println!("<{}>", says(Run::new(&mut command)));
}

#[test]
fn a_command_whose_environment_is_cleared_gets_the_earlier_deadline_too() {
    let mut program = program("deadlines::clears_the_environment");
    let value = "3600000000000@18446744073709551615";
    program.env(Deadline::VARIABLE, value);
    assert_eq!(says(Run::new(&mut program)), value);
}

#[test]
#[ignore = "is run by another test"]
fn clears_the_environment() {
    let mut command = sh(ECHO);
    command.env_clear();
    println!("<{}>", timeout_value(2 * LONG, || says(Run::new(&mut command))).unwrap());
}

#[test]
fn a_daemon_may_be_started_without_the_deadline() {
    let mut program = program("deadlines::starts_a_daemon");
    program.env(Deadline::VARIABLE, "3600000000000@18446744073709551615");
    assert_eq!(says(Run::new(&mut program)), "");
}

#[test]
#[ignore = "is run by another test"]
fn starts_a_daemon() {
    let mut command = sh(ECHO);
    command.env_remove(Deadline::VARIABLE);
    println!("<{}>", timeout_value(LONG, || says(Run::new(&mut command).without_deadline())).unwrap());
    assert_eq!(says(Run::new(&mut command)), "");
}

#[test]
fn a_command_that_is_not_started_has_its_variables_as_before() {
    let mut missing = Command::new("no-such-program");
    missing.env(Deadline::VARIABLE, "1");
    assert!(timeout(LONG, || output(&mut missing)).is_err());
    let values: Vec<_> = missing.get_envs().collect();
    assert_eq!(values, [(Deadline::VARIABLE.as_ref(), Some("1".as_ref()))]);
    let over: Result<_, TimeoutError> = timeout_value(Duration::ZERO, || output(&mut missing));
    assert!(over.is_err());
}
