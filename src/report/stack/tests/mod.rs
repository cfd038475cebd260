//! Tests of the stacks of other threads, as a reporter takes them.

#![allow(clippy::disallowed_methods)] // tests start threads and read clocks

mod agree;
mod blocked;
mod child;
mod fuzz;
mod handler;
mod harm;
mod libraries;
#[cfg(target_arch = "x86_64")]
mod recorded;
mod running;
mod scopes;
mod signals;
mod stress;

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::raw::RawStack;
use super::{Begun, Copy, Names, Target, Unwinder, begin, prepare};
use crate::report::contents::Stack;
use crate::sync::os::thread_id;

struct Thread {
    tid: u32,
    frame_word: u64,
    join: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(body: impl FnOnce() + Send + 'static) -> Self {
        let (send, receive) = mpsc::channel();
        let join = thread::spawn(move || {
            let word = crate::thread::Thread::current().frame.as_ptr().addr();
            send.send((thread_id(), word)).unwrap();
            body();
        });
        let (tid, frame_word) = receive.recv().unwrap();
        Self { tid, frame_word: frame_word as u64, join: Some(join) }
    }

    fn target(&self) -> Target {
        Target::new(self.tid, self.frame_word)
    }

    fn until_in(&self, function: &str) {
        let target = self.target();
        let mut eyes = Eyes::new();
        let start = Instant::now();
        loop {
            let (copy, stack) = eyes.look(&target);
            if copy.call.is_some() && names(&stack).iter().any(|name| name.contains(function)) {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "not blocked in {function}: {copy:?} {stack:#?}"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn join(mut self) {
        self.join.take().unwrap().join().unwrap();
    }
}

struct Eyes {
    unwinder: Unwinder,
    names: Names,
}

impl Eyes {
    fn new() -> Self {
        prepare(0);
        Self { unwinder: Unwinder::new(), names: Names::new() }
    }

    fn copy(target: &Target) -> Copy {
        match begin(target) {
            Begun::Copied(copy) => copy,
            Begun::Asked(request) => request.wait(Duration::from_secs(5)),
        }
    }

    fn raw(&mut self, target: &Target) -> (Copy, RawStack) {
        let copy = Self::copy(target);
        let raw = self.unwinder.unwind(&copy.stack);
        (copy, raw)
    }

    fn look(&mut self, target: &Target) -> (Copy, Stack) {
        let (copy, raw) = self.raw(target);
        (copy, self.names.resolve(&raw, None))
    }
}

fn names(stack: &Stack) -> Vec<&str> {
    stack.frames.iter().map(|frame| frame.function.as_str()).collect()
}

/// Whether the stack was unwound to the start of its thread.
fn is_to_the_root(stack: &Stack) -> bool {
    let starts = ["clone3", "__clone3", "clone", "__clone", "_start", "start_thread"];
    let last = stack.frames.last().map(|frame| frame.function.as_str()).unwrap_or_default();
    !stack.truncated && (starts.contains(&last) || last.starts_with("libc.so.6!fn_"))
}
