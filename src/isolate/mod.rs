//! Functions that run in a child process, which is killed at the deadline (feature `isolate`): a last resort that leaves
//! nothing behind.
//!
//! For code that cannot be interrupted, must not go on, and takes and gives plain data: an expression of a stranger, a
//! parser in C, a solver. The child is this very program, started again, so [`entry`] must stand **at the beginning of
//! `main`**: there a child begins to serve, and never goes on. It is kept from call to call; a call costs some
//! microseconds and two copies of the data, and one that has to start a child about a millisecond. What the function
//! touches besides its argument (statics, files, the working directory) is the child's own, or shared with care; its
//! standard input is empty. The data is serialised without a look at the limit: hundreds of megabytes take seconds.
//!
//! At the deadline the child, and all of its process group, is killed, so nothing of it is cleaned up: temporary files
//! stay. The next call starts another.
//!
//! ```no_run
//! use std::time::Duration;
//! use timebox::isolate::{Isolated, entry, isolate};
//!
//! static COUNT: Isolated<String, usize> = Isolated::new("count", |text| {
//!     text.chars().filter(|char| char.is_alphabetic()).count() // stands for a library that cannot be stopped
//! });
//!
//! fn main() -> Result<(), timebox::isolate::Error> {
//!     entry(&[&COUNT]); // before everything else
//!
//!     let count = isolate(Duration::from_secs(1), &COUNT, &"a1b2".to_owned())?;
//!     assert_eq!(count, 2);
//!     Ok(())
//! }
//! ```

mod call;
mod child;
mod error;
mod function;
mod serve;
mod wire;

pub use call::{entry, isolate};
pub use error::Error;
pub use function::{Function, Isolated};
