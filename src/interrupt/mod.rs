//! Calls that never look at a scope, such as a query in C or a read from a socket. A hook interrupts them, or they
//! wait for a descriptor together with the scope.

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
