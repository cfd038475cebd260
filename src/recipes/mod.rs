//! Recipes for databases: how a scope ends a statement on a server, and what then becomes of the connection.
//!
//! This crate depends on no database. Each page is a text and a piece of code to copy, with a hook in its middle:
//!
//! | page | ends | by |
//! |---|---|---|
//! | [`sqlite`] | a statement, a wait for a lock | `interrupt()`, a progress handler, a busy handler |
//! | [`postgres`] | a statement, sync or async | `pg_cancel_backend` over a control connection, or a raw cancel; then its socket |
//! | [`mysql`] | a statement (MariaDB, MySQL) | `KILL QUERY` over a control connection; then its socket |
//! | [`redis`] | a command, a subscriber's wait | `CLIENT UNBLOCK` over a control connection; then its socket |
//! | [`duckdb`] | a statement | `interrupt()` |
//! | [`control`] | | the control connection of these: its bounds, and how it fails |
//! | [`pools`] | a query on a connection of r2d2, deadpool, bb8, sqlx | the hook of its database, and a mark |
//!
//! The package `crates/databases` compiles the code of the pages and runs it against the real servers, except for DuckDB.
//!
//! # What they have in common
//!
//! - **The hook ends with the call.** When [`interruptible`](crate::interruptible()) has returned, no cancel is under way, so it
//!   cannot hit the next statement on the connection. That takes a cancel that *returns after the server has acted*.
//! - **It fires again until the call returns**, because a cancel that comes before the statement is lost.
//! - **It is bounded.** Leaving the call waits for a running hook, so each wait in a hook has a timeout of its own.
//! - **It identifies the session** that it cancels: a number alone may be a stranger's, on another server.
//! - **The control connection is not the pool's**, and is made before it is needed. One serves all.
//! - **A server that does not answer loses the socket**, in a second step: [`control`] says what bounds the wait.
//! - **Rows that are read later are not guarded**: the guards take no rows, iterators or streams that have yet to ask the server.
//! - **A connection that is in doubt is discarded**: after a client-side read timeout, or when a future was dropped in the
//!   middle ([`settled`](crate::TimeoutError::settled) is false).
//!
//! ```
//! # fn cancel_at_the_server() {}
//! # fn statement() -> std::io::Result<()> { Ok(()) }
//! use timebox::{Hook, interruptible};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! // The outer `?` is the scope's error, with the server's as its source; the inner one the statement's own.
//! interruptible(Hook::new(cancel_at_the_server), statement)??;
//! # Ok(())
//! # }
//! ```

/// A page: its text, then its code. `no_run` code is compiled with the documentation. `ignore` code depends on clients that
/// this package does not have: `crates/databases` compiles it.
macro_rules! page {
    ($name:ident, $text:literal, $code:literal, $attribute:literal) => {
        #[doc = include_str!($text)]
        #[doc = ""]
        #[doc = concat!("```", $attribute)]
        #[doc = "# #![allow(dead_code)]"]
        #[doc = include_str!($code)]
        #[doc = "# fn main() {}"]
        #[doc = "```"]
        pub mod $name {}
    };
}

page!(control, "control.md", "control.rs", "no_run");
page!(sqlite, "sqlite.md", "sqlite.rs", "no_run");
page!(postgres, "postgres.md", "postgres.rs", "ignore");
page!(mysql, "mysql.md", "mysql.rs", "ignore");
page!(redis, "redis.md", "redis.rs", "ignore");
#[doc = include_str!("duckdb.md")]
pub mod duckdb {}
page!(pools, "pools.md", "pools.rs", "ignore");
