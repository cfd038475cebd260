//! The recipes for databases, against the real ones.
//!
//! Servers are started from the machine's own binaries. If the machine has no binary of a server, the tests with that server
//! print a line and are skipped. If `TIMEBOX_REQUIRE_SERVERS` is set in the environment, these tests fail instead.
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
