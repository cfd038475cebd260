use std::io::{self, Write};

use super::definition::Sink;
use crate::report::contents::Report;

/// Writes reports as text to the standard error stream.
///
/// A report is written in one piece, with an empty line after it.
///
/// ```
/// use timebox::report::{Report, Sink, Stderr};
///
/// Stderr.write(&Report::example())?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Sink for Stderr {
    fn write(&self, report: &Report) -> io::Result<()> {
        let text = format!("{report}\n");
        io::stderr().lock().write_all(text.as_bytes())
    }
}
