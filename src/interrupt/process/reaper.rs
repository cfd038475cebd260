//! Reaps children that have not ended when their call returns. Either this program may not signal them, or SIGKILL has
//! not ended them yet, or the call has panicked.

use std::process::Child;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::sync::fork::PerProcess;
use crate::sync::{Mutex, lock, os};

/// Children that were handed to the reaper. The list of a forked process begins empty, because that process cannot reap
/// the children of its parent.
static ORPHANS: PerProcess<Mutex<Vec<Child>>> = PerProcess::new(Mutex::new(Vec::new()), Mutex::default);

/// Reaps a child when it ends.
pub(super) fn adopt(child: Child) {
    let pid = Pid::from_child(&child);
    lock(ORPHANS.get()).push(child);
    // If no thread can be started, the start of a later command calls `reap`.
    let _started = os::spawn("timebox-reaper", move || {
        // Waits for the end. An error means that other code has reaped the child.
        let _ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        reap();
    });
}

pub(super) fn reap() {
    lock(ORPHANS.get()).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}
