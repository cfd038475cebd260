use timebox::timeboxed;

struct MyError;

#[timeboxed("1s")]
fn block() -> Result<u32, MyError> { Ok(1) }

#[timeboxed("1s")]
async fn later() -> Result<u32, MyError> { Ok(1) }

#[timeboxed("1s", fallback = Ok(2))]
async fn with_fallback() -> Result<u32, MyError> { Ok(1) }

#[timeboxed("1s")]
fn of_a_string() -> Result<u32, String> { Ok(1) }

fn main() {}
