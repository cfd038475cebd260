//! A thread's stack of frames: one frame for each scope that is open on the thread.
//!
//! A frame is a local variable of the function that calls [`open`] or [`run`]. It is linked to the next frame outwards;
//! the thread points to the innermost frame.
//!
//! Invariants:
//! 1. Frames are opened and left in order: a frame outlives the frames inside it, and every call that uses the frame.
//!    `open` takes a closure, so safe code can break the order only by switching stacks inside a scope. So leaving a
//!    scope checks the order, and aborts if it is broken. A call that uses a frame which another call opened *holds*
//!    the frame ([`Scope::hold`]) while it runs foreign code (a closure, a hook, a drop). Leaving a held frame aborts
//!    too.
//! 2. Only the thread that opened a frame reads or writes it.
//! 3. If a frame has a node, then all [visible](Scope::visible) frames around it have nodes.
//! 4. The thread's deadline is the earliest deadline of the visible frames and of the scopes around an entered handle.
//!    Scopes that the handle may still lose do not count ([`Node::lasting_deadline`]). The thread's flag is the flag of
//!    the innermost visible node.

#[cfg(feature = "report")]
pub(super) mod copy;
mod debug;
mod ends;
pub(crate) mod errors;
mod hold;
#[cfg(feature = "report")]
pub(crate) mod looks;
mod nodes;
mod undo;

use std::cell::{Cell, OnceCell};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::task::Waker;
use std::thread;

use super::config::Extras;
use super::spec::{Kind, ScopeSpec};
use crate::error::{Cause, ScopeId, ScopeInfo};
use crate::thread::Thread;
use crate::time::{NEVER, clock};
use crate::token::node::Node;
use undo::Undo;

/// A scope that is open: the region of execution that a limit bounds.
///
/// [`with_timeout`](crate::with_timeout) and [`Timebox::run`](crate::Timebox::run) lend it to the block. Every free
/// function of the crate that acts on the innermost scope is also a method here. The method acts on this scope and the
/// scopes around it.
///
/// A scope belongs to its thread and is neither `Send` nor `Sync` (the compiler says so with E0277); a
/// [`Handle`](crate::Handle) or a [token](crate::CancellationToken) reaches it from elsewhere.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use timebox::{Scope, with_timeout};
///
/// fn count(scope: &Scope, words: &[&str]) -> timebox::Result<usize> {
///     let mut count = 0;
///     for word in words {
///         scope.checkpoint()?;
///         count += usize::from(word.starts_with('t'));
///     }
///     Ok(count)
/// }
///
/// let limit = Duration::from_secs(1);
/// let result = with_timeout(limit, |scope| {
///     assert!(scope.remaining() <= Some(limit) && !scope.is_expired());
///     count(scope, &["time", "box"])
/// });
/// assert_eq!(result.unwrap(), 1);
/// ```
pub struct Scope {
    outer: *const Scope,
    /// The effective deadline of the thread outside this scope. It is restored at the end of the scope.
    outer_deadline: u64,
    /// The time from the entry to the scope's own deadline. [`NEVER`] if the scope has none: then only the scopes
    /// around it limit it.
    asked: u64,
    /// When the scope was entered, or a little earlier. If an outer deadline comes before the scope's own, the entry
    /// does not read the clock, but takes an earlier reading. Then `TimeoutError::elapsed` is a little too long.
    entered: u64,
    location: &'static Location<'static>,
    // In a block with a duration as its limit, and no other settings, each field below is zero or is not written at
    // all. So the compiler can write the zeros with wide stores.
    /// The scope's identity; 0 until somebody asks for it.
    id: Cell<u64>,
    /// The node, if there is one. The frame does not drop the node, because the node is taken out before: for a block,
    /// by the code that leaves the block; for a future, by `SuspendedScope::suspend`.
    node: ManuallyDrop<OnceCell<Arc<Node>>>,
    extras: *const Extras,
    kind: Kind,
    cause: Cause,
    /// Whether the limit has no duration: there is no limit, or it is an instant. Then errors name no limit.
    unmeasured: bool,
    #[cfg(all(feature = "report", feature = "testing"))]
    mocked: bool,
    undo: Cell<Undo>,
    /// How many calls hold the frame: see invariant 1.
    holds: Cell<u32>,
    /// The waker of the poll for which the frame is open; null while a future is dropped. Set only if
    /// [`Kind::is_polled`].
    waker: MaybeUninit<*const Waker>,
    /// The number of the poll for which the frame is open. Set only if [`Kind::is_polled`], while reports are on.
    #[cfg(feature = "report")]
    poll: MaybeUninit<u64>,
}

