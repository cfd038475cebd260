//! The guide: one page for each thing that people do with limits.
//!
//! | page | answers |
//! |---|---|
//! | [`stopping`] | How does a limit stop my code, and which code does it not stop? |
//! | [`requests`] | How do I limit every request of a server, share what is left, and fall back to a cheaper answer? |
//! | [`deadlines`] | How does a deadline travel to the next service, and to a child process? |
//! | [`errors`] | Which limit was it, how late, and where? Was it a timeout at all? |
//! | [`threads`] | How do I bring a limit to `spawn`, `spawn_blocking`, rayon and thread pools? |
//! | [`cleanup`] | How do I clean up after a timeout: in `Drop`, in a shield, in a future's grace? |
//! | [`retries`] | How do I limit retries, share a budget, send heartbeats, and share one future between callers? |
//! | [`cancellation`] | How do I cancel from elsewhere, on Ctrl-C, and at shutdown? |
//! | [`io`] | How do I limit sockets, pipes, child processes, locks and channels? |
//! | [`recipes`](crate::recipes) | How do I cancel a query of SQLite, PostgreSQL, MariaDB, Redis or DuckDB, and on a pooled connection? |
//! | [`testing`] | How do I test the code that runs after a timeout? |
//! | [`slow`] | Why is my code slow? Where does it hang, and how do I learn of it? (feature `report`) |
//! | [`coming_from`] | What replaces `tokio::time`, tokio-util's token, tower's and tower-http's layers, cancel-this, `recv_timeout`? |
//! | [`limitations`] | What can this crate not do? Read it before you use the crate. |
//! | [`platforms`] | Which systems, features and Rust versions does it need? |
//! | [`performance`] | What does a limit cost? |
//! | [`background_threads`] | Which threads does this crate start, and when do they end? |
//!
//! The examples on all pages run as tests.

// A module whose feature is off does not exist, so links to it are broken.
#![cfg_attr(
    not(all(
        unix,
        feature = "io",
        feature = "isolate",
        feature = "macros",
        feature = "process",
        feature = "regex",
        feature = "report",
        feature = "stream",
        feature = "testing",
        feature = "tokio",
        feature = "tracing"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]

/// A page. If its tests need features that are off, the doctests leave the page out. The documentation always has the
/// page.
macro_rules! page {
    ($name:ident, $text:literal $(, $needs:meta)?) => {
        $(#[cfg(any(not(doctest), $needs))])?
        #[doc = include_str!($text)]
        pub mod $name {}
    };
}

page!(stopping, "stopping.md", all(unix, feature = "isolate", feature = "macros", feature = "regex"));
// The tests of these two pages are run by `timebox-tower`.
page!(requests, "requests.md", any());
page!(deadlines, "deadlines.md", any());
page!(errors, "errors.md");
page!(threads, "threads.md", feature = "tokio");
page!(cleanup, "cleanup.md");
page!(retries, "retries.md");
page!(io, "io.md", all(unix, feature = "io", feature = "process"));
page!(testing, "testing.md", feature = "testing");
page!(slow, "slow.md", all(feature = "report", feature = "tokio"));
page!(coming_from, "coming_from.md", feature = "tokio");
page!(limitations, "limitations.md");
page!(platforms, "platforms.md");
page!(performance, "performance.md");
page!(background_threads, "background_threads.md");

// This page ends with the code of `signals.rs`, which `tests/signals.rs` runs too.
#[cfg(any(not(doctest), all(unix, feature = "tokio")))]
#[doc = include_str!("cancellation.md")]
#[doc = ""]
#[doc = "```no_run"]
#[doc = include_str!("signals.rs")]
#[doc = "# fn main() {}"]
#[doc = "```"]
pub mod cancellation {}
