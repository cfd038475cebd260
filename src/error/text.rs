//! How an error is shown: one line for people and clients, and the whole story for who looks for the cause.

use std::error::Error as _;
use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

use super::{Cause, ErrorInner, ScopeInfo, TimeoutError};

/// One line. `{:#}` has the places and the fields too.
impl Display for ErrorInner {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_line(f)?;
        if f.alternate() {
            let scope = self.named();
            write!(f, ", opened at {}", scope.location)?;
            if self.interrupted_at != scope.location {
                write!(f, ", interrupted at {}", self.interrupted_at)?;
            }
            for (name, value) in scope.fields() {
                write!(f, ", {} = {}", OneLine(name), OneLine(value))?;
            }
            if let Some(failure) = &self.hook_failure {
                write!(f, ", its hook failed: \"{}\"", OneLine(&failure.to_string()))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TimeoutError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a panic message shows: the line, and below it where it was interrupted, the scopes around that place, innermost
/// first, and the errors behind it.
impl fmt::Debug for ErrorInner {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_line(f)?;
        if self.started && self.settled {
            write!(f, "\n    interrupted at {}", self.interrupted_at)?;
        }
        for (index, scope) in self.chain.iter().enumerate() {
            let over = if index == self.over && self.chain.len() > 1 { " (this one is over)" } else { "" };
            write!(f, "\n    in {}{over}", Opened(scope))?;
            for (name, value) in scope.fields() {
                write!(f, "\n        {} = {}", OneLine(name), OneLine(value))?;
            }
        }
        if let Some(failure) = &self.hook_failure {
            write!(f, "\n    its hook failed: {}", OneLine(&failure.to_string()))?;
        }
        for source in std::iter::successors(self.source(), |error| (*error).source()) {
            write!(f, "\n    caused by: {source}")?;
        }
        Ok(())
    }
}

impl ErrorInner {
    fn write_line(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let scope = self.named();
        f.write_str(match self.cause {
            Cause::Deadline => "timed out",
            Cause::Quota => "quota spent",
            Cause::Cancelled => "cancelled",
        })?;
        if let Some(reason) = &self.reason {
            write!(f, " because \"{}\"", OneLine(reason))?;
        }
        f.write_str(": ")?;
        if let Some(label) = &scope.label {
            write!(f, "`{}`, ", OneLine(label))?;
        }
        match (scope.limit, self.cause) {
            (Some(limit), _) => write!(f, "limit {}, ", Rounded(limit))?,
            // Nothing is known of the limit of one that was cancelled.
            (None, Cause::Cancelled) => {}
            (None, _) => f.write_str("until an instant, ")?,
        }
        write!(f, "elapsed {}, overshoot {}", Rounded(self.elapsed), Rounded(self.overshoot))?;
        if let Some((needed, left)) = self.lack {
            write!(f, ", needed {}, left {}", Rounded(needed), Rounded(left))?;
        }
        if !self.started {
            f.write_str(", not started")?;
        } else if !self.settled {
            f.write_str(", dropped unsettled")?;
        }
        Ok(())
    }
}

/// A scope and where it was opened.
struct Opened<'a>(&'a ScopeInfo);

impl Display for Opened<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0.label {
            Some(label) => write!(f, "`{}`", OneLine(label))?,
            None => f.write_str("a scope")?,
        }
        if let Some(limit) = self.0.limit {
            write!(f, ", limit {}", Rounded(limit))?;
        }
        write!(f, ", opened at {}", self.0.location)
    }
}

/// A text of the user's, with all escaped that would break the line or be misread; quotes stay.
pub(super) struct OneLine<'a>(pub(super) &'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '"' | '\'' | '\\' => f.write_char(char),
            char => write!(f, "{}", char.escape_debug()),
        })
    }
}

/// A duration in three decimals of its unit, except that nothing is rounded up to a limit it did not reach.
struct Rounded(Duration);

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
