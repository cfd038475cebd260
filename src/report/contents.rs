use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::json;
use crate::error::ScopeInfo;

/// Why a report was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The scope has been open for the time of its `warn_after`.
    Slow,
    /// The scope's deadline has passed.
    Expired,
    /// The scope's deadline passed `overdue_after` ago, and the scope is still open.
    Overdue,
    /// A thread of a runtime, or a watched future, is stuck in one poll.
    Stalled,
    /// A scope that was reported before has ended.
    Ended,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Expired => "expired",
            Self::Overdue => "overdue",
            Self::Stalled => "stalled",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is written down about a scope that ran too long.
///
/// `{}` is the whole report as text for a terminal. The first line, the [`headline`](Self::headline), says the most
/// important things. [`example`](Self::example) makes an example of a report.
///
/// Serialized, a report has the names of its fields, in this order. Durations are seconds, as numbers with a fraction.
/// `began` is a text in the form of RFC 3339, in UTC: `2026-11-28T15:20:49.123456Z`. The place of a scope is a text
/// (`src/main.rs:30:9`), and its fields are a map. Names of variants are in snake case.
///
/// ```
/// let report = timebox::report::Report::example();
/// let json = serde_json::to_value(&report)?;
/// assert_eq!(json["kind"], "slow");
/// assert_eq!(json["elapsed"], 5.003);
/// assert_eq!(json["scope"]["fields"]["user"], "42");
/// assert_eq!(json["thread"]["activity"]["blocked"], "read on fd 7, TCP 10.0.0.7:51234 -> 10.0.0.9:6379");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Why the report was made.
    pub kind: Kind,
    /// The scope that the report is about.
    #[serde(serialize_with = "json::scope")]
    pub scope: ScopeInfo,
    /// The scopes that were open on the thread, innermost first: scopes within `scope`, `scope` itself, and scopes
    /// around it. If there were very many, the outermost are missing, and `notes` say so. For a future between two
    /// polls: `scope`, and the scopes around `scope` whose limits apply to the future.
    #[serde(serialize_with = "json::scopes")]
    pub chain: Vec<ScopeInfo>,
    /// When the scope was entered.
    #[serde(serialize_with = "json::time")]
    pub began: SystemTime,
    /// How long the scope had been open at the moment of the report. For [`Kind::Ended`], it was open at least this
    /// long.
    #[serde(serialize_with = "json::seconds")]
    pub elapsed: Duration,
    /// For [`Kind::Ended`]: the latest moment at which the scope can have ended, counted from its entry. Otherwise
    /// `None`.
    #[serde(serialize_with = "json::maybe_seconds")]
    pub ended_before: Option<Duration>,
    /// The duration of the scope's limit, if it has one.
    #[serde(serialize_with = "json::maybe_seconds")]
    pub limit: Option<Duration>,
    /// The process that wrote the report.
    pub process: Process,
    /// The thread on which the scope is open. `None` for a future between two polls.
    pub thread: Option<Thread>,
    /// The stack of `thread`, up to the scope or the poll: one stack, or none. There is none if the scope has
    /// [ended](Kind::Ended), or if the future is between two polls. Otherwise, if there is none, `notes` say why.
    pub stacks: Vec<Stack>,
    /// For a pending future: one stack for each place at which it waits.
    pub awaits: Vec<Stack>,
    /// For a pending future: how often and when it was polled. Otherwise `None`.
    pub polls: Option<Polls>,
    /// How late the watchdog was when it looked at the scope. If this is long, the whole process got no processor.
    #[serde(serialize_with = "json::seconds")]
    pub watchdog_late: Duration,
    /// How many reports with the same stack were left out before this one.
    pub suppressed: u64,
    /// What is not certain about this report, in sentences.
    pub notes: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// The name of the program's file.
    pub program: String,
    /// The name of the host.
    pub host: String,
}

/// A thread, at the moment of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// The operating system's number of the thread.
    pub id: u32,
    /// Whether it ran, or in what it was blocked.
    pub activity: Activity,
    /// The processor time that the thread used since the earlier look (see `observed`). `None` if that is not known.
    #[serde(serialize_with = "json::maybe_seconds")]
    pub cpu_time: Option<Duration>,
    /// How long the thread was ready to run since the earlier look (see `observed`), but got no processor. `None` if
    /// that is not known.
    #[serde(serialize_with = "json::maybe_seconds")]
    pub waited_for_cpu: Option<Duration>,
    /// The time between an earlier look at the thread and the report. `None` if there was no earlier look. The first
    /// look comes after half of the scope's limit or half of `warn_after`, whichever is shorter.
    #[serde(serialize_with = "json::maybe_seconds")]
    pub observed: Option<Duration>,
}

