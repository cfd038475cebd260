use timebox::{Timebox, timeboxed};

#[timeboxed("1s")]
fn block(text: &str) -> timebox::Result<u32> {
    Ok(text)
}

#[timeboxed("1s")]
async fn later(text: &str) -> timebox::Result<u32> {
    if text.is_empty() {
        return Ok(text);
    }
    Ok(text.len())
}

#[timeboxed("1s", fallback = |_| Ok("none"))]
fn of_a_fallback() -> timebox::Result<u32> {
    Ok(1)
}

#[timeboxed("1s")]
fn unknown() -> timebox::Result<u32> {
    Ok(missing)
}

fn main() {
    let _ = Timebox::new(None::<std::time::Duration>);
}
