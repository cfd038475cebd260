//! Functions in a child process. A harness of its own: `entry` must stand at the beginning of `main`.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use timebox::isolate::{Error, Isolated, entry};
use timebox::{Limit, isolate, timeout};

const SHORT: Duration = Duration::from_millis(50);
const HANG: Duration = Duration::from_secs(40);

/// What a panic says that a test asks for.
const ON_PURPOSE: &str = "on purpose";

static DOUBLE: Isolated<u64, u64> = Isolated::new("double", |n| 2 * n);
static PROCESS: Isolated<(), u32> = Isolated::new("process", |()| std::process::id());
static ECHO: Isolated<Vec<u8>, Vec<u8>> = Isolated::new("echo", |bytes| bytes);
/// Says who it is, in a file, and then runs for ever.
static LOOP: Isolated<String, ()> = Isolated::new("loop", |path| {
    fs::write(path, std::process::id().to_string()).unwrap();
    loop {
        std::hint::spin_loop();
    }
});
static CHECKED: Isolated<(), bool> = Isolated::new("checked", |()| {
    while timebox::checkpoint().is_ok() {}
    true
});
static PANIC: Isolated<(), ()> = Isolated::new("panic", |()| std::panic::panic_any(ON_PURPOSE));
static CRASH: Isolated<(), ()> = Isolated::new("crash", |()| std::process::abort());
/// Dies where it does not get the memory, and would say so on standard error.
static HUNGRY: Isolated<usize, usize> = Isolated::new("hungry", |bytes| {
    let nowhere = fs::File::create("/dev/null").unwrap();
    // SAFETY: both are open, and nobody here relies on where standard error leads to.
    assert_ne!(unsafe { libc::dup2(nowhere.as_raw_fd(), libc::STDERR_FILENO) }, -1);
    std::hint::black_box(vec![1_u8; bytes]).len()
})
.memory_limit(512 << 20);
/// Forks, says who that is, in a file, and crashes. The other has all that it had, the line to the program too.
static FORK: Isolated<String, ()> = Isolated::new("fork", |path| {
    // SAFETY: what is forked makes system calls only.
    let forked = unsafe { libc::fork() };
    if forked == 0 {
        std::thread::sleep(2 * HANG);
        // SAFETY: ends the process and touches nothing of it.
        unsafe { libc::_exit(0) };
    }
    fs::write(path, forked.to_string()).unwrap();
    std::process::abort();
});
/// Starts a program that outlives it, says who that is, in a file, and crashes.
static START: Isolated<String, ()> = Isolated::new("start", |path| {
    let sleep = Command::new("sleep").arg("100").spawn().unwrap();
    fs::write(path, sleep.id().to_string()).unwrap();
    std::process::abort();
});
static READ: Isolated<(), (usize, bool)> = Isolated::new("read", |()| {
    let cat = Command::new("cat").status().unwrap();
    (std::io::stdin().read_line(&mut String::new()).unwrap(), cat.success())
});
static NESTED: Isolated<(), String> =
    Isolated::new("nested", |()| isolate(HANG, &DOUBLE, &1).unwrap_err().to_string());
/// What this program comes to when the function starts it.
static PROGRAM: Isolated<(), Option<i32>> = Isolated::new("program", |()| {
    Command::new(std::env::current_exe().unwrap()).env("AS_PROGRAM", "exit").status().unwrap().code()
});
/// Unwinds at the deadline, if it is to wait for it.
static UNWIND: Isolated<bool, ()> = Isolated::new("unwind", |waits| {
    if waits {
        loop {
            timebox::checkpoint_or_unwind();
        }
    }
});
static UNNAMED: Isolated<(), ()> = Isolated::new("unnamed", |()| ());

fn is_in_the_process_table(process: u32) -> bool {
    fs::exists(format!("/proc/{process}")).unwrap()
}

/// Until the process, whose number is in the file, has ended.
fn ends(path: &str) {
    let process = fs::read_to_string(path).unwrap();
    let start = Instant::now();
    // One that has no parent any more may never be reaped.
    while fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z")) {
        assert!(start.elapsed() < HANG);
        std::thread::yield_now();
    }
}

/// What would else hang.
fn bounded<R: Send + 'static>(call: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(call()));
    result.recv_timeout(HANG).expect("it hangs")
}

fn it_runs_in_another_process_which_is_kept() {
    assert_eq!(isolate(HANG, &DOUBLE, &21).unwrap(), 42);
    let first = isolate(HANG, &PROCESS, &()).unwrap();
    assert_ne!(first, std::process::id());
    assert_eq!(isolate(HANG, &PROCESS, &()).unwrap(), first);
}