/// A bound that no type meets. It makes the compiler explain why a scope cannot be shared.
#[diagnostic::on_unimplemented(
    message = "a `Scope` stays on its thread: another thread or task is given a `timebox::handle()`",
    label = "this uses a `&Scope`, and may run on another thread",
    note = "make `let handle = scope.handle();` out here, and in there `handle.enter(Limit::NONE, |scope| ..)`; or wrap the \
            whole closure: `handle.wrap(|| ..)`"
)]
trait MayBeShared {}

// SAFETY: this impl never applies, since no type is `MayBeShared`. (The `for` keeps the compiler from rejecting it.)
// Without it a scope would not be `Sync` either, but the message would list each private field.
unsafe impl Sync for Scope where for<'a> &'a Scope: MayBeShared {}

impl Scope {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn new(spec: ScopeSpec, thread: &Thread) -> Self {
        let ScopeSpec { asked, entered, location, kind, cause, unmeasured } = spec;
        Self {
            outer: thread.frame.get().cast(),
            outer_deadline: thread.deadline.get(),
            asked,
            entered,
            location,
            id: Cell::new(0),
            node: ManuallyDrop::new(OnceCell::new()),
            extras: ptr::null(),
            kind,
            cause,
            unmeasured,
            #[cfg(all(feature = "report", feature = "testing"))]
            mocked: clock::is_mocked(),
            undo: Cell::new(if kind.is_boundary() { Undo::FLAG } else { Undo::NOTHING }),
            holds: Cell::new(0),
            waker: MaybeUninit::uninit(),
            #[cfg(feature = "report")]
            poll: MaybeUninit::uninit(),
        }
    }

    pub(crate) fn set_node(&mut self, node: Option<Arc<Node>>) {
        if let Some(node) = node {
            self.node = ManuallyDrop::new(OnceCell::from(node));
            self.undo = Cell::new(Undo::FLAG);
        }
    }

    /// `id`: the identity that the scope had in an earlier poll; `None` if nobody has asked for it.
    pub(crate) fn set_id(&mut self, id: Option<ScopeId>) {
        self.id = Cell::new(id.map_or(0, ScopeId::get));
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn set_waker(&mut self, waker: *const Waker) {
        debug_assert!(self.kind.is_polled());
        self.waker = MaybeUninit::new(waker);
    }
}

/// Opens a scope around `body`, and leaves it when `body` returns or panics. `effective` is the earliest deadline
/// visible inside. Tells the watchdog of that deadline, unless there is a timer for it already (`has_timer`).
///
/// The caller owns the frame, so the frame is not moved: a move would cost as much as the rest of the entry. Two things
/// keep the output in registers. A panic is caught and returned, so no drop guard is needed. And the output of `body`
/// is written to a local variable, so the output does not pass through `catch_unwind`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn open<R>(
    thread: &Thread,
    scope: &mut Scope,
    effective: u64,
    extras: Option<&Extras>,
    has_timer: bool,
    body: impl FnOnce(&Scope) -> R,
) -> thread::Result<R> {
    let entered = scope.enter(thread, effective, extras, has_timer);
    run_value(thread, scope, entered, body)
}

#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn run_value<R>(
    thread: &Thread,
    scope: &mut Scope,
    entered: Entered,
    body: impl FnOnce(&Scope) -> R,
) -> thread::Result<R> {
    let mut output = MaybeUninit::uninit();
    let result = run(thread, scope, entered, |scope| {
        output.write(body(scope));
    });
    // SAFETY: the closure has returned, and the last thing it does is to write the output.
    result.map(|()| unsafe { output.assume_init() })
}

/// Runs `body` in a scope that was [entered](Scope::enter), and leaves the scope.
// Always inlined: otherwise a build without optimisations would need one more stack frame for each level of nested
// scopes.
#[inline(always)]
pub(crate) fn run(
    thread: &Thread,
    scope: &mut Scope,
    entered: Entered,
    body: impl FnOnce(&Scope),
) -> thread::Result<()> {
    scope.become_innermost(thread, entered);
    let result = catch(scope, body);
    scope.leave_after(thread, result.is_ok());
    result
}

#[inline(always)]
fn catch(scope: &Scope, body: impl FnOnce(&Scope)) -> thread::Result<()> {
    // Unwind safe: a panic is caught only to leave the scope, and then goes on. The only exception is an unwinding that
    // `checkpoint_or_unwind` began: it ends at a scope, as the caller of that function wants.
    catch_unwind(AssertUnwindSafe(|| body(scope)))
}