/// What a thread was doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activity {
    /// It ran, or was ready to run.
    Running,
    /// It was blocked in a system call. The text describes the call: `recvfrom on fd 7, TCP 127.0.0.1:51234 ->
    /// 127.0.0.1:6379`.
    Blocked(String),
    /// It is not known what the thread did.
    Unknown,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Blocked(call) => write!(f, "blocked in {call}"),
            Self::Unknown => f.write_str("state unknown"),
        }
    }
}

/// The polls of a future.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Polls {
    /// How often the future was polled.
    pub count: u64,
    /// How long before the report the future was last polled. `None` if that is not known.
    #[serde(serialize_with = "json::maybe_seconds")]
    pub last: Option<Duration>,
    /// The name of the thread that polled the future last. `None` if that is not known.
    pub thread: Option<String>,
}

/// A stack, innermost frame first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stack {
    /// The frames.
    pub frames: Vec<Frame>,
    /// Whether frames are missing at the outer end.
    pub truncated: bool,
    /// Whether frames may be wrong or missing, because the unwind tables do not cover all code, or the stack is too
    /// large to be copied as a whole.
    pub approximate: bool,
}

impl Stack {
    /// The programs and libraries of the stack none of whose functions has a name. C libraries do not count.
    pub(super) fn nameless_modules(&self) -> BTreeSet<&str> {
        let of_modules = |is_named: bool| {
            let frames =
                self.frames.iter().filter(move |frame| frame.is_named() == is_named && !frame.foreign);
            frames.filter_map(|frame| frame.module.as_deref())
        };
        let named: BTreeSet<&str> = of_modules(true).collect();
        of_modules(false).filter(|module| !named.contains(module)).collect()
    }
}

/// Why no function of a module has a name.
pub(super) fn note_on_nameless(module: &str) -> String {
    format!(
        "Functions of {module} have no names, because its file was stripped of them, or is not the file that was loaded. A symbol \
         tool finds the names by the offsets, in the file from before it was stripped."
    )
}

/// One frame of a stack: a function that had been called and had not returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Frame {
    /// The function, as the program's symbols name it. `module+offset` if there is no name.
    pub function: String,
    /// The source file, if the program has debug information.
    pub file: Option<String>,
    /// The line in that file, if it is known.
    pub line: Option<u32>,
    /// Whether the function was inlined into its caller, the next frame.
    pub inlined: bool,
    /// Whether the function belongs to std, to the C library, to a runtime or web framework, or to this crate. The text
    /// of a report folds such frames.
    pub foreign: bool,
    /// The file name of the program or library, if it is known.
    pub module: Option<String>,
    /// The address in the module, as symbol tools take it.
    pub offset: u64,
}

impl Frame {
    fn is_named(&self) -> bool {
        let rest = self.module.as_ref().and_then(|module| self.function.strip_prefix(&**module));
        !rest.is_some_and(|rest| rest.starts_with("!fn_") || rest.starts_with('+'))
    }

    pub(super) fn with_name(function: impl Into<String>) -> Self {
        Self {
            function: function.into(),
            file: None,
            line: None,
            inlined: false,
            foreign: false,
            module: None,
            offset: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_any_name_is_told() {
        let frame = |function: &str, foreign| Frame {
            foreign,
            module: Some("app".into()),
            ..Frame::with_name(function)
        };
        let stack = |frames: Vec<Frame>| Stack { frames, ..Stack::default() };
        let nameless = stack(vec![frame("app!fn_12", false), frame("app+0x34", false)]);
        assert_eq!(nameless.nameless_modules().into_iter().collect::<Vec<_>>(), ["app"]);
        assert!(stack(vec![frame("app::f", false), frame("app+0x34", false)]).nameless_modules().is_empty());
        assert!(stack(vec![frame("app!fn_12", true)]).nameless_modules().is_empty());
    }
}
