//! The call of a policy's `on_stuck`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::dump::dump;
use super::queue::Queue;
use super::{losses, policy, state};
use crate::sync::callback::drop_quietly;
use crate::sync::fork::PerProcess;
use crate::sync::os;

/// A thread of its own serves this queue and calls `on_stuck`, because the user's code may take any time. At most one
/// call waits in the queue. If more scopes get stuck meanwhile, the dump of that call shows them as well.
static CALLS: PerProcess<Queue<()>> = PerProcess::new(Queue::new(1), || Queue::new(1));

/// Starts the queue's thread, which stays until [`release`].
pub(super) fn hold() {
    CALLS.get().hold(start);
}

pub(super) fn release() {
    CALLS.get().release();
}

/// Makes the queue's thread call the policy's `on_stuck`. Neither waits nor allocates.
pub(super) fn tell() {
    // If the queue is full, a call waits in it. The dump of that call will show this scope.
    let _ = CALLS.get().submit((), start);
}

fn start() -> bool {
    let is_started = os::spawn("timebox-stuck", || CALLS.get().serve(|()| call())).is_ok();
    if !is_started {
        losses::count_one();
    }
    is_started
}

/// Calls the policy's `on_stuck` with a dump of all threads. Does nothing if a debugger is attached to the process.
fn call() {
    let policy = policy::current();
    let on_stuck = policy.as_ref().and_then(|policy| policy.on_stuck());
    policy.into_iter().for_each(policy::release);
    let Some(on_stuck) = on_stuck.filter(|_| !state::is_traced()) else { return };
    let result = catch_unwind(AssertUnwindSafe(move || on_stuck(&dump())));
    result.err().into_iter().for_each(drop_quietly);
}
