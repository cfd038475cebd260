//! Interrupts calls that make no checkpoints, such as a query in C or a read from a socket. There are two ways: a
//! hook interrupts the call, or the thread waits for the call's descriptor and for the end of the scope at the same
//! time.

mod call;
#[cfg(all(unix, feature = "io"))]
pub mod io;
#[cfg(all(unix, any(feature = "io", feature = "process")))]
mod poller;
#[cfg(all(unix, feature = "process"))]
pub mod process;
#[cfg(feature = "regex")]
pub mod regex;

pub use call::{Outcome, interruptible, interruptible_outcome};
