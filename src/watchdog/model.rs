//! Loom models of the watchdog's protocol: they run the code of this room itself, threads, idle end and restart
//! included. Time stands still, and moves only to where the watchdog sleeps to.
//!
//! What every model asserts: once an arm has returned, the watchdog does not sleep past its deadline, and reaches it.
//! Each promise of the protocol has a mutant that breaks it, and a model that then fails.

use std::sync::Mutex;

use loom::thread;

use super::{Target, Watchdog, global};
use crate::sync::alarm;
use crate::sync::mutants::{self, Mutant};

/// Explores `body`, with a mutant if one is named. Mutants are switched for the process: one model at a time.
pub(crate) fn explore(mutant: Option<Mutant>, body: fn()) {
    static ONE: Mutex<()> = Mutex::new(());
    struct Off(Option<Mutant>);
    impl Drop for Off {
        fn drop(&mut self) {
            self.0.into_iter().for_each(|mutant| mutants::set(mutant, false));
        }
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _off = Off(mutant);
    mutant.into_iter().for_each(|mutant| mutants::set(mutant, true));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(move || {
        alarm::model_reset(1);
        body();
    });
}

/// Lets time pass to where the watchdog sleeps to, if it runs.
pub(crate) fn pass_time(dog: &Watchdog) {
    if let Some(until) = dog.alarm.model_until() {
        dog.alarm.model_advance(until);
    }
}

/// How many timers there are.
pub(crate) fn timers(dog: &'static Watchdog) -> usize {
    crate::sync::lock(&dog.epoch().shards[0].0).len()
}

/// Lets time pass until `deadline` has been reached.
fn expect_reached(dog: &Watchdog, deadline: u64) {
    loop {
        let until = dog.alarm.model_until().expect("a watchdog is there");
        // After it lay down: what it said before is seen.
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
    alarm::model_join();
}

fn an_earlier_arm() {
    let dog = global();
    dog.arm(dog.slots.at(0), 30);
    let arm = thread::spawn(|| global().arm(global().slots.at(0), 10));
    arm.join().unwrap();
    expect_reached(dog, 10);
    run_out(dog);
}

fn arms_of_two_threads() {
    let dog = global();
    dog.arm(dog.slots.at(0), 30);
    let one = thread::spawn(|| global().arm(global().slots.at(1), 20));
    let two = thread::spawn(|| global().arm(global().slots.at(0), 10));
    one.join().unwrap();
    two.join().unwrap();
    expect_reached(dog, 10);
    expect_reached(dog, 20);
    run_out(dog);
}

fn a_restored_outer_deadline() {
    let dog = global();
    let scopes = thread::spawn(|| {
        let dog = global();
        let slot = dog.slots.at(0);
        dog.arm(slot, 20);
        dog.arm(slot, 10);
        dog.rearm(slot, 20);
    });
    // The inner deadline passes at any time meanwhile.
    pass_time(dog);
    scopes.join().unwrap();
    expect_reached(dog, 20);
    run_out(dog);
}

fn a_timer() {
    let dog = global();
    dog.arm(dog.slots.at(0), 30);
    let schedule = thread::spawn(|| {
        let timer = global().schedule(10, Target::Wake(std::task::Waker::noop().clone()));
        let other = global().schedule(20, Target::Wake(std::task::Waker::noop().clone()));
        global().cancel(timer);
        other
    });
    schedule.join().unwrap();
    expect_reached(dog, 20);
    run_out(dog);
}

fn an_arm_while_the_watchdog_ends() {
    let dog = global();
    dog.arm(dog.slots.at(0), 10);
    expect_reached(dog, 10);
    let idle_end = dog.alarm.model_until().expect("idle for a while");
    let arm = thread::spawn(move || global().arm(global().slots.at(1), idle_end + 10));
    dog.alarm.model_advance(idle_end);
    arm.join().unwrap();
    expect_reached(dog, idle_end + 10);
    run_out(dog);
}

/// One test for each model, with a mutant if it is to fail.
macro_rules! models {
    ($($(#[$meta:meta])* $name:ident: $body:ident $(, $mutant:ident)?;)*) => {$(
        #[test]
        $(#[$meta])*
        fn $name() {
            let mutant: Option<Mutant> = None $(.or(Some(Mutant::$mutant)))?;
            explore(mutant, $body);
        }
    )*};
}

pub(crate) use models;

models! {
    an_earlier_arm_is_noticed: an_earlier_arm;
    arms_of_two_threads_are_noticed: arms_of_two_threads;
    a_restored_outer_deadline_is_noticed: a_restored_outer_deadline;
    a_timer_is_noticed: a_timer;
    an_arm_while_the_watchdog_ends_is_noticed: an_arm_while_the_watchdog_ends;
    #[should_panic(expected = "sleeps to")] fails_without_the_fence_of_the_arm: an_earlier_arm, NoArmFence;
    #[should_panic(expected = "sleeps to")] fails_without_the_fence_of_the_watchdog: an_earlier_arm, NoDogFence;
    #[should_panic(expected = "sleeps to")] fails_without_the_second_look: an_earlier_arm, NoRescan;
    #[should_panic(expected = "sleeps to")] fails_with_a_plain_restore: a_restored_outer_deadline, PlainRestore;
    #[should_panic(expected = "sleeps to")] fails_with_a_single_try_to_wake: arms_of_two_threads, SingleCas;
    #[should_panic(expected = "a watchdog is there")] fails_with_an_end_that_does_not_look: an_arm_while_the_watchdog_ends, BlindRetire;
}