/// A compiler fence: no store moves over this point. A signal handler on this thread may read the frames for a report.
/// So a frame must be complete before the thread points to it. Its memory may be reused only after the thread has
/// stopped pointing to it.
#[cfg_attr(not(debug_assertions), inline(always))]
fn show() {
    #[cfg(all(feature = "report", not(timebox_loom)))]
    crate::sync::compiler_fence(crate::sync::Ordering::SeqCst);
}

/// Proof that a scope was entered. Has the scope's `undo` from before the entry. If this had `FLAG`, the scope had a
/// node before the entry, so `become_innermost` must refresh the thread's flag.
#[derive(Clone, Copy)]
pub(crate) struct Entered(Undo);

/// Aborts because invariant 1 is broken: the thread or a call points to a frame that may be gone.
#[cold]
#[inline(never)]
fn misnested(location: &'static Location<'static>) -> ! {
    crate::sync::abort(format_args!(
        "the scope opened at {location} was left out of order (a coroutine switched inside it)"
    ))
}

#[inline]
pub(crate) fn innermost<R>(thread: &Thread, f: impl FnOnce(Option<&Scope>) -> R) -> R {
    let scope: *const Scope = thread.frame.get().cast();
    // SAFETY: invariant 1: the pointer is null or to an open frame. The frame stays open during the call, since `f`
    // holds the frame while `f` runs code that could leave the frame. Invariant 2 rules out other threads.
    f(nearest_scope(unsafe { scope.as_ref() }))
}

/// Skips frames that are there for reports only: returns the nearest other frame, from `scope` outwards.
#[cfg_attr(not(debug_assertions), inline(always))]
fn nearest_scope(scope: Option<&Scope>) -> Option<&Scope> {
    #[cfg(feature = "report")]
    if let Some(watched) = scope
        && watched.kind.is_only_watched()
    {
        return watched.outer();
    }
    scope
}

impl Scope {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn outer(&self) -> Option<&Scope> {
        // SAFETY: invariant 1: the frame around an open frame is open, and outlives it.
        nearest_scope(unsafe { self.outer.as_ref() })
    }

    pub(crate) fn extras(&self) -> Option<&Extras> {
        // SAFETY: `open` borrows the extras for as long as the frame is open.
        unsafe { self.extras.as_ref() }
    }

    pub(crate) fn visible_outer(&self) -> Option<&Scope> {
        if self.kind.is_boundary() { None } else { self.outer() }
    }

    /// This scope and the scopes around it whose ends apply in this scope, innermost first.
    pub(crate) fn visible(&self) -> impl Iterator<Item = &Scope> {
        std::iter::successors(Some(self), |scope| scope.visible_outer())
    }

    /// This scope and all scopes around it on this thread, innermost first.
    pub(crate) fn stack(&self) -> impl Iterator<Item = &Scope> {
        std::iter::successors(Some(self), |scope| scope.outer())
    }

    /// The effective deadline inside this scope: the earliest deadline of this scope, of the scopes around it, and of
    /// the tokens that these scopes are linked to.
    pub(crate) fn effective(&self, thread: &Thread) -> u64 {
        self.armed(thread).min(self.nearest_node().map_or(NEVER, Node::expires_at))
    }

    /// The deadline that the thread has while this scope is its innermost. It leaves out the deadlines of linked
    /// tokens, and of scopes that an entered handle may still lose: if one of those deadlines passes, the node's flag
    /// is set.
    pub(crate) fn armed(&self, thread: &Thread) -> u64 {
        innermost(thread, |innermost| {
            let mut armed = thread.deadline.get();
            for scope in innermost.into_iter().flat_map(Scope::stack) {
                if ptr::eq(scope, self) {
                    break;
                }
                armed = scope.outer_deadline;
            }
            armed
        })
    }

    /// The effective deadline of the outer scope; `NEVER` if this scope hides the outer scopes.
    #[inline]
    pub(crate) fn around(&self) -> u64 {
        if self.kind.is_boundary() { NEVER } else { self.outer_deadline }
    }

    #[cfg(feature = "testing")]
    pub(super) fn is_shield(&self) -> bool {
        self.kind.is_shield()
    }

    #[cfg(feature = "testing")]
    pub(super) fn is_entered(&self) -> bool {
        self.kind.is_entered()
    }

    #[cfg(feature = "testing")]
    pub(super) fn raw_id(&self) -> u64 {
        self.id.get()
    }

    #[inline]
    pub(crate) fn is_innermost(&self, thread: &Thread) -> bool {
        ptr::eq(thread.frame.get(), ptr::from_ref(self).cast())
    }

