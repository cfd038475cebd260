use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A function that can run in a child process.
///
/// Make it a `static`, and pass it to [`entry`](super::entry).
pub struct Isolated<A, R> {
    pub(super) name: &'static str,
    pub(super) memory: Option<u64>,
    function: fn(A) -> R,
}

impl<A, R> Isolated<A, R> {
    /// A function with a name. No two functions may have the same name.
    pub const fn new(name: &'static str, function: fn(A) -> R) -> Self {
        Self { name, memory: None, function }
    }

    /// Limits the child's address space, the program's own code and libraries included. A call that needs more kills
    /// the child, and fails with [`Error::Died`](super::Error::Died).
    pub const fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }
}

impl<A, R> fmt::Debug for Isolated<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isolated")
            .field("name", &self.name)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// A function that [`entry`](super::entry) accepts: every [`Isolated`] whose argument and result can be serialised.
pub trait Function: sealed::Call + Sync {}

impl<A: DeserializeOwned, R: Serialize> Function for Isolated<A, R> {}

#[allow(unnameable_types)] // no other crate may implement `Function`
mod sealed {
    /// A function whose argument and result types are erased.
    pub trait Call {
        fn name(&self) -> &'static str;
        fn call(&self, argument: &[u8]) -> Result<Vec<u8>, String>;
    }
}

impl<A: DeserializeOwned, R: Serialize> sealed::Call for Isolated<A, R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, argument: &[u8]) -> Result<Vec<u8>, String> {
        let argument = postcard::from_bytes(argument).map_err(|error| error.to_string())?;
        postcard::to_stdvec(&(self.function)(argument)).map_err(|error| error.to_string())
    }
}
