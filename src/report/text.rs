//! A report as text, for a terminal.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::calendar::Utc;
use super::contents::{Activity, Frame, Kind, Polls, Process, Report, Stack, Thread};
use super::frames::{Frames, Place};
use crate::error::{OneLine, Rounded, ScopeInfo};

/// If the watchdog was late by less than this, the delay is ignored.
const LATE: Duration = Duration::from_millis(200);

impl Report {
    /// The first line of the text. It says what kind of report this is, which scope was open for how long, what its
    /// limit is, what its thread does, and where in the program's own code.
    ///
    /// ```
    /// let report = timebox::report::Report::example();
    /// assert_eq!(
    ///     report.headline(),
    ///     "slow: `GET /repos/42` open for 5.003s (limit 25s); thread worker-3 blocked in read on fd 7, \
    ///      TCP 10.0.0.7:51234 -> 10.0.0.9:6379; at shop::cache::reply, src/cache.rs:57"
    /// );
    /// assert_eq!(report.to_string().lines().next(), Some(&*report.headline()));
    /// ```
    pub fn headline(&self) -> String {
        Headline(self).to_string()
    }

    /// The innermost frame of the program's own code, if there is one.
    pub(super) fn place(&self) -> Option<&Frame> {
        let stacks = self.stacks.iter().chain(&self.awaits);
        stacks.flat_map(|stack| &stack.frames).find(|frame| !frame.foreign)
    }

    /// Whether `place`, if there is one, is in a stack of `awaits`. `place` takes a frame of `awaits` only if no frame of `stacks` is the
    /// program's own code.
    fn is_awaiting(&self) -> bool {
        let mut frames = self.stacks.iter().flat_map(|stack| &stack.frames);
        frames.all(|frame| frame.foreign)
    }

    /// `Some` if the scope may have taken so long because the process or the thread got no processor. Then the code is
    /// not to blame.
    pub(super) fn starved(&self) -> Option<Starved> {
        if self.watchdog_late >= LATE && self.watchdog_late >= self.elapsed / 4 {
            return Some(Starved::Process(self.watchdog_late));
        }
        let thread = self.thread.as_ref()?;
        let (waited, observed) = (thread.waited_for_cpu?, thread.observed(self.elapsed));
        (waited >= observed / 2 && !waited.is_zero()).then_some(Starved::Thread(waited))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starved {
    Process(Duration),
    Thread(Duration),
}

struct Headline<'a>(&'a Report);

impl Display for Headline<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(f, "{}: {} ", report.kind, Name(&report.scope))?;
        let elapsed = Rounded(report.elapsed);
        match (report.kind, report.ended_before) {
            (Kind::Ended, Some(before)) if before <= report.elapsed => {
                write!(f, "finished {elapsed} after its start")?;
            }
            (Kind::Ended, Some(before)) => {
                write!(f, "finished between {elapsed} and {} after its start", Rounded(before))?;
            }
            (Kind::Ended, None) => write!(f, "finished {elapsed} after its start or later")?,
            (Kind::Overdue, _) => write!(f, "still open after {elapsed}")?,
            (Kind::Stalled, _) => write!(f, "in one poll for {elapsed}")?,
            _ => write!(f, "open for {elapsed}")?,
        }
        if let Some(limit) = report.limit {
            write!(f, " (limit {})", Rounded(limit))?;
        }
        if report.kind == Kind::Ended {
            return Ok(());
        }
        if let Some(thread) = &report.thread {
            write!(f, "; thread {} {}", OneLine(thread.shown_name()), Doing(&thread.activity))?;
        }
        if let Some(frame) = report.place() {
            let at = if report.is_awaiting() { "waits at" } else { "at" };
            write!(f, "; {at} {}", OneLine(&frame.function))?;
            if frame.file.is_some() {
                write!(f, ", {}", Place(frame))?;
            }
            match report.awaits.len() {
                0 | 1 => {}
                2 => f.write_str(" and at 1 more place")?,
                places => write!(f, " and at {} more places", places - 1)?,
            }
        }
        match report.starved() {
            Some(Starved::Process(late)) => write!(f, "; the process got no processor for {}", Rounded(late)),
            Some(Starved::Thread(waited)) => {
                write!(f, "; the thread got no processor for {}", Rounded(waited))
            }
            None => Ok(()),
        }
    }
}

pub(super) struct Name<'a>(pub(super) &'a ScopeInfo);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.label() {
            Some(label) => write!(f, "`{}`", OneLine(label)),
            None => write!(f, "scope at {}", self.0.location()),
        }
    }
}

impl Thread {
    /// For how long `cpu_time` and `waited_for_cpu` were measured: since an earlier look at the thread. Without an
    /// earlier look, the result is `elapsed`, the time since the scope was opened.
    fn observed(&self, elapsed: Duration) -> Duration {
        self.observed.unwrap_or(elapsed)
    }

    fn shown_name(&self) -> &str {
        if self.name.is_empty() { "without a name" } else { &self.name }
    }
}

struct Doing<'a>(&'a Activity);

