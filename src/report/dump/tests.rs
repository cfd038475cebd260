use std::collections::HashSet;
use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Dump, ThreadDump, dump, dump_on_signal};
use crate::report::contents::{Activity, Frame};
use crate::sync::os;
use crate::{Timebox, timeout_value};

impl Dump {
    fn thread(&self, tid: u32) -> &ThreadDump {
        self.threads.iter().find(|thread| thread.thread.id == tid).unwrap()
    }
}

impl ThreadDump {
    fn has(&self, function: &str) -> bool {
        self.stack.frames.iter().any(|frame| frame.function.contains(function))
    }
}

/// Threads that are blocked in a read from a pipe, until `end` closes the pipe.
struct Waiting {
    tids: Vec<u32>,
    threads: Vec<JoinHandle<()>>,
    writer: io::PipeWriter,
}

impl Waiting {
    fn start(count: usize, name: &str, body: fn(io::PipeReader)) -> Self {
        let (reader, writer) = io::pipe().unwrap();
        let (told, tids) = mpsc::channel();
        let start = |_| {
            let (reader, told) = (reader.try_clone().unwrap(), told.clone());
            let run = move || {
                told.send(os::thread_id()).unwrap();
                drop(told);
                body(reader);
            };
            thread::Builder::new().name(name.into()).spawn(run).unwrap()
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        drop(told);
        let tids: Vec<u32> = tids.iter().collect();
        let is_waiting = |tid: &u32| {
            let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap();
            call.starts_with(&format!("{} ", libc::SYS_read))
        };
        while !tids.iter().all(is_waiting) {
            thread::yield_now();
        }
        Self { tids, threads, writer }
    }

    fn end(self) {
        drop(self.writer);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[inline(never)]
fn wait_for_the_end(mut reader: io::PipeReader) {
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

/// Only one test uses this function, so only the threads of that test have this stack.
#[inline(never)]
fn wait_alike(reader: io::PipeReader) {
    wait_for_the_end(reader);
}

fn wait_in_scopes(reader: io::PipeReader) {
    let inner = move || timeout_value(Duration::from_secs(3600), || wait_for_the_end(reader)).unwrap();
    Timebox::new(Duration::from_millis(500)).label("outer").field("user", 42).run_value(|_| inner()).unwrap();
}

#[test]
fn threads_in_scopes_and_without() {
    let (free, scoped) =
        (Waiting::start(1, "free", wait_for_the_end), Waiting::start(1, "scoped", wait_in_scopes));
    // Until the limit of the outer scope has passed.
    thread::sleep(Duration::from_millis(510));
    let dump = dump();
    let free_one = dump.thread(free.tids[0]);
    assert_eq!((free_one.thread.name.as_str(), free_one.scopes.len()), ("free", 0));
    assert!(
        matches!(&free_one.thread.activity, Activity::Blocked(call) if call.starts_with("read of a pipe (fd "))
    );
    assert!(free_one.has("wait_for_the_end") && free_one.notes.is_empty(), "{dump}");

    let scoped_one = dump.thread(scoped.tids[0]);
    assert!(scoped_one.has("wait_for_the_end") && scoped_one.has("wait_in_scopes"), "{dump}");
    let [inner, outer] = &*scoped_one.scopes else { panic!("{dump}") };
    assert_eq!(outer.scope.label(), Some("outer"));
    assert_eq!(outer.scope.fields().collect::<Vec<_>>(), [("user", "42")]);
    assert!(outer.elapsed >= inner.elapsed && outer.elapsed >= Duration::from_millis(500));
    assert!(outer.elapsed < Duration::from_secs(60), "{:?}", outer.elapsed);
    let text = dump.to_string();
    let tid = scoped.tids[0];
    assert!(text.contains(&format!("Thread {tid}, scoped, blocked in read of a pipe (fd ")), "{text}");
    assert!(text.contains("  around it `outer`, open for "), "{text}");
    assert!(text.contains(", limit 500ms, over, opened at src/report/dump/tests.rs:"), "{text}");
    assert!(text.contains("      user = 42\n"), "{text}");
    free.end();
    scoped.end();
}

#[test]
fn the_thread_that_asks() {
    let dump = timeout_value(Duration::from_secs(3600), dump).unwrap();
    let own = dump.thread(os::thread_id());
    assert!(own.asked && own.thread.activity == Activity::Running);
    assert_eq!(own.scopes.len(), 1);
    assert!(own.has("the_thread_that_asks"), "{dump}");
    assert_eq!(dump.threads.iter().filter(|thread| thread.asked).count(), 1);
    assert!(
        dump.to_string().contains("asked for this dump\n  in scope at src/report/dump/tests.rs:"),
        "{dump}"
    );
}

#[test]
fn threads_that_are_alike_are_shown_together() {
    let waiting = Waiting::start(200, "alike", wait_alike);
    let dump = dump();
    let tids: HashSet<u32> = dump.threads.iter().map(|thread| thread.thread.id).collect();
    assert!(waiting.tids.iter().all(|tid| tids.contains(tid)), "{dump}");
    assert!(waiting.tids.iter().all(|&tid| dump.thread(tid).has("wait_alike")));
    let text = dump.to_string();
    assert!(text.contains("\n200 threads like this:\nThread "), "{text}");
    assert!(text.contains("\n... and 184 more\n"), "{text}");
    waiting.end();
}

#[test]
fn the_stack_of_an_idle_thread_is_short() {
    let frame = |index: usize| Frame { foreign: true, ..Frame::with_name(format!("tokio::f{index}")) };
    let text = |count: usize, has_own: bool| {
        let mut dump = dump();
        dump.threads.truncate(1);
        dump.threads[0].stack.frames = (0..count).map(frame).collect();
        dump.threads[0].stack.frames[0].foreign = !has_own;
        dump.to_string()
    };
    let idle = text(11, false);
    assert!(idle.ends_with("  tokio::f7\n  ... 3 more frames ...\n"), "{idle}");
    assert!(text(9, false).ends_with("  tokio::f8\n"));
    assert!(text(11, true).ends_with("  ... 10 frames of tokio ...\n"));
}

#[test]
fn a_running_thread() {
    use std::sync::Arc;

    use crate::sync::{AtomicBool, Ordering::Relaxed};

    #[inline(never)]
    fn spin(stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            std::hint::spin_loop();
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&stop);
    let (told, tid) = mpsc::channel();
    let thread = thread::spawn(move || {
        told.send(os::thread_id()).unwrap();
        spin(&theirs);
    });
    let tid = tid.recv().unwrap();
    // On a busy machine the thread may get no processor for a while, and so take no signal. So the dump is tried again.
    let is_seen = (0..10).any(|_| dump().thread(tid).has("a_running_thread::spin"));
    stop.store(true, Relaxed);
    thread.join().unwrap();
    assert!(is_seen);
}

#[test]
fn threads_that_end_meanwhile() {
    for _ in 0..3 {
        let threads: Vec<_> = (0..50).map(|_| thread::spawn(thread::yield_now)).collect();
        let dump = dump();
        assert!(
            dump.threads
                .iter()
                .all(|thread| thread.thread.activity != Activity::Unknown || !thread.notes.is_empty())
        );
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn as_json() {
    let waiting = Waiting::start(1, "as json", wait_in_scopes);
    let json = serde_json::to_value(dump()).unwrap();
    let threads = json["threads"].as_array().unwrap();
    let thread = threads.iter().find(|thread| thread["thread"]["id"] == waiting.tids[0]).unwrap();
    assert_eq!(thread["scopes"][1]["scope"]["label"], "outer");
    assert!(thread["scopes"][1]["elapsed"].is_f64() && json["began"].is_string());
    assert_eq!(json["process"]["id"], std::process::id());
    waiting.end();
}

#[test]
fn a_signal_that_asks_for_a_dump() {
    const CHILD: &str = "TIMEBOX_DUMP_TEST";
    if env::var_os(CHILD).is_some() {
        // This is the child. It waits for the end of its standard input, which comes when the test ends at the latest.
        dump_on_signal(libc::SIGUSR1).unwrap();
        dump_on_signal(libc::SIGUSR1).unwrap();
        let scoped = Waiting::start(1, "scoped", wait_in_scopes);
        println!("the child is ready");
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return scoped.end();
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "report::dump::tests::a_signal_that_asks_for_a_dump", "--nocapture"]);
    command.env(CHILD, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.ends_with("the child is ready")));
    let mut dumped = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let pid = rustix::process::Pid::from_child(&child);
    for _ in 0..2 {
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let head = format!("Dump of process {}, ", child.id());
        assert!(dumped.any(|line| line.starts_with(&head)));
        assert!(dumped.any(|line| line.contains(", scoped, blocked in read of a pipe (fd ")));
        assert!(dumped.any(|line| line.starts_with("  around it `outer`, open for ")));
        assert!(dumped.any(|line| line.contains("wait_for_the_end")));
    }
    drop(child.stdin.take());
    assert!(dumped.all(|line| !line.starts_with("Dump of process")));
    assert!(child.wait().unwrap().success());
}

#[test]
fn signals_that_cannot_ask_for_a_dump() {
    for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV] {
        let error = dump_on_signal(signal).unwrap_err();
        assert_eq!(error.to_string(), format!("signal {signal} cannot ask for a dump"));
    }
    assert!(dump_on_signal(-1).is_err() && dump_on_signal(1000).is_err());
}
