//! Texts and durations as an error shows them.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

/// Shows a text of the user's on one line. Escapes every character that would break the line or be misread, except
/// quotes and backslashes.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '"' | '\'' | '\\' => f.write_char(char),
            char => write!(f, "{}", char.escape_debug()),
        })
    }
}

/// Shows a duration with at most three decimals of its unit. Further decimals are cut off: a time just below a limit
/// must not be rounded up to the limit.
pub(crate) struct Rounded(pub(crate) Duration);

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
