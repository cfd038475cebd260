//! Tests that a stack that is copied from outside has the same frames as one that the thread copies in a signal
//! handler.

use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Barrier, Condvar, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::super::platform::ask;
use super::super::{Begun, Copy, State, Target, begin};
use super::Eyes;
use super::child::in_child;
use crate::sync::os::thread_id;

const LONG: Duration = Duration::from_secs(3600);

type Body = Box<dyn FnOnce() + Send>;

fn is_blocked(target: &Target) -> Option<Copy> {
    match begin(target) {
        Begun::Copied(copy) if copy.state == State::Blocked && copy.call.is_some() => Some(copy),
        Begun::Copied(copy) => {
            assert_ne!(copy.state, State::Gone);
            None
        }
        Begun::Asked(request) => {
            drop(request.wait(Duration::from_secs(5)));
            None
        }
    }
}

fn by_signal(target: &Target, tid: u32) -> Copy {
    match ask(target, Copy::new(tid)) {
        Begun::Asked(request) => request.wait(Duration::from_secs(5)),
        Begun::Copied(copy) => panic!("not asked: {copy:?}"),
    }
}

/// Compares two stacks of a blocked thread: one is copied from outside, the other by the thread itself in a signal
/// handler. If they differ, tries again: perhaps the thread was not blocked yet, or the signal has ended the system
/// call.
fn compare(tid: u32, name: &str, eyes: &mut Eyes) {
    let target = Target::new(tid, 0);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(60), "{name}: never the same");
        let Some(outside) = is_blocked(&target) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let inside = by_signal(&target, tid);
        assert!(inside.stack.is_there(), "{name}: {inside:?}");
        let (outside, inside) = (eyes.unwinder.unwind(&outside.stack), eyes.unwinder.unwind(&inside.stack));
        // The signal interrupts the system call. If the system will restart the call, the innermost address is that of
        // the call's instruction. Otherwise it is the address after the instruction.
        let [(first, outer), (other_first, other_outer)] =
            [&outside, &inside].map(|stack| stack.frames.split_first().unwrap());
        let is_same = first.address.abs_diff(other_first.address) <= 2
            && first.cfa == other_first.cfa
            && outer == other_outer;
        if is_same {
            for stack in [&outside, &inside] {
                assert!(
                    !stack.truncated && !stack.approximate,
                    "{name}: {:#?}",
                    eyes.names.resolve(stack, None)
                );
            }
            return;
        }
    }
}

fn numbers(count: usize, numbers: &Receiver<u32>) -> Vec<u32> {
    (0..count).map(|_| numbers.recv_timeout(Duration::from_secs(20)).unwrap()).collect()
}

#[allow(clippy::too_many_lines)] // a list
fn bodies() -> Vec<(&'static str, Body)> {
    let mutex: &'static Mutex<()> = Box::leak(Box::default());
    std::mem::forget(mutex.lock().unwrap());
    let condition: &'static (Mutex<()>, Condvar) = Box::leak(Box::default());
    let lock: &'static RwLock<()> = Box::leak(Box::default());
    std::mem::forget(lock.write().unwrap());
    let barrier: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    let cell: &'static OnceLock<()> = Box::leak(Box::default());
    let (_, messages) = Box::leak(Box::new(mpsc::channel::<()>()));
    let messages: &'static Mutex<&mut Receiver<()>> = Box::leak(Box::new(Mutex::new(messages)));
    let (_, timed) = Box::leak(Box::new(mpsc::channel::<()>()));
    let timed: &'static Mutex<&mut Receiver<()>> = Box::leak(Box::new(Mutex::new(timed)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let their_mutex: &'static parking_lot::Mutex<()> = Box::leak(Box::default());
    std::mem::forget(their_mutex.lock());
    let their_lock: &'static parking_lot::RwLock<()> = Box::leak(Box::default());
    std::mem::forget(their_lock.write());
    let their_condition: &'static (parking_lot::Mutex<()>, parking_lot::Condvar) = Box::leak(Box::default());
    let (_, crossbeam) = Box::leak(Box::new(crossbeam_channel::unbounded::<()>()));
    let (_, other) = Box::leak(Box::new(crossbeam_channel::bounded::<()>(0)));
    let (full, _) = Box::leak(Box::new(crossbeam_channel::bounded::<()>(0)));
    let (crossbeam, other, full) = (&*crossbeam, &*other, &*full);
    vec![
        ("std::sync::Mutex", Box::new(|| drop(mutex.lock()))),
        ("std::sync::Condvar", Box::new(|| drop(condition.1.wait(condition.0.lock().unwrap())))),
        ("std::sync::RwLock", Box::new(|| drop(lock.read()))),
        ("std::sync::Barrier", Box::new(|| assert!(barrier.wait().is_leader()))),
        ("std::sync::OnceLock", Box::new(|| cell.get_or_init(|| thread::sleep(LONG)).to_owned())),
        (
            "std::sync::mpsc",
            Box::new(|| {
                messages.lock().unwrap().recv().unwrap_err();
            }),
        ),
        (
            "std::sync::mpsc, timed",
            Box::new(|| {
                timed.lock().unwrap().recv_timeout(LONG).unwrap_err();
            }),
        ),
        ("std::thread::park", Box::new(thread::park)),
        ("std::thread::park_timeout", Box::new(|| thread::park_timeout(LONG))),
        ("std::thread::sleep", Box::new(|| thread::sleep(LONG))),
        ("std::thread::join", Box::new(|| drop(thread::spawn(|| thread::sleep(LONG)).join()))),
        ("std::net::TcpListener", Box::new(move || drop(listener.accept()))),
        ("parking_lot::Mutex", Box::new(|| drop(their_mutex.lock()))),
        ("parking_lot::RwLock", Box::new(|| drop(their_lock.read()))),
        ("parking_lot::Condvar", Box::new(|| their_condition.1.wait(&mut their_condition.0.lock()))),
        ("crossbeam, receive", Box::new(|| crossbeam.recv().unwrap())),
        ("crossbeam, timed", Box::new(|| other.recv_timeout(LONG).unwrap())),
        ("crossbeam, send", Box::new(|| full.send(()).unwrap())),
        (
            "crossbeam, select",
            Box::new(move || {
                crossbeam_channel::select! {
                    recv(crossbeam) -> _ => {}
                    recv(other) -> _ => {}
                }
            }),
        ),
        (
            "tokio, one thread",
            Box::new(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::sleep(LONG).await });
            }),
        ),
        (
            "tokio, blocking receive",
            Box::new(|| {
                let (_sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
                receiver.blocking_recv();
            }),
        ),
    ]
}

