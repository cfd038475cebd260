//! Where reports go: files, the standard error stream, `tracing`.
#![cfg(not(miri))]

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use timebox::report::{self, Directory, Kind, Policy, Report, Sink, Stderr};

/// The names in a directory, sorted.
fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_file_has_the_whole_report() {
    let folder = folder();
    let report = Report::example();
    let path = folder.path().join("deep/slow");
    let (text, json) = (Directory::new(&path), Directory::new(&path).json());
    text.check().unwrap();
    assert!(names(&path).is_empty());
    text.write(&report).unwrap();
    json.write(&report).unwrap();
    let [first, second] = &*names(&path) else { panic!("{:?}", names(&path)) };
    assert!(first.ends_with("-slow-GET_repos_42.txt") && second.ends_with("-slow-GET_repos_42.json"));
    assert!(first.contains(&format!("Z-{}-", std::process::id())));
    assert_eq!(fs::read_to_string(path.join(first)).unwrap(), report.to_string());
    let read: serde_json::Value = serde_json::from_slice(&fs::read(path.join(second)).unwrap()).unwrap();
    assert_eq!(read, serde_json::to_value(&report).unwrap());
}

#[test]
fn the_oldest_reports_make_room_and_other_files_stay() {
    let folder = folder();
    let ours = "timebox-19990101T000000.000000Z-1-000001-slow-a.txt";
    let others = ["notes.txt", "timebox-notes.txt", ".timebox", "timebox.json"];
    for name in others.iter().chain([&ours]) {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let directory = Directory::new(folder.path()).keep(3);
    let mut written = Vec::new();
    for n in 1..=10 {
        let before = names(folder.path());
        directory.write(&Report::example()).unwrap();
        let after = names(folder.path());
        written.extend(after.iter().filter(|name| !before.contains(name)).cloned());
        let expected = (n + 1).min(3) + others.len();
        assert_eq!(after.len(), expected);
    }
    let mut expected: Vec<String> = written[7..].to_vec();
    expected.extend(others.map(str::to_owned));
    expected.sort();
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn the_size_of_all_has_a_bound() {
    let folder = folder();
    let size = Report::example().to_string().len() as u64;
    let directory = Directory::new(folder.path()).keep_bytes(3 * size + size / 2);
    for n in 1..=8 {
        directory.write(&Report::example()).unwrap();
        assert_eq!(names(folder.path()).len(), n.min(3));
    }
    // One that is larger than all together may be is lost, and costs no other.
    let mut large = Report::example();
    large.notes.push("x".repeat(4 * usize::try_from(size).unwrap()));
    let error = directory.write(&large).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(names(folder.path()).len(), 3);
}

#[test]
fn many_threads_write_to_one_directory() {
    let folder = folder();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let directory = Directory::new(folder.path()).keep(20);
                for _ in 0..50 {
                    directory.write(&Report::example()).unwrap();
                }
            });
        }
    });
    Directory::new(folder.path()).keep(20).write(&Report::example()).unwrap();
    let names = names(folder.path());
    assert_eq!(names.len(), 20);
    for name in names {
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(text.starts_with("slow: ") && text.ends_with('\n'));
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_told_at_the_installation() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let path = file.join("slow");
    let error = Policy::new().to(Stderr).to(Directory::new(&path)).install().unwrap_err();
    assert_eq!(error.to_string(), "a sink of the policy cannot write reports");
    let source = error.source().unwrap().to_string();
    assert!(source.starts_with(&format!("directory {}: ", path.display())), "{source}");
}

#[test]
fn a_directory_that_is_removed_comes_back() {
    let folder = folder();
    let path = folder.path().join("slow");
    let directory = Directory::new(&path);
    directory.check().unwrap();
    fs::remove_dir(&path).unwrap();
    directory.write(&Report::example()).unwrap();
    assert_eq!(names(&path).len(), 1);
}

#[test]
fn what_a_killed_process_left_behind_is_removed_when_it_is_old() {
    let folder = folder();
    let file = |name: &str, age: u64| -> PathBuf {
        let path = folder.path().join(name);
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        path
    };
    let old = file(".timebox-20261128T152049.123456Z-4711-000001-slow-a.txt.unfinished", 7200);
    let young = file(".timebox-20261128T152049.123456Z-4711-000002-slow-a.txt.unfinished", 5);
    let other = file(".other.unfinished", 7200);
    Directory::new(folder.path()).check().unwrap();
    assert!(!old.exists() && young.exists() && other.exists());
}

/// Writes reports until one fails, then one after `free` has made room.
#[cfg(unix)]
fn fill(path: &Path, free: impl FnOnce()) -> io::Error {
    let directory = Directory::new(path);
    directory.check().unwrap();
    let mut large = Report::example();
    large.notes.push("x".repeat(10_000));
    let mut written = 0;
    let error = loop {
        match directory.write(&large) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100);
    };
    // Nothing half written is left, and no report was harmed.
    assert_eq!(names(path).len(), written);
    for name in names(path) {
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), large.to_string());
    }
    free();
    directory.write(&large).unwrap();
    error
}

