//! Time limits for tower services: one budget for a request, its handler and its streamed body, and a deadline that travels.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(test(attr(deny(warnings))))]
#![forbid(unsafe_code)]

mod answer;
mod body;
mod deadline;
mod future;
mod layer;
mod message;
#[cfg(feature = "profile")]
mod profile;
mod propagation;
pub mod respond;
mod scope;
mod service;
mod settings;

pub use answer::{Answer, Fail, GrpcStatus, Respond};
pub use body::TimeoutBody;
pub use deadline::{DeadlineFuture, DeadlineLayer, DeadlineService, HasHeaders};
pub use future::ResponseFuture;
pub use layer::TimeoutLayer;
pub use message::{Call, Reply};
#[cfg(feature = "profile")]
pub use profile::{ProfileFuture, ProfileLayer, ProfileService};
pub use propagation::{Malformed, Propagation};
pub use scope::{BODY_DROPPED, CLIENT_GONE, RequestScope};
pub use service::TimeoutService;

/// Makes doc tests of a page of the guide of `timebox`.
#[cfg(doctest)]
#[doc = include_str!("../../../src/guide/deadlines.md")]
mod deadlines {}
