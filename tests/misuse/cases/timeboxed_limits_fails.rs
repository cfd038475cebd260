use timebox::timeboxed;

#[timeboxed]
fn none() -> timebox::Result<()> { Ok(()) }

#[timeboxed("0ms")]
fn zero() -> timebox::Result<()> { Ok(()) }

#[timeboxed("250")]
fn without_a_unit() -> timebox::Result<()> { Ok(()) }

#[timeboxed(250)]
fn a_number() -> timebox::Result<()> { Ok(()) }

#[timeboxed(limit = 2.5)]
fn another_number() -> timebox::Result<()> { Ok(()) }

#[timeboxed(250ms)]
fn without_quotes() -> timebox::Result<()> { Ok(()) }

#[timeboxed("5 parsecs")]
fn an_unknown_unit() -> timebox::Result<()> { Ok(()) }

#[timeboxed("soon")]
fn nonsense() -> timebox::Result<()> { Ok(()) }

#[timeboxed("30s 1m")]
fn the_smaller_unit_first() -> timebox::Result<()> { Ok(()) }

#[timeboxed(limit = 5 * 60)]
fn no_limit() -> timebox::Result<()> { Ok(()) }

fn main() {
    // The functions themselves are there.
    let _ = [none(), zero(), without_a_unit(), a_number(), another_number(), without_quotes(), an_unknown_unit()];
    let _ = [nonsense(), the_smaller_unit_first(), no_limit()];
}
