//! The thread's stack of frames: one for each scope that is open on it.
//!
//! A frame is a local variable of [`open`], linked to the next one outwards; the thread points to the innermost.
//!
//! Invariants:
//! 1. Frames are opened and left in order: each outlives those inside it. `open` takes a closure, so code cannot
//!    break this, except by switching stacks inside a scope; leaving checks it, and aborts.
//! 2. Only its thread reads or writes a frame.
//! 3. If a frame has a node, so have all visible frames around it.
//! 4. The thread's deadline is the earliest of the visible frames', its flag that of the innermost visible node.

use std::cell::{Cell, OnceCell};
use std::io::Write as _;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use super::Extras;
use crate::error::{Cause, ScopeId, ScopeInfo, TimeoutError};
use crate::time::{NEVER, clock};
use crate::token::node::{End, Node};
use crate::token::trail::{Circumstances, Step, Trail};
use crate::watchdog;
use crate::watchdog::slots::Thread;

/// A scope that is open: the region of execution that a limit bounds.
///
/// [`with_timeout`](crate::with_timeout) and [`Timebox::run`](crate::Timebox::run) lend it to the block. Every free
/// function of the crate that acts on the innermost scope is a method here that acts on this one and those around it.
///
/// A scope belongs to its thread and is neither `Send` nor `Sync` (the compiler says so with E0277, about the pointers in
/// it); a [`Handle`](crate::Handle) or a [token](crate::CancellationToken) reaches it from elsewhere.
pub struct Scope {
    outer: *const Scope,
    /// The effective deadline of the thread outside.
    outer_deadline: u64,
    /// Its own deadline; [`NEVER`] if only those around it count. One that is not earlier than theirs never matters.
    own: u64,
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
    /// Whether leaving has more to do than to restore the thread.
    special: Cell<bool>,
    /// Of the poll it is open for; null while a future is dropped. Set only for kinds that are polled.
    waker: MaybeUninit<*const Waker>,
}

/// What a frame is to the frames inside it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Block = 0,
    /// Of a handle: hides the thread's scopes around it; the handle's take their place.
    Entered,
    /// Hides what is around it.
    Shield,
    /// Open while a future is polled or dropped.
    Future,
    /// As `Future`, of a handle.
    EnteredFuture,
    /// A shield of a future.
    FutureShield,
}

impl Kind {
    fn is_boundary(self) -> bool {
        self.is_entered() || self.is_shield()
    }

    fn is_polled(self) -> bool {
        matches!(self, Kind::Future | Kind::EnteredFuture | Kind::FutureShield)
    }

    fn is_entered(self) -> bool {
        matches!(self, Kind::Entered | Kind::EnteredFuture)
    }

    fn is_shield(self) -> bool {
        matches!(self, Kind::Shield | Kind::FutureShield)
    }
}

/// With what a scope is entered. The fields are as in [`Scope`].
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) own: u64,
    pub(crate) entered: u64,
    pub(crate) location: &'static Location<'static>,
    pub(crate) kind: Kind,
    pub(crate) cause: Cause,
    pub(crate) unmeasured: bool,
}

impl Terms {
    /// Those of a scope with a duration.
    #[inline(always)]
    pub(crate) fn measured(own: u64, entered: u64, location: &'static Location<'static>, kind: Kind) -> Self {
        Self { own, entered, location, kind, cause: Cause::Deadline, unmeasured: false }
    }

    /// The duration that was asked for.
    fn limit(&self, extras: Option<&Extras>) -> Option<Duration> {
        if let Some(duration) = extras.and_then(|extras| extras.duration.get()) {
            return Some(*duration);
        }
        let limit = if self.own == NEVER {
            Duration::MAX
        } else {
            Duration::from_nanos(self.own.saturating_sub(self.entered))
        };
        (!self.unmeasured).then_some(limit)
    }

    /// What is told of a scope with these terms.
    pub(crate) fn info(&self, id: ScopeId, extras: Option<&Extras>) -> ScopeInfo {
        let label = extras.and_then(|extras| extras.label.clone());
        ScopeInfo { id, label, location: self.location, limit: self.limit(extras) }
    }

