//! Requests with a limit: the service, the streamed body, and real connections.

mod body;
mod clients;
mod connections;
#[cfg(all(feature = "report", feature = "axum"))]
mod reports;
mod service;
mod support;