impl Display for Doing<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Activity::Blocked(call) => write!(f, "blocked in {}", OneLine(call)),
            other => write!(f, "{other}"),
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Headline(self))?;
        if self.kind != Kind::Ended {
            writeln!(f)?;
            self.write_blame(f)?;
        }
        self.write_scopes(f)?;
        row(f, "began", Utc::from(self.began).plain())?;
        let Process { id, program, host } = &self.process;
        row(f, "process", format_args!("{id}, {} on {}", OneLine(program), OneLine(host)))?;
        if self.kind != Kind::Ended {
            self.write_thread(f)?;
        }
        if let Some(polls) = &self.polls {
            row(f, "polls", ShownPolls(polls))?;
        }
        if self.suppressed > 0 {
            let reports = if self.suppressed == 1 { "report" } else { "reports" };
            let reports = format!("{} {reports} with this stack before this one", self.suppressed);
            row(f, "left out", reports)?;
        }
        write_stacks(f, "Stack", &self.stacks)?;
        write_stacks(f, "Waiting place", &self.awaits)?;
        self.write_doubts(f)
    }
}

fn row(f: &mut Formatter<'_>, name: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "  {name:<9}  {text}")
}

impl Report {
    fn write_blame(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.starved() {
            Some(Starved::Process(late)) => {
                let late = Rounded(late);
                let text = format!("the watchdog itself was {late} late: the whole process got no processor");
                row(f, "BEWARE", text)?;
                row(f, "", "do not blame this code")
            }
            Some(Starved::Thread(waited)) => {
                let waited = Rounded(waited);
                let text = format!("the thread was ready to run, but got no processor for {waited}");
                row(f, "BEWARE", text)?;
                row(f, "", "do not blame this code")
            }
            None if self.watchdog_late >= LATE => {
                row(f, "watchdog", format_args!("{} late", Rounded(self.watchdog_late)))
            }
            None => Ok(()),
        }
    }

    fn write_scopes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let position = self.chain.iter().position(|scope| scope.id() == self.scope.id());
        if position.is_none() {
            write_scope(f, "scope", &self.scope)?;
        }
        for (index, scope) in self.chain.iter().enumerate() {
            let name = match position {
                Some(position) if index < position => "within it",
                Some(position) if index == position => "scope",
                _ => "around it",
            };
            write_scope(f, name, scope)?;
        }
        Ok(())
    }

    fn write_thread(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(thread) = &self.thread else {
            return row(f, "thread", "none: the future is between two polls");
        };
        let (name, doing) = (OneLine(thread.shown_name()), Doing(&thread.activity));
        row(f, "thread", format_args!("{}, {name}, {doing}", thread.id))?;
        if let Some(used) = thread.cpu_time {
            let observed = thread.observed(self.elapsed);
            let percent = 100.0 * used.as_secs_f64() / observed.as_secs_f64().max(1e-9);
            let (used, observed) = (Rounded(used), Rounded(observed));
            row(f, "processor", format_args!("used for {used} of the last {observed} ({percent:.1} %)"))?;
        }
        if let Some(waited) = thread.waited_for_cpu {
            row(f, "", format_args!("waited for {}", Rounded(waited)))?;
        }
        Ok(())
    }

    fn write_doubts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let stacks = || self.stacks.iter().chain(&self.awaits);
        let truncated = stacks().any(|stack| stack.truncated);
        let approximate = stacks().any(|stack| stack.approximate);
        if !truncated && !approximate && self.notes.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nNot certain:")?;
        if truncated {
            writeln!(f, "  - Frames are missing at the outer end of a stack.")?;
        }
        if approximate {
            writeln!(f, "  - Frames may be wrong or missing: the tables of a module did not cover them.")?;
        }
        for note in &self.notes {
            writeln!(f, "  - {}", OneLine(note))?;
        }
        Ok(())
    }
}

fn write_scope(f: &mut Formatter<'_>, name: &str, scope: &ScopeInfo) -> fmt::Result {
    let location = scope.location();
    let label = scope.label().map(|label| format!("`{}`, ", OneLine(label))).unwrap_or_default();
    let limit = scope.limit().map(|limit| format!("limit {}, ", Rounded(limit))).unwrap_or_default();
    row(f, name, format_args!("{label}{limit}opened at {location}"))?;
    for (field, value) in scope.fields() {
        row(f, "", format_args!("    {} = {}", OneLine(field), OneLine(value)))?;
    }
    Ok(())
}

struct ShownPolls<'a>(&'a Polls);

impl Display for ShownPolls<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Polls { count, last, thread } = self.0;
        write!(f, "{count}")?;
        if let Some(last) = last {
            write!(f, ", the last began {} before this report", Rounded(*last))?;
        }
        if let Some(thread) = thread {
            write!(f, ", on thread {}", OneLine(thread))?;
        }
        Ok(())
    }
}

fn write_stacks(f: &mut Formatter<'_>, title: &str, stacks: &[Stack]) -> fmt::Result {
    let stacks = || stacks.iter().filter(|stack| !stack.frames.is_empty());
    let count = stacks().count();
    for (index, stack) in stacks().enumerate() {
        write!(f, "\n{title}")?;
        if count > 1 {
            write!(f, " {} of {count}", index + 1)?;
        }
        write!(f, ", innermost frame first:\n{}", Frames(&stack.frames))?;
    }
    Ok(())
}