    /// The frame of a scope with these terms.
    #[inline(always)]
    pub(crate) fn frame(self) -> Scope {
        let Self { own, entered, location, kind, cause, unmeasured } = self;
        Scope {
            outer: ptr::null(),
            outer_deadline: NEVER,
            own,
            entered,
            location,
            id: Cell::new(0),
            node: ManuallyDrop::new(OnceCell::new()),
            extras: ptr::null(),
            kind,
            cause,
            unmeasured,
            special: Cell::new(kind.is_boundary()),
            waker: MaybeUninit::uninit(),
        }
    }
}

impl Scope {
    /// Gives it a node that was made before.
    pub(crate) fn set_node(&mut self, node: Option<Arc<Node>>) {
        if let Some(node) = node {
            self.node = ManuallyDrop::new(OnceCell::from(node));
            self.special = Cell::new(true);
        }
    }

    /// Makes it the frame of a poll.
    #[inline(always)]
    pub(crate) fn set_waker(&mut self, waker: *const Waker) {
        debug_assert!(self.kind.is_polled());
        self.waker = MaybeUninit::new(waker);
    }
}

/// Opens a scope around `body`, and leaves it however that ends. `effective` is the earliest deadline visible inside;
/// the watchdog is told of it here, unless a timer is known to stand for it.
///
/// The frame stays where it is: to move it would cost as much as all the rest. A panic is caught and handed out, not
/// passed through a guard: then the compiler can keep what is restored in registers.
#[inline(always)]
pub(crate) fn open<R>(
    thread: &Thread,
    scope: &mut Scope,
    effective: u64,
    extras: Option<&Extras>,
    has_timer: bool,
    body: impl FnOnce(&Scope) -> R,
) -> thread::Result<R> {
    let outer = thread.frame.get();
    let outer_deadline = thread.deadline.get();
    let special = scope.special.get();
    scope.outer = outer.cast();
    scope.outer_deadline = outer_deadline;
    scope.extras = extras.map_or(ptr::null(), ptr::from_ref);

    let scope: *mut Scope = scope;
    thread.frame.set(scope.cast_const().cast());
    // Nothing is seen in a broken state after a panic that would not be without us: it goes on unchanged, unless it is
    // an unwinding of our own.
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the pointer is that of a borrowed frame; until the body has returned there are only shared references
        // to it.
        let scope = unsafe { &*scope };
        if effective != outer_deadline {
            thread.deadline.set(effective);
            if effective != NEVER && !has_timer && !clock::is_mocked() {
                watchdog::global().arm(thread.slot(), effective);
            }
        }
        if special {
            scope.refresh_flag(thread);
        }
        body(scope)
    }));
    // SAFETY: the body has returned, so nobody else has a reference any more: scopes inside this one have been left
    // (invariant 1).
    let scope = unsafe { &mut *scope };
    if !ptr::eq(thread.frame.get(), ptr::from_ref(scope).cast()) {
        misnested(scope.location);
    }
    thread.frame.set(scope.outer.cast());
    if thread.deadline.get() != scope.outer_deadline {
        thread.restore(scope.outer_deadline);
    }
    if *scope.special.get_mut() {
        scope.leave(thread);
    }
    result
}

/// Invariant 1 is broken: the thread points to a frame that may be gone, so nothing can be saved.
#[cold]
#[inline(never)]
fn misnested(location: &'static Location<'static>) -> ! {
    // `eprintln` would panic where nobody listens.
    let _ = writeln!(
        std::io::stderr(),
        "timebox: the scope opened at {location} was left out of order (a coroutine switched inside it); aborting"
    );
    std::process::abort();
}

/// The innermost scope of this thread.
#[inline]
pub(crate) fn innermost<R>(thread: &Thread, f: impl FnOnce(Option<&Scope>) -> R) -> R {
    let scope: *const Scope = thread.frame.get().cast();
    // SAFETY: invariant 1: the frame is null or open, and stays open during the call: it can be left only by code that
    // runs after `f` has returned. Invariant 2 rules out other threads.
    f(unsafe { scope.as_ref() })
}

impl Scope {
    fn outer(&self) -> Option<&Scope> {
        // SAFETY: invariant 1: what is around an open frame is open, for longer than the frame itself.
        unsafe { self.outer.as_ref() }
    }

