mod collect;
mod signal;
mod text;

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod tests;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::contents::{Process, Stack, Thread};
use super::json;
use crate::error::ScopeInfo;

pub use collect::dump;
pub use signal::dump_on_signal;

/// All threads of the process, each with its open scopes, its stack, and what it is blocked in. Made by [`dump`].
///
/// `{}` is the dump as text for a terminal. Threads in no scope that have the same stack are shown together.
/// Serialized, times and durations have the form that they have in a [`Report`](super::Report).
///
/// The threads are looked at one after another, so they are not all shown at the same moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Dump {
    /// The process.
    pub process: Process,
    /// When the dump was begun.
    #[serde(serialize_with = "json::time")]
    pub began: SystemTime,
    /// First the threads in scopes, the thread with the longest open scope first. Then the threads that run, then all
    /// others.
    pub threads: Vec<ThreadDump>,
    /// Sentences about what is uncertain or missing in this dump.
    pub notes: Vec<String>,
}

/// A thread in a [`Dump`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ThreadDump {
    /// The thread, and what it does.
    pub thread: Thread,
    /// Whether this thread asked for the dump.
    pub asked: bool,
    /// The scopes that are open on the thread, innermost first.
    pub scopes: Vec<OpenScope>,
    /// The stack. Empty if no stack could be had: `notes` say why.
    pub stack: Stack,
    /// What is not certain about this thread, in sentences.
    pub notes: Vec<String>,
}

/// A scope that is open on a thread.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OpenScope {
    /// The scope.
    #[serde(serialize_with = "json::scope")]
    pub scope: ScopeInfo,
    /// How long the scope has been open.
    #[serde(serialize_with = "json::seconds")]
    pub elapsed: Duration,
}
