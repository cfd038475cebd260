//! The only door to locks, atomics, thread-locals and the operating system, and the home of nearly all `unsafe`: in
//! `callback`, `fork`, `handoff`, `once`, `os` and `weak_waker`.
//!
//! Under `cfg(timebox_loom)` the same names are loom's, so that its models run the production code. The cfg is
//! our own, so that dependencies are not switched with it.
//!
//! **Which lock.** Locks that a forked child may meet are [`ForkMutex`]es over std's: a futex each, with nothing
//! shared between them. `parking_lot` keeps its parked threads in one table for the process, whose buckets may be
//! locked at the moment of a fork; it serves as the stand-in for the futex where there is none. What is made one time is
//! kept in a [`SetOnce`], for which nobody waits.

pub(crate) mod alarm;
pub(crate) mod callback;
pub(crate) mod fork;
pub(crate) mod handoff;
#[cfg(any(timebox_loom, timebox_mutants))]
#[doc(hidden)]
pub mod mutants;
pub(crate) mod once;
pub(crate) mod os;
mod panic;
#[cfg(all(unix, any(feature = "isolate", feature = "process")))]
pub(crate) mod signal;
pub(crate) mod waits;
mod weak_waker;

pub(crate) use fork::ForkMutex;
pub(crate) use once::SetOnce;
pub(crate) use panic::panic_message;
pub(crate) use weak_waker::weak_waker;

#[cfg(not(timebox_loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, compiler_fence, fence},
};

#[cfg(timebox_loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
};

/// Declares a `const fn`, except under loom, whose atomics cannot be made in one.
macro_rules! const_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[cfg(not(timebox_loom))]
        $(#[$meta])* $vis const fn $name($($arg: $ty),*) -> $ret $body
        #[cfg(timebox_loom)]
        $(#[$meta])* $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}
pub(crate) use const_fn;

/// Whether a promise is broken on purpose, so that its check can be checked. Always false in a normal build.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(any(timebox_loom, timebox_mutants))]
        let on = $crate::sync::mutants::is_on($crate::sync::mutants::Mutant::$name);
        #[cfg(not(any(timebox_loom, timebox_mutants)))]
        let on = false;
        on
    }};
}
pub(crate) use mutant;

/// Keeps a value on cache lines of its own (two: processors fetch them in pairs).
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// Locks, whether or not a panic happened while it was held: no critical section of this crate leaves its data
/// half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for a notification.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Ends the process with one line: something is broken that cannot be mended, and to go on would be undefined.
#[cold]
pub(crate) fn abort(what: std::fmt::Arguments<'_>) -> ! {
    use std::io::Write as _;
    // `eprintln` would panic where nobody listens.
    let _ = writeln!(std::io::stderr(), "timebox: {what}; aborting");
    std::process::abort();
}

/// The identity of the calling thread among those that live. Unlike std's it can be had in a thread's TLS
/// destructors too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadKey(usize);

impl ThreadKey {
    pub(crate) fn current() -> Self {
        thread_local!(static KEY: std::cell::Cell<u8> = const { std::cell::Cell::new(0) });
        #[cfg(timebox_loom)]
        return Self(loom_thread_key());
        #[cfg(not(timebox_loom))]
        KEY.with(|key| Self(std::ptr::from_ref(key).addr()))
    }
}

#[cfg(timebox_loom)]
fn loom_thread_key() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    loom::thread_local!(static KEY: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    KEY.with(|key| *key)
}