    /// The identity of this scope.
    pub fn id(&self) -> ScopeId {
        if let Some(id) = ScopeId::from_raw(self.id.get()) {
            return id;
        }
        let id = self.node.get().map_or_else(ScopeId::next, |node| node.id);
        self.id.set(id.get());
        // With `Undo::FLAG`, the code that leaves the scope keeps the identity for the next poll.
        if self.kind.is_polled() {
            self.undo.set(self.undo.get().and(Undo::FLAG));
        }
        id
    }

    fn spec(&self) -> ScopeSpec {
        let Self { asked, entered, location, kind, cause, unmeasured, .. } = *self;
        ScopeSpec { asked, entered, location, kind, cause, unmeasured }
    }

    /// The scope's own deadline.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn own(&self) -> u64 {
        self.entered.saturating_add(self.asked)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn location(&self) -> &'static Location<'static> {
        self.location
    }

    pub(crate) fn info(&self) -> ScopeInfo {
        self.spec().info(self.id(), self.extras())
    }

    /// Whether the scope is open for a poll of the task that this waker wakes.
    #[inline]
    pub(crate) fn is_polled_with(&self, waker: &Waker) -> bool {
        if !self.kind.is_polled() || self.kind.is_shield() {
            return false;
        }
        #[cfg(feature = "report")]
        let waker = crate::sync::traced_waker::untraced(waker);
        // SAFETY: polled kinds have a waker: null, or the waker of the poll for which the frame is open.
        unsafe { self.waker.assume_init().as_ref() }.is_some_and(|polled_by| polled_by.will_wake(waker))
    }

    /// Points the thread's flag to the node of the nearest visible scope that has one (invariant 4). Called on the
    /// innermost scope.
    #[cold]
    #[inline(never)]
    fn refresh_flag(&self, thread: &Thread) {
        let node = self.visible().find_map(|scope| scope.node.get());
        // SAFETY: the node's owner is an open frame, which refreshes the flag when it is left.
        unsafe { thread.set_flag(node.map(|node| node.flag())) };
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn enter(
        &mut self,
        thread: &Thread,
        effective: u64,
        extras: Option<&Extras>,
        has_timer: bool,
    ) -> Entered {
        let undo = self.undo.get();
        if let Some(extras) = extras {
            self.extras = extras;
        }
        #[cfg(feature = "report")]
        let has_timer = self.arm_if_watched(thread, effective) || has_timer;
        if effective != self.outer_deadline {
            // `thread` is changed only after `arm`. The first `arm` of a thread allocates, so it may unwind, and then
            // nobody would undo the change.
            if !has_timer && !clock::is_mocked() {
                thread.arm(effective);
            }
            self.undo.set(undo.and(Undo::DEADLINE));
            thread.deadline.set(effective);
        }
        Entered(undo)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn become_innermost(&self, thread: &Thread, entered: Entered) {
        show();
        thread.frame.set(ptr::from_ref(self).cast());
        show();
        if entered.0.has(Undo::FLAG) {
            self.refresh_flag(thread);
        }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn leave_after(&mut self, thread: &Thread, returned: bool) {
        if returned {
            self.leave(thread);
        } else {
            self.leave_unwound(thread);
        }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn leave(&mut self, thread: &Thread) {
        if !self.is_innermost(thread) {
            misnested(self.location);
        }
        thread.frame.set(self.outer.cast());
        show();
        match self.undo.get() {
            Undo::NOTHING => {}
            Undo::DEADLINE => thread.restore(self.outer_deadline),
            undo => self.undo_all(thread, undo),
        }
    }

    #[cold]
    #[inline(never)]
    fn leave_unwound(&mut self, thread: &Thread) {
        self.leave(thread);
    }

    /// The rest of `leave`. By now the thread's innermost frame is the outer frame.
    #[cold]
    #[inline(never)]
    fn undo_all(&mut self, thread: &Thread, undo: Undo) {
        if undo.has(Undo::DEADLINE) {
            thread.restore(self.outer_deadline);
        }
        if undo.has(Undo::HELD) {
            misnested(self.location);
        }
        if !undo.has(Undo::FLAG) {
            return;
        }
        match self.outer() {
            Some(outer) => outer.refresh_flag(thread),
            // SAFETY: `None`: there is no flag that must stay alive.
            None => unsafe { thread.set_flag(None) },
        }
        // A future keeps its node for the next poll.
        if !self.kind.is_polled()
            && let Some(node) = self.take_node()
        {
            node.close();
        }
    }
}
