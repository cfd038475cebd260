//! The recipes for databases, compiled as their pages show them, and servers to run them against.
//!
//! `tests/recipes` tests the recipes on SQLite and on real servers. `examples/` shows three recipes at work. This is a
//! package of its own, since its clients and pools are most of the workspace's dependencies. It is never published.
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::exhaustive_enums,
    reason = "a recipe is a user's code"
)]

#[path = "../../../src/recipes/control.rs"]
pub mod control;
#[path = "../../../src/recipes/mysql.rs"]
pub mod mysql;
#[path = "../../../src/recipes/pools.rs"]
pub mod pools;
#[path = "../../../src/recipes/postgres.rs"]
pub mod postgres;
#[path = "../../../src/recipes/redis.rs"]
pub mod redis;
#[path = "../../../src/recipes/sqlite.rs"]
pub mod sqlite;

#[allow(clippy::missing_panics_doc, reason = "for tests and examples, which end with the first panic")]
pub mod server;
