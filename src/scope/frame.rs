//! The thread's stack of frames: one for each scope that is open on it.
//!
//! A frame is a local variable of [`open`], linked to the next one outwards; the thread points to the innermost.
//!
//! Invariants:
//! 1. Frames are opened and left in order: each outlives those inside it, and all calls that use it. `open` takes a
//!    closure, so code cannot break this, except by switching stacks inside a scope; leaving checks it, and aborts.
//!    Whoever runs foreign code (a closure, a hook, a drop) while it uses a frame that it did not open *holds* it
//!    ([`Scope::hold`]), so that leaving knows of that.
//! 2. Only its thread reads or writes a frame.
//! 3. If a frame has a node, so have all visible frames around it.
//! 4. The thread's deadline is the earliest of the visible frames' and of what lasts around a handle; its flag is that
//!    of the innermost visible node.

mod errors;

use std::cell::{Cell, OnceCell};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use super::Extras;
use super::entry::node_of;
use super::over::Ending;
use crate::error::{Cause, Fields, ScopeId, ScopeInfo};
use crate::time::{NEVER, clock};
use crate::token::node::{End, Node};
use crate::watchdog;
use crate::watchdog::slots::Thread;

pub(crate) use errors::error_at;

/// A scope that is open: the region of execution that a limit bounds.
///
/// [`with_timeout`](crate::with_timeout) and [`Timebox::run`](crate::Timebox::run) lend it to the block. Every free
/// function of the crate that acts on the innermost scope is a method here that acts on this one and those around it.
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
    /// The effective deadline of the thread outside.
    outer_deadline: u64,
    /// The time until its own deadline; [`NEVER`] if only those around it count.
    asked: u64,
    /// When it was entered, or earlier if its own deadline is not before those around it all the same: then it never
    /// matters.
    entered: u64,
    location: &'static Location<'static>,
    // What follows is all zeroes in a plain scope, and so is written at once.
    /// 0 until somebody asks.
    id: Cell<u64>,
    /// Taken out on leaving, or after that.
    node: ManuallyDrop<OnceCell<Arc<Node>>>,
    extras: *const Extras,
    kind: Kind,
    cause: Cause,
    /// Whether the limit was no duration.
    unmeasured: bool,
    /// What leaving has to undo besides.
    undo: Cell<Undo>,
    /// How many calls hold it.
    holds: Cell<u32>,
    /// Of the poll it is open for; null while a future is dropped. Set only for kinds that are polled.
    waker: MaybeUninit<*const Waker>,
}

/// What a scope would have to be to be shared: nothing is. It is there for the compiler's message.
#[diagnostic::on_unimplemented(
    message = "a `Scope` stays on its thread: another thread or task is given a `timebox::handle()`",
    label = "this uses a `&Scope`, and may run on another thread",
    note = "make `let handle = scope.handle();` out here, and in there `handle.enter(Limit::NONE, |scope| ..)`; or wrap the \
            whole closure: `handle.wrap(|| ..)`"
)]
trait MayBeShared {}

// SAFETY: it never applies, since nothing is `MayBeShared`. (The `for` keeps the compiler from saying so here.) Without
// it a scope would be no more `Sync`, but the compiler would list each private field.
unsafe impl Sync for Scope where for<'a> &'a Scope: MayBeShared {}

/// What opening a scope has changed of its thread, besides the innermost frame: most often nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Undo(u8);

impl Undo {
    const NOTHING: Undo = Undo(0);
    /// The effective deadline.
    const DEADLINE: Undo = Undo(1);
    /// The flag. Also: there is a node to close, or to keep with its future, as is an identity that was asked for.
    const FLAG: Undo = Undo(2);
    /// Nothing; but an await in this poll has given the error.
    const TOLD: Undo = Undo(4);
    /// None of it: a call holds the frame, so that it must not be left.
    const HELD: Undo = Undo(8);

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn and(self, other: Undo) -> Undo {
        Undo(self.0 | other.0)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn has(self, other: Undo) -> bool {
        self.0 & other.0 != 0
    }

    fn without(self, other: Undo) -> Undo {
        Undo(self.0 & !other.0)
    }
}

/// What a frame is to the frames inside it. Each bit is one of the questions below, which are asked in every poll.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Block = 0,
    /// Of a handle: hides the thread's scopes around it; the handle's take their place.
    Entered = 0b001,
    /// Hides what is around it.
    Shield = 0b010,
    /// Open while a future is polled or dropped.
    Future = 0b100,
    /// As `Future`, of a handle.
    EnteredFuture = 0b101,
    /// A shield of a future.
    FutureShield = 0b110,
}

