//! When a scope ends, and how long a future in it may still be polled after that.

use super::Scope;
use super::undo::Undo;
use crate::error::Termination;
use crate::scope::await_over::AfterEnd;
use crate::time::NEVER;

impl Scope {
    /// The end of this scope itself, if it has ended by `now`.
    pub(crate) fn end(&self, now: u64) -> Option<Termination> {
        match self.node.get() {
            Some(node) => node.end(now),
            None if self.own() <= now => Some(Termination::new(self.cause, self.own())),
            None => None,
        }
    }

    /// The time until which a future in this scope may be polled: the earliest end of the graces of all visible scopes
    /// that are over. `now` if no visible scope is over.
    pub(crate) fn polled_until(&self, now: u64) -> u64 {
        self.visible().filter_map(|scope| scope.graced_until(now)).min().unwrap_or(now)
    }

    /// When the grace of this scope ends. `None`: neither the scope nor the handle with which it was entered is over.
    ///
    /// If the scope itself is over, its grace began at its end. If the handle is over, a grace began at the handle's
    /// end: the grace of the handle or that of the scope, whichever is longer. If both are over, the grace that ends
    /// first counts.
    fn graced_until(&self, now: u64) -> Option<u64> {
        let grace = self.extras().map_or(0, |extras| crate::time::nanos(extras.options.grace));
        let own = self.end(now).map(|end| end.at.saturating_add(grace));
        let around = self.entered_from().and_then(|node| node.graced_until(now));
        let around = around.map(|(end, until)| until.max(end.saturating_add(grace)));
        own.into_iter().chain(around).min()
    }

    /// When the scope ended: its own end or the end of the handle with which it was entered, whichever came first.
    /// `None` if neither has ended.
    pub(crate) fn ended_at(&self, now: u64) -> Option<u64> {
        let around = self.entered_from().and_then(|node| node.graced_until(now));
        let own = self.end(now).map(|end| end.at);
        own.into_iter().chain(around.map(|(end, _)| end)).min()
    }

    pub(in crate::scope) fn after_end(&self, now: u64) -> AfterEnd {
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
                AfterEnd::Drop { is_held_up: node.is_some_and(|node| node.has_shields()) }
            }
            None => AfterEnd::CleanUp { until },
        }
    }

    /// Whether an await inside this scope has already returned the error of a scope that is over, since this frame was
    /// made. A future has a new frame in each poll. A block has one frame for all polls of the futures inside.
    pub(in crate::scope) fn has_given_error(&self) -> bool {
        self.undo.get().has(Undo::ERROR_GIVEN)
    }

    pub(in crate::scope) fn set_error_given(&self) {
        self.undo.set(self.undo.get().and(Undo::ERROR_GIVEN));
    }

    /// Whether this scope has not ended, but a future around it in the same poll has come to the end of its grace. That
    /// outer future then drops its body, and this future with it.
    pub(crate) fn is_dropped_by_outer(&self, now: u64) -> bool {
        if self.ended_at(now).is_some() {
            return false;
        }
        let in_poll = self.visible().take_while(|scope| scope.kind.is_polled() && !scope.kind.is_shield());
        in_poll.skip(1).any(|outer| outer.graced_until(now).is_some_and(|until| until <= now))
    }

    /// The scopes that were opened in the present poll, from this one outwards. Shields are left out.
    pub(crate) fn polled(&self) -> impl Iterator<Item = &Scope> {
        self.stack().take_while(|scope| scope.kind.is_polled()).filter(|scope| !scope.kind.is_shield())
    }
}
