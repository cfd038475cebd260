//! Time limits for tower services: one budget for a request, its handler and its streamed body, and a deadline that
//! travels.
//!
//! | layer | does |
//! |---|---|
//! | [`TimeoutLayer`] | limits each request of a server or client, and reports slow ones |
//! | [`DeadlineLayer`] | makes outgoing calls carry the time that is left |
//! | [`ProfileLayer`] | profiles the requests that ask for it (feature `profile`) |
//!
//! [`TimeoutBody`] limits a body by itself: the whole, and the silence between two frames. [`Propagation`] reads the
//! deadline of a request. Scopes, errors, reports and the words for them are those of the crate [`timebox`]. Its guide
//! has a page on [requests](https://docs.rs/timebox/latest/timebox/guide/requests/) and one on
//! [deadlines](https://docs.rs/timebox/latest/timebox/guide/deadlines/).
//!
//! ```
//! use std::time::Duration;
//! use axum::http::StatusCode;
//! use axum::response::IntoResponse;
//! use axum::{Router, routing::get};
//! use timebox_tower::TimeoutLayer;
//!
//! let limit = TimeoutLayer::new(Duration::from_secs(5))
//!     .grace(Duration::from_millis(500)) // in which handlers roll back, and answer themselves
//!     .respond_with(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response());
//!
//! let app: Router = Router::new().route("/", get(async || "hello")).layer(limit);
//! # let _ = app;
//! ```
//!
//! # What holds
//!
//! - The scope of a request is open in the service's `call`, in each poll of its future and of the response's body, and in their
//!   drop: in handlers, extractors, and the layers within. [`timebox::handle`] takes it to tasks and threads.
//! - The scope begins with the call, and ends with the last frame of the body.
//! - What is ready wins over the limit. A handler that answers in its grace is not overruled.
//! - A client that goes away cancels the scope, for the reason [`CLIENT_GONE`].
//! - The service within is called as it is: not cloned, not boxed, and its readiness passes through.
//! - Nothing here needs a runtime, or its timer. The future of a service is `Send` if the service's own is.
//!
//! # What does not
//!
//! - Code that never checks and never awaits runs on, as [everywhere](https://docs.rs/timebox/latest/timebox/guide/limitations/).
//! - A future that is dropped since its client has gone away gets no grace. The guide says how a handler
//!   [ends in order](https://docs.rs/timebox/latest/timebox/guide/requests/) all the same.
//! - A body is polled only while its client reads. Limit the server's writes too.
//! - An upgraded connection (a WebSocket) is not part of its request: its scope ends with the response `101`.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Items of a feature that is off do not exist, so links to them are broken.
#![cfg_attr(not(all(feature = "profile", feature = "report")), allow(rustdoc::broken_intra_doc_links))]
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

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../../../src/guide/requests.md")]
mod requests {}

#[cfg(doctest)]
#[doc = include_str!("../../../src/guide/deadlines.md")]
mod deadlines {}
