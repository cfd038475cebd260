//! Stacks as addresses.

use std::sync::Arc;

use super::platform::Modules;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    /// An address in the function: that of the call, not the one behind it.
    pub(crate) address: u64,
    /// The end of the frame on the stack: locals of the function are below it. The greatest number if it is not known.
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
    /// What is not certain, in sentences.
    pub(crate) notes: Vec<String>,
    /// The number of the frame before which others are missing.
    pub(super) gap: Option<usize>,
    /// How many frames were found by searching.
    pub(super) scanned: usize,
    /// The modules at that time.
    pub(super) modules: Arc<Modules>,
}
