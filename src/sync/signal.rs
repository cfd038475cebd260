use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

/// Signals a process. If the process `leads` a group, signals the whole group.
///
/// The process must not be reaped yet: after that, its number may belong to another process.
pub(crate) fn signal_with_group(pid: Pid, leads: bool, signal: Signal) {
    // Errors are ignored: either the process has ended, or this program may not signal it.
    if leads {
        let _sent = kill_process_group(pid, signal);
    }
    // A leader may have moved to another group. Then the signal to the group has not reached the leader.
    if !leads || getpgid(Some(pid)) != Ok(pid) {
        let _sent = kill_process(pid, signal);
    }
}
