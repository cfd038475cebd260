use std::error::Error;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{HookFailure, TimeoutError};
use crate::scope::interrupted::result_of_call;
use crate::scope::test_hooks::waiting;
use crate::scope::{Scope, innermost};
use crate::sync::callback::lend;
use crate::sync::mutant;
use crate::sync::waits::Ending;
use crate::time::{NEVER, clock};
use crate::token::Hook;
use crate::token::chain::RaiseContext;
use crate::token::hook::{Entry, Unsaid};
use crate::token::node::{Node, Tie};
use crate::watchdog::slots::Thread;
use crate::watchdog::{self, NAP};

/// What came of an interruptible call: see [`interruptible_outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // adapters take it apart
pub struct Outcome<R> {
    /// What the call returned.
    pub value: R,
    /// How often its hook fired, escalations included.
    pub fires: u32,
    /// How the hook went wrong the last time that it did, though it may have been fired again with success.
    pub failure: Option<HookFailure>,
}

/// Makes a call that looks at no scope, with a hook that interrupts it once the innermost scope is over.
///
/// The hook may borrow. It fires again until the call returns (0.5 ms after its last run, doubling to 64 ms, unless the
/// hook says otherwise), since an interrupt that comes too early is lost. When `interruptible` has returned, the hook is
/// not running and never will: the next call on the same connection is safe. Outside every scope the call is just made.
///
/// Where no thread can be had to fire the hook (the system has no more of them), the call is not begun before there is one, for a
/// second at most.
///
/// - `Ok(Ok(value))`: the call succeeded, even if late.
/// - `Ok(Err(error))`: it failed by itself.
/// - `Err(timed_out)`: it was not made, since the scope was over; or it failed after its hook fired, and
///   [`source`](Error::source) is its error; or it was [spoilt](Hook::spoils).
///
/// A socket that was shut down reads as the end of the file, which is an `Ok`: a hook that does so
/// [spoils](Hook::spoils). The call's error must convert into `Box<dyn Error + Send + Sync>`.
///
/// A call that returns no `Result` (E0271), as one of C's returns a number, is made into one in its closure:
/// `|| match c_call() { 0 => Ok(()), code => Err(format!("code {code}")) }`. Or [`interruptible_outcome`] takes it as it is,
/// and leaves the judgement to you.
///
/// # Errors
///
/// As listed.
///
/// # Panics
///
/// A panic of the call passes through; the hook is ended first.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use timebox::{Hook, interruptible, timeout};
///
/// type AnyError = Box<dyn std::error::Error + Send + Sync>;
///
/// // A channel stands for a library that can be told to stop.
/// let (stop, stopped) = mpsc::channel::<()>();
/// let result = timeout(Duration::from_millis(100), || -> Result<(), AnyError> {
///     let call = || stopped.recv().map_or(Ok(()), |()| Err("stopped"));
///     interruptible(Hook::inline(|| stop.send(())), call)?.map_err(AnyError::from)
/// });
/// let error = result.unwrap_err().downcast::<timebox::TimeoutError>().unwrap();
/// assert_eq!(std::error::Error::source(&*error).unwrap().to_string(), "stopped");
/// ```
#[track_caller]
pub fn interruptible<'h, T, F>(
    hook: impl Into<Hook<'h>>,
    call: impl FnOnce() -> Result<T, F>,
) -> Result<Result<T, F>, TimeoutError>
where
    F: Into<Box<dyn Error + Send + Sync>>,
{
    let (hook, location) = (hook.into(), Location::caller());
    in_innermost(|scope| match scope {
        Some(scope) => scope.interruptible_at(hook, location, call),
        None => Ok(call()),
    })
}

/// Makes an interruptible call, and hands out what it returned however it went, with the number of times that the hook
/// fired. For adapters that know better than [`interruptible`] what a result is worth, and for calls that return no
/// `Result`.
///
/// # Errors
///
/// Only if the call was not made, since the scope was over.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::interruptible_outcome;
///
/// let outcome = timebox::timeout(Duration::from_secs(1), || interruptible_outcome(|| (), || 7)).unwrap();
/// assert_eq!((outcome.value, outcome.fires), (7, 0));
/// ```
#[track_caller]
pub fn interruptible_outcome<'h, R>(
    hook: impl Into<Hook<'h>>,
    call: impl FnOnce() -> R,
) -> Result<Outcome<R>, TimeoutError> {
    let (hook, location) = (hook.into(), Location::caller());
    in_innermost(|scope| match scope {
        Some(scope) => scope.outcome_at(hook, location, call),
        None => Ok(Outcome { value: call(), fires: 0, failure: None }),
    })
}

