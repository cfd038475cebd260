use std::sync::Arc;

use super::data::Node;
use crate::error::{Chain, Link, SharedScope, Termination, TimeoutError};

impl Node {
    pub(crate) fn chain_link(self: &Arc<Self>, now: u64) -> Link {
        let shared = Arc::clone(self) as Arc<dyn SharedScope>;
        let (info, end) = (self.info(), self.end(now));
        Link { info, entered: self.entered, now: self.env.reading(now), end, shared: Some(shared) }
    }

    pub(crate) fn add_to_chain(self: &Arc<Self>, chain: &mut Chain, now: u64) {
        self.walk(|node| chain.add(node.chain_link(now)));
    }

    /// From now on the node keeps the last error that says it came from this node's scope. A fallback may ask for it.
    ///
    /// Nodes without a fallback keep no error: the error's source may hold a token of the node, and then the error and
    /// the node would keep each other alive for ever.
    pub(crate) fn fall_back(&self) {
        if let Some(mut state) = self.state.lock() {
            state.falls_back = true;
        }
    }

    /// Takes out the error that the node has kept; `None` if there is none. From now on the node keeps no error.
    pub(crate) fn take_raised(&self) -> Option<TimeoutError> {
        let mut state = self.state.lock()?;
        state.falls_back = false;
        state.raised.take()
    }
}

impl SharedScope for Node {
    fn inherited_end(&self) -> Option<Termination> {
        Some(Termination::through_link(&self.origin()?))
    }

    fn set_raised(&self, error: &TimeoutError) {
        let Some(mut state) = self.state.lock().filter(|state| state.falls_back) else { return };
        let before = state.raised.replace(error.clone());
        drop(state);
        drop(before);
    }
}