/// Starts the threads of [`bodies`], and pools whose threads are idle. Returns the number and the name of each thread.
fn blocked_threads() -> Vec<(u32, &'static str)> {
    let mut threads = Vec::new();
    for (name, body) in bodies() {
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            send.send(thread_id()).unwrap();
            body();
        });
        threads.push((receive.recv().unwrap(), name));
    }
    let (begun, numbers_of_pools) = mpsc::channel();
    let of_rayon = begun.clone();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .start_handler(move |_| of_rayon.send(thread_id()).unwrap())
        .build()
        .unwrap();
    threads.extend(numbers(2, &numbers_of_pools).into_iter().map(|tid| (tid, "rayon, idle")));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || begun.send(thread_id()).unwrap())
        .build()
        .unwrap();
    threads.extend(numbers(2, &numbers_of_pools).into_iter().map(|tid| (tid, "tokio, idle")));
    drop(runtime.spawn_blocking(|| thread::sleep(LONG)));
    threads.extend(numbers(1, &numbers_of_pools).into_iter().map(|tid| (tid, "tokio, blocking")));
    println!("{} threads", threads.len());
    assert!(threads.len() >= 23);
    std::mem::forget((pool, runtime));
    threads
}

#[test]
fn a_blocked_thread_looks_the_same_from_outside_and_by_a_signal() {
    in_child("agree::a_blocked_thread_looks_the_same_from_outside_and_by_a_signal", || {
        let mut eyes = Eyes::new();
        for (tid, name) in blocked_threads() {
            compare(tid, name, &mut eyes);
        }
    });
}

/// From outside only two registers of a blocked thread are known. This test takes them from a copy that the thread has
/// made in a signal handler. It does not take them from `/proc/self/task`, which may show an emulator's registers.
#[test]
fn two_registers_of_a_blocked_thread_are_enough() {
    in_child("agree::two_registers_of_a_blocked_thread_are_enough", || {
        let mut eyes = Eyes::new();
        let threads = blocked_threads();
        let mut exact = 0;
        for &(tid, name) in &threads {
            let target = Target::new(tid, 0);
            let start = Instant::now();
            let is_exact = loop {
                let mut copy = by_signal(&target, tid);
                let all = eyes.unwinder.unwind(&copy.stack);
                let registers = copy.stack.registers.as_mut().unwrap();
                (registers.fp, registers.lr, registers.in_call) = (None, None, true);
                let two = eyes.unwinder.unwind(&copy.stack);
                let is_same = !two.truncated && all.frames == two.frames;
                if !all.truncated && !all.approximate && (is_same || two.approximate) {
                    break is_same && !two.approximate;
                }
                // Perhaps the thread was not yet blocked.
                assert!(
                    start.elapsed() < Duration::from_secs(10),
                    "{name}: {:#?} {:#?}",
                    eyes.names.resolve(&all, None),
                    eyes.names.resolve(&two, None)
                );
                thread::sleep(Duration::from_millis(1));
            };
            println!("{name}: {}", if is_exact { "exact" } else { "approximate" });
            exact += usize::from(is_exact);
        }
        // On aarch64 the function that makes the system call may have its return address in a register only. If its
        // caller calls it at several places, the place is then a guess, and the stack is approximate.
        let least = if cfg!(target_arch = "aarch64") { threads.len() / 2 } else { threads.len() };
        assert!(exact >= least, "{exact}");
    });
}
