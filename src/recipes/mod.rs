//! Recipes for databases: how a scope ends a statement on a server, and what then becomes of the connection. Recipes
//! for reports: where they go.
//!
//! This crate depends on no database, and on no client of a service. Each page is a text and a piece of code to copy.
//! The code for a database has a hook in its middle:
//!
//! | page | ends | by |
//! |---|---|---|
//! | [`sqlite`] | a statement, a wait for a lock | `interrupt()`, a progress handler, a busy handler |
//! | [`postgres`] | a statement, sync or async | `pg_cancel_backend`, or a raw cancel; then the shutdown of its socket |
//! | [`mysql`] | a statement (MariaDB, MySQL) | `KILL QUERY` over a control connection; then the shutdown of its socket |
//! | [`redis`] | a command, a subscriber's wait | `CLIENT UNBLOCK` over a control connection; then the shutdown of its socket |
//! | [`duckdb`] | a statement | `interrupt()` |
//! | [`control`] | | the control connection of the pages above: its bounds, and how it fails |
//! | [`pools`] | a query on a connection of r2d2, deadpool, bb8, sqlx | the hook of its database; a mark if in doubt |
//!
//! The package `crates/databases` compiles the code of the pages and runs it against the real servers, except for
//! DuckDB.
//!
//! With the feature `report`:
//!
//! | page | writes a report |
//! |---|---|
//! | `mail` | as a mail, with the crate `lettre` |
//! | `sentry` | as an event of Sentry, with the crate `ureq` |
//! | `supervisor` | of all threads, before the process aborts, or systemd ends it |
//!
//! # What the pages for databases have in common
//!
//! - **The hook ends with the call.** Once [`interruptible`](crate::interruptible()) has returned, no cancel is under
//!   way, so none can hit the next statement on the connection. This requires a cancel that *returns after the server
//!   has acted*.
//! - **The hook fires again until the call returns**, because a cancel that comes before the statement is lost.
//! - **The hook is bounded.** The call does not return while a hook runs, so each wait in a hook has a timeout of its
//!   own.
//! - **The hook identifies the session** that it cancels. A number is not enough: another server may use the same
//!   number for a stranger's session.
//! - **The control connection is not one of the pool's**, and is made before it is needed. One control connection
//!   serves all other connections.
//! - **If the server does not answer, the socket is shut down**, in a second step: [`control`] says what bounds the
//!   wait.
//! - **Rows that are read later are not guarded.** So the guards return no rows, iterators or streams that have yet to
//!   ask the server.
//! - **A connection that is in doubt is discarded**: after a client-side read timeout, or if a future was dropped in
//!   the middle ([`settled`](crate::TimeoutError::settled) is false).
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

/// A page: its text, then its code. Code with the attribute `no_run` is compiled with the documentation. Code with
/// `ignore` depends on clients that this package does not have, so `crates/databases` compiles it.
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
#[cfg(feature = "report")]
page!(mail, "mail.md", "mail.rs", "no_run");
#[cfg(feature = "report")]
page!(sentry, "sentry.md", "sentry.rs", "no_run");
#[cfg(all(unix, feature = "report"))]
page!(supervisor, "supervisor.md", "supervisor.rs", "no_run");
