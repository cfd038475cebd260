//! The scope of a future between its polls.

mod cold_state;

use std::any::Any;
use std::fmt;
use std::panic::Location;
#[cfg(feature = "profile")]
use std::ptr;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use cold_state::ColdState;

use super::cold_box::ColdBox;
use super::config::Extras;
use super::entry::{Rejected, try_enter_poll};
use super::frame::{self, Entered, Scope};
use super::spec::{Kind, Parent, ScopeSpec};
use super::test_hooks::{EnvGuard, enter_env, mark_wait};
use super::unwind::{caught, is_meant_for};
use crate::error::TimeoutError;
use crate::test_env::TestEnv;
use crate::thread::Thread;
#[cfg(feature = "profile")]
use crate::thread::visit::Visit;
use crate::time::{Deadline, Limit, NEVER, nanos};
use crate::token::node::Node;

/// A scope that is entered once, and opened for each poll.
pub(crate) struct SuspendedScope {
    /// When the scope was entered; 0 before that.
    entered: u64,
    /// The time from the entry to the scope's own deadline.
    asked: u64,
    location: &'static Location<'static>,
    /// The state that most futures do not need.
    cold: ColdBox<ColdState>,
}

#[cold]
#[inline(never)]
fn cold_in_env(nanos: u64) -> ColdBox<ColdState> {
    ColdBox::some(ColdState::boxed(Duration::from_nanos(nanos).into(), None, None))
}

impl SuspendedScope {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn new(limit: Limit, location: &'static Location<'static>) -> Self {
        match limit.into_duration() {
            Ok(duration) => Self::lasting(nanos(duration), location),
            Err(limit) => Self::with_rest(limit, location),
        }
    }

    #[cold]
    fn with_rest(limit: Limit, location: &'static Location<'static>) -> Self {
        Self { entered: 0, asked: NEVER, location, cold: ColdBox::some(ColdState::boxed(limit, None, None)) }
    }

    pub(crate) fn with(limit: Limit, extras: Extras, location: &'static Location<'static>) -> Self {
        let cold = ColdBox::some(ColdState::boxed(limit, Some(extras), None));
        Self { entered: 0, asked: NEVER, location, cold }
    }

