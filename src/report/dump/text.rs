use std::fmt::{self, Display, Formatter};

use super::{Dump, OpenScope, ThreadDump};
use crate::error::{OneLine, Rounded};
use crate::report::calendar::Utc;
use crate::report::contents::{Activity, Frame};
use crate::report::frames::Frames;
use crate::report::text::Name;

/// At most this many threads of a group are named.
const MOST_NAMED: usize = 16;

const IDLE_FRAMES: usize = 8;

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let threads = self.threads.len();
        let in_scopes = self.threads.iter().filter(|thread| !thread.scopes.is_empty()).count();
        let program = OneLine(&self.process.program);
        let host = OneLine(&self.process.host);
        let id = self.process.id;
        writeln!(f, "Dump of process {id}, {program} on {host}, {}", Utc::from(self.began).plain())?;
        writeln!(f, "{threads} {}, {in_scopes} in scopes", plural(threads, "thread"))?;
        for group in self.groups() {
            writeln!(f)?;
            write_group(f, &group)?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "\nNot certain:")?;
            self.notes.iter().try_for_each(|note| writeln!(f, "  - {}", OneLine(note)))?;
        }
        Ok(())
    }
}

impl Dump {
    /// Groups the threads: those that are in no scope and have the same stack form one group. First come threads in
    /// scopes, threads that run, and the thread that asked for the dump. Then come the other groups, smallest first,
    /// because large groups are mostly idle threads.
    fn groups(&self) -> Vec<Vec<&ThreadDump>> {
        let mut groups: Vec<Vec<&ThreadDump>> = Vec::new();
        for thread in &self.threads {
            let alike = groups.iter_mut().find(|group| group[0].is_like(thread));
            match alike {
                Some(group) => group.push(thread),
                None => groups.push(vec![thread]),
            }
        }
        groups.sort_by_key(|group| if group[0].is_plain() { group.len() } else { 0 });
        groups
    }
}

impl ThreadDump {
    fn is_plain(&self) -> bool {
        self.scopes.is_empty() && !self.asked && self.thread.activity != Activity::Running
    }

    fn is_like(&self, other: &Self) -> bool {
        let are_plain = [self, other].iter().all(|thread| thread.scopes.is_empty() && !thread.asked);
        are_plain && self.notes == other.notes && self.stack == other.stack && !self.stack.frames.is_empty()
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.into() } else { format!("{noun}s") }
}

fn write_group(f: &mut Formatter<'_>, group: &[&ThreadDump]) -> fmt::Result {
    let Some(first) = group.first() else { return Ok(()) };
    if group.len() > 1 {
        writeln!(f, "{} threads like this:", group.len())?;
    }
    let named = group.iter().take(MOST_NAMED);
    named.clone().try_for_each(|thread| writeln!(f, "{}", Headline(thread)))?;
    if group.len() > MOST_NAMED {
        writeln!(f, "... and {} more", group.len() - MOST_NAMED)?;
    }
    for (index, open) in first.scopes.iter().enumerate() {
        write_scope(f, if index == 0 { "in" } else { "around it" }, open)?;
    }
    write_frames(f, without_start(&first.stack.frames))?;
    if first.stack.truncated {
        writeln!(f, "  ... frames are missing here ...")?;
    }
    if first.stack.approximate {
        writeln!(f, "  Frames may be wrong or missing: the tables of a module did not cover them.")?;
    }
    first.notes.iter().try_for_each(|note| writeln!(f, "  {}", OneLine(note)))
}

/// Writes the frames. If no function of the stack is the program's, the thread counts as idle, and only the innermost
/// frames are written.
fn write_frames(f: &mut Formatter<'_>, frames: &[Frame]) -> fmt::Result {
    let is_idle = frames.iter().all(|frame| frame.foreign);
    if !is_idle || frames.len() <= IDLE_FRAMES + 1 {
        return write!(f, "{}", Frames(frames));
    }
    let (shown, more) = frames.split_at(IDLE_FRAMES);
    writeln!(f, "{}  ... {} more frames ...", Frames(shown), more.len())
}

/// Leaves out the frames of std that start a thread, or the program.
fn without_start(frames: &[Frame]) -> &[Frame] {
    let start = frames.iter().position(|frame| frame.function.contains("__rust_begin_short_backtrace"));
    &frames[..start.unwrap_or(frames.len())]
}

/// The first line of a thread: `Thread 4712, worker, blocked in futex`.
struct Headline<'a>(&'a ThreadDump);

impl Display for Headline<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let thread = &self.0.thread;
        write!(f, "Thread {}, {}, ", thread.id, OneLine(&thread.name))?;
        match &thread.activity {
            _ if self.0.asked => f.write_str("asked for this dump"),
            activity => write!(f, "{}", OneLine(&activity.to_string())),
        }
    }
}

fn write_scope(f: &mut Formatter<'_>, place: &str, open: &OpenScope) -> fmt::Result {
    let OpenScope { scope, elapsed } = open;
    write!(f, "  {place} {}, open for {}", Name(scope), Rounded(*elapsed))?;
    if let Some(limit) = scope.limit() {
        let over = if *elapsed > limit { ", over" } else { "" };
        write!(f, ", limit {}{over}", Rounded(limit))?;
    }
    if scope.label().is_some() {
        write!(f, ", opened at {}", scope.location())?;
    }
    writeln!(f)?;
    let mut fields = scope.fields();
    fields.try_for_each(|(field, value)| writeln!(f, "      {} = {}", OneLine(field), OneLine(value)))
}
