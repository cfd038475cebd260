//! Turns the recorded stacks, which are addresses, into stacks with names.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::contents::{Doing, ProfileStack};
use super::recording::{Count, Doing as Raw, Place, Recording, Seen};
use crate::report::contents::{Frame, Stack};
use crate::report::foreign::crate_of;
use crate::report::stack::Names;
use crate::report::{awaits, blocked};

/// The stacks with names, those with the most time first.
pub(super) fn named(recording: &Recording) -> Vec<ProfileStack> {
    let mut seen: Vec<(&Seen, Count)> =
        recording.seen.iter().map(|(seen, count)| (&**seen, *count)).collect();
    // If stacks are merged, the lines of the first stack are kept. So the stack with the most time comes first.
    seen.sort_by_key(|(_, count)| Reverse(count.time));
    let mut names = Names::new();
    let mut resolve = |addresses: &[u64]| names.resolve(&recording.modules.with_addresses(addresses), None);
    let mut merged = Merged::default();
    for (seen, count) in seen {
        match &seen.place {
            Place::Stack(addresses) => {
                let Stack { mut frames, .. } = resolve(addresses);
                trim(&mut frames);
                merged.add(seen, frames, count);
            }
            Place::Awaits(stacks) => {
                let stacks = stacks.iter().map(|addresses| resolve(addresses)).collect();
                let (places, _) = awaits::places(stacks);
                let shares = u64::try_from(places.len()).unwrap_or(u64::MAX).max(1);
                for (index, place) in (0..).zip(places) {
                    let rest = if index == 0 { count.time % shares } else { 0 };
                    merged.add(seen, place.frames, Count { time: count.time / shares + rest, ..count });
                }
            }
            Place::Unknown => merged.add(seen, Vec::new(), count),
            Place::LeftOut => merged.add(seen, vec![left_out()], count),
        }
    }
    let mut stacks = merged.stacks;
    stacks.sort_by_key(|stack| Reverse(stack.time));
    stacks
}

#[derive(Default)]
struct Merged {
    stacks: Vec<ProfileStack>,
    positions: HashMap<Key, usize>,
}

/// Stacks with the same key are merged. The key is `by_handle`, what the code was doing, the functions, and the line at
/// which the code waits (`None` if it ran).
type Key = (bool, Doing, Vec<String>, Option<u32>);

impl Merged {
    fn add(&mut self, seen: &Seen, frames: Vec<Frame>, Count { samples, time }: Count) {
        let doing = match seen.doing {
            Raw::Running => Doing::Running,
            Raw::Blocked(call) => Doing::Blocked(call.map(blocked::name_of).unwrap_or_default()),
            Raw::Pending => Doing::Pending,
        };
        let functions = frames.iter().map(|frame| frame.function.clone()).collect();
        let line = place(&frames).and_then(|frame| frame.line).filter(|_| doing.is_waiting());
        let key = (seen.by_handle, doing.clone(), functions, line);
        let position = *self.positions.entry(key).or_insert(self.stacks.len());
        if position == self.stacks.len() {
            let by_handle = seen.by_handle;
            self.stacks.push(ProfileStack { frames, doing, by_handle, time: Duration::ZERO, samples: 0 });
        }
        let stack = &mut self.stacks[position];
        stack.time += Duration::from_nanos(time);
        stack.samples += samples;
    }
}

/// The innermost frame of the program's own code.
pub(super) fn place(frames: &[Frame]) -> Option<&Frame> {
    frames.iter().find(|frame| !frame.foreign)
}

/// Removes the frames around the profiled code: the outermost frames of this crate, of std, and of no crate. If no
/// frame would be left, removes only the outermost frames of this crate.
fn trim(frames: &mut Vec<Frame>) {
    let is_around = |frame: &Frame| {
        frame.foreign
            && matches!(crate_of(&frame.function), None | Some("timebox" | "core" | "alloc" | "std"))
    };
    let is_of_this_crate = |frame: &Frame| crate_of(&frame.function) == Some("timebox");
    let keep = match frames.iter().rposition(|frame| !is_around(frame)) {
        Some(outermost) => outermost + 1,
        None => {
            frames.iter().rposition(|frame| !is_of_this_crate(frame)).map_or(0, |outermost| outermost + 1)
        }
    };
    frames.truncate(keep);
}

fn left_out() -> Frame {
    Frame { foreign: true, ..Frame::with_name("(stacks that are left out)") }
}
