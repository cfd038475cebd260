//! Reports of futures that are pending: where they wait.
//!
//! `scope/observe.rs` wakes a pending future once it is slow or overdue. This module traces the next poll of the
//! future, and also its poll at the expiry.

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use super::awaits::traced_poll;
use super::contents::{Kind, Polls, Report};
use super::recent::ScopeKey;
use super::reporter::{self, Job, Make};
use super::tools::Tools;
use super::{due, look, state};
use crate::scope::observe::{Ending, Event, FutureObserver, Traced};

pub(super) struct Pending;

pub(super) static PENDING: Pending = Pending;

impl FutureObserver for Pending {
    fn trace(
        &self,
        traced: &Traced<'_>,
        poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
    ) -> Option<Arc<dyn Ending>> {
        let (is_pending, copies) = traced_poll(traced.waker, poll);
        if !is_pending {
            return None;
        }
        let Traced { scope, event, now, polls, waker: _ } = *traced;
        let chain = scope.infos();
        let key = ScopeKey {
            location: std::ptr::from_ref(scope.location()).addr() as u64,
            entered: scope.entered_at(),
        };
        let (count, last, thread) = (polls.count, polls.last, polls.thread);
        let make = move |tools: &mut Tools| {
            let awaits = tools.awaits_of(copies);
            let since = |at: u64| Duration::from_nanos(now.saturating_sub(at));
            let scope = chain.first()?.clone();
            Some(Report {
                kind: match event {
                    Event::Slow => Kind::Slow,
                    Event::Expired => Kind::Expired,
                    Event::Overdue => Kind::Overdue,
                },
                limit: scope.limit(),
                scope,
                chain,
                began: look::time_of(key.entered),
                elapsed: since(key.entered),
                ended_before: None,
                process: state::this_process(),
                thread: None,
                stacks: Vec::new(),
                awaits: awaits.stacks,
                polls: Some(Polls {
                    count: u64::from(count),
                    last: (last != 0).then(|| since(last)),
                    thread: (thread != 0).then(|| look::name_of(thread)).filter(|name| !name.is_empty()),
                }),
                watchdog_late: Duration::ZERO,
                suppressed: 0,
                notes: awaits.notes,
            })
        };
        reporter::submit(Job { scope: key, make: Make::Once(Box::new(make)) });
        Some(Arc::new(EndOfFuture(key)))
    }

    fn overdue_after(&self) -> u64 {
        due::overdue_after()
    }
}

struct EndOfFuture(ScopeKey);

impl Ending for EndOfFuture {
    fn ended(&self, now: u64) {
        reporter::submit(Job { scope: self.0, make: Make::Ended { seen: now, now } });
    }
}
