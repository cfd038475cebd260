//! Locks, atomics, values that are made one time, and calls of the operating system that several modules need. The safe
//! types that the crate builds from `unsafe` code are here too, for example in `handoff`, `once` and `weak_waker`.
//!
//! Under `cfg(timebox_loom)` the same names are loom's types, so that loom's models run the production code. The cfg is
//! our own, because `cfg(loom)` would switch our dependencies to loom too.
//!
//! **Which lock.** The locks are std's: no two of them share anything (on Linux each is a futex of its own).
//! `parking_lot` keeps its parked threads in one table for the process, and a bucket of that table may be locked at the
//! moment of a fork. So only [`alarm`] uses `parking_lot`, on systems without a futex. The lock of an object that a
//! forked child may use is a [`ForkMutex`]. State of the whole process is in a [`PerProcess`](fork::PerProcess). A
//! value that several threads may make, but only one time, is in a [`SetOnce`], which never blocks. (A `OnceLock` may
//! block.)

mod abort;
pub(crate) mod alarm;
pub(crate) mod callback;
pub(crate) mod chunked_vec;
pub(crate) mod fork;
pub(crate) mod handoff;
#[cfg(timebox_loom)]
pub(crate) mod model;
#[cfg(any(timebox_loom, timebox_mutants))]
#[doc(hidden)]
pub mod mutants;
pub(crate) mod once;
pub(crate) mod os;
mod panic;
mod primitive;
#[cfg(any(
    all(
        feature = "report",
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64"),
        not(miri)
    ),
    timebox_loom
))]
pub(crate) mod request;
#[cfg(all(unix, any(feature = "isolate", feature = "process")))]
pub(crate) mod signal;
#[cfg(all(feature = "report", target_os = "linux", not(any(miri, timebox_loom))))]
pub(crate) mod signal_stack;
mod thread_key;
#[cfg(all(feature = "report", not(timebox_loom)))]
pub(crate) mod traced_waker;
pub(crate) mod waits;
mod weak_waker;

pub(crate) use abort::abort;
pub(crate) use fork::ForkMutex;
pub(crate) use once::SetOnce;
pub(crate) use panic::panic_message;
#[cfg(not(timebox_loom))]
pub(crate) use primitive::compiler_fence;
#[cfg(any(feature = "testing", feature = "report"))]
pub(crate) use primitive::wait;
pub(crate) use primitive::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, CachePadded, Condvar, Mutex, MutexGuard,
    Ordering, const_fn, fence, lock, mutant,
};
#[cfg(feature = "testing")]
pub(crate) use thread_key::ThreadKey;
pub(crate) use weak_waker::weak_waker;
