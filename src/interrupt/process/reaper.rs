//! Children that are left behind since they may not be signalled, or would not die: reaped whenever they end.

use std::process::Child;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::sync::{ForkMutex, SetOnce, fork, os};

struct Left {
    child: Child,
    /// In a forked child those from before are the parent's.
    generation: u32,
}

fn left() -> &'static ForkMutex<Vec<Left>> {
    static LEFT: SetOnce<ForkMutex<Vec<Left>>> = SetOnce::new();
    LEFT.get_or_init(|| ForkMutex::new(Vec::new()))
}

/// Leaves a child behind.
pub(super) fn leave(child: Child) {
    let pid = Pid::from_child(&child);
    // The list may have been lost in a fork, and with it all hope.
    let Some(mut left) = left().lock() else { return };
    left.push(Left { child, generation: fork::generation() });
    drop(left);
    // Where no thread can be had, whoever runs the next command reaps it.
    let _started = os::spawn("timebox-reaper", move || {
        // An error: somebody else has reaped it.
        let _ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        reap();
    });
}

/// Reaps those that have ended.
pub(super) fn reap() {
    if let Some(mut left) = left().lock() {
        let generation = fork::generation();
        left.retain_mut(|left| left.generation == generation && matches!(left.child.try_wait(), Ok(None)));
    }
}
