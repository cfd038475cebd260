//! Tests with processes and threads in which something is missing, full, or refused.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::super::reason::Reason;
use super::super::{Begun, State, Target, begin};
use super::child::{in_child, in_child_of};
use super::running::Runner;
use super::{Eyes, Thread, is_to_the_root};
use crate::scope::Timebox;
use crate::sync::{AtomicBool, AtomicU64, Ordering, os};

fn spin() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(50) {}
}

#[inline(never)]
fn recurses(depth: usize, bottom: &dyn Fn()) -> usize {
    if depth == 0 {
        bottom();
        return 0;
    }
    std::hint::black_box(recurses(depth - 1, bottom)) + 1
}

#[test]
fn a_deep_recursion_shows_its_top_and_the_scope() {
    for depth in [10_000, 1_000_000] {
        let (send, receive) = std::sync::mpsc::channel();
        let body = move || {
            let word = crate::thread::Thread::current().frame.as_ptr().addr();
            send.send((crate::sync::os::thread_id(), word)).unwrap();
            Timebox::new(Duration::from_secs(1000))
                .run_value(|_| recurses(depth, &|| thread::sleep(Duration::from_secs(3600))))
                .unwrap();
        };
        thread::Builder::new().stack_size(1 << 30).spawn(body).unwrap();
        let (tid, word) = receive.recv().unwrap();
        let target = Target::new(tid, word as u64);
        let mut eyes = Eyes::new();
        let start = Instant::now();
        let (copy, raw) = loop {
            let (copy, raw) = eyes.raw(&target);
            if copy.call.is_some_and(|call| call.number == libc::SYS_clock_nanosleep) {
                break (copy, raw);
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        };
        let scope = copy.scopes.scopes()[0].frame;
        let stack = eyes.names.resolve(&raw, Some(scope));
        let names: Vec<_> = stack.frames.iter().map(|frame| frame.function.as_str()).collect();
        assert!(names[..30].iter().any(|name| name.contains("sleep")), "{names:#?}");
        assert!(
            names[names.len() - 20..].iter().any(|name| name.contains("::run_value")),
            "{depth} {names:#?} {:?}",
            raw.notes
        );
        assert!(names.len() < 300 && stack.frames.iter().any(|frame| frame.function.starts_with('(')));
        assert!(stack.approximate, "{:?}", raw.notes);
    }
}

static IS_DEEP: AtomicBool = AtomicBool::new(false);

/// Calls itself until this thread's stack has 700 bytes left, and spins there until `IS_DEEP` is `false` again.
fn spins_at_the_end_of_the_stack() {
    #[inline(never)]
    fn deep(lowest: usize) {
        let local = [0_u8; 64];
        if (&raw const local).addr() > lowest {
            deep(lowest);
        } else {
            IS_DEEP.store(true, Ordering::Relaxed);
            while IS_DEEP.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
        std::hint::black_box(local);
    }
    // SAFETY: the attributes are written before they are read.
    let low = unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes), 0);
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        low.addr()
    };
    deep(low + 700);
}

fn is_seen_at_the_end_of_its_stack(target: impl FnOnce() -> Target) {
    while !IS_DEEP.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    let target = target();
    let mut eyes = Eyes::new();
    for _ in 0..100 {
        let (copy, raw) = eyes.raw(&target);
        assert!(copy.stack.registers.is_some(), "{copy:?}");
        assert!(raw.frames.len() > 100);
    }
    IS_DEEP.store(false, Ordering::Relaxed);
}

/// The handler has a stack of its own, so the thread survives although its stack is nearly full.
#[test]
fn a_thread_whose_stack_is_nearly_full_survives() {
    in_child("harm::a_thread_whose_stack_is_nearly_full_survives", || {
        let thread = Thread::start(spins_at_the_end_of_the_stack);
        is_seen_at_the_end_of_its_stack(|| thread.target());
        thread.join();
    });
}

/// std gives such a thread no stack for handlers. Its first scope does.
#[test]
fn a_thread_of_c_code_whose_stack_is_nearly_full_survives() {
    static THREAD: Mutex<Option<(u32, u64)>> = Mutex::new(None);
    extern "C" fn start(_: *mut c_void) -> *mut c_void {
        Timebox::new(Duration::from_secs(9)).run_value(|_| ()).unwrap();
        let word = crate::thread::Thread::current().frame.as_ptr().addr();
        *THREAD.lock().unwrap() = Some((os::thread_id(), word as u64));
        spins_at_the_end_of_the_stack();
        ptr::null_mut()
    }
    in_child("harm::a_thread_of_c_code_whose_stack_is_nearly_full_survives", || {
        let mut thread = MaybeUninit::uninit();
        // SAFETY: the function takes any argument, and the thread is joined once.
        unsafe {
            let created = libc::pthread_create(thread.as_mut_ptr(), ptr::null(), start, ptr::null_mut());
            assert_eq!(created, 0);
            is_seen_at_the_end_of_its_stack(|| {
                let (tid, word) = THREAD.lock().unwrap().expect("it was set before");
                Target::new(tid, word)
            });
            assert_eq!(libc::pthread_join(thread.assume_init(), ptr::null_mut()), 0);
        }
    });
}

