//! A thread that waits for a hook, as that hook sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The hook and the thread have one each.
#[derive(Clone, Default)]
pub(crate) struct Waiter(Arc<OnceLock<PathBuf>>);

impl Waiter {
    /// For the thread: the next thing that it does is to wait for the hook.
    pub(crate) fn begins(&self) {
        let thread = if cfg!(miri) { None } else { fs::read_link("/proc/thread-self").ok() };
        self.0.set(thread.unwrap_or_default()).expect("it waits once");
    }

    /// For the hook: returns when the thread sleeps.
    #[track_caller]
    pub(crate) fn sleeps(&self) {
        let start = Instant::now();
        while !self.0.get().is_some_and(|thread| is_asleep(thread)) {
            assert!(start.elapsed() < Duration::from_secs(40), "the thread does not wait");
            thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Whether a thread, by its name in `/proc`, sleeps. Where there is no such name: gives it time to.
fn is_asleep(thread: &Path) -> bool {
    if thread.as_os_str().is_empty() {
        thread::sleep(Duration::from_millis(20));
        return true;
    }
    let stat = fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|after_name| after_name.trim_start().starts_with('S'))
}
