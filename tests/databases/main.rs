//! The recipes for databases, against the real ones.
//!
//! Servers are started from the machine's own binaries. Where there are none, the tests are skipped with a line that
//! says so; with `TIMEBOX_REQUIRE_SERVERS` in the environment that is a failure.
#![cfg(all(unix, not(any(timebox_mutants, miri))))]
#![allow(unreachable_pub)] // the recipes, which are pages too

mod control;
mod failover;
mod full;
mod lazy;
mod mariadb;
mod pools;
mod postgres;
mod proxy;
mod redis;
mod server;
mod silence;
mod sqlite;
mod support;

/// The code of the recipes, as their pages show it.
#[path = "../../src/recipes"]
mod recipes {
    pub mod control;
    pub mod mysql;
    pub mod pools;
    pub mod postgres;
    pub mod redis;
    pub mod sqlite;
}
