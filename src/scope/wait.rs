//! The limit of [`future::wait`](crate::future::wait). When the limit is over, only the wait ends. No scope is opened.

use std::panic::Location;

use super::entry::{Spending, is_unmeasured, own_deadline};
use super::frame::Scope;
use super::spec::{Kind, Parent, ScopeSpec, between};
use super::switch::is_enabled;
use crate::error::{Cause, RaiseContext, Termination, TimeoutError};
use crate::thread::Thread;
use crate::time::{Kind as LimitKind, Limit, NEVER};

pub(crate) struct WaitLimit {
    spec: ScopeSpec,
    end: Termination,
    _spending: Option<Spending>,
}

impl WaitLimit {
    pub(crate) fn begin(limit: &Limit, now: u64, location: &'static Location<'static>) -> Self {
        let (mut own, mut cause, mut spending) = (NEVER, Cause::Deadline, None);
        if is_enabled() {
            own = own_deadline(limit, now);
            if let LimitKind::Budget(budget) = limit.kind() {
                cause = Cause::Quota;
                (own, spending) = Spending::begin(budget, now);
            }
        }
        let (asked, unmeasured) = (between(now, own), is_unmeasured(limit));
        let spec = ScopeSpec { asked, entered: now, location, kind: Kind::Future, cause, unmeasured };
        // A limit that is an instant may have passed before the wait began. `spec` cannot express an end before
        // `entered`, so `end` is stored as well.
        Self { spec, end: Termination::new(cause, own), _spending: spending }
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.end.at
    }

    #[cold]
    pub(crate) fn error(&self, thread: &Thread, now: u64) -> TimeoutError {
        let how = RaiseContext::at(self.spec.location, now);
        Scope::error_without_frame(thread, &self.spec, None, Some(self.end.clone()), Parent::Thread, how)
    }
}
