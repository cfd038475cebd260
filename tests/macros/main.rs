//! The attribute `#[timeboxed]`.

mod arguments;
mod attributes;
mod blocks;
mod fallback;
mod forms;
mod futures;
mod label;
mod returned_futures;

use timebox::{TimeoutError, checkpoint};

/// Runs until its limit.
fn spin<T>() -> timebox::Result<T> {
    loop {
        checkpoint()?;
    }
}

/// An error of a user's.
#[derive(Debug, thiserror::Error)]
enum MyError {
    #[error(transparent)]
    Timeout(#[from] TimeoutError),
    #[error("no number: {0}")]
    Parse(#[from] std::num::ParseIntError),
}
