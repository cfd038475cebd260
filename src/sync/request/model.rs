//! Loom models of requests. A thread that is asked waits for a model of a signal, and then does what its handler would
//! do.
//!
//! A handler may also run for a signal that the requester did not send, or sent for an earlier request. So some models
//! call [`Slots::serve`] on a thread that nothing orders after the request. Loom itself finds a value that two threads
//! use at once ("Causality violation").

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::{Request, Slots, Unserved, Waited};
use crate::sync::model::models;
use crate::sync::{AtomicU32, Ordering};

// The numbers of two threads.
const A: u32 = 1;
const B: u32 = 2;

/// What a thread is to write: its own number, two times.
#[derive(Debug, Default)]
struct Page {
    first: u32,
    last: u32,
}

impl Page {
    fn fill(&mut self, thread: u32) {
        assert_eq!((self.first, self.last), (0, 0), "written two times");
        self.first = thread;
        thread::yield_now();
        self.last = thread;
    }
}

#[derive(Default)]
struct Futex(Mutex<()>, Condvar);

impl Futex {
    fn sleep(&self, word: &AtomicU32, value: u32) {
        let mut guard = self.0.lock().unwrap();
        while word.load(Ordering::Relaxed) == value {
            guard = self.1.wait(guard).unwrap();
        }
    }

    fn wake(&self) {
        let guard = self.0.lock().unwrap();
        self.1.notify_all();
        drop(guard);
    }
}

struct Process<const N: usize> {
    slots: Slots<Page, N>,
    futex: Futex,
}

impl<const N: usize> Process<N> {
    fn new() -> Arc<Self> {
        Arc::new(Self { slots: Slots::new(), futex: Futex::default() })
    }

    fn ask(&self, thread: u32) -> Option<Request<'_, Page>> {
        self.slots.ask(thread, Page::default()).ok()
    }

    fn serve(&self, thread: u32) {
        self.slots.serve(thread, |page| page.fill(thread), |_| self.futex.wake());
    }

    /// Starts a thread that serves one time, at any moment.
    fn serve_some_time(self: &Arc<Self>, thread: u32) -> JoinHandle<()> {
        let process = Arc::clone(self);
        thread::spawn(move || process.serve(thread))
    }

    fn wait_for(&self, request: Request<'_, Page>, thread: u32) {
        let goes_on = |unserved: &Unserved<'_>| {
            self.futex.sleep(unserved.word, unserved.value);
            true
        };
        let Waited::Served(page) = request.wait(goes_on) else { panic!("it is not served") };
        assert_written(&page, thread);
    }

    /// Asserts that the slots can be used again. No handler may be running.
    fn assert_free(&self) {
        let requests: [_; N] = std::array::from_fn(|_| self.ask(A));
        assert!(requests.iter().all(Option::is_some), "a slot is lost");
    }
}

fn assert_written(page: &Page, thread: u32) {
    assert_eq!((page.first, page.last), (thread, thread), "not the thread that was asked");
}

/// A page comes back empty if it was withdrawn, and written if it was served.
fn assert_whole(waited: &Waited<Page>, thread: u32) {
    match waited {
        Waited::Served(page) => assert_written(page, thread),
        Waited::Withdrawn(page) => assert_eq!((page.first, page.last), (0, 0), "withdrawn, but written"),
        Waited::Left => {}
        Waited::Forgotten => panic!("nobody has forked"),
    }
}

/// A thread that gets signals. A signal is lost if another is pending.
#[derive(Clone, Default)]
struct Signals(Arc<(Mutex<Pending>, Condvar)>);

#[derive(Default)]
struct Pending {
    signal: bool,
    end: bool,
}

impl Signals {
    fn change(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_one();
    }

    fn send(&self) {
        self.change(|pending| pending.signal = true);
    }

    fn end(&self) {
        self.change(|pending| pending.end = true);
    }

    /// Waits for a signal. `false` if no further signal will come.
    fn receive(&self) -> bool {
        let mut pending = self.0.0.lock().unwrap();
        while !pending.signal && !pending.end {
            pending = self.0.1.wait(pending).unwrap();
        }
        std::mem::take(&mut pending.signal)
    }
}

