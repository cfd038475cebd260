use std::time::Duration;

use timebox::timeboxed;

#[timeboxed("1s", limit = Duration::from_secs(1))]
fn two_limits() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s", strict, strict)]
fn strict_twice() -> timebox::Result<()> { Ok(()) }

#[timeboxed(Duration::from_secs(1))]
fn unknown() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s", grace = "2s")]
fn a_grace_of_a_block() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s", grace = 2)]
async fn a_grace_without_a_unit() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s", "2s")]
fn two_literals() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s", label)]
fn no_value() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s", label = 5)]
fn no_text() -> timebox::Result<()> { Ok(()) }

fn main() {}
