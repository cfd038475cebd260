//! Deadlines that travel with calls of tonic.

mod chain;
#[path = "../../examples/tonic_chain/service.rs"]
mod service;
mod statuses;
