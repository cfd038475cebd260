use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::contents::FunctionTime;
use super::report::ProfileReport;
use crate::error::{OneLine, Rounded};

/// How many functions a table shows at most.
const ROWS: usize = 20;

pub(super) struct Summary<'a>(pub(super) &'a ProfileReport);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let elapsed = report.elapsed();
        write!(f, "{}", Rounded(elapsed))?;
        let parts =
            [("running", report.running()), ("waiting", report.waiting()), ("missed", report.missed())];
        for (name, time) in parts {
            if !time.is_zero() {
                write!(f, ", {name} {} ({:.1} %)", Rounded(time), percent(time, elapsed))?;
            }
        }
        let other = report.on_other_threads();
        if !other.is_zero() {
            write!(f, "; on other threads {}", Rounded(other))?;
        }
        let samples = report.samples();
        let name = if samples == 1 { "sample" } else { "samples" };
        write!(f, "; {samples} {name} at {} Hz", report.frequency())
    }
}

/// The profile in one line, and two tables. The first has the functions that took the most time by themselves. The
/// second has the functions of the program's own code that took the most time with all that they called.
impl Display for ProfileReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(label) = self.label() {
            write!(f, "`{}`: ", OneLine(label))?;
        }
        writeln!(f, "{}", Summary(self))?;
        let all = self.elapsed() + self.on_other_threads();
        let functions = self.functions();
        let by_itself: Vec<_> = functions.iter().filter(|function| !function.itself.is_zero()).collect();
        table(f, "By the time in the function itself", &by_itself, all)?;
        let mut by_total: Vec<_> = functions.iter().filter(|function| !function.foreign).collect();
        by_total.sort_by_key(|function| Reverse(function.total));
        table(
            f,
            "By the time in the function and all that it called, without std and runtimes",
            &by_total,
            all,
        )?;
        let notes = self.notes();
        if !notes.is_empty() {
            writeln!(f, "\nNot certain:")?;
        }
        notes.iter().try_for_each(|note| writeln!(f, "  - {}", OneLine(note)))
    }
}

fn table(f: &mut Formatter<'_>, title: &str, functions: &[&FunctionTime], all: Duration) -> fmt::Result {
    if functions.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}:\n   itself    total  waiting  function")?;
    for function in functions.iter().take(ROWS) {
        for time in [function.itself, function.total, function.waiting] {
            write!(f, "  {:>5.1} %", percent(time, all))?;
        }
        writeln!(f, "  {}", OneLine(&function.function))?;
    }
    match functions.len().saturating_sub(ROWS) {
        0 => Ok(()),
        more => writeln!(f, "  ... {more} more ..."),
    }
}

fn percent(part: Duration, whole: Duration) -> f64 {
    100.0 * part.as_secs_f64() / whole.as_secs_f64().max(1e-9)
}
