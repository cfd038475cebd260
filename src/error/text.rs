//! Texts and durations as an error shows them.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

/// A text of the user's on one line: escapes everything that would break the line or be misread, except quotes.
pub(super) struct OneLine<'a>(pub(super) &'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '"' | '\'' | '\\' => f.write_char(char),
            char => write!(f, "{}", char.escape_debug()),
        })
    }
}

/// A duration with three decimals of its unit. It is cut and not rounded, so that it never shows a limit as reached that was
/// not.
pub(super) struct Rounded(pub(super) Duration);

impl Display for Rounded {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let d = self.0;
        let unit: u32 = if d.as_secs() > 0 {
            1_000_000
        } else if d.subsec_nanos() >= 1_000_000 {
            1_000
        } else {
            1
        };
        let cut = Duration::new(d.as_secs(), d.subsec_nanos() / unit * unit);
        write!(f, "{cut:?}")
    }
}
