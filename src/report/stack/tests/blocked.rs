//! Tests with threads that are blocked. Their stacks are copied without a signal.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::mem;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::super::State;
use super::{Eyes, Thread, is_to_the_root, names};
use crate::sync::{AtomicU64, Ordering};

const LOOKS: usize = 100;

fn check(thread: Thread, function: &str, end: impl FnOnce()) {
    look(&thread, function);
    end();
    thread.join();
}

fn look(thread: &Thread, function: &str) {
    look_at(thread, function, false);
}

fn look_at(thread: &Thread, function: &str, may_be_approximate: bool) {
    thread.until_in(function);
    let target = thread.target();
    let mut eyes = Eyes::new();
    for _ in 0..LOOKS {
        let (copy, stack) = eyes.look(&target);
        assert_eq!(copy.state, State::Blocked, "{copy:?}");
        assert!(copy.call.is_some() && copy.is_consistent, "{copy:?}");
        assert!(names(&stack).iter().any(|name| name.contains(function)), "{:#?}", names(&stack));
        assert!(is_to_the_root(&stack), "{function}: {:#?}", names(&stack));
        assert!(may_be_approximate || !stack.approximate, "{function}: {:#?}", names(&stack));
    }
}

#[inline(never)]
fn reads_a_pipe(mut pipe: UnixStream) {
    pipe.read_exact(&mut [0]).unwrap_err();
}

#[test]
fn a_read() {
    let (here, there) = UnixStream::pair().unwrap();
    check(Thread::start(|| reads_a_pipe(there)), "reads_a_pipe", || drop(here));
}

#[inline(never)]
fn receives(mut stream: TcpStream) {
    stream.read_exact(&mut [0]).unwrap_err();
}

#[test]
fn a_receive() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    check(Thread::start(|| receives(stream)), "receives", || drop(listener));
}

#[inline(never)]
fn locks(mutex: &Mutex<()>) {
    drop(mutex.lock().unwrap());
}

#[test]
fn a_lock() {
    let mutex = Arc::new(Mutex::new(()));
    let guard = mutex.lock().unwrap();
    let theirs = mutex.clone();
    check(Thread::start(move || locks(&theirs)), "locks", || drop(guard));
}

#[inline(never)]
fn waits(pair: &(Mutex<bool>, Condvar)) {
    let mut is_over = pair.0.lock().unwrap();
    while !*is_over {
        is_over = pair.1.wait(is_over).unwrap();
    }
}

#[test]
fn a_condition() {
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = pair.clone();
    check(Thread::start(move || waits(&theirs)), "waits", || {
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
    });
}

#[inline(never)]
fn receives_a_message(messages: &mpsc::Receiver<()>) {
    messages.recv().unwrap_err();
}

#[test]
fn a_channel() {
    let (send, receive) = mpsc::channel();
    check(Thread::start(move || receives_a_message(&receive)), "receives_a_message", || drop(send));
}

#[inline(never)]
fn parks() {
    thread::park();
}

#[test]
fn a_park() {
    let thread = Thread::start(parks);
    let handle = thread.join.as_ref().unwrap().thread().clone();
    check(thread, "parks", || handle.unpark());
}

#[inline(never)]
fn sleeps(duration: Duration) {
    thread::sleep(duration);
}

#[test]
fn a_sleep() {
    // The thread is not joined, because it sleeps for an hour.
    look(&Thread::start(|| sleeps(Duration::from_secs(3600))), "sleeps");
}

#[inline(never)]
fn spawns_a_program(first: &CStr) {
    let arguments = [c"true".as_ptr().cast_mut(), ptr::null_mut()];
    // SAFETY: `actions` is initialised first and destroyed last. The strings live during the calls. The lists end with
    // null.
    unsafe {
        let mut actions = mem::zeroed();
        libc::posix_spawn_file_actions_init(&raw mut actions);
        libc::posix_spawn_file_actions_addopen(&raw mut actions, 0, first.as_ptr(), libc::O_RDONLY, 0);
        let mut child = 0;
        let program = c"/bin/true".as_ptr();
        let environment = [ptr::null_mut()];
        let result = libc::posix_spawn(
            &raw mut child,
            program,
            &raw const actions,
            ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        );
        assert_eq!(result, 0);
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        libc::waitpid(child, ptr::null_mut(), 0);
    }
}

/// The drop opens the other end of the named pipe. So a process that waits in `open` for the other end goes on.
struct OtherEnd(PathBuf);

impl Drop for OtherEnd {
    fn drop(&mut self) {
        drop(File::options().read(true).write(true).open(&self.0));
    }
}

/// The thread starts a program. Until the child executes the program, the child shares this process's memory, and the
/// thread waits uninterruptibly. The child first opens a pipe, so it hangs until the test opens the other end. The C
/// library has no unwind table for this code, so the stack may be approximate.
#[test]
fn a_wait_for_a_child_that_shares_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the string lives during the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let other_end = OtherEnd(path);
    let thread = Thread::start(move || spawns_a_program(&name));
    look_at(&thread, "spawns_a_program", true);
    drop(other_end);
    thread.join();
}

/// Copies a thread 10 000 times, while the thread makes the system call `name` again and again. No copy may interrupt a
/// call.
fn look_without_interrupting(name: &str, mut call: impl FnMut() -> libc::c_int + Send + 'static) {
    let interrupted = Arc::new(AtomicU64::new(0));
    let count = interrupted.clone();
    let thread = Thread::start(move || {
        loop {
            let result = call();
            count.fetch_add(u64::from(result != 0), Ordering::Relaxed);
        }
    });
    thread.until_in(name);
    let target = thread.target();
    let before = target.times();
    let mut best = Duration::MAX;
    for _ in 0..10_000 {
        let start = Instant::now();
        let copy = Eyes::copy(&target);
        best = best.min(start.elapsed());
        assert_eq!(copy.state, State::Blocked);
        assert!(copy.stack.registers.is_some());
    }
    println!("{name}: a look takes {best:?} at best");
    assert_eq!(interrupted.load(Ordering::Relaxed), 0);
    assert_eq!(target.times(), before);
}

/// The threads are in calls that every signal would interrupt, even with `SA_RESTART`.
#[test]
fn a_thread_that_is_looked_at_is_not_woken() {
    // SAFETY: there are no descriptors to look at.
    look_without_interrupting("poll", || unsafe { libc::poll(ptr::null_mut(), 0, 3_600_000) });
    // SAFETY: the call has no preconditions.
    let epoll = unsafe { libc::epoll_create1(0) };
    look_without_interrupting("epoll_wait", move || {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }];
        // SAFETY: there is room for one event.
        unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 1, -1) }
    });
    look_without_interrupting("nanosleep", || {
        let time = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
        // SAFETY: the time is valid.
        unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3600))).unwrap();
    look_without_interrupting("recv", move || libc::c_int::from(stream.read(&mut [0]).is_err()));
}
