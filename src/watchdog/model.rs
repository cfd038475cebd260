//! Loom models of the watchdog's protocol. They run the code of this module itself, with its threads, idle end and
//! restart. Time stands still until a model moves it to the end of the watchdog's sleep.
//!
//! The models of arms and timers assert: once an arm has returned, the watchdog does not sleep past the armed deadline,
//! and notices the deadline. For most promises of the protocol a mutant breaks the promise, and a model then fails.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};

use loom::cell::Cell;
use loom::thread;

use super::arm::{Watchdog, global};
use super::deputy::Deputy;
use super::timers::Timer;
use super::timers::lease::Lease;
use crate::sync::model::{self, explore_within, models};
use crate::sync::mutants::Mutant;
use crate::time::NEVER;

pub(crate) fn pass_time(dog: &Watchdog) {
    if let Some(until) = dog.alarm.model_until() {
        dog.alarm.model_advance(until);
    }
}

pub(crate) fn timers(dog: &'static Watchdog) -> usize {
    dog.state().all_timers().map(super::timers::Timers::len).sum()
}

fn expect_reached(dog: &Watchdog, deadline: u64) {
    loop {
        let until = dog.alarm.model_until().expect("a watchdog is there");
        // The watchdog sleeps, so `reached` is up to date.
        if dog.reached() >= deadline {
            return;
        }
        assert!(until <= deadline, "sleeps to {until}, past {deadline}");
        dog.alarm.model_advance(until);
    }
}

/// Lets time pass until the watchdog has nothing to do, and has ended.
pub(crate) fn run_out(dog: &Watchdog) {
    while let Some(until) = dog.alarm.model_until() {
        dog.alarm.model_advance(until);
    }
    model::join_all();
}

fn arm(slot: usize, deadline: u64) {
    assert!(global().arm(global().slots.at(slot), deadline), "there are threads enough");
}

fn an_earlier_arm() {
    let dog = global();
    arm(0, 30);
    let arm = thread::spawn(|| arm(0, 10));
    arm.join().unwrap();
    expect_reached(dog, 10);
    run_out(dog);
}

fn arms_of_two_threads() {
    let dog = global();
    arm(0, 30);
    let one = thread::spawn(|| arm(1, 20));
    let two = thread::spawn(|| arm(0, 10));
    one.join().unwrap();
    two.join().unwrap();
    expect_reached(dog, 10);
    expect_reached(dog, 20);
    run_out(dog);
}

fn a_restored_outer_deadline() {
    let dog = global();
    let scopes = thread::spawn(|| {
        arm(0, 20);
        arm(0, 10);
        assert!(global().rearm(global().slots.at(0), 20));
    });
    // The thread `scopes` runs at the same time, so the inner deadline may pass at any step of that thread.
    pass_time(dog);
    scopes.join().unwrap();
    expect_reached(dog, 20);
    run_out(dog);
}

/// A task that counts how often it is woken. Some of its `Arc`s are leaked, so it is not freed even if a mutant drops
/// its waker twice.
fn task() -> (Waker, &'static AtomicUsize) {
    #[derive(Default)]
    struct Task(AtomicUsize);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.wake_by_ref();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let task = Arc::new(Task::default());
    (0..8).for_each(|_| std::mem::forget(Arc::clone(&task)));
    let kept: &'static Task = Box::leak(Box::new(Arc::clone(&task)));
    (Waker::from(task), &kept.0)
}

fn schedule(deadline: u64, waker: &Waker) -> Timer {
    schedule_among(&global().timers_at(0).lease_in_turn(), deadline, waker)
}

fn schedule_orphan(deadline: u64) -> Timer {
    schedule_among(&global().orphans().lease(), deadline, Waker::noop())
}

fn schedule_among(lease: &Lease, deadline: u64, waker: &Waker) -> Timer {
    let timer = lease.put(deadline, waker.clone());
    assert!(global().announce(lease, deadline), "there are threads enough");
    timer
}

fn a_timer_of_no_thread() {
    let dog = global();
    schedule_orphan(30);
    let schedule = thread::spawn(|| {
        let timer = schedule_orphan(10);
        let other = schedule_orphan(20);
        drop(timer.take(None));
        other
    });
    schedule.join().unwrap();
    expect_reached(dog, 20);
    run_out(dog);
}

/// A thread arms timers while the watchdog takes the thread's timers that are due.
fn armed_while_another_is_due(deadlines: &'static [u64]) {
    let dog = global();
    let (waker, woken) = task();
    schedule(10, &waker);
    let other = waker.clone();
    let arms = thread::spawn(move || {
        for &deadline in deadlines {
            schedule(deadline, &other);
        }
    });
    pass_time(dog);
    arms.join().unwrap();
    deadlines.iter().rev().for_each(|&deadline| expect_reached(dog, deadline));
    run_out(dog);
    assert_eq!(woken.load(SeqCst), deadlines.len() + 1, "each wakes its task once");
}