/// Makes a call in the innermost scope, if there is one. Whoever leaves the scope during the call aborts the process.
pub(super) fn in_innermost<R>(f: impl FnOnce(Option<&Scope>) -> R) -> R {
    Thread::with(|thread| {
        innermost(thread, |scope| {
            let _held = scope.map(Scope::hold);
            f(scope)
        })
    })
}

impl Scope {
    /// As the free function [`interruptible`](crate::interruptible), for this scope and those around it.
    #[track_caller]
    pub fn interruptible<'h, T, F>(
        &self,
        hook: impl Into<Hook<'h>>,
        call: impl FnOnce() -> Result<T, F>,
    ) -> Result<Result<T, F>, TimeoutError>
    where
        F: Into<Box<dyn Error + Send + Sync>>,
    {
        self.interruptible_at(hook.into(), Location::caller(), call)
    }

    /// As the free function [`interruptible_outcome`](crate::interruptible_outcome), for this scope and those around
    /// it.
    #[track_caller]
    pub fn interruptible_outcome<'h, R>(
        &self,
        hook: impl Into<Hook<'h>>,
        call: impl FnOnce() -> R,
    ) -> Result<Outcome<R>, TimeoutError> {
        self.outcome_at(hook.into(), Location::caller(), call)
    }

    fn interruptible_at<T, F>(
        &self,
        hook: Hook<'_>,
        location: &'static Location<'static>,
        call: impl FnOnce() -> Result<T, F>,
    ) -> Result<Result<T, F>, TimeoutError>
    where
        F: Into<Box<dyn Error + Send + Sync>>,
    {
        let result =
            self.call_with_hook(hook, location, call, |result, hook| result_of_call(result, hook, location))?;
        result.map_err(|context| self.error(context))
    }

    /// As [`interruptible_outcome`](Self::interruptible_outcome), with the user's line as `location`.
    pub(crate) fn outcome_at<R>(
        &self,
        hook: Hook<'_>,
        location: &'static Location<'static>,
        call: impl FnOnce() -> R,
    ) -> Result<Outcome<R>, TimeoutError> {
        self.call_with_hook(hook, location, call, |value, hook| Outcome {
            value,
            fires: hook.fires(),
            failure: hook.failure(),
        })
    }

    /// The error of a call that was interrupted.
    pub(crate) fn interrupted(
        &self,
        location: &'static Location<'static>,
        source: Option<Box<dyn Error + Send + Sync>>,
    ) -> TimeoutError {
        self.error(RaiseContext { source, ..RaiseContext::at(location, clock::now()) })
    }

    /// Waits, where no thread can be had that would fire the hook of a call, until there is one. Not beyond the scope's end; and
    /// not for long: where threads are not to be had at all, the call is made without.
    fn await_watchdog(&self, location: &'static Location<'static>) -> Result<(), TimeoutError> {
        let watchdog = watchdog::global();
        if watchdog.is_missing() && !clock::is_mocked() && self.node().expires_at() != NEVER {
            while !watchdog.ensure_running() && watchdog.is_worth_waiting_for() {
                std::thread::sleep(Duration::from_nanos(NAP));
                self.check_by_clock(location)?;
            }
        }
        Ok(())
    }

    /// Makes a call while the hook is registered. Once the hook has ended, `finish` turns the call's value into the result.
    fn call_with_hook<R, T>(
        &self,
        hook: Hook<'_>,
        location: &'static Location<'static>,
        call: impl FnOnce() -> R,
        finish: impl FnOnce(R, &Entry) -> T,
    ) -> Result<T, TimeoutError> {
        self.checkpoint_at(location)?;
        let node = self.node();
        let (closures, plan) = hook.split();
        lend(closures, location, |callbacks| {
            let entry = Entry::new(plan, callbacks, Unsaid::Backoff);
            let Some(registered) = Registered::new(node, &entry, location) else {
                return Err(self.interrupted(location, None));
            };
            self.await_watchdog(location)?;
            let waiting = waiting(location);
            let value = call();
            drop(waiting);
            drop(registered);
            Ok(finish(value, &entry))
        })
    }
}

/// A hook that is in place; dropping it ends the hook.
struct Registered<'a> {
    node: &'a Arc<Node>,
    entry: &'a Arc<Entry>,
    key: Option<usize>,
    location: &'static Location<'static>,
}

impl<'a> Registered<'a> {
    /// `None` if the node is over.
    fn new(node: &'a Arc<Node>, entry: &'a Arc<Entry>, location: &'static Location<'static>) -> Option<Self> {
        let key = node.add_hook(entry, Tie::Scope);
        // A node that was lost in a fork takes no hooks; the call is still made.
        (key.is_some() || !node.is_over()).then_some(Self { node, entry, key, location })
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if mutant!(NoRevoke) {
            return;
        }
        self.entry.revoke(Ending::Call(self.location));
        if let Some(key) = self.key {
            self.node.remove_hook(key, self.entry);
        }
    }
}
