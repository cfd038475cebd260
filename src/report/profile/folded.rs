//! A profile as folded stacks: the form that tools for flame graphs read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::contents::{Doing, ProfileStack};
use super::names::place;
use super::report::ProfileReport;
use crate::error::OneLine;
use crate::report::frames::Place;

/// The beginning of a frame that stands for a wait.
pub(super) const WAITING: &str = "[waiting]";

impl ProfileReport {
    /// The profile as folded stacks, for `inferno-flamegraph`, `flamegraph.pl`, speedscope and others.
    ///
    /// Each line has the functions of a stack, outermost first, with semicolons between them; then a space and the time
    /// in microseconds. A stack that waits ends in a frame that says so: `[waiting] recvfrom at src/cache.rs:74` if it
    /// is blocked in a system call, `[waiting] await at src/cache.rs:74` if it is a pending future. The place is the
    /// innermost one of the program's own code. Work that came to other threads by a handle is beneath the frame
    /// `[other threads]`. Time of which nothing is known is in the frame `[missed]`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::report::Profile;
    ///
    /// let (_, report) = Profile::new().run(|| std::thread::sleep(Duration::from_millis(100)));
    /// std::fs::write(std::env::temp_dir().join("profile.folded"), report.folded())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// ```sh
    /// inferno-flamegraph --countname us profile.folded > profile.svg
    /// ```
    pub fn folded(&self) -> String {
        self.folded_by(|stack| stack.frames.iter().map(|frame| frame.function.clone()).collect())
    }

    /// Like [`folded`](Self::folded), but `names` returns the names of a stack's frames, innermost first.
    pub(super) fn folded_by(&self, names: impl Fn(&ProfileStack) -> Vec<String>) -> String {
        let mut lines: BTreeMap<String, Duration> = BTreeMap::new();
        for stack in self.stacks() {
            *lines.entry(line(stack, &names(stack))).or_default() += stack.time;
        }
        *lines.entry("[missed]".to_owned()).or_default() += self.missed();
        let mut folded = String::new();
        for (line, time) in lines {
            let micros = (time.as_nanos() + 500) / 1000;
            if micros > 0 {
                let _ = writeln!(folded, "{line} {micros}");
            }
        }
        folded
    }
}

fn line(stack: &ProfileStack, names: &[String]) -> String {
    let mut frames = Vec::new();
    if stack.by_handle {
        frames.push("[other threads]".to_owned());
    }
    frames.extend(names.iter().rev().map(|function| name(function)));
    let wait = match &stack.doing {
        Doing::Running => None,
        Doing::Blocked(call) => Some(format!(" {call}")),
        Doing::Pending => Some(" await".to_owned()),
    };
    if let Some(wait) = wait {
        let at = place(&stack.frames).map(|frame| format!(" at {}", Place(frame))).unwrap_or_default();
        frames.push(name(&format!("{WAITING}{}{at}", wait.trim_end())));
    }
    if frames.is_empty() {
        frames.push("[profiling]".to_owned());
    }
    frames.join(";")
}

/// A frame's text, without the characters that have a meaning in a line of folded stacks.
fn name(text: &str) -> String {
    OneLine(text).to_string().replace(';', ",")
}
