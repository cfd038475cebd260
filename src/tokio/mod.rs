//! Tokio: its timers on the scopes of this crate, tasks in the scope of their caller, shutdown.
//!
//! | you have | you write |
//! |---|---|
//! | a program with `tokio::time` | [`use timebox::tokio::time`](time) |
//! | a task that belongs to the request | [`spawn`], [`JoinSetExt::spawn_in_scope`] |
//! | a blocking part of the request | [`spawn_blocking`] |
//! | a program that ends on Ctrl-C and SIGTERM | [`shutdown`] |
//! | a limit that is an [`Instant`](time::Instant) of tokio | any function of this crate: it is a [`Limit`](crate::Limit) |
//!
//! The rest of the crate needs none of these: its futures run on tokio as they are.

mod limit;
mod shutdown;
mod tasks;
pub mod time;

pub use shutdown::shutdown;
pub use tasks::{JoinSetExt, spawn, spawn_blocking, spawn_blocking_value, spawn_value};
