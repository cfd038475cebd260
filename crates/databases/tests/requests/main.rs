//! Requests with a limit, in front of databases: what the client sees, and what is left in the database.
//!
//! As in `tests/recipes`, a test whose server this machine does not have prints a line and is skipped.
#![cfg(unix)]

mod hanging;
mod postgres;
mod sqlite;
mod support;
