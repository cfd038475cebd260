use std::error::Error;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{HookFailure, RaiseContext, TimeoutError};
use crate::scope::interrupted::result_of_call;
use crate::scope::test_hooks::waiting;
use crate::scope::{Scope, innermost};
use crate::sync::callback::lend;
use crate::sync::mutant;
use crate::sync::waits::Ending;
use crate::thread::{self, Thread};
use crate::time::{NEVER, clock};
use crate::token::Hook;
use crate::token::hook::{DefaultRepeat, Entry};
use crate::token::node::{HookOwner, Node};
use crate::watchdog::{self, NAP};

/// The outcome of [`interruptible_outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // adapters destructure an `Outcome`
pub struct Outcome<R> {
    /// The value that the call returned.
    pub value: R,
    /// How often the call's hook fired, escalations included.
    pub fires: u32,
    /// The failure of the last [escalation](Hook::then) that has failed. If no escalation has failed, the last failure
    /// of the call's hook itself. A later run that succeeds does not remove the failure.
    pub failure: Option<HookFailure>,
}

/// Makes a call that never checks the scope. A hook interrupts the call once the innermost scope is over.
///
/// The result has one of four forms:
///
/// - `Ok(Ok(value))`: the call succeeded, perhaps late.
/// - `Ok(Err(error))`: the call failed by itself.
/// - `Err(timed_out)` with a [`source`](Error::source): the call failed after the hook fired. The source is the call's
///   error.
/// - `Err(timed_out)` without a source: the scope was over, so the call was not made; or the hook
///   [spoilt](Hook::spoils) the call's value.
///
/// The hook may borrow. An interrupt that comes before the call waits is lost, so the hook fires again until the call
/// returns: 0.5 ms after its last run, then after twice that time, and so on, up to 64 ms. While the hook fails, the
/// pauses grow up to a second. A [`Hook`] can have other times. Once `interruptible` has returned, the hook is not
/// running and never runs again, so the next call on the same connection is safe.
///
/// Outside of all scopes the call is made without the hook.
///
/// A socket that was shut down reads as the end of the file, which is an `Ok`. So if a hook shuts down a socket, say
/// that the hook [spoils](Hook::spoils) the value.
///
/// The call must return a `Result` (else the compiler says E0271). Its error must convert into
/// `Box<dyn Error + Send + Sync>`. Convert a C function's number in the closure: `||
/// match c_call() { 0 => Ok(()), code => Err(format!("code {code}")) }`. Or use [`interruptible_outcome`], which
/// takes any value and leaves the decision to you.
///
/// If the system has no thread left to fire the hook, the call waits for one before it begins, for at most a second.
///
/// # Errors
///
/// As listed above.
///
/// # Panics
///
/// If the call panics: the hook is ended, and the panic goes on.
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

/// Makes an interruptible call, and returns its value together with the number of times that the hook fired.
///
/// This is for adapters that decide for themselves whether a value counts, and for calls that return no `Result`. In
/// all other respects it is like [`interruptible`].
///
/// # Errors
///
/// A [`TimeoutError`] if the scope was over before the call. Then the call was not made.
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

/// Calls `f` with the innermost scope, if there is one. Code that leaves this scope during the call aborts the process.
pub(super) fn in_innermost<R>(f: impl FnOnce(Option<&Scope>) -> R) -> R {
    Thread::with(|thread| {
        innermost(thread, |scope| {
            let _held = scope.map(Scope::hold);
            f(scope)
        })
    })
}

impl Scope {
    /// Like the free function [`interruptible`](crate::interruptible), for this scope and the scopes around it.
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

    /// Like the free function [`interruptible_outcome`](crate::interruptible_outcome), for this scope and the scopes
    /// around it.
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

    pub(crate) fn interrupted(
        &self,
        location: &'static Location<'static>,
        source: Option<Box<dyn Error + Send + Sync>>,
    ) -> TimeoutError {
        self.error(RaiseContext { source, ..RaiseContext::at(location, clock::now()) })
    }

    /// Waits until the watchdog has a thread, because no hook fires without that thread. `Err` if the scope is over.
    /// `Ok` even without a thread, once the thread has been missing for a second: a call that no hook can interrupt is
    /// better than no call.
    fn await_watchdog(&self, location: &'static Location<'static>) -> Result<(), TimeoutError> {
        let watchdog = watchdog::global();
        if watchdog.is_missing() && !clock::is_mocked() && self.node().expires_at() != NEVER {
            while !thread::ensure_watchdog() && watchdog.is_worth_waiting_for() {
                std::thread::sleep(Duration::from_nanos(NAP));
                self.check_by_clock(location)?;
            }
        }
        Ok(())
    }

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
            let entry = Entry::new(plan, callbacks, DefaultRepeat::Backoff);
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

/// The registration of a hook with a node. Dropping it revokes the hook, and waits until the hook is not running.
struct Registered<'a> {
    node: &'a Arc<Node>,
    entry: &'a Arc<Entry>,
    key: Option<usize>,
    location: &'static Location<'static>,
}

impl<'a> Registered<'a> {
    fn new(node: &'a Arc<Node>, entry: &'a Arc<Entry>, location: &'static Location<'static>) -> Option<Self> {
        let key = node.add_hook(entry, HookOwner::Scope);
        // `key` is `None` in two cases. If the node is over, the call must not be made. If a fork has lost the node's
        // lock, the call is made without the hook.
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