/// A file system with little room, until dropped.
#[cfg(target_os = "linux")]
struct Tmpfs(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl Tmpfs {
    fn mount() -> io::Result<Self> {
        let folder = folder();
        let path = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
        let (kind, options) = (c"tmpfs".as_ptr(), c"size=64k".as_ptr());
        // SAFETY: all pointers are to strings that live during the call.
        match unsafe { libc::mount(kind, path.as_ptr(), kind, 0, options.cast()) } {
            0 => Ok(Self(folder)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Tmpfs {
    fn drop(&mut self) {
        let path = std::ffi::CString::new(self.0.path().to_str().unwrap()).unwrap();
        // SAFETY: the pointer is to a string that lives during the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_reports_and_nothing_else() {
    let tmpfs = match Tmpfs::mount() {
        Ok(tmpfs) => tmpfs,
        Err(error) => {
            eprintln!("not tested, since nothing can be mounted here: {error}");
            return;
        }
    };
    let path = tmpfs.0.path().join("slow");
    let error = fill(&path, || fs::remove_file(path.join(&names(&path)[0])).unwrap());
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
}

/// Runs one test of this file in a process of its own, in which `CHILD` is set.
fn in_child(test: &str) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("CHILD", test);
    command.output().unwrap()
}

fn is_child() -> bool {
    std::env::var_os("CHILD").is_some()
}

#[test]
#[cfg(unix)]
fn a_file_that_may_not_grow_is_a_lost_report() {
    if !is_child() {
        let output = in_child("a_file_that_may_not_grow_is_a_lost_report");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let limit = |bytes: libc::rlim_t| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: reads a struct that lives during the call. The signal would end the process; sinks have it blocked.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        }
    };
    let folder = folder();
    limit(2_000);
    let error = fill(folder.path(), || limit(libc::RLIM_INFINITY));
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
}

#[test]
fn stderr_has_the_text_and_an_empty_line() {
    if is_child() {
        Stderr.write(&Report::example()).unwrap();
        return;
    }
    let output = in_child("stderr_has_the_text_and_an_empty_line");
    let text = String::from_utf8(output.stderr).unwrap();
    let here = Report::example().scope.location().to_string();
    let place = |line: &str| line.split(':').nth(1).unwrap().to_owned();
    let written = text.lines().find(|line| line.starts_with("  scope ")).unwrap();
    assert_ne!(place(&here), place(written.rsplit(' ').next().unwrap()), "another line of this file");
    assert!(text.starts_with("slow: `GET /repos/42`") && text.ends_with("src/main.rs:30\n\n"), "{text}");
}

#[test]
fn the_policy_can_be_replaced_and_ended_at_any_time() {
    let folder = folder();
    for _ in 0..20 {
        Policy::new().to(Directory::new(folder.path())).to(|_: &Report| {}).install().unwrap();
    }
    report::uninstall();
    report::uninstall();
    assert!(report::flush(Duration::from_secs(60)));
    assert!(names(folder.path()).is_empty(), "what `check` writes is removed");
}

#[test]
fn names_of_kinds() {
    assert_eq!(format!("{}|{:>9}|", Kind::Slow, Kind::Overdue), "slow|  overdue|");
}

#[cfg(feature = "tracing")]
mod events {
    use std::collections::BTreeMap;
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use timebox::report::{Report, Sink, Tracing};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    #[derive(Default)]
    struct Values(BTreeMap<String, String>);

    impl Visit for Values {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.insert(field.name().into(), format!("{value:?}"));
        }
    }

    struct Collector(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "timebox"
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            assert_eq!(*event.metadata().level(), Level::WARN);
            let mut values = Values::default();
            event.record(&mut values);
            self.0.lock().unwrap().push(values.0);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn an_event_has_fields() {
        let events = Arc::default();
        let mut report = Report::example();
        tracing::subscriber::with_default(Collector(Arc::clone(&events)), || {
            Tracing.write(&report).unwrap();
            report.thread = None;
            report.limit = None;
            report.stacks.clear();
            Tracing.write(&report).unwrap();
        });
        let events = events.lock().unwrap();
        let value = |name: &str| events[0].get(name).map(String::as_str);
        for (name, expected) in [
            ("kind", "\"slow\""),
            ("label", "\"GET /repos/42\""),
            ("elapsed", "5.003"),
            ("limit", "25.0"),
            ("thread", "\"worker-3\""),
            ("thread_id", "4720"),
            ("blocked_in", "\"read on fd 7, TCP 10.0.0.7:51234 -> 10.0.0.9:6379\""),
            ("function", "\"shop::cache::reply\""),
            ("file", "\"src/cache.rs\""),
            ("line", "57"),
            ("suppressed", "0"),
            ("message", &Report::example().headline()),
            ("report", &events[0]["report"]),
        ] {
            assert_eq!(value(name), Some(expected), "{name}");
        }
        assert!(events[0]["report"].contains("Stack, innermost frame first:"));
        assert!(events[0]["location"].contains("tests/report_sinks.rs:"));
        let missing = ["thread", "thread_id", "blocked_in", "function", "file", "line", "limit"];
        assert!(missing.iter().all(|name| !events[1].contains_key(*name)), "{:?}", events[1]);
    }
}
