mod chain;
#[path = "../../examples/tonic_chain/service.rs"]
mod service;
mod statuses;
