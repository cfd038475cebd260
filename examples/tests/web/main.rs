//! The example `web`, from outside: its pages in a headless Chromium, and its requests under load.
//!
//! `cargo test -p examples --features web` builds the example first. Without Chromium the test of the pages prints a
//! line and is skipped; with `TIMEBOX_REQUIRE_SERVERS` in the environment it fails instead.

mod browser;
mod load;
mod pages;
mod server;