    pub(super) fn extras(&self) -> Option<&Extras> {
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

    /// The effective deadline inside this scope: the earliest of its own and those around it.
    pub(crate) fn effective(&self, thread: &Thread) -> u64 {
        innermost(thread, |innermost| {
            let mut effective = thread.deadline.get();
            for scope in innermost.into_iter().flat_map(Scope::stack) {
                if ptr::eq(scope, self) {
                    break;
                }
                effective = scope.outer_deadline;
            }
            effective
        })
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
        let id = self.node.get().map_or_else(ScopeId::next, |node| node.info.id());
        self.id.set(id.get());
        id
    }

    pub(crate) fn info(&self) -> ScopeInfo {
        let Self { own, entered, location, kind, cause, unmeasured, .. } = *self;
        Terms { own, entered, location, kind, cause, unmeasured }.info(self.id(), self.extras())
    }

    /// The waker of the poll that it is open for.
    pub(crate) fn polled_by(&self) -> Option<&Waker> {
        if !self.kind.is_polled() || self.kind.is_shield() {
            return None;
        }
        // SAFETY: frames of these kinds are given a waker: null, or that of the context of the poll that they are open
        // for.
        unsafe { self.waker.assume_init().as_ref() }
    }

    /// How it ended itself by `now`, if it did.
    pub(crate) fn end(&self, now: u64) -> Option<End> {
        match self.node.get() {
            Some(node) => node.end(now),
            None if self.own <= now => Some(End { cause: self.cause, at: self.own, reason: None }),
            None => None,
        }
    }

    /// Until when a future in this scope may be polled on, once it is over: the earliest end of the graces of those that
    /// are over.
    pub(crate) fn polled_until(&self, now: u64) -> u64 {
        let grace = |scope: &Scope| scope.extras().map_or(0, |extras| crate::time::nanos(extras.grace));
        let graces = self.visible().filter_map(|scope| Some(scope.end(now)?.at.saturating_add(grace(scope))));
        // Who is told by others only has their grace; a handle has none to give.
        graces.min().unwrap_or(now)
    }

    /// Whether the next scope that counts outwards is that of a future, which polls this one.
    pub(crate) fn is_directly_in_future(&self) -> bool {
        self.visible_outer().is_some_and(|outer| outer.kind.is_polled() && !outer.kind.is_shield())
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
        if let Some(node) = self.node.get() {
            return node;
        }
        let parent = self.visible_outer().map(Scope::node);
        let roams = self.kind == Kind::Future;
        let node = self
            .node
            .get_or_init(|| Node::new(parent, self.info(), self.entered, self.own, self.cause, roams));
        self.special.set(true);
        Thread::with(|thread| {
            innermost(thread, |scope| scope.into_iter().for_each(|scope| scope.refresh_flag(thread)));
        });
        node
    }

    /// Invariant 4, seen from the innermost scope.
    #[cold]
    #[inline(never)]
    fn refresh_flag(&self, thread: &Thread) {
        let node = self.visible().find_map(|scope| scope.node.get());
        // SAFETY: the node's owner is an open frame, which refreshes the flag when it is left.
        unsafe { thread.set_flag(node.map(|node| node.flag())) };
    }

    /// What only some scopes have to do on leaving. The thread is outside already.
    #[cold]
    #[inline(never)]
    fn leave(&mut self, thread: &Thread) {
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

    // ===== Errors =====

    fn step(&self, now: u64) -> Step {
        Step { info: self.info(), entered: self.entered, end: self.end(now), node: self.node.get().cloned() }
    }

    /// The scopes of the handle by which this one was entered.
    fn entered_from(&self) -> Option<Arc<Node>> {
        if self.kind.is_entered() { self.node.get()?.parent() } else { None }
    }

    /// The error of a scope that is over, or beneath one that is.
    #[cold]
    pub(crate) fn error(&self, how: Circumstances) -> TimeoutError {
        let now = how.now;
        let mut trail = Trail::from(self.step(now), now);
        self.continue_trail(&mut trail, now);
        let error = trail.into_error(how);
        self.mark_raised(&error);
        error
    }

    /// Adds what is around this scope.
    fn continue_trail(&self, trail: &mut Trail, now: u64) {
        if let Some(node) = self.entered_from() {
            trail.add_nodes(&node, now);
        }
        if let Some(outer) = self.visible_outer() {
            trail.add(outer.step(now));
            outer.continue_trail(trail, now);
        }
    }

    /// The error of code that would need more time than is left. It names the scope with the earliest deadline,
    /// which is not over, so that its overshoot is zero.
    #[cold]
    pub(crate) fn error_of_lack(&self, location: &'static Location<'static>, now: u64) -> TimeoutError {
        let mut steps = Vec::new();
        for scope in self.visible() {
            steps.push((scope.own, scope.cause, scope.step(now)));
            if let Some(node) = scope.entered_from() {
                node.walk(|node| steps.push((node.deadline, node.cause, Step::of(node, now))));
            }
        }
        let earliest = steps.iter().map(|step| step.0).min();
        let named = steps.iter().rposition(|step| Some(step.0) == earliest);
        let mut steps = steps.into_iter().enumerate().map(|(index, (_, cause, step))| {
            let end = (Some(index) == named).then_some(End { cause, at: now, reason: None });
            Step { end, ..step }
        });
        let first = steps.next().unwrap_or_else(|| self.step(now));
        let mut trail = Trail::from(first, now);
        steps.for_each(|step| trail.add(step));
        let error = trail.into_error(Circumstances::at(location, now));
        self.mark_raised(&error);
        error
    }

    /// Remembers for `run_or_else` that an error naming a scope was raised.
    fn mark_raised(&self, error: &TimeoutError) {
        let named = self.visible().find(|scope| scope.id.get() == error.scope().get());
        if let Some(extras) = named.and_then(Scope::extras) {
            extras.set_raised(error);
        }
    }

    /// The error of a scope that is not entered: `end` is its own, if it is over itself.
    #[cold]
    pub(crate) fn refusal(
        thread: &Thread,
        terms: &Terms,
        extras: Option<&Extras>,
        end: Option<End>,
        around: Around<'_>,
    ) -> TimeoutError {
        let now = clock::now();
        let location = terms.location;
        let id = ScopeId::next();
        let info = terms.info(id, extras);
        let mut trail = Trail::from(Step { info, entered: terms.entered, end, node: None }, now);
        let how = Circumstances { started: false, ..Circumstances::at(location, now) };
        innermost(thread, |scope| {
            match (around, scope) {
                (Around::Node(node), _) => trail.add_nodes(node, now),
                (Around::Thread, Some(scope)) => {
                    trail.add(scope.step(now));
                    scope.continue_trail(&mut trail, now);
                }
                (Around::Thread, None) => {}
            }
            let error = trail.into_error(how);
            match (extras, scope) {
                (Some(extras), _) if error.scope() == id => extras.set_raised(&error),
                (_, Some(scope)) => scope.mark_raised(&error),
                _ => {}
            }
            error
        })
    }

    // ===== Unwinding =====

    /// The scope that an unwinding with this error ends at; `None` if nothing here would stop it.
    #[cfg(panic = "unwind")]
    pub(super) fn catcher(&self, error: &TimeoutError) -> Option<&Scope> {
        let over = error.scope().get();
        let mut polled = false;
        let mut over_is_shield = false;
        let mut boundary = None;
        let mut outermost = None;
        for scope in self.stack() {
            // Beyond the poll lies an executor: foreign frames.
            if polled && !scope.kind.is_polled() {
                break;
            }
            polled |= scope.kind.is_polled();
            let is_over = scope.id.get() == over;
            if scope.kind.is_shield() {
                // Its result is its closure's: the scope around it must stop an unwinding.
                over_is_shield |= is_over;
                continue;
            }
            if is_over || over_is_shield {
                return Some(scope);
            }
            outermost = Some(scope);
            if scope.kind.is_entered() && boundary.is_none() {
                boundary = Some(scope);
            }
        }
        // It is not on this stack: another thread's, or another poll's.
        boundary.or(outermost)
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
        if let Some(label) = self.extras().and_then(|extras| extras.label.as_deref()) {
            debug.field("label", &label);
        }
        let deadline = Thread::with(|thread| self.effective(thread));
        debug.field("location", &format_args!("{}", self.location));
        debug.field("deadline", &crate::time::Deadline::from_nanos(deadline)).finish_non_exhaustive()
    }
}
