use std::fmt;
use std::time::Duration;

use super::result::HookResult;
use crate::sync::callback::Closure;

/// An action taken when a scope is over, to unblock a foreign call.
///
/// The hook may fire more than once, from the moment the scope is over until the hook's registration ends. (For
/// [`interruptible`](crate::interruptible), the registration ends with the call.) After that the hook is not running,
/// and never runs again.
///
/// Any `FnMut() -> R + Send` converts into a hook that runs on a runner thread. If the closure returns an `Err`, the
/// hook has [failed](crate::HookFailure). The failure is kept. While a hook fails, the pauses before it fires again get
/// longer, up to a second. Any other result is ignored ([`HookResult`] lists the types). A panic in a hook is caught
/// and kept; std's panic hook reports it. A hook that panicked does not fire again.
///
/// A hook must not take a lock that the interrupted code holds, and must not wait for that code.
///
/// By default, the hook of an interruptible call fires again until the call returns, because an interrupt that comes
/// before the call has begun is lost.
///
/// # Examples
///
/// A read from a peer that says nothing, ended by shutting the socket down:
///
/// ```
/// use std::io::Read;
/// use std::net::{Shutdown, TcpListener, TcpStream};
/// use std::time::Duration;
/// use timebox::Hook;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut stream = TcpStream::connect(listener.local_addr()?)?;
/// let second = stream.try_clone()?;
///
/// let result = timebox::timeout(Duration::from_millis(20), || {
///     // A socket that was shut down reads as the end of the file, which is wrong here: so the hook spoils the result.
///     let hook = Hook::inline(|| second.shutdown(Shutdown::Both)).spoils();
///     let read = timebox::interruptible(hook, || stream.read(&mut [0; 64]))??;
///     Ok::<usize, Box<dyn std::error::Error + Send + Sync>>(read)
/// });
/// assert!(result.unwrap_err().is::<timebox::TimeoutError>());
/// # Ok(())
/// # }
/// ```
#[must_use = "a hook does nothing until it is registered"]
pub struct Hook<'a> {
    callback: Closure<'a>,
    policy: Policy,
    then: Vec<(Duration, Hook<'a>)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) inline: bool,
    pub(super) repeat: Repeat,
    pub(super) spoils: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Repeat {
    /// The user has not chosen. `Entry::new` puts its `DefaultRepeat` here.
    Default,
    Once,
    Every(Duration),
    /// The hook fires again after 0.5 ms, and then after pauses that double: up to 64 ms, or up to a second while it
    /// fails.
    Backoff,
}

impl<'a> Hook<'a> {
    /// A hook that runs on a runner thread (`timebox-hook`) and may block.
    ///
    /// If several hooks are due at once, the hooks of inner scopes start first. Each runs on a thread of its own, so
    /// they may overlap.
    pub fn new<R: HookResult>(mut action: impl FnMut() -> R + Send + 'a) -> Self {
        let callback = Box::new(move || action().into_failure());
        Self {
            callback,
            policy: Policy { inline: false, repeat: Repeat::Default, spoils: false },
            then: Vec::new(),
        }
    }

    /// A hook that runs on the watchdog itself, some microseconds sooner than on a runner thread. It must not block:
    /// the other hooks of the same cancel or deadline wait for it, and all other expiries wait some milliseconds until
    /// another thread takes over. Typical actions are to set a flag, to call `SQLite`'s interrupt, and to shut down a
    /// socket.
    pub fn inline<R: HookResult>(action: impl FnMut() -> R + Send + 'a) -> Self {
        let mut hook = Self::new(action);
        hook.policy.inline = true;
        hook
    }

    /// Fires only once.
    pub fn once(mut self) -> Self {
        self.policy.repeat = Repeat::Once;
        self
    }

    /// Fires again and again, each time `interval` after the end of the last run. An interval of less than a tenth of a
    /// millisecond counts as a tenth of a millisecond. While the hook fails, each pause is twice as long as the last,
    /// up to a second. An interval of more than a second stays as it is.
    pub fn every(mut self, interval: Duration) -> Self {
        self.policy.repeat = Repeat::Every(interval);
        self
    }

    /// Escalates to `hook`: once the first run of this hook has begun, waits for `after`, and then fires `hook` if the
    /// registration still exists. `hook` fires even while this hook still runs.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::Hook;
    ///
    /// # fn ask() {} fn kill() {}
    /// let hook = Hook::new(|| ask()).then(Duration::from_millis(100), Hook::new(|| kill()).once());
    /// # drop(hook);
    /// ```
    pub fn then(mut self, after: Duration, hook: impl Into<Hook<'a>>) -> Self {
        self.then.push((after, hook.into()));
        self
    }

    /// Once this hook has fired, an `Ok` of the interrupted call counts as an error.
    pub fn spoils(mut self) -> Self {
        self.policy.spoils = true;
        self
    }

    /// Returns the closures of this hook and of its `then` hooks, and a plan that refers to each closure by its index.
    pub(crate) fn split(self) -> (Vec<Closure<'a>>, Plan) {
        let mut closures = Vec::new();
        let plan = self.split_into(&mut closures);
        (closures, plan)
    }

    fn split_into(self, closures: &mut Vec<Closure<'a>>) -> Plan {
        let index = closures.len();
        closures.push(self.callback);
        let then = self.then.into_iter().map(|(after, hook)| (after, hook.split_into(closures))).collect();
        Plan { index, policy: self.policy, then }
    }
}

impl<'a, F, R> From<F> for Hook<'a>
where
    F: FnMut() -> R + Send + 'a,
    R: HookResult,
{
    fn from(action: F) -> Self {
        Hook::new(action)
    }
}

impl fmt::Debug for Hook<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Hook");
        debug.field("inline", &self.policy.inline).field("repeat", &self.policy.repeat);
        debug.field("spoils", &self.policy.spoils).field("then", &self.then).finish()
    }
}

/// A hook without its closures.
pub(crate) struct Plan {
    /// The index of the hook's closure in the list that [`Hook::split`] returns.
    pub(super) index: usize,
    pub(super) policy: Policy,
    /// The hooks that this hook escalates to, each with the delay after the start of this hook's first run.
    pub(super) then: Vec<(Duration, Plan)>,
}
