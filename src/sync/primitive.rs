//! Locks and atomics: those of std, or those of loom in a loom model.

#[cfg(not(timebox_loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence},
};

#[cfg(timebox_loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(timebox_loom)]
pub(super) use loom::cell::UnsafeCell;

/// std's `UnsafeCell`, with the interface of loom's `UnsafeCell`.
#[cfg(not(timebox_loom))]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(timebox_loom))]
impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Declares a `const fn`. Under loom it declares a plain `fn`, because loom's atomics cannot be made in a `const fn`.
macro_rules! const_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[cfg(not(timebox_loom))]
        $(#[$meta])* $vis const fn $name($($arg: $ty),*) -> $ret $body
        #[cfg(timebox_loom)]
        $(#[$meta])* $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}
pub(crate) use const_fn;

/// Whether the fault `$name` is switched on. Then the code breaks one promise on purpose, to show that the tests of the
/// promise fail. Always `false` in a normal build.
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

/// Keeps a value alone on two cache lines, since processors fetch cache lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// Locks a mutex, even if a panic happened while it was held: no critical section of this crate leaves its data half
/// changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}
