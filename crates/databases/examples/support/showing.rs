use std::process::ExitCode;
use std::time::{Duration, Instant};

use timebox::TimeoutError;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) const LIMIT: Duration = Duration::from_millis(100);

pub(crate) fn run(name: &str, example: impl FnOnce() -> Result<(), AnyError>) -> ExitCode {
    println!("{:<48}{:>8}{:>10}  outcome", name, "limit", "taken");
    match example() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name} failed: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn check(holds: bool, what: &str) -> Result<(), AnyError> {
    if holds { Ok(()) } else { Err(format!("not so: {what}").into()) }
}

pub(crate) fn timed_out<T>(result: Result<T, AnyError>) -> Result<TimeoutError, AnyError> {
    match result {
        Ok(_) => Err("not so: the work was stopped".into()),
        Err(error) => Ok(*error.downcast::<TimeoutError>()?),
    }
}

/// Prints one line. Fails if the error names another limit than [`LIMIT`], if the work ended before the limit, or if it
/// ended 5 s or more after the limit. A machine may be slow, so less than 5 s are allowed.
pub(crate) fn show(what: &str, start: Instant, error: &TimeoutError) -> Result<(), AnyError> {
    let taken = start.elapsed();
    check(error.is_timeout() && error.limit() == Some(LIMIT), "the error names the limit")?;
    check(taken >= LIMIT, "no work is stopped before its limit")?;
    check(taken < LIMIT + Duration::from_secs(5), "work is stopped at its limit")?;
    println!("{what:<48}{LIMIT:>8.0?}{taken:>10.1?}  TimeoutError: {:?}", error.cause());
    Ok(())
}
