//! Tests of the recipes for databases, against real databases.
//!
//! The tests start servers from the machine's own binaries. If the machine has no binary of a server, the tests of that
//! server print a line and are skipped. If the environment sets `TIMEBOX_REQUIRE_SERVERS`, they fail instead.
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