fn start<const N: usize>(process: &Arc<Process<N>>, thread: u32) -> (Signals, JoinHandle<()>) {
    let signals = Signals::default();
    let (process, receiver) = (Arc::clone(process), signals.clone());
    let join = thread::spawn(move || {
        while receiver.receive() {
            process.serve(thread);
        }
    });
    (signals, join)
}

/// The requester reads the page only after it is completely written.
fn a_request() {
    let process = Process::<1>::new();
    let (signals, thread) = start(&process, A);
    let request = process.ask(A).unwrap();
    signals.send();
    process.wait_for(request, A);
    signals.end();
    thread.join().unwrap();
    process.assert_free();
}

/// As `a_request`, but the requester sends the signal before it makes the request.
fn a_signal_before_its_request() {
    let process = Process::<1>::new();
    let (signals, thread) = start(&process, A);
    signals.send();
    let request = process.ask(A).unwrap();
    process.wait_for(request, A);
    signals.end();
    thread.join().unwrap();
}

/// The handler runs for a signal that was not sent for this request. The requester gives up, perhaps while the handler
/// runs. Then it uses the slot for another request, if it can.
fn a_request_that_is_given_up() {
    let process = Process::<1>::new();
    let handler = process.serve_some_time(A);
    let waited = process.ask(A).unwrap().wait(|_| false);
    assert_whole(&waited, A);
    let next = process.ask(B);
    assert!(next.is_some() || matches!(waited, Waited::Left), "a slot is lost");
    drop(next);
    handler.join().unwrap();
    process.assert_free();
}

fn a_handler_that_takes_too_long() {
    let process = Process::<1>::new();
    let (signals, thread) = start(&process, A);
    let request = process.ask(A).unwrap();
    signals.send();
    let waited = request.wait(|unserved| {
        thread::yield_now();
        !unserved.has_begun
    });
    assert_whole(&waited, A);
    assert!(!matches!(waited, Waited::Withdrawn(_)));
    drop(process.ask(B));
    signals.end();
    thread.join().unwrap();
    process.assert_free();
}

fn a_request_that_is_dropped() {
    let process = Process::<1>::new();
    let handler = process.serve_some_time(A);
    drop(process.ask(A));
    drop(process.ask(B));
    handler.join().unwrap();
    process.assert_free();
}

/// The requester cancels its request, as if the signal was refused. But another signal runs the handler.
fn a_request_that_is_cancelled() {
    let process = Process::<1>::new();
    let handler = process.serve_some_time(A);
    match process.ask(A).unwrap().cancel() {
        Ok(page) => assert_eq!((page.first, page.last), (0, 0), "withdrawn, but written"),
        Err(request) => process.wait_for(request, A),
    }
    handler.join().unwrap();
    process.assert_free();
}

/// The handler of A runs late, when its request was given up. The slot may have a request for B by then.
fn a_late_handler() {
    let process = Process::<1>::new();
    let late = process.serve_some_time(A);
    let waited = process.ask(A).unwrap().wait(|_| false);
    assert_whole(&waited, A);
    if let Some(request) = process.ask(B) {
        let on_time = process.serve_some_time(B);
        process.wait_for(request, B);
        on_time.join().unwrap();
    }
    late.join().unwrap();
    process.assert_free();
}

/// Two requesters ask one thread. If the signal of one is pending, the signal of the other is lost.
fn two_requests_for_one_thread() {
    let process = Process::<2>::new();
    let (signals, thread) = start(&process, A);
    let ask_and_wait = |process: &Process<2>, signals: &Signals| {
        let request = process.ask(A).unwrap();
        signals.send();
        process.wait_for(request, A);
    };
    let (others, its) = (Arc::clone(&process), signals.clone());
    let other = thread::spawn(move || ask_and_wait(&others, &its));
    ask_and_wait(&process, &signals);
    other.join().unwrap();
    signals.end();
    thread.join().unwrap();
    process.assert_free();
}

