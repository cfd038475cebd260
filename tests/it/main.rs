//! What the crate promises, one module per subject, each test named after the behaviour it shows.

mod runtimes;
mod support;

mod async_edges;
mod async_grace;
mod async_interrupt;
mod async_moves;
mod async_surroundings;
mod async_trouble;
mod asynchronous;
mod autotraits;
mod edges;
mod entry;
mod error;
mod hammer;
mod hook_moves;
mod hooks;
mod interruptible;
mod layering;
mod nesting;
mod or_else;
mod quota;
mod refire;
mod shield;
mod threads;
mod token;
mod token_depth;
mod token_ends;
mod token_scope;
mod tokio_util;
mod unwind;