#[test]
fn a_process_that_may_not_be_looked_at_sends_signals() {
    in_child("harm::a_process_that_may_not_be_looked_at_sends_signals", || {
        // SAFETY: changes this process only.
        unsafe {
            if libc::setgid(65534) != 0 || libc::setuid(65534) != 0 {
                eprintln!("not run: this user cannot become another");
                return;
            }
            assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 0_usize, 0_usize, 0_usize, 0_usize), 0);
        }
        let sleeper = Thread::start(|| thread::sleep(Duration::from_secs(3600)));
        let runner = Runner::start(spin);
        let mut eyes = Eyes::new();
        for thread in [&sleeper, &runner.thread] {
            let (copy, stack) = eyes.look(&thread.target());
            assert!(copy.stack.registers.is_some(), "{copy:?}");
            assert!(copy.reasons.has(Reason::NoTaskFiles));
            assert!(is_to_the_root(&stack) || stack.frames.len() > 3, "{stack:#?}");
        }
        runner.stop();
    });
}

/// Makes the kernel refuse these system calls to this thread, and to the threads that it starts from now on.
fn refuse(calls: &[libc::c_long]) {
    let mut program = vec![libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 }];
    for &call in calls {
        program.push(libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: u32::try_from(call).unwrap() });
        program.push(libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | libc::EPERM as u32 });
    }
    program.push(libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 });
    let filter =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: the filter program lives during the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_usize, 0_usize, 0_usize, 0_usize), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, 2_usize, &raw const filter), 0);
    }
}

#[test]
fn where_the_signal_is_refused_a_blocked_thread_is_still_seen() {
    in_child("harm::where_the_signal_is_refused_a_blocked_thread_is_still_seen", || {
        refuse(&[libc::SYS_rt_tgsigqueueinfo]);
        let sleeper = Thread::start(|| thread::sleep(Duration::from_secs(3600)));
        let runner = Runner::start(spin);
        sleeper.until_in("sleep");
        let copy = Eyes::copy(&runner.thread.target());
        assert!(copy.stack.registers.is_none() && copy.reasons.has(Reason::SignalRefused), "{copy:?}");
        runner.stop();
    });
}

#[test]
fn where_memory_is_not_copied_by_the_call_the_file_serves() {
    in_child("harm::where_memory_is_not_copied_by_the_call_the_file_serves", || {
        refuse(&[libc::SYS_process_vm_readv]);
        let sleeper = Thread::start(|| thread::sleep(Duration::from_secs(3600)));
        let runner = Runner::start(spin);
        sleeper.until_in("sleep");
        let (copy, stack) = Eyes::new().look(&runner.thread.target());
        assert!(copy.stack.registers.is_some() && is_to_the_root(&stack), "{copy:?} {stack:?}");
        runner.stop();
    });
}

#[test]
fn where_no_memory_can_be_copied_the_report_says_so() {
    in_child("harm::where_no_memory_can_be_copied_the_report_says_so", || {
        let sleeper = Thread::start(|| thread::sleep(Duration::from_secs(3600)));
        // `until_in` is not used here, because it would find a way to read memory before `refuse` forbids it.
        let call = format!("/proc/self/task/{}/syscall", sleeper.tid);
        let sleeps = format!("{} ", libc::SYS_clock_nanosleep);
        while !std::fs::read_to_string(&call).unwrap().starts_with(&sleeps) {
            thread::yield_now();
        }
        refuse(&[libc::SYS_process_vm_readv, libc::SYS_pread64]);
        let copy = Eyes::copy(&sleeper.target());
        assert!(copy.stack.registers.is_none() && copy.reasons.has(Reason::NoMemory), "{copy:?}");
    });
}

#[test]
fn a_forked_child_looks_at_its_own_threads() {
    in_child("harm::a_forked_child_looks_at_its_own_threads", || {
        let runner = Runner::start(spin);
        let target = runner.thread.target();
        let mut eyes = Eyes::new();
        let _ = eyes.look(&target);
        let Begun::Asked(open) = begin(&target) else { panic!("not asked") };
        // SAFETY: the child runs this crate, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let runner = Runner::start(spin);
            let copies = (0..100).map(|_| Eyes::copy(&runner.thread.target()));
            let mut is_right = copies.into_iter().all(|copy| copy.stack.registers.is_some());
            // In the child, the request from before the fork ends, and must not withdraw a request of the child.
            let own = begin(&runner.thread.target());
            is_right &= open.wait(Duration::from_secs(5)).reasons.has(Reason::Gone);
            is_right &= match own {
                Begun::Copied(copy) => copy.stack.is_there(),
                Begun::Asked(request) => request.wait(Duration::from_secs(5)).stack.is_there(),
            };
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!is_right)) };
        }
        assert!(open.wait(Duration::from_secs(5)).stack.registers.is_some());
        let mut status = 0;
        // SAFETY: `status` lives during the call.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        runner.stop();
    });
}