fn two_requesters_of_one_slot() {
    let process = Process::<1>::new();
    let others = Arc::clone(&process);
    let other = thread::spawn(move || drop(others.ask(B)));
    drop(process.ask(A));
    other.join().unwrap();
    process.assert_free();
}

/// A thread forks while it waits for a request, for example in a signal handler of the program. In the child, the slot
/// is used again.
fn a_request_from_before_a_fork() {
    let process = Process::<1>::new();
    let old = process.ask(A).unwrap();
    process.slots.forget();
    let new = process.ask(B).expect("the slot is free in the child");
    let thread = process.serve_some_time(B);
    let waited = old.wait(|_| false);
    assert!(matches!(waited, Waited::Forgotten), "a request of the child was taken: {waited:?}");
    process.wait_for(new, B);
    thread.join().unwrap();
    process.assert_free();
}

models! {
    a_request_is_answered: a_request;
    a_request_can_be_given_up_while_it_is_served: a_request_that_is_given_up;
    a_requester_can_leave_a_handler_that_still_writes: a_handler_that_takes_too_long;
    a_request_can_be_dropped_while_it_is_served: a_request_that_is_dropped;
    a_request_can_be_cancelled_while_it_is_served: a_request_that_is_cancelled;
    a_late_handler_leaves_the_next_request_alone: a_late_handler;
    two_requests_for_one_thread_are_answered: two_requests_for_one_thread;
    two_requesters_share_no_slot: two_requesters_of_one_slot;
    a_request_from_before_a_fork_takes_no_request_of_the_child: a_request_from_before_a_fork;
    #[should_panic(expected = "deadlock")]
    fails_where_the_signal_is_sent_first: a_signal_before_its_request;
    #[should_panic(expected = "Causality violation")]
    fails_where_a_request_is_armed_without_release: a_request_that_is_given_up, LooseArm;
    #[should_panic(expected = "currently writing to cell")]
    fails_where_the_end_comes_before_the_writing: a_request, EarlyDone;
    #[should_panic(expected = "Causality violation")]
    fails_where_the_end_is_told_without_release: a_request, LooseDone;
    #[should_panic(expected = "Causality violation")]
    fails_where_the_handler_claims_without_an_atomic_step: a_request_that_is_given_up, PlainClaim;
    #[should_panic(expected = "Causality violation")]
    fails_where_a_requester_that_leaves_frees_the_slot: a_handler_that_takes_too_long, EarlyFree;
    #[should_panic(expected = "Causality violation")]
    fails_where_a_slot_is_given_back_without_release: a_handler_that_takes_too_long, LooseOver;
    #[should_panic(expected = "a slot is lost")]
    fails_where_a_handler_does_not_see_that_the_requester_left: a_handler_that_takes_too_long, NoOver;
    #[should_panic(expected = "a slot is lost")]
    fails_where_a_drop_does_not_see_that_the_request_is_served: a_request_that_is_dropped, ForgetfulDrop;
    #[should_panic(expected = "not the thread that was asked")]
    fails_where_no_thread_is_compared: a_late_handler, NoThread;
    #[should_panic(expected = "not the thread that was asked")]
    fails_where_the_handler_looks_without_acquire: a_late_handler, LooseLook;
    #[should_panic(expected = "not the thread that was asked")]
    fails_where_requests_have_no_number: a_late_handler, NoNumber;
    #[should_panic(expected = "deadlock")]
    fails_where_the_handler_serves_one_request_only: two_requests_for_one_thread, FirstOnly;
    #[should_panic(expected = "Causality violation")]
    fails_where_a_slot_is_taken_without_an_atomic_step: two_requesters_of_one_slot, PlainSlot;
    #[should_panic(expected = "Causality violation")]
    fails_where_a_slot_is_freed_without_release: two_requesters_of_one_slot, LooseFree;
    #[should_panic(expected = "a request of the child was taken")]
    fails_where_the_numbers_begin_again_in_a_child: a_request_from_before_a_fork, NumbersAgain;
}
