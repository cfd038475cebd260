//! Calls that never look at a scope, such as a query in C or a read from a socket. Either a hook interrupts such a
//! call, or the call waits for its descriptor and for the end of the scope at once.

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
