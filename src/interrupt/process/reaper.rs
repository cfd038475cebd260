//! Children that are left behind since they may not be signalled, or would not die: reaped whenever they end.

use std::process::Child;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock, os};

/// Those that are left behind. In a forked child those from before are the parent's.
static LEFT: PerProcess<Mutex<Vec<Child>>> = PerProcess::new(Mutex::new(Vec::new()), Mutex::default);

/// Leaves a child behind.
pub(super) fn leave(child: Child) {
    let pid = Pid::from_child(&child);
    lock(LEFT.get()).push(child);
    // Where no thread can be had, whoever runs the next command reaps it.
    let _started = os::spawn("timebox-reaper", move || {
        // An error: somebody else has reaped it.
        let _ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        reap();
    });
}

/// Reaps those that have ended.
pub(super) fn reap() {
    lock(LEFT.get()).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}
