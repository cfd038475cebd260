//! Time limits for tower services: one budget for a request, its handler and its streamed body, and a deadline that travels.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(test(attr(deny(warnings))))]
#![forbid(unsafe_code)]

mod deadline;
mod propagation;

pub use deadline::{DeadlineFuture, DeadlineLayer, DeadlineService, HasHeaders};
pub use propagation::{Malformed, Propagation};
