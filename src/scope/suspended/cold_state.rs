//! The state of a future's scope that most futures do not need.

use std::panic::Location;
use std::sync::Arc;

use crate::error::{ScopeId, TimeoutError};
use crate::scope::config::Extras;
use crate::scope::entry::{
    Attachments, Prepared, Rejected, Spending, linked_node, try_enter, try_enter_poll,
};
use crate::scope::frame::{Scope, innermost};
use crate::scope::spec::{Kind, Parent, ScopeSpec};
use crate::scope::test_hooks::{EnvGuard, enter_env};
use crate::test_env::TestEnv;
use crate::thread::Thread;
#[cfg(feature = "profile")]
use crate::thread::visit::Visit;
use crate::time::{Kind as LimitKind, Limit, nanos};
use crate::token::node::{Node, NodeSpec};

pub(super) struct ColdState {
    /// The test environment whose clock the scope follows: the environment in which the future was made. A future that
    /// was made outside every test environment follows the environment in which it is first polled.
    pub(super) env: TestEnv,
    /// The limit with which the scope is entered. Not used after the entry.
    pub(super) limit: Limit,
    pub(super) extras: Option<Extras>,
    /// The specification, once the scope is entered.
    pub(super) spec: Option<ScopeSpec>,
    pub(super) id: Option<ScopeId>,
    /// The node. Made on demand, and kept from poll to poll.
    pub(super) node: Option<Arc<Node>>,
    pub(super) spending: Option<Spending>,
    /// While the scope is open, this guard keeps the thread in `env`.
    pub(super) under: EnvGuard,
    /// The thread's visit to the profile of the scope's handle. `None` between polls, and if there is no such profile.
    #[cfg(feature = "profile")]
    pub(super) visit: Option<Visit>,
}

impl ColdState {
    #[cold]
    pub(super) fn boxed(limit: Limit, extras: Option<Extras>, spec: Option<ScopeSpec>) -> Box<Self> {
        let within = extras.as_ref().and_then(|extras| extras.options.within.as_ref());
        let env = within.map_or_else(TestEnv::current, |node| node.env.clone());
        let under = EnvGuard::unchanged();
        Box::new(Self {
            env,
            limit,
            extras,
            spec,
            id: None,
            node: None,
            spending: None,
            under,
            #[cfg(feature = "profile")]
            visit: None,
        })
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn is_outside_tests(&self) -> bool {
        self.env.is_real() && !TestEnv::is_in_force()
    }

    /// Whether the frame of each poll is just as [`SuspendedScope::frame`] makes it.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn has_plain_frame(&self) -> bool {
        self.node.is_none()
            && self.id.is_none()
            && self.spec.is_some_and(|spec| spec.is_plain_future())
            && self.is_outside_tests()
    }

    /// Whether the scopes around this poll have another clock. Then this scope cannot compare their deadlines with its
    /// own times: it learns only from their nodes that they are over. So this function makes their nodes.
    pub(super) fn crosses_clocks(&self, thread: &Thread) -> bool {
        let crosses = !self.env.shares_clock(&TestEnv::current());
        if crosses {
            innermost(thread, |scope| scope.map(Scope::node).is_some());
        }
        crosses
    }

    #[cold]
    pub(super) fn enter(
        &mut self,
        thread: &Thread,
        shared: Option<&Extras>,
        location: &'static Location<'static>,
    ) -> Result<ScopeSpec, Rejected> {
        let extras = self.extras.as_ref().or(shared);
        let within = extras.and_then(|extras| extras.options.within.as_ref());
        if within.is_none() && self.env.is_real() {
            self.env = TestEnv::current();
        }
        if let Some(asked) = self.plain_duration(extras) {
            let spec = try_enter_poll(thread, asked, location)?;
            self.spec = Some(spec);
            return Ok(spec);
        }
        let outer = self.outer_of_another_clock(thread);
        let _under = enter_env(thread, &self.env);
        let (kind, parent) = match (within, &outer) {
            (Some(node), _) => (Kind::EnteredFuture, Parent::Node(node)),
            (None, Some(outer)) => (Kind::Future, Parent::Node(outer)),
            (None, None) => (Kind::Future, Parent::Thread),
        };
        let (Prepared { spec, .. }, Attachments { node, spending }) =
            try_enter(thread, &self.limit, extras, location, kind, parent)?;
        self.spec = Some(spec);
        self.node = node;
        self.spending = spending;
        Ok(spec)
    }

