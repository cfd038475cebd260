//! Reaps the children that could not be stopped: this program may not signal them, or SIGKILL has not ended them.

use std::process::Child;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::sync::{ForkMutex, SetOnce, fork, os};

struct Orphan {
    child: Child,
    /// The process that started the child. After a fork, the forked process must not reap it.
    generation: u32,
}

fn orphans() -> &'static ForkMutex<Vec<Orphan>> {
    static ORPHANS: SetOnce<ForkMutex<Vec<Orphan>>> = SetOnce::new();
    ORPHANS.get_or_init(|| ForkMutex::new(Vec::new()))
}

/// Hands a child over: it is reaped when it ends.
pub(super) fn adopt(child: Child) {
    let pid = Pid::from_child(&child);
    // A list that was locked during a fork is lost; then the child is never reaped.
    let Some(mut orphans) = orphans().lock() else { return };
    orphans.push(Orphan { child, generation: fork::generation() });
    drop(orphans);
    // If no thread can be started, the next command's start reaps the child.
    let _started = os::spawn("timebox-reaper", move || {
        // An error says that other code has reaped the child.
        let _ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        reap();
    });
}

/// Reaps the children that have ended.
pub(super) fn reap() {
    if let Some(mut orphans) = orphans().lock() {
        let generation = fork::generation();
        orphans.retain_mut(|orphan| {
            orphan.generation == generation && matches!(orphan.child.try_wait(), Ok(None))
        });
    }
}