    /// A scope that only a duration ends. Such a scope keeps no `extras`: the caller passes them to each call that takes
    /// `shared`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn lasting(asked: u64, location: &'static Location<'static>) -> Self {
        let cold = if TestEnv::is_in_force() { cold_in_env(asked) } else { ColdBox::none() };
        Self { entered: 0, asked, location, cold }
    }

    /// A scope that other things may end. It keeps no `extras` either.
    pub(crate) fn sharing(limit: Limit, extras: &Extras, location: &'static Location<'static>) -> Self {
        let mut cold = ColdState::boxed(limit, None, None);
        if let Some(within) = &extras.options.within {
            cold.env = within.env.clone();
        }
        Self { entered: 0, asked: NEVER, location, cold: ColdBox::some(cold) }
    }

    pub(crate) fn shield(own: u64, now: u64, location: &'static Location<'static>) -> Self {
        let spec = ScopeSpec::measured(own, now, location, Kind::FutureShield);
        let ScopeSpec { asked, entered, location, .. } = spec;
        Self {
            entered,
            asked,
            location,
            cold: ColdBox::some(ColdState::boxed(Limit::NONE, None, Some(spec))),
        }
    }

    /// A scope that counts as entered from the start: its limit counts from `now`, not from the first poll. The caller
    /// does not call [`enter`](Self::enter), which refuses a scope that is over already.
    #[cfg(feature = "tokio")]
    pub(crate) fn begun(asked: u64, now: u64, location: &'static Location<'static>) -> Self {
        let asked = super::entry::in_force(asked);
        let mut scope = Self { entered: now, asked, location, cold: ColdBox::none() };
        if TestEnv::is_in_force() {
            scope.cold = ColdBox::some(ColdState::boxed(Limit::NONE, None, Some(scope.spec())));
        }
        scope
    }

    /// Ends the scope at `now`, as if its limit were `asked` and had just passed. Does nothing if the scope is over
    /// already.
    #[cfg(any(feature = "stream", feature = "tokio"))]
    pub(crate) fn expire(&mut self, asked: u64, now: u64) {
        if self.own() <= now || self.node().is_some_and(|node| node.is_over()) {
            return;
        }
        // The deadline is `entered + asked`. To make it `now`, this moves `entered`.
        self.entered = now.saturating_sub(asked).max(1);
        self.asked = now.saturating_sub(self.entered);
        let (spec, asked) = (self.spec(), Duration::from_nanos(asked));
        if let Some(cold) = self.cold.get() {
            cold.spec = cold.spec.map(|before| ScopeSpec { kind: before.kind, ..spec });
            if let Some(extras) = &mut cold.extras {
                extras.duration = Some(asked);
            }
            if let Some(node) = &cold.node {
                node.expire_at(now);
            }
        }
    }

    /// Leaves the scope. The next poll enters it anew.
    #[cfg(feature = "tokio")]
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn forget(&mut self) {
        self.leave();
        self.entered = 0;
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_entered(&self) -> bool {
        self.entered != 0
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn spec(&self) -> ScopeSpec {
        ScopeSpec::lasting(self.asked, self.entered, self.location, Kind::Future)
    }

    /// The scope's own deadline. Wrong before the scope is entered.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn own(&self) -> u64 {
        self.spec().own()
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn enter(&mut self, thread: &Thread, shared: Option<&Extras>) -> Result<(), Rejected> {
        let spec = match self.cold.get() {
            None if !TestEnv::is_in_force() => try_enter_poll(thread, self.asked, self.location)?,
            _ => {
                let limit = Duration::from_nanos(self.asked);
                self.cold.get_or_insert_with(|| ColdState::boxed(limit.into(), None, None)).enter(
                    thread,
                    shared,
                    self.location,
                )?
            }
        };
        self.asked = spec.asked;
        self.entered = spec.entered;
        Ok(())
    }

    #[cold]
    pub(crate) fn refusal(
        &mut self,
        thread: &Thread,
        shared: Option<&Extras>,
        refused: Rejected,
    ) -> TimeoutError {
        match self.cold.get() {
            Some(cold) => cold.refusal(thread, shared, refused),
            None => refused.into_error(thread, shared, Parent::Thread),
        }
    }

    pub(crate) fn node(&mut self) -> Option<&Arc<Node>> {
        self.cold.get()?.node.as_ref()
    }

    /// Opens the scope for one poll: calls [`resume`](Self::resume), `body` and [`suspend`](Self::suspend). If `body`
    /// unwound to this scope, returns the error of that unwinding.
    ///
    /// `has_timer`: whether there is a timer for the scope's own deadline already.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn open<R>(
        &mut self,
        thread: &Thread,
        shared: Option<&Extras>,
        waker: *const Waker,
        has_timer: bool,
        body: impl FnOnce(&Scope) -> R,
    ) -> Result<R, TimeoutError> {
        let mut frame = self.frame(thread);
        let entered = self.resume(thread, &mut frame, shared, waker, has_timer);
        let result = frame::run_value(thread, &mut frame, entered, body);
        self.suspend(&mut frame, result)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn frame(&self, thread: &Thread) -> Scope {
        Scope::new(self.spec(), thread)
    }

    /// Enters the [`frame`](Self::frame) for a poll or a drop of the future. First puts into the frame what the scope
    /// keeps between polls.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn resume(
        &mut self,
        thread: &Thread,
        frame: &mut Scope,
        shared: Option<&Extras>,
        waker: *const Waker,
        has_timer: bool,
    ) -> Entered {
        if TestEnv::is_in_force() && self.cold.get().is_none() {
            self.stay_outside();
        }
        let mut effective = frame.own().min(thread.deadline.get());
        let mut extras = shared;
        if let Some(cold) = self.cold.get() {
            if !cold.has_plain_frame() {
                let crosses = cold.crosses_clocks(thread);
                cold.under = enter_env(thread, &cold.env);
                mark_wait(self.location, false);
                effective = cold.resume(thread, frame, shared, effective, crosses, waker.is_null());
            }
            extras = cold.extras.as_ref().or(shared);
            #[cfg(feature = "profile")]
            if let Some(extras) = extras {
                cold.visit = Visit::of_handle(extras.options.profile, ptr::from_ref(frame).addr());
            }
        }
        frame.set_waker(waker);
        frame.enter(thread, effective, extras, has_timer)
    }

    /// Called after each poll. If the scope got a node or an identity in this poll, keeps it for the next poll.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn suspend<R>(
        &mut self,
        frame: &mut Scope,
        result: thread::Result<R>,
    ) -> Result<R, TimeoutError> {
        if frame.has_acquired() {
            self.keep(frame);
        }
        if let Some(cold) = self.cold.get() {
            cold.under = EnvGuard::unchanged();
            #[cfg(feature = "profile")]
            {
                cold.visit = None;
            }
        }
        result.map_err(|payload| self.caught(frame, payload))
    }

    /// The error of an unwinding that ends at this scope. Resumes any other panic.
    #[cold]
    fn caught(&mut self, frame: &Scope, payload: Box<dyn Any + Send>) -> TimeoutError {
        if !is_meant_for(frame, &*payload) {
            // The future itself has panicked, so it is not polled again, only dropped.
            self.give_up();
        }
        caught(frame, payload)
    }

    /// Called if the scope was entered outside every test environment. Keeps it outside in later polls.
    #[cold]
    #[inline(never)]
    fn stay_outside(&mut self) {
        let mut cold = ColdState::boxed(Limit::NONE, None, Some(self.spec()));
        cold.env = TestEnv::default();
        self.cold = ColdBox::some(cold);
    }

    /// Takes out the last error that named this scope, for `run_or_else`.
    pub(crate) fn take_raised(&mut self) -> Option<TimeoutError> {
        let cold = self.cold.get()?;
        // The node also keeps the errors that tokens and other threads raised, so it is asked first.
        let told = cold.node.as_ref().and_then(|node| node.take_raised());
        told.or_else(|| cold.extras.as_ref()?.take_raised())
    }

    /// Leaves the scope, once its future is done. This ends the scope's hooks.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn leave(&mut self) {
        self.cold.clear();
    }

    /// Called after a panic. Ends the scope's hooks and its spending. The scope itself stays for the drop of the
    /// future.
    #[cold]
    fn give_up(&mut self) {
        if let Some(cold) = self.cold.get() {
            if let Some(node) = &cold.node {
                node.close();
            }
            cold.spending = None;
        }
    }

    #[cold]
    fn keep(&mut self, frame: &mut Scope) {
        let spec = self.spec();
        let cold = self.cold.get_or_insert_with(|| ColdState::boxed(Limit::NONE, None, Some(spec)));
        cold.id = frame.known_id().or(cold.id);
        let Some(node) = frame.take_node() else { return };
        cold.id = Some(node.id);
        match &cold.node {
            None => cold.node = Some(node),
            // During the drop of the future the frame has made a second node. Nobody needs it any more.
            Some(kept) if !Arc::ptr_eq(kept, &node) => node.finish(),
            Some(_) => {}
        }
    }
}

impl fmt::Debug for SuspendedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SuspendedScope");
        if self.is_entered() {
            debug.field("deadline", &Deadline::from_nanos(self.own()));
        }
        debug.finish_non_exhaustive()
    }
}
