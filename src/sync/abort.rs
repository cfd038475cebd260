/// Prints one line and ends the process: to go on would be undefined behaviour.
#[cold]
pub(crate) fn abort(what: std::fmt::Arguments<'_>) -> ! {
    use std::io::Write as _;
    // `eprintln` would panic if standard error is closed.
    let _ = writeln!(std::io::stderr(), "timebox: {what}; aborting");
    std::process::abort();
}
