//! Copies and unwinds the stacks of other threads.
//!
//! [`begin`] looks at a thread from outside. If the thread is blocked, the system tells its registers, and its stack is
//! copied as it is (`task.rs`). If it runs, it gets a signal, whose handler copies the stack (`signal.rs`). The copy is
//! unwound later, on another thread ([`Unwinder`]), and names are found last ([`Names`]).
//!
//! Neither way takes a lock of the program. [`begin_prepared`] does not allocate. [`begin`] allocates memory for the
//! copy if no spare memory is left.

// On other systems no stack is taken, so much of this module is unused.
#![cfg_attr(
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))),
    allow(dead_code)
)]

mod copy;
pub(crate) mod raw;
mod reason;
#[cfg(feature = "profile")]
mod visits;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
#[path = "linux/mod.rs"]
mod platform;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
#[path = "elsewhere.rs"]
mod platform;

pub(crate) use copy::{CpuTimes, StackCopy, State};
pub(crate) use platform::{
    Begun, Copy, Memory, Names, Target, Unwinder, begin, begin_prepared, location, own, prepare, refill,
};
#[cfg(feature = "profile")]
pub(crate) use visits::Visits;

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod tests;
