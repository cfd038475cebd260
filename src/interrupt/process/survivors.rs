//! Finds the processes of a group that run on after the group's leader has ended. The leader must not be reaped yet:
//! otherwise its number could belong to another group.

use rustix::process::Pid;

/// Which members of a group have not ended. The leader does not count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Survivors {
    None,
    /// There are members, but this program may signal none of them: they belong to another user.
    NotPermitted,
    /// This program may signal at least one process of the group. The `Pid` is the number of such a process. It is
    /// `None` if the system has no list of processes, or (in `Job::survivors`) if the child itself has not ended.
    Some(Option<Pid>),
    /// The list of processes cannot be read, or is incomplete.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
    Unknown,
}

impl Survivors {
    pub(super) fn is_surely_none(&self) -> bool {
        matches!(self, Self::None | Self::NotPermitted)
    }

    pub(super) fn is_none_or_unknown(&self) -> bool {
        matches!(self, Self::None | Self::NotPermitted | Self::Unknown)
    }
}

pub(super) fn survivors(leader: Pid) -> Survivors {
    // The system does not make the list at one moment. A process may start a child that the list misses, and end before
    // the list reaches the process. So an empty list is read again: the second list has the child.
    match look(leader) {
        Survivors::None => look(leader),
        survivors => survivors,
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn look(leader: Pid) -> Survivors {
    let Ok(members) = members(leader) else { return Survivors::Unknown };
    // The leader is not reaped, so a complete list contains the leader. If the leader is missing, the system hides
    // processes from this program (`hidepid`).
    if !members.iter().any(|member| member.pid == leader) {
        return Survivors::Unknown;
    }
    let mut survivors = Survivors::None;
    for member in members.iter().filter(|member| member.pid != leader && !member.has_ended) {
        if may_be_signalled(member.pid) {
            return Survivors::Some(Some(member.pid));
        }
        survivors = Survivors::NotPermitted;
    }
    survivors
}

/// On these systems, a signal to a group fails if all members of the group have ended. So no list is needed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn look(leader: Pid) -> Survivors {
    match rustix::process::test_kill_process_group(leader) {
        Ok(()) => Survivors::Some(None),
        Err(_) => Survivors::None,
    }
}

/// Whether this program may signal a process. Also `true` if there is no such process.
pub(super) fn may_be_signalled(process: Pid) -> bool {
    rustix::process::test_kill_process(process) != Err(rustix::io::Errno::PERM)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
struct Member {
    pid: Pid,
    has_ended: bool,
}

/// The members of a group, and its leader even if the leader has moved to another group. The leader's pid is the
/// group's number.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn members(group: Pid) -> std::io::Result<Vec<Member>> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // If the process has no `stat`, it has been reaped meanwhile.
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        if let (Some(pid), Some((its_group, has_ended))) = (Pid::from_raw(pid), parse(&stat))
            && (its_group == group.as_raw_nonzero().get() || pid == group)
        {
            members.push(Member { pid, has_ended });
        }
    }
    Ok(members)
}

/// Finds in the text of `/proc/<pid>/stat` the process group, and whether the process has ended.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn parse(stat: &[u8]) -> Option<(i32, bool)> {
    // The fields begin after the last `)`, because the name in parentheses may contain spaces, parentheses and any
    // bytes.
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields: Vec<&str> = str::from_utf8(&stat[after_name..]).ok()?.split_whitespace().collect();
    let (state, group, threads) = (fields.first()?, fields.get(2)?, fields.get(17)?);
    // The state is that of the first thread. It may be `Z` (zombie) although other threads run on.
    let has_ended = matches!(*state, "X" | "x") || *state == "Z" && threads.parse::<u32>().ok()? <= 1;
    Some((group.parse().ok()?, has_ended))
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_anything() {
        let line = b"42 (a) Z (\xff 1) S 1 17 17 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5";
        assert_eq!(parse(line), Some((17, false)));
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_has_not() {
        let line = |threads: u32| format!("42 (x) Z 1 17 17 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 5");
        assert_eq!(parse(line(1).as_bytes()), Some((17, true)));
        assert_eq!(parse(line(2).as_bytes()), Some((17, false)));
        assert_eq!(parse(b"42 (x) Z 1"), None);
    }
}