/// A thread holds the loader's lock for long: it waits in its callback of `dl_iterate_phdr`. A copy must not wait for
/// this lock.
#[test]
fn the_loaders_lock_holds_nobody_up() {
    unsafe extern "C" fn holds(_: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> libc::c_int {
        HELD.store(true, Ordering::Relaxed);
        drop(UNTIL.lock());
        1
    }
    static HELD: AtomicBool = AtomicBool::new(false);
    static UNTIL: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let until = UNTIL.lock().unwrap();
    let mut eyes = Eyes::new();
    let runner = Runner::start(spin);
    // Reads the names now, so that the looks below find them at once.
    let _ = eyes.look(&runner.thread.target());
    let holder = Thread::start(|| {
        // SAFETY: the callback touches nothing.
        unsafe { libc::dl_iterate_phdr(Some(holds), std::ptr::null_mut()) };
    });
    while !HELD.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    let (holder_target, runner_target) = (holder.target(), runner.thread.target());
    while Eyes::copy(&holder_target).state != State::Blocked {
        thread::yield_now();
    }
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        let (copy, raw) = eyes.raw(&holder_target);
        assert!(copy.state == State::Blocked && !raw.truncated, "{copy:?}");
        let (copy, raw) = eyes.raw(&runner_target);
        assert!(copy.stack.registers.is_some() && !raw.truncated);
        best = best.min(start.elapsed());
    }
    assert!(best < Duration::from_millis(20), "{best:?}");
    drop(until);
    holder.join();
    runner.stop();
}

/// Copies threads that start processes. Until a new process executes its program, it shares the memory of this process.
/// A signal must harm neither process.
#[test]
fn processes_that_are_made_meanwhile_come_to_no_harm() {
    let children = Arc::new(AtomicU64::new(0));
    let makers: Vec<Runner> = (0..2)
        .map(|_| {
            let children = Arc::clone(&children);
            Runner::start(move || {
                let status = std::process::Command::new("/bin/true").status().unwrap();
                assert!(status.success(), "{status}");
                children.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let targets: Vec<Target> = makers.iter().map(|maker| maker.thread.target()).collect();
    let mut eyes = Eyes::new();
    let mut looks = 0;
    while looks < 2000 || children.load(Ordering::Relaxed) < 100 {
        for target in &targets {
            let (copy, raw) = eyes.raw(target);
            assert!(copy.stack.is_there() && raw.frames.len() > 3, "{copy:?}");
            looks += 1;
        }
    }
    makers.into_iter().for_each(Runner::stop);
}

#[test]
fn threads_that_end_meanwhile_do_no_harm() {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let (send, receive) = std::sync::mpsc::channel();
    let churn = thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let send = send.clone();
            let born = thread::spawn(move || {
                let word = crate::thread::Thread::current().frame.as_ptr().addr();
                let _ = send.send((crate::sync::os::thread_id(), word));
                Timebox::new(Duration::from_secs(1)).run_value(|_| spin()).unwrap();
            });
            born.join().unwrap();
        }
    });
    Eyes::new();
    let start = Instant::now();
    let mut unlabelled = 0;
    while start.elapsed() < Duration::from_secs(3) {
        let (tid, word) = receive.recv().unwrap();
        let target = Target::new(tid, word as u64);
        let copy = match begin(&target) {
            Begun::Copied(copy) => copy,
            Begun::Asked(request) => request.wait(Duration::from_millis(100)),
        };
        unlabelled += u64::from(copy.stack.registers.is_none() && copy.reasons.sentences().is_empty());
        LOOKS.fetch_add(1, Ordering::Relaxed);
    }
    is_over.store(true, Ordering::Relaxed);
    drop(receive);
    churn.join().unwrap();
    assert_eq!(unlabelled, 0);
    println!("{} looks", LOOKS.load(Ordering::Relaxed));
    assert!(LOOKS.load(Ordering::Relaxed) > 50);
}

#[test]
fn a_program_whose_file_is_gone_still_has_names() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("program");
    let this = std::env::current_exe().unwrap();
    if !this.ends_with("program") {
        std::fs::copy(&this, &copy).unwrap();
    }
    in_child_of(&copy, "harm::a_program_whose_file_is_gone_still_has_names", || {
        std::fs::remove_file(&this).unwrap();
        for replacement in [None, Some("/proc/self/exe"), Some("/bin/true")] {
            if let Some(other) = replacement {
                std::fs::copy(other, &this).unwrap();
            }
            let thread = Thread::start(|| sleeps_here(Duration::from_secs(3600)));
            thread.until_in("sleeps_here");
        }
    });
}

#[inline(never)]
fn sleeps_here(duration: Duration) {
    thread::sleep(duration);
}
