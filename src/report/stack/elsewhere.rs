//! Systems on which stacks of other threads are not taken.

use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::time::Duration;

use super::copy::{Contents, CpuTimes, StackCopy};
use super::raw::RawStack;
use super::reason::Reason;
use crate::report::contents::Stack;
use crate::scope::{ReadMemory, ScopeCopy};
use crate::time::clock;

/// The modules of this process: none is known, because no stack is taken here.
#[derive(Debug, Default)]
pub(super) struct Modules;

/// A copy of a thread without its stack, which cannot be copied on this system.
#[derive(Debug)]
pub(crate) struct Copy(Box<Contents>);

impl Deref for Copy {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0
    }
}

impl DerefMut for Copy {
    fn deref_mut(&mut self) -> &mut Contents {
        &mut self.0
    }
}

/// Reads nothing: on this system memory cannot be read by address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory;

impl ReadMemory for Memory {
    fn read(&self, _address: u64, _into: &mut [u8]) -> usize {
        0
    }
}

/// There are no copies of scopes here, so no location is ever asked for.
pub(crate) fn location(_scope: &ScopeCopy, _is_consistent: bool) -> Option<&'static Location<'static>> {
    None
}

#[derive(Debug)]
pub(crate) struct Target(u32);

impl Target {
    pub(crate) fn new(tid: u32, _frame_word: u64) -> Self {
        Self(tid)
    }

    #[cfg(feature = "profile")]
    pub(crate) fn with_visits(tid: u32, _word: u64) -> Self {
        Self(tid)
    }

    #[allow(clippy::unused_self)] // as where there are stacks
    pub(crate) fn times(&self) -> Option<CpuTimes> {
        None
    }
}

#[derive(Debug)]
pub(crate) enum Begun {
    Copied(Copy),
    Asked(Request),
}

pub(crate) fn prepare(_looks: usize) {}

pub(crate) fn refill() {}

pub(crate) fn begin_prepared(target: &Target) -> Option<Begun> {
    Some(begin(target))
}

pub(crate) fn begin(target: &Target) -> Begun {
    let mut copy = Copy(Box::new(Contents::new(0)));
    copy.clear(target.0);
    copy.at = clock::real_now();
    copy.because(Reason::Unsupported);
    Begun::Copied(copy)
}

/// On this system no thread is asked to copy its stack.
#[derive(Debug)]
pub(crate) enum Request {}

impl Request {
    pub(crate) fn wait(self, _at_most: Duration) -> Copy {
        match self {}
    }
}

pub(crate) fn own(_up_to: u64) -> Option<Box<StackCopy>> {
    None
}

#[derive(Debug, Default)]
pub(crate) struct Unwinder;

impl Unwinder {
    pub(crate) fn new() -> Self {
        Self
    }

    #[allow(clippy::unused_self)] // as where there are stacks
    pub(crate) fn unwind(&mut self, _stack: &StackCopy) -> RawStack {
        RawStack::default()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Names;

impl Names {
    pub(crate) fn new() -> Self {
        Self
    }

    #[allow(clippy::unused_self)] // as where there are stacks
    pub(crate) fn resolve(&mut self, _raw: &RawStack, _within: Option<u64>) -> Stack {
        Stack::default()
    }
}
