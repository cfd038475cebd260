//! Who is left of a process group whose leader has ended and is not reaped.

use rustix::process::Pid;

/// Those of a group who have not ended, its leader aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Nobody,
    /// Only such as this program may not signal: they are another user's.
    Refused,
    /// At least this one may be signalled, if the system tells who it is.
    Somebody(Option<Pid>),
    /// The system does not tell.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
    Unknown,
}

impl Rest {
    pub(super) fn is_nobody_for_sure(&self) -> bool {
        matches!(self, Self::Nobody | Self::Refused)
    }

    pub(super) fn is_nobody_as_far_as_known(&self) -> bool {
        matches!(self, Self::Nobody | Self::Refused | Self::Unknown)
    }
}

/// Who is left.
pub(super) fn rest(leader: Pid) -> Rest {
    // One that is born while the list is read, and whose parent ends meanwhile, may be found only by a second look.
    match look(leader) {
        Rest::Nobody => look(leader),
        rest => rest,
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn look(leader: Pid) -> Rest {
    let Ok(members) = members(leader) else { return Rest::Unknown };
    // The leader is not reaped, so it is listed; a list without it is that of other processes.
    if !members.iter().any(|member| member.pid == leader) {
        return Rest::Unknown;
    }
    let mut rest = Rest::Nobody;
    for member in members.iter().filter(|member| member.pid != leader && !member.has_ended) {
        if may_be_signalled(member.pid) {
            return Rest::Somebody(Some(member.pid));
        }
        rest = Rest::Refused;
    }
    rest
}

/// Elsewhere one that has ended does not count.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn look(leader: Pid) -> Rest {
    match rustix::process::test_kill_process_group(leader) {
        Ok(()) => Rest::Somebody(None),
        Err(_) => Rest::Nobody,
    }
}

/// Whether this program may signal it. One that is gone may be.
pub(super) fn may_be_signalled(process: Pid) -> bool {
    rustix::process::test_kill_process(process) != Err(rustix::io::Errno::PERM)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
struct Member {
    pid: Pid,
    has_ended: bool,
}

/// The members of a group, and its first leader, though that may have gone to another one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn members(group: Pid) -> std::io::Result<Vec<Member>> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have gone meanwhile.
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        if let (Some(pid), Some((its_group, has_ended))) = (Pid::from_raw(pid), parse(&stat))
            && (its_group == group.as_raw_nonzero().get() || pid == group)
        {
            members.push(Member { pid, has_ended });
        }
    }
    Ok(members)
}

/// The process group in a line of the system's, and whether the process has ended.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn parse(stat: &[u8]) -> Option<(i32, bool)> {
    // The name before may have spaces and parentheses, and any bytes.
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields: Vec<&str> = str::from_utf8(&stat[after_name..]).ok()?.split_whitespace().collect();
    let (state, group, threads) = (fields.first()?, fields.get(2)?, fields.get(17)?);
    // The first thread of a process may end before the others do.
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
