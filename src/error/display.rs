//! How an error is shown. `Display` is one line, for people and clients; `Debug` has every scope and every source.

use std::error::Error as _;
use std::fmt::{self, Display, Formatter};

use super::cause::Cause;
use super::scope::ScopeInfo;
use super::text::{OneLine, Rounded};
use super::timeout_error::{ErrorInner, TimeoutError};

/// One line. `{:#}` adds the places, the fields, and the failure of the hook.
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

/// Several lines: the line of `Display`, the place of the interruption (if code was interrupted, and not a future
/// dropped), the open scopes (innermost first) with their fields, the failure of the hook, and the sources.
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
            // `until an instant` stands for a limit without a duration. It is left out here, since the limit did not
            // end the scope.
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