    /// The duration of the scope, in nanoseconds, if nothing else decides when the scope ends.
    fn plain_duration(&self, extras: Option<&Extras>) -> Option<u64> {
        if !self.is_outside_tests() {
            return None;
        }
        match (extras, self.limit.kind()) {
            (Some(extras), _) => extras.plain_duration(&self.limit),
            (None, LimitKind::After(duration)) => Some(nanos(*duration)),
            _ => None,
        }
    }

    /// The node of the scope around this poll. `None` if there is no such scope, or if it has the same clock as this
    /// scope.
    fn outer_of_another_clock(&self, thread: &Thread) -> Option<Arc<Node>> {
        let crosses = self.crosses_clocks(thread);
        innermost(thread, |scope| scope.filter(|_| crosses).map(|scope| Arc::clone(scope.node())))
    }

    #[cold]
    pub(super) fn refusal(
        &self,
        thread: &Thread,
        shared: Option<&Extras>,
        refused: Rejected,
    ) -> TimeoutError {
        let extras = self.extras.as_ref().or(shared);
        let within = extras.and_then(|extras| extras.options.within.as_ref());
        let outer = self.outer_of_another_clock(thread);
        let _under = enter_env(thread, &self.env);
        let around = within.or(outer.as_ref());
        refused.into_error(thread, extras, around.map_or(Parent::Thread, Parent::Node))
    }

    /// Makes the frame for another poll, with the node and the identity that the scope has kept. Returns the earliest
    /// deadline that applies in the scope.
    #[cold]
    pub(super) fn resume(
        &mut self,
        thread: &Thread,
        frame: &mut Scope,
        shared: Option<&Extras>,
        effective: u64,
        crosses: bool,
        dropping: bool,
    ) -> u64 {
        let Some(mut spec) = self.spec else { return effective };
        let extras = self.extras.as_ref().or(shared);
        if crosses && spec.kind == Kind::Future {
            // The deadlines of the scopes around this poll are on another clock. So those scopes limit this scope by
            // their node, as the scopes of a handle do.
            spec.kind = Kind::EnteredFuture;
            let outer = innermost(thread, |scope| scope.map(|scope| Arc::clone(scope.node())));
            if self.node.is_none() && outer.is_some() {
                let info = spec.info(self.id.unwrap_or_else(ScopeId::next), extras);
                let ScopeSpec { entered, cause, .. } = spec;
                let deadline = spec.own();
                let node_spec = NodeSpec { info, entered, deadline, cause, reparentable: true };
                self.node = Some(Node::new(outer.as_ref(), node_spec));
            }
            if let Some(node) = &self.node {
                node.set_parent(outer.as_ref());
            }
        }
        *frame = Scope::new(spec, thread);
        frame.set_id(self.id);
        if spec.kind == Kind::Future
            && let Some(node) = &self.node
        {
            if dropping {
                // The future is being dropped. The ends of the scopes around the drop apply in this scope too. But
                // their nodes do not become parents of this scope's node. Otherwise they could end tokens of this scope
                // that survive the drop. The next line makes these nodes, because this frame gets a node (`frame.rs`,
                // invariant 3).
                let _ = innermost(thread, |scope| scope.map(Scope::node).map(Arc::as_ptr));
                // If a scope around the drop is over and this scope is not, the frame gets no node. With a node, the
                // checks in the drop would read the node's flag, which the scopes around the drop do not raise. Without
                // a node, the checks read the flag of the scopes around the drop.
                if thread.is_flagged() && !node.is_over() {
                    return effective;
                }
            } else {
                // `set_parent` may drop the old parent, and with it values of the user. Their drop may run any code. If
                // that code leaves the scope, `scope` dangles. `hold` aborts the process in that case.
                innermost(thread, |scope| {
                    let _held = scope.map(Scope::hold);
                    node.set_parent(scope.map(Scope::node));
                });
                if node.is_over() && !node.is_over_still() {
                    // The node is over only because of a former parent: a scope in which the future is no longer
                    // polled. So this node is given up, and later tokens get a new node.
                    node.finish();
                    let extras = extras.filter(|extras| !extras.options.tokens.is_empty());
                    let anew = |scope: Option<&Scope>| linked_node(scope.map(Scope::node), &spec, extras);
                    self.node = extras.map(|_| innermost(thread, anew));
                }
            }
        }
        frame.set_node(self.node.clone());
        match (spec.kind, &self.node) {
            (Kind::Future, _) => effective,
            (Kind::EnteredFuture, Some(node)) => node.lasting_deadline(),
            _ => spec.own(),
        }
    }
}

impl Drop for ColdState {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.finish();
        }
        drop(self.spending.take());
    }
}
