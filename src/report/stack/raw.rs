//! Stacks as addresses.

use std::sync::Arc;

use super::platform::Modules;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    /// An address in the function. In a function that has called another, it is inside the call instruction, not behind
    /// it.
    pub(crate) address: u64,
    /// The address just above the frame: the function's locals are below it. `u64::MAX` if the address is not known.
    pub(crate) cfa: u64,
}

/// A stack, innermost frame first.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawStack {
    pub(crate) frames: Vec<RawFrame>,
    /// Whether frames are missing at the outer end.
    pub(crate) truncated: bool,
    /// Whether frames may be wrong or missing.
    pub(crate) approximate: bool,
    pub(crate) notes: Vec<String>,
    /// If frames are missing in the middle of the stack: the index of the first frame after the gap.
    pub(super) gap: Option<usize>,
    /// How many frames were found by a search for return addresses, since the unwind tables did not help.
    pub(super) scanned: usize,
    pub(super) modules: Arc<Modules>,
}

#[cfg(feature = "profile")]
impl RawStack {
    /// A stack of `addresses`, with the modules of this stack. An address of 0 marks where frames are missing.
    pub(crate) fn with_addresses(&self, addresses: &[u64]) -> Self {
        let gap = addresses.iter().position(|&address| address == 0);
        let present = addresses.iter().filter(|&&address| address != 0);
        let frames = present.map(|&address| RawFrame { address, cfa: u64::MAX }).collect();
        Self { frames, gap, modules: Arc::clone(&self.modules), ..Self::default() }
    }
}
