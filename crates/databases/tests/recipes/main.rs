//! The recipes for databases, against the real ones.
//!
//! Servers are started from the machine's own binaries. Where there are none, the tests are skipped with a line that
//! says so; with `TIMEBOX_REQUIRE_SERVERS` in the environment that is a failure.
#![cfg(unix)]

mod control;
mod failover;
mod full;
mod lazy;
mod mariadb;
mod pools;
mod postgres;
mod proxy;
mod redis;
mod silence;
mod sqlite;
mod support;

use timebox_databases as recipes;
use timebox_databases::server;