fn a_timer_while_another_is_due() {
    armed_while_another_is_due(&[20]);
}

/// In a model the nursery has room for one timer. The timer for 10 is armed first. So the timer for 30 pushes it into
/// the heap, and then the timer for 20 pushes the timer for 30 into the heap.
fn timers_that_are_moved_while_another_is_due() {
    armed_while_another_is_due(&[30, 20]);
}

fn a_timer_taken_back_while_it_is_due() {
    let dog = global();
    let (waker, woken) = task();
    let timer = schedule(10, &waker);
    let takes = thread::spawn(move || timer.take(None).is_some());
    pass_time(dog);
    let taken = takes.join().unwrap();
    run_out(dog);
    assert_eq!(woken.load(SeqCst) + usize::from(taken), 1, "taken once");
    // The record of the taken timer is free again: a later timer gets the record, and wakes its task.
    schedule(dog.reached() + 10, &waker);
    run_out(dog);
    assert_eq!(woken.load(SeqCst) + usize::from(taken), 2, "the later timer wakes once");
}

/// A timer in the heap is redirected to another task, at the moment when the timer is due.
fn a_timer_redirected_while_it_is_due() {
    let dog = global();
    let ((before, _), (after, woken)) = (task(), task());
    let timer = schedule(10, &before);
    schedule(20, &before);
    let redirects = thread::spawn(move || {
        if !timer.replace(&after) {
            // `replace` fails if the timer is about to fire. Then a new timer is set, as a future would do.
            drop(timer.take(None));
            schedule(10, &after);
        }
    });
    pass_time(dog);
    redirects.join().unwrap();
    run_out(dog);
    assert!(woken.load(SeqCst) > 0, "nobody wakes it");
}

/// A thread takes the waker out of another thread's record, and gives the record back. The owner may then use it again.
fn a_record_given_back_by_another_thread() {
    let timers = global().timers_at(0);
    let put = |deadline| timers.lease_in_turn().put(deadline, Waker::noop().clone());
    let [first, ..] = [10, 20, 30, 40].map(put);
    let takes = thread::spawn(move || first.take(None).is_some());
    put(50);
    assert!(takes.join().unwrap());
    put(60);
    assert_eq!(timers.len(), 5);
}

fn an_arm_while_the_watchdog_ends() {
    let dog = global();
    arm(0, 10);
    expect_reached(dog, 10);
    let idle_end = dog.alarm.model_until().expect("idle for a while");
    let arm = thread::spawn(move || arm(1, idle_end + 10));
    dog.alarm.model_advance(idle_end);
    arm.join().unwrap();
    expect_reached(dog, idle_end + 10);
    run_out(dog);
}

/// Lets time pass for the deputy until it has ended, or taken over.
fn see_deputy_out(deputy: &Deputy) {
    while let Some(until) = deputy.alarm().model_until() {
        assert!(until != NEVER, "nobody looks at the call");
        deputy.alarm().model_advance(until);
    }
}

fn calls_that_may_be_taken_over() {
    let deputy = Arc::new(Deputy::new());
    // Only the thread that is the watchdog at the time may touch `work`. Loom checks that no two threads do so at once.
    let work = Rc::new(Cell::new(0));
    let needed = Arc::new(AtomicBool::new(true));
    assert!(deputy.appoint());
    let stands_by = thread::spawn({
        let (deputy, work, needed) = (Arc::clone(&deputy), Rc::clone(&work), Arc::clone(&needed));
        move || {
            if deputy.stand_by(|| needed.load(SeqCst)) {
                work.set(1);
            }
        }
    });
    for _ in 0..2 {
        let lets_time_pass = || {
            if let Some(until) = deputy.alarm().model_until().filter(|&until| until != NEVER) {
                deputy.alarm().model_advance(until);
            }
        };
        if deputy.supervise(lets_time_pass).is_none() {
            break;
        }
        work.set(1);
    }
    needed.store(false, SeqCst);
    deputy.dismiss();
    see_deputy_out(&deputy);
    stands_by.join().unwrap();
}