fn a_busy_loop_is_killed_at_the_deadline_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process").to_str().unwrap().to_owned();
    // A child is ready, so that the limit is not spent on starting one.
    for _ in 0..3 {
        let start = Instant::now();
        let error = isolate(SHORT * 4, &LOOP, &path).unwrap_err();
        assert!(start.elapsed() >= SHORT * 4 && start.elapsed() < HANG);
        assert_eq!(error.timeout().and_then(timebox::TimeoutError::limit), Some(SHORT * 4));
        if let Ok(process) = fs::read_to_string(&path) {
            assert!(!is_in_the_process_table(process.parse().unwrap()));
        }
    }
    assert_eq!(isolate(HANG, &DOUBLE, &4).unwrap(), 8);
}

/// Only a hang fails it.
fn it_returns_at_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process").to_str().unwrap().to_owned();
    let late = || isolate(SHORT, &LOOP, &path).unwrap_err().timeout().unwrap().overshoot();
    let mut late: Vec<Duration> = (0..20).map(|_| late()).collect();
    late.sort();
    println!("killed and reaped, late by {:?}, at most {:?}", late[10], late[19]);
    assert!(late[19] < HANG);
}

fn the_limit_around_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process").to_str().unwrap().to_owned();
    let error = timeout(SHORT, || isolate(HANG, &LOOP, &path)).unwrap_err();
    assert_eq!(error.timeout().and_then(timebox::TimeoutError::limit), Some(SHORT));
}

fn code_that_checks_ends_by_itself() {
    match isolate(SHORT, &CHECKED, &()) {
        Ok(ended) => assert!(ended),
        // The program was as quick to kill it.
        Err(error) => assert!(error.timeout().is_some(), "{error}"),
    }
}

fn large_data_goes_through() {
    let bytes = vec![7; 3 << 20];
    assert_eq!(isolate(HANG, &ECHO, &bytes).unwrap(), bytes);
}

fn a_panic_is_an_error_and_the_child_goes_on() {
    for _ in 0..2 {
        let error = isolate(HANG, &PANIC, &()).unwrap_err();
        assert!(matches!(&error, Error::Panicked(message) if message == ON_PURPOSE), "{error}");
    }
}

fn a_crash_is_an_error_with_its_status() {
    let error = isolate(HANG, &CRASH, &()).unwrap_err();
    assert!(matches!(error, Error::Died(status) if !status.success()), "{error}");
}

fn what_holds_the_line_after_a_crash_is_killed_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process").to_str().unwrap().to_owned();
    let mut limit = SHORT * 20;
    loop {
        let error = bounded({
            let path = path.clone();
            move || isolate(limit, &FORK, &path).unwrap_err()
        });
        assert_eq!(error.timeout().and_then(timebox::TimeoutError::limit), Some(limit), "{error}");
        // Else the child was killed before it forked.
        if fs::read(&path).is_ok_and(|process| !process.is_empty()) {
            break;
        }
        limit *= 4;
        assert!(limit < HANG, "it never comes to the fork");
    }
    ends(&path);
}

fn a_crash_is_told_at_once_though_a_program_goes_on_which_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process").to_str().unwrap().to_owned();
    let error = bounded({
        let path = path.clone();
        move || isolate(Limit::NONE, &START, &path).unwrap_err()
    });
    assert!(matches!(error, Error::Died(status) if status.signal() == Some(libc::SIGABRT)), "{error}");
    ends(&path);
}

fn there_is_nothing_to_read_for_the_function_and_what_it_starts() {
    assert_eq!(isolate(HANG, &READ, &()).unwrap(), (0, true));
}

fn a_call_within_an_isolated_function_is_a_clear_error() {
    let error = isolate(HANG, &NESTED, &()).unwrap();
    assert!(error.contains("from within an isolated function"), "{error}");
}

fn this_program_started_by_the_function_is_itself() {
    assert_eq!(isolate(HANG, &PROGRAM, &()).unwrap(), Some(7));
}

fn unwinding_at_the_deadline_is_a_timeout() {
    for n in 0..100 {
        // A child is ready, so that the deadline comes in the function.
        isolate(HANG, &UNWIND, &false).unwrap();
        let limit = Duration::from_micros(1000 + n);
        let error = isolate(limit, &UNWIND, &true).unwrap_err();
        assert_eq!(error.timeout().and_then(timebox::TimeoutError::limit), Some(limit), "{error}");
    }
}

fn an_idle_child_that_died_is_replaced() {
    let process = isolate(HANG, &PROCESS, &()).unwrap();
    // SAFETY: a number, of a child that nobody has reaped. It is not reaped here either; `info` is ours.
    unsafe {
        libc::kill(process.cast_signed(), libc::SIGKILL);
        let mut info = std::mem::zeroed();
        assert_eq!(libc::waitid(libc::P_PID, process, &raw mut info, libc::WEXITED | libc::WNOWAIT), 0);
    }
    assert_ne!(isolate(HANG, &PROCESS, &()).unwrap(), process);
    assert!(!is_in_the_process_table(process));
}