impl Kind {
    fn is_boundary(self) -> bool {
        self as u8 & 0b011 != 0
    }

    fn is_entered(self) -> bool {
        self as u8 & 0b001 != 0
    }

    fn is_shield(self) -> bool {
        self as u8 & 0b010 != 0
    }

    fn is_polled(self) -> bool {
        self as u8 & 0b100 != 0
    }
}

/// With what a scope is entered. The fields are as in [`Scope`].
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) asked: u64,
    pub(crate) entered: u64,
    pub(crate) location: &'static Location<'static>,
    pub(crate) kind: Kind,
    pub(crate) cause: Cause,
    pub(crate) unmeasured: bool,
}

/// The time from one instant to another; [`NEVER`] if that never comes.
pub(super) fn between(from: u64, to: u64) -> u64 {
    if to == NEVER { NEVER } else { to.saturating_sub(from) }
}

impl Terms {
    /// Those of a scope with a duration.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn lasting(
        asked: u64,
        entered: u64,
        location: &'static Location<'static>,
        kind: Kind,
    ) -> Self {
        Self { asked, entered, location, kind, cause: Cause::Deadline, unmeasured: false }
    }

    /// Those of a scope with a deadline of its own.
    pub(crate) fn measured(own: u64, entered: u64, location: &'static Location<'static>, kind: Kind) -> Self {
        Self::lasting(between(entered, own), entered, location, kind)
    }

    /// Its own deadline.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn own(&self) -> u64 {
        self.entered.saturating_add(self.asked)
    }

    /// The duration that was asked for.
    fn limit(&self, extras: Option<&Extras>) -> Option<Duration> {
        if let Some(duration) = extras.and_then(|extras| extras.duration.get()) {
            return Some(*duration);
        }
        let limit = if self.asked == NEVER { Duration::MAX } else { Duration::from_nanos(self.asked) };
        (!self.unmeasured).then_some(limit)
    }

    /// What is told of a scope with these terms.
    pub(crate) fn info(&self, id: ScopeId, extras: Option<&Extras>) -> ScopeInfo {
        let options = extras.map(|extras| &extras.options);
        let label = options.and_then(|options| options.label.clone());
        let fields = options.map_or_else(Fields::default, |options| options.fields.clone());
        ScopeInfo { id, label, location: self.location, limit: self.limit(extras), fields }
    }

    /// The frame of a scope with these terms, to be opened next on this thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn frame(self, thread: &Thread) -> Scope {
        let Self { asked, entered, location, kind, cause, unmeasured } = self;
        Scope {
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
            undo: Cell::new(if kind.is_boundary() { Undo::FLAG } else { Undo::NOTHING }),
            holds: Cell::new(0),
            waker: MaybeUninit::uninit(),
        }
    }
}

impl Scope {
    /// Gives it a node that was made before.
    pub(crate) fn set_node(&mut self, node: Option<Arc<Node>>) {
        if let Some(node) = node {
            self.node = ManuallyDrop::new(OnceCell::from(node));
            self.undo = Cell::new(Undo::FLAG);
        }
    }

    /// Gives it the identity that it had before.
    pub(crate) fn set_id(&mut self, id: Option<ScopeId>) {
        self.id = Cell::new(id.map_or(0, ScopeId::get));
    }

    /// Makes it the frame of a poll.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn set_waker(&mut self, waker: *const Waker) {
        debug_assert!(self.kind.is_polled());
        self.waker = MaybeUninit::new(waker);
    }
}

/// Opens a scope around `body`, and leaves it however that ends. `effective` is the earliest deadline visible inside;
/// the watchdog is told of it here, unless a timer is known to stand for it.
///
/// The frame stays where it is: to move it would cost as much as all the rest. A panic is caught and handed out, not
/// passed through a guard, and has a way out of its own; the result of a body that returns has one beside
/// `catch_unwind`: so it stays in registers.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn open<R>(
    thread: &Thread,
    scope: &mut Scope,
    effective: u64,
    extras: Option<&Extras>,
    has_timer: bool,
    body: impl FnOnce(&Scope) -> R,
) -> thread::Result<R> {
    scope.enter(thread, effective, extras, has_timer);
    let mut output = MaybeUninit::uninit();
    let result = run(thread, scope, |scope| {
        output.write(body(scope));
    });
    // SAFETY: the closure has returned, and that is the last thing it does.
    result.map(|()| unsafe { output.assume_init() })
}

