//! The end of a process that cannot go on.

/// Ends the process with one line: to go on would be undefined behaviour.
#[cold]
pub(crate) fn abort(what: std::fmt::Arguments<'_>) -> ! {
    use std::io::Write as _;
    // `eprintln` would panic where nobody listens.
    let _ = writeln!(std::io::stderr(), "timebox: {what}; aborting");
    std::process::abort();
}