/// The watchdog begins a call while the deputy is about to sleep. The call returns only after the deputy has taken
/// over.
fn a_call_while_the_deputy_lies_down() {
    let deputy = Arc::new(Deputy::new());
    assert!(deputy.appoint());
    let stands_by = thread::spawn({
        let deputy = Arc::clone(&deputy);
        move || assert!(deputy.stand_by(|| true))
    });
    assert!(deputy.supervise(|| ()).is_some());
    if let Some(until) = deputy.alarm().model_until().filter(|&until| until != NEVER) {
        deputy.alarm().model_advance(until);
    }
    assert!(deputy.supervise(|| see_deputy_out(&deputy)).is_none());
    stands_by.join().unwrap();
}

/// The watchdog wakes a task, and this wake returns only after the deputy has taken over.
fn a_timer_while_the_watchdog_is_stuck() {
    struct Stuck;
    impl Wake for Stuck {
        fn wake(self: Arc<Self>) {
            see_deputy_out(&global().deputy);
            // Takes the place of the deputy, without doing its work. Otherwise this thread would become the deputy, and
            // not end.
            assert!(global().deputy.appoint());
        }
    }
    // The deputy takes over before this time.
    const LATE: u64 = 10_000_000;
    let dog = global();
    let (waker, woken) = task();
    schedule(LATE, &waker);
    assert!(dog.deputy.appoint());
    model::spawn(|| global().stand_by());
    schedule(10, &Arc::new(Stuck).into());
    pass_time(dog);
    expect_reached(dog, LATE);
    run_out(dog);
    assert_eq!(woken.load(SeqCst), 1);
}

models! {
    an_earlier_arm_is_noticed: an_earlier_arm;
    arms_of_two_threads_are_noticed: arms_of_two_threads;
    a_restored_outer_deadline_is_noticed: a_restored_outer_deadline;
    a_timer_of_no_thread_is_noticed: a_timer_of_no_thread;
    a_timer_is_noticed_while_another_is_due: a_timer_while_another_is_due;
    timers_are_noticed_while_they_are_moved: timers_that_are_moved_while_another_is_due;
    a_record_goes_back_to_its_thread: a_record_given_back_by_another_thread;
    a_timer_is_called_or_taken_back: a_timer_taken_back_while_it_is_due;
    a_timer_wakes_the_task_it_was_redirected_to: a_timer_redirected_while_it_is_due;
    an_arm_while_the_watchdog_ends_is_noticed: an_arm_while_the_watchdog_ends;
    one_thread_is_the_watchdog: calls_that_may_be_taken_over;
    a_call_that_does_not_return_is_taken_over: a_call_while_the_deputy_lies_down;
    #[should_panic(expected = "sleeps to")] fails_without_the_fence_of_the_arm: an_earlier_arm, NoArmFence;
    #[should_panic(expected = "sleeps to")] fails_without_the_fence_of_the_watchdog: an_earlier_arm, NoDogFence;
    #[should_panic(expected = "sleeps to")] fails_without_the_second_look: an_earlier_arm, NoRescan;
    #[should_panic(expected = "sleeps to")] fails_with_a_plain_restore: a_restored_outer_deadline, PlainRestore;
    #[should_panic(expected = "sleeps to")] fails_with_a_single_try_to_wake: arms_of_two_threads, SingleCas;
    #[should_panic(expected = "sleeps to")] fails_without_the_fence_of_a_timer: a_timer_while_another_is_due, NoTimerFence;
    #[should_panic(expected = "sleeps to")] fails_with_a_look_before_the_fence: a_timer_while_another_is_due, EarlyLook;
    #[should_panic(expected = "Causality violation")] fails_where_two_may_take_a_target: a_timer_taken_back_while_it_is_due, PlainTake;
    #[should_panic(expected = "nobody wakes it")] fails_where_nobody_is_told_that_a_target_was_missed: a_timer_redirected_while_it_is_due, SilentMiss;
    #[should_panic(expected = "Causality violation")] fails_where_who_returns_does_not_look: calls_that_may_be_taken_over, BlindReturn;
    #[should_panic(expected = "nobody looks")] fails_where_the_deputy_lies_down_without_a_look: a_call_while_the_deputy_lies_down, DeafDeputy;
    #[should_panic(expected = "a watchdog is there")] fails_with_an_end_that_does_not_look: an_arm_while_the_watchdog_ends, BlindRetire;
}

/// How many preemptions loom tries, in a model of three long threads. With more there would be too many orders to
/// explore.
const FEW: Option<usize> = Some(1);

#[test]
fn a_timer_is_noticed_while_the_watchdog_is_stuck() {
    explore_within(FEW, None, a_timer_while_the_watchdog_is_stuck);
}

#[test]
#[should_panic(expected = "sleeps to")]
fn fails_where_who_takes_over_looks_at_some_timers_only() {
    explore_within(FEW, Some(Mutant::ShortLook), a_timer_while_the_watchdog_is_stuck);
}