/// Runs `body` in a scope that was [entered](Scope::enter), and leaves that.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn run(thread: &Thread, scope: &mut Scope, body: impl FnOnce(&Scope)) -> thread::Result<()> {
    let scope: *mut Scope = scope;
    // Nothing is seen in a broken state after a panic that would not be without us: it goes on unchanged, unless it is
    // an unwinding of our own.
    // SAFETY: the pointer is that of a borrowed frame; until the body has returned there are only shared references to it.
    let result = catch_unwind(AssertUnwindSafe(|| body(unsafe { (*scope).opened(thread) })));
    // SAFETY: the body has returned, so nobody else has a reference any more: scopes inside this one have been left
    // (invariant 1).
    unsafe { &mut *scope }.leave_after(thread, result)
}

/// Invariant 1 is broken: the thread, or a call, points to a frame that may be gone, so nothing can be saved.
#[cold]
#[inline(never)]
fn misnested(location: &'static Location<'static>) -> ! {
    crate::sync::abort(format_args!(
        "the scope opened at {location} was left out of order (a coroutine switched inside it)"
    ))
}

/// A frame that a call uses while foreign code runs: it is not left meanwhile. See invariant 1.
#[must_use]
pub(crate) struct Held<'a>(&'a Scope);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Scope { holds, undo, .. } = self.0;
        holds.set(holds.get() - 1);
        if holds.get() == 0 {
            undo.set(undo.get().without(Undo::HELD));
        }
    }
}

/// The innermost scope of this thread.
#[inline]
pub(crate) fn innermost<R>(thread: &Thread, f: impl FnOnce(Option<&Scope>) -> R) -> R {
    let scope: *const Scope = thread.frame.get().cast();
    // SAFETY: invariant 1: the frame is null or open, and stays open during the call: `f` holds it while it runs code that
    // could leave it. Invariant 2 rules out other threads.
    f(unsafe { scope.as_ref() })
}

