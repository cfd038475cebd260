//! Functions that a child process can run.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A function that can run in a child process.
///
/// Make it a `static`, and name it to [`entry`].
pub struct Isolated<A, R> {
    pub(super) name: &'static str,
    pub(super) memory: Option<u64>,
    function: fn(A) -> R,
}

impl<A, R> Isolated<A, R> {
    /// A function, under a name that no other has.
    pub const fn new(name: &'static str, function: fn(A) -> R) -> Self {
        Self { name, memory: None, function }
    }

    /// The child may have so many bytes of address space at most; a call that needs more ends it, with
    /// [`Error::Died`]. The program itself counts.
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

/// What [`entry`] takes: every [`Isolated`] whose types can be sent.
pub trait Function: sealed::Call + Sync {}

impl<A: DeserializeOwned, R: Serialize> Function for Isolated<A, R> {}

#[allow(unnameable_types)] // nobody else is to implement it
mod sealed {
    /// A function as the child sees it.
    pub trait Call {
        fn name(&self) -> &'static str;
        /// Takes and gives serialised data.
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
