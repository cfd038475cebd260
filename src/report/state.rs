//! The state of a thread, and of the process and the machine around it.

use super::contents::Process;
#[cfg(target_os = "linux")]
use super::proc;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Its name: at most 15 bytes.
    pub(crate) name: String,
    pub(crate) doing: &'static str,
    /// The signals that it blocks: signal 1 is the lowest bit.
    pub(crate) blocked_signals: u64,
    /// How often it gave up the processor, and how often the processor was taken from it.
    pub(crate) switches: (u64, u64),
    /// The function of the kernel in which the thread waits; `None` if the kernel does not tell.
    pub(crate) waits_in: Option<String>,
}

/// The state of a thread of this process; `None` if there is no such thread, or if the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn state_of(tid: u32) -> Option<State> {
    let task = format!("/proc/self/task/{tid}");
    let mut state = State::default();
    for line in proc::lines(&format!("{task}/status")) {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.trim_start();
        match field {
            "Name" => state.name = value.into(),
            "State" => state.doing = doing(value),
            "SigBlk" => state.blocked_signals = u64::from_str_radix(value, 16).unwrap_or(0),
            "voluntary_ctxt_switches" => state.switches.0 = value.parse().unwrap_or(0),
            "nonvoluntary_ctxt_switches" => state.switches.1 = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    // The kernel says `0` for a running thread, which waits in no function.
    state.waits_in = proc::line(&format!("{task}/wchan")).filter(|function| function != "0");
    (!state.doing.is_empty()).then_some(state)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn state_of(_tid: u32) -> Option<State> {
    None
}

#[cfg(target_os = "linux")]
fn doing(letter: &str) -> &'static str {
    match letter.chars().next() {
        Some('R') => "running",
        Some('S') => "sleeping",
        Some('D') => "in uninterruptible sleep",
        Some('I') => "idle",
        Some('T') => "stopped",
        Some('t') => "stopped by a debugger",
        Some('Z' | 'X') => "ended",
        _ => "",
    }
}

/// The numbers of at most `most` threads of this process; empty if the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn threads(most: usize) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).take(most).collect()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn threads(_most: usize) -> Vec<u32> {
    Vec::new()
}

/// Whether a debugger, or another tracer, is attached to this process.
#[cfg(target_os = "linux")]
pub(crate) fn is_traced() -> bool {
    proc::field("/proc/self/status", "TracerPid").is_some_and(|tracer| tracer != "0")
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_traced() -> bool {
    false
}

pub(crate) fn this_process() -> Process {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    // Linux appends ` (deleted)` if the program's file was replaced or deleted.
    let program = program.map(|name| name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned());
    Process { id: std::process::id(), program: program.unwrap_or_default(), host: host() }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::sync::os;
    use std::sync::mpsc;

    #[test]
    fn a_sleeping_thread() {
        let (sender, receiver) = mpsc::channel::<()>();
        let (told, tid) = mpsc::channel();
        let thread = std::thread::Builder::new().name("a long name of a thread".into());
        let thread = thread
            .spawn(move || {
                told.send(os::thread_id()).unwrap();
                receiver.recv().unwrap_err();
            })
            .unwrap();
        let tid = tid.recv().unwrap();
        let state = loop {
            let state = state_of(tid).unwrap();
            if state.doing == "sleeping" {
                break state;
            }
            std::thread::yield_now();
        };
        assert_eq!(state.name, "a long name of ");
        assert_eq!(state.blocked_signals, 0);
        assert!(state.switches.0 > 0);
        assert!(state.waits_in.is_none_or(|function| function.contains("futex")));
        assert!(threads(1000).contains(&tid));
        drop(sender);
        thread.join().unwrap();
        // The system still knows the ended thread's number for a moment after the join.
        while state_of(tid).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn this_thread_runs() {
        let state = state_of(os::thread_id()).unwrap();
        assert_eq!((state.doing, state.waits_in), ("running", None));
        assert!(!is_traced());
    }

    #[test]
    fn names_of_the_process_and_of_the_host() {
        let process = this_process();
        assert_eq!(process.id, std::process::id());
        assert!(process.program.starts_with("timebox-"), "{}", process.program);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(process.host, host.trim_end());
    }
}
