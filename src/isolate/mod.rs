//! Runs functions in a child process, which is killed at the deadline (feature `isolate`): a last resort that leaves
//! no thread behind.
//!
//! Use it for code that cannot be interrupted and must not run on, if its argument and result are plain data: a
//! stranger's regular expression, a parser in C, a solver.
//!
//! The child is this very program, started again. So [`entry`] must be called **at the beginning of `main`**: in a
//! child `entry` serves calls, and never returns. The child is kept for later calls. A call costs some microseconds and
//! two copies of the data. A call that starts a child costs about a millisecond. The data is serialised without a check
//! of the limit: hundreds of megabytes take seconds.
//!
//! The child has statics of its own. It starts in the program's working directory, and uses the same files as the
//! program. Its standard input is empty.
//!
//! At the deadline the child and its whole process group are killed, so they clean nothing up: temporary files stay.
//! The next call starts another child.
//!
//! ```no_run
//! use std::time::Duration;
//! use timebox::isolate::{Isolated, entry, isolate};
//!
//! static COUNT: Isolated<String, usize> = Isolated::new("count", |text| {
//!     text.chars().filter(|char| char.is_alphabetic()).count() // in place of a library that cannot be stopped
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