impl Scope {
    /// Has leaving it abort until the result is dropped.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.holds.set(self.holds.get() + 1);
        self.undo.set(self.undo.get().and(Undo::HELD));
        Held(self)
    }

    fn outer(&self) -> Option<&Scope> {
        // SAFETY: invariant 1: what is around an open frame is open, for longer than the frame itself.
        unsafe { self.outer.as_ref() }
    }

    pub(crate) fn extras(&self) -> Option<&Extras> {
        // SAFETY: `open` borrows the extras for as long as the frame is open.
        unsafe { self.extras.as_ref() }
    }

    /// The next scope outwards that counts inside this one.
    pub(crate) fn visible_outer(&self) -> Option<&Scope> {
        if self.kind.is_boundary() { None } else { self.outer() }
    }

    /// This scope and those around it that count inside it, innermost first.
    pub(crate) fn visible(&self) -> impl Iterator<Item = &Scope> {
        std::iter::successors(Some(self), |scope| scope.visible_outer())
    }

    /// This scope and all around it on this thread, innermost first.
    pub(crate) fn stack(&self) -> impl Iterator<Item = &Scope> {
        std::iter::successors(Some(self), |scope| scope.outer())
    }

    /// The effective deadline inside this scope: the earliest of its own, of those around it, and of the tokens that one of
    /// them is linked to.
    pub(crate) fn effective(&self, thread: &Thread) -> u64 {
        self.armed(thread).min(self.nearest_node().map_or(NEVER, Node::expires_at))
    }

    /// The deadline that the thread has inside this scope. What it leaves out, those around a handle that may go and those
    /// of tokens that are linked, comes by the node's flag.
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

    /// The node of this scope, or of the next one outwards that has one.
    pub(crate) fn nearest_node(&self) -> Option<&Arc<Node>> {
        self.visible().find_map(Scope::existing_node)
    }

    /// The effective deadline around it, where it was opened.
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

    /// Its identity as a number, 0 if nobody has asked for it.
    #[cfg(feature = "testing")]
    pub(super) fn raw_id(&self) -> u64 {
        self.id.get()
    }

    /// Whether it is the innermost of its thread.
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
        // That of a future is the same in its next poll.
        if self.kind.is_polled() {
            self.undo.set(self.undo.get().and(Undo::FLAG));
        }
        id
    }

    fn terms(&self) -> Terms {
        let Self { asked, entered, location, kind, cause, unmeasured, .. } = *self;
        Terms { asked, entered, location, kind, cause, unmeasured }
    }

    /// Its own deadline.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn own(&self) -> u64 {
        self.entered.saturating_add(self.asked)
    }

    /// Where it was opened.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn location(&self) -> &'static Location<'static> {
        self.location
    }

    pub(crate) fn info(&self) -> ScopeInfo {
        self.terms().info(self.id(), self.extras())
    }

    /// Whether it is open for a poll that this waker polls again.
    #[inline]
    pub(crate) fn is_polled_with(&self, waker: &Waker) -> bool {
        if !self.kind.is_polled() || self.kind.is_shield() {
            return false;
        }
        // SAFETY: frames of these kinds are given a waker: null, or that of the context of the poll that they are open
        // for.
        unsafe { self.waker.assume_init().as_ref() }.is_some_and(|polled_by| polled_by.will_wake(waker))
    }

    /// How it ended itself by `now`, if it did.
    pub(crate) fn end(&self, now: u64) -> Option<End> {
        match self.node.get() {
            Some(node) => node.end(now),
            None if self.own() <= now => Some(End::new(self.cause, self.own())),
            None => None,
        }
    }

    /// Until when a future in this scope may be polled on, once it is over: the earliest end of the graces of those that
    /// are over.
    pub(crate) fn polled_until(&self, now: u64) -> u64 {
        self.visible().filter_map(|scope| scope.graced_until(now)).min().unwrap_or(now)
    }

    /// When the grace of this scope ends, if it is over itself, or by the handle that it was entered with.
    ///
    /// The graces of the handle's scopes hold for it too; and it has its own for their end, since nobody else drops it.
    fn graced_until(&self, now: u64) -> Option<u64> {
        let grace = self.extras().map_or(0, |extras| crate::time::nanos(extras.options.grace));
        let own = self.end(now).map(|end| end.at.saturating_add(grace));
        let around = self.entered_from().and_then(|node| node.graced_until(now));
        let around = around.map(|(end, until)| until.max(end.saturating_add(grace)));
        own.into_iter().chain(around).min()
    }

    /// Since when it is over, itself or by the handle that it was entered with.
    pub(crate) fn ended_at(&self, now: u64) -> Option<u64> {
        let around = self.entered_from().and_then(|node| node.graced_until(now));
        let own = self.end(now).map(|end| end.at);
        own.into_iter().chain(around.map(|(end, _)| end)).min()
    }

    /// How the scopes end that are over here, for an await.
    pub(super) fn ending(&self, now: u64) -> Ending {
        let (mut in_poll, mut until, mut dropping) = (true, NEVER, None);
        for scope in self.visible() {
            in_poll &= scope.kind.is_polled();
            let Some(graced) = scope.graced_until(now).filter(|_| !scope.kind.is_shield()) else { continue };
            if graced > now {
                until = until.min(graced);
            } else if in_poll {
                dropping = Some(scope);
            }
        }
        match dropping {
            Some(outermost) => {
                let node = outermost.existing_node();
                Ending::Drop { is_held_up: node.is_some_and(|node| node.has_shields()) }
            }
            None => Ending::CleanUp { until },
        }
    }

    /// Whether an await in it has given the error in this poll.
    pub(super) fn has_told(&self) -> bool {
        self.undo.get().has(Undo::TOLD)
    }

    pub(super) fn set_told(&self) {
        self.undo.set(self.undo.get().and(Undo::TOLD));
    }

    /// Whether this scope is over only by that of a future around it, in the same poll, which drops both.
    pub(crate) fn is_dropped_by_outer(&self, now: u64) -> bool {
        if self.ended_at(now).is_some() {
            return false;
        }
        let in_poll = self.visible().take_while(|scope| scope.kind.is_polled() && !scope.kind.is_shield());
        in_poll.skip(1).any(|outer| outer.graced_until(now).is_some_and(|until| until <= now))
    }

    /// The scopes around this place in the same poll, innermost first.
    pub(crate) fn polled(&self) -> impl Iterator<Item = &Scope> {
        self.stack().take_while(|scope| scope.kind.is_polled()).filter(|scope| !scope.kind.is_shield())
    }

    // ===== Nodes =====

    /// Its node, if it has one.
    pub(crate) fn existing_node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// Its node: made now, with those of the scopes around it, if there was none.
    pub(crate) fn node(&self) -> &Arc<Node> {
        if self.node.get().is_none() {
            // In a loop: there may be as many as the stack has room for.
            let bare: Vec<_> = self.visible().take_while(|scope| scope.node.get().is_none()).collect();
            for scope in bare.iter().rev() {
                scope.make_node();
            }
            Thread::with(|thread| {
                innermost(thread, |scope| scope.into_iter().for_each(|scope| scope.refresh_flag(thread)));
                // What this thread has seen, no node must deny until the watchdog comes to it.
                self.make_node().expire(thread.now.get());
            });
        }
        self.make_node()
    }

    /// Its node, beneath that of the next scope outwards, which has one.
    fn make_node(&self) -> &Arc<Node> {
        self.node.get_or_init(|| {
            self.undo.set(self.undo.get().and(Undo::FLAG));
            let parent = self.visible_outer().and_then(Scope::existing_node);
            node_of(parent, self.info(), &self.terms(), self.extras())
        })
    }

    /// Invariant 4, seen from the innermost scope.
    #[cold]
    #[inline(never)]
    fn refresh_flag(&self, thread: &Thread) {
        let node = self.visible().find_map(|scope| scope.node.get());
        // SAFETY: the node's owner is an open frame, which refreshes the flag when it is left.
        unsafe { thread.set_flag(node.map(|node| node.flag())) };
    }

    /// Makes its deadline the thread's; what leaving has to undo besides.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn enter(
        &mut self,
        thread: &Thread,
        effective: u64,
        extras: Option<&Extras>,
        has_timer: bool,
    ) {
        if let Some(extras) = extras {
            self.extras = extras;
        }
        if effective != self.outer_deadline {
            // Before the thread is changed: a thread's first arm allocates, and so may unwind.
            if !has_timer && !clock::is_mocked() {
                watchdog::global().arm(thread.slot(), effective);
            }
            self.undo.set(self.undo.get().and(Undo::DEADLINE));
            thread.deadline.set(effective);
        }
    }

    /// Makes it the innermost frame of its thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn opened(&self, thread: &Thread) -> &Self {
        thread.frame.set(ptr::from_ref(self).cast());
        if self.undo.get().has(Undo::FLAG) {
            self.refresh_flag(thread);
        }
        self
    }

    /// Restores the thread, in one of two ways.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn leave_after(&mut self, thread: &Thread, result: thread::Result<()>) -> thread::Result<()> {
        match result {
            Ok(()) => self.leave(thread),
            Err(_) => self.leave_unwound(thread),
        }
        result
    }

    /// Restores the thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn leave(&mut self, thread: &Thread) {
        if !self.is_innermost(thread) {
            misnested(self.location);
        }
        thread.frame.set(self.outer.cast());
        let undo = self.undo.get();
        if undo != Undo::NOTHING {
            if undo.has(Undo::DEADLINE) {
                thread.restore(self.outer_deadline);
            }
            if undo.has(Undo::FLAG.and(Undo::HELD)) {
                self.leave_flag(thread);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn leave_unwound(&mut self, thread: &Thread) {
        self.leave(thread);
    }

    /// What only some scopes have to do on leaving. The thread is outside already.
    #[cold]
    #[inline(never)]
    fn leave_flag(&mut self, thread: &Thread) {
        if self.undo.get().has(Undo::HELD) {
            misnested(self.location);
        }
        match self.outer() {
            Some(outer) => outer.refresh_flag(thread),
            // SAFETY: no flag.
            None => unsafe { thread.set_flag(None) },
        }
        // That of a future lives on in it.
        if !self.kind.is_polled()
            && let Some(node) = self.take_node()
        {
            node.close();
        }
    }

    /// Its node, after it has been left.
    pub(crate) fn take_node(&mut self) -> Option<Arc<Node>> {
        self.node.take()
    }

    /// Whether it may have something to keep for the next poll: a node, or an identity that somebody knows.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn has_acquired(&mut self) -> bool {
        self.undo.get_mut().has(Undo::FLAG)
    }

    /// Its identity, if somebody has asked for it.
    pub(crate) fn known_id(&self) -> Option<ScopeId> {
        ScopeId::from_raw(self.id.get())
    }
}

/// Where the scopes around a new one are found.
#[derive(Clone, Copy)]
pub(crate) enum Around<'a> {
    Thread,
    Node(&'a Arc<Node>),
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Scope");
        if let Some(label) = self.extras().and_then(|extras| extras.options.label.as_deref()) {
            debug.field("label", &label);
        }
        let deadline = Thread::with(|thread| self.effective(thread));
        debug.field("location", &format_args!("{}", self.location));
        debug.field("deadline", &crate::time::Deadline::from_nanos(deadline)).finish_non_exhaustive()
    }
}
