//! Requests to running threads to copy their own stacks. `sync/request.rs` has the protocol between the requester and
//! the signal handler.

use std::time::Duration;

use super::super::copy::{Registers, State, Words};
use super::super::reason::Reason;
use super::memory::PreparedMemory;
use super::spare::Copy;
use super::system::{is_gone, wait, wake};
use crate::sync::fork::InChild;
use crate::sync::request::{Request, Slots, Unserved, Waited};
use crate::time::{clock, nanos};

const SLOTS: usize = 32;

/// How much longer than `at_most` a requester waits if the handler has begun the copy.
const PATIENCE: Duration = Duration::from_secs(1);

/// After so many nanoseconds a waiting requester checks again whether the thread has ended.
const GLANCE: libc::c_long = 1_000_000;

/// A request: the handler reads `words` and writes `copy`.
struct Order {
    words: Words,
    copy: Copy,
}

static ALL: Slots<Order, SLOTS> = Slots::new();

extern "C" fn forget_requests() {
    ALL.forget();
}

pub(super) fn prepare_for_forks() {
    static IN_CHILD: InChild = InChild::new(forget_requests);
    IN_CHILD.install();
}

/// Runs in the signal handler. For each request to this thread, copies the thread's stack and scopes.
pub(super) fn serve(tid: u32, registers: Registers, has_room: bool) {
    let fill = |order: &mut Order| {
        let copy = &mut *order.copy;
        if has_room {
            copy.fill(registers, order.words, &PreparedMemory);
            copy.is_consistent = true;
            if copy.stack.registers.is_none() {
                copy.because(Reason::Unreadable);
            }
        } else {
            copy.because(Reason::NoRoom);
        }
    };
    ALL.serve(tid, fill, wake);
}

#[derive(Debug)]
pub(super) struct Armed {
    request: Request<'static, Order>,
    tid: u32,
}

impl Armed {
    pub(super) fn new(copy: Copy, words: Words) -> Result<Self, Copy> {
        let tid = copy.tid;
        match ALL.ask(tid, Order { words, copy }) {
            Ok(request) => Ok(Self { request, tid }),
            Err(order) => Err(because(order, Reason::TooMany)),
        }
    }

    /// Tries to withdraw the request. `Err`: the request is withdrawn, and the value is the copy, which has no stack
    /// and notes `reason`. `Ok`: it is too late, because the thread has taken the request; the value is the request,
    /// for `wait`.
    pub(super) fn cancel(self, reason: Reason) -> Result<Self, Copy> {
        let tid = self.tid;
        match self.request.cancel() {
            Ok(order) => Err(because(order, reason)),
            Err(request) => Ok(Self { request, tid }),
        }
    }

    /// Waits for the copy. If the copy does not come in time, the result has no stack, and notes why.
    pub(super) fn wait(self, at_most: Duration) -> Copy {
        let deadline = clock::real_now().saturating_add(nanos(at_most));
        let last = deadline.saturating_add(nanos(PATIENCE));
        let mut reason = Reason::NotTaken;
        let goes_on = |unserved: &Unserved<'_>| {
            let now = clock::real_now();
            let gives_up = if unserved.has_begun {
                now >= last
            } else if is_gone(self.tid) {
                reason = Reason::Gone;
                true
            } else {
                now >= deadline
            };
            if !gives_up {
                wait(unserved.word, unserved.value, GLANCE);
            }
            !gives_up
        };
        match self.request.wait(goes_on) {
            Waited::Served(Order { mut copy, .. }) => {
                if copy.is_consistent {
                    copy.state = State::Running;
                }
                copy
            }
            Waited::Withdrawn(order) => because(order, reason),
            Waited::Left => without_contents(self.tid, Reason::Unfinished),
            // This process was forked after the request was made, so only its parent has the thread.
            Waited::Forgotten => without_contents(self.tid, Reason::Gone),
        }
    }
}

fn because(order: Order, reason: Reason) -> Copy {
    let mut copy = order.copy;
    copy.because(reason);
    copy
}

fn without_contents(tid: u32, reason: Reason) -> Copy {
    let mut copy = Copy::new(tid);
    copy.at = clock::real_now();
    copy.because(reason);
    copy
}
