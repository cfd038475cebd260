#![deny(warnings)]

use timebox::{TimeoutError, timeboxed};

pub struct MyError;

impl From<TimeoutError> for MyError {
    fn from(_: TimeoutError) -> Self {
        Self
    }
}

#[timeboxed("1s")]
pub fn block() -> Result<u32, MyError> {
    Ok(1)
}

#[timeboxed("1s", grace = "2s")]
pub async fn later() -> Result<u32, MyError> {
    Ok(1)
}

#[timeboxed("1s")]
pub async fn in_one_line() -> Result<u32, MyError> { Ok(1) }

#[timeboxed("1s", fallback = Ok(2))]
pub async fn with_a_fallback(text: &str) -> Result<usize, MyError> { Ok(text.len()) }

#[timeboxed("1s")]
pub async fn that_never_returns() -> Result<u32, MyError> {
    loop {
        std::future::ready(()).await;
    }
}

#[timeboxed("1s")]
pub fn with_an_opaque_future() -> impl Future<Output = Result<u32, MyError>> { async { Ok(1) } }

#[timeboxed("1s")]
pub fn with_an_early_return(unused: u32) -> Result<u32, MyError> {
    let _ = unused;
    return Ok(1);
}

#[timeboxed("1s")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> timebox::Result<()> {
    let (Ok(1), Ok(1)) = (block(), later().await) else { panic!("in time") };
    Ok(())
}