fn a_program_that_was_deleted_still_starts_children() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    assert!(Command::new(&copy).env("AS_PROGRAM", "deleted").status().unwrap().success());
}

fn one_that_needs_too_much_memory_dies() {
    assert_eq!(isolate(HANG, &HUNGRY, &1000).unwrap(), 1000);
    let error = isolate(HANG, &HUNGRY, &(1 << 30)).unwrap_err();
    assert!(matches!(error, Error::Died(_)), "{error}");
    assert_eq!(isolate(HANG, &HUNGRY, &1000).unwrap(), 1000);
}

fn a_function_that_was_not_named_is_a_clear_error() {
    let error = isolate(HANG, &UNNAMED, &()).unwrap_err();
    assert!(matches!(error, Error::NoEntry("unnamed")));
    assert!(error.to_string().contains("beginning of `main`"));
}

fn what_fails_on_purpose_prints_nothing_that_looks_like_a_failure() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .env("AS_PROGRAM", "fails on purpose")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

fn calls_at_the_same_time_have_a_child_each() {
    std::thread::scope(|threads| {
        let calls: Vec<_> =
            (0..6).map(|n| threads.spawn(move || isolate(HANG, &DOUBLE, &n).unwrap())).collect();
        let doubled: Vec<u64> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        assert_eq!(doubled, [0, 2, 4, 6, 8, 10]);
    });
}

fn file_descriptors_and_processes_do_not_pile_up() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("process").to_str().unwrap().to_owned();
    let before = open();
    for _ in 0..20 {
        assert!(isolate(Duration::from_millis(5), &LOOP, &path).is_err());
    }
    assert!(open() <= before);
}

macro_rules! run {
    ($($test:ident),+ $(,)?) => { $( {
        $test();
        println!("test {} ... ok", stringify!($test));
    } )+ };
}

/// A panic that a test asks for prints nothing: it would look like a failure. All others are shown as ever.
fn keep_quiet_about_panics_on_purpose() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&ON_PURPOSE) {
            show(panic);
        }
    }));
}

fn main() {
    keep_quiet_about_panics_on_purpose();
    if std::env::var_os("WITHOUT_ENTRY").is_none() {
        entry(&[
            &DOUBLE, &PROCESS, &ECHO, &LOOP, &CHECKED, &PANIC, &CRASH, &HUNGRY, &FORK, &START, &READ,
            &NESTED, &PROGRAM, &UNWIND,
        ]);
    } else {
        let error = isolate(HANG, &DOUBLE, &1).unwrap_err();
        assert!(matches!(error, Error::NoEntry("double")));
        return;
    }
    match std::env::var("AS_PROGRAM").as_deref() {
        Ok("exit") => std::process::exit(7),
        Ok("fails on purpose") => {
            a_panic_is_an_error_and_the_child_goes_on();
            one_that_needs_too_much_memory_dies();
            return;
        }
        Ok(_) => {
            fs::remove_file(std::env::current_exe().unwrap()).unwrap();
            assert_eq!(isolate(HANG, &DOUBLE, &2).unwrap(), 4);
            return;
        }
        Err(_) => {}
    }
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    run!(
        it_runs_in_another_process_which_is_kept,
        a_busy_loop_is_killed_at_the_deadline_and_replaced,
        it_returns_at_its_limit,
        the_limit_around_it_counts,
        code_that_checks_ends_by_itself,
        large_data_goes_through,
        a_panic_is_an_error_and_the_child_goes_on,
        a_crash_is_an_error_with_its_status,
        what_holds_the_line_after_a_crash_is_killed_at_the_deadline,
        a_crash_is_told_at_once_though_a_program_goes_on_which_is_killed,
        there_is_nothing_to_read_for_the_function_and_what_it_starts,
        a_call_within_an_isolated_function_is_a_clear_error,
        this_program_started_by_the_function_is_itself,
        unwinding_at_the_deadline_is_a_timeout,
        an_idle_child_that_died_is_replaced,
        a_program_that_was_deleted_still_starts_children,
        one_that_needs_too_much_memory_dies,
        a_function_that_was_not_named_is_a_clear_error,
        what_fails_on_purpose_prints_nothing_that_looks_like_a_failure,
        calls_at_the_same_time_have_a_child_each,
        file_descriptors_and_processes_do_not_pile_up,
    );
    let status =
        std::process::Command::new(std::env::current_exe().unwrap()).env("WITHOUT_ENTRY", "1").status();
    assert!(status.unwrap().success());
    println!("test without_an_entry_it_is_a_clear_error ... ok");
}
