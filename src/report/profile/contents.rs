use std::time::Duration;

use serde::Serialize;

use crate::report::contents::Frame;
use crate::report::json;

/// What the code was doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Doing {
    /// The code ran, or was ready to run.
    Running,
    /// The code was blocked in this system call. The name is empty if it is not known, for example because the thread
    /// was blocked without a system call, while a page of memory was read.
    Blocked(String),
    /// The code was a future between two polls.
    Pending,
}

impl Doing {
    /// Whether the code waited.
    pub fn is_waiting(&self) -> bool {
        *self != Self::Running
    }
}

/// A stack, and the time for which it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProfileStack {
    /// The frames, innermost first. Other samples of this stack may have had other lines.
    pub frames: Vec<Frame>,
    /// What the code was doing.
    pub doing: Doing,
    /// Whether the stack is of work that came to another thread by a [`Handle`](crate::Handle).
    pub by_handle: bool,
    /// For how long the code was seen with this stack.
    #[serde(serialize_with = "json::seconds")]
    pub time: Duration,
    /// How many samples saw the code with this stack.
    pub samples: u64,
}

/// The time that was spent in a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FunctionTime {
    /// The function, as the program's symbols name it.
    pub function: String,
    /// Whether the function belongs to std, to the C library, to a runtime, to a web framework, or to this crate.
    pub foreign: bool,
    /// The time in the function itself, without the functions that it called.
    #[serde(serialize_with = "json::seconds")]
    pub itself: Duration,
    /// The time in the function and in all that it called.
    #[serde(serialize_with = "json::seconds")]
    pub total: Duration,
    /// The part of `total` in which the code waited.
    #[serde(serialize_with = "json::seconds")]
    pub waiting: Duration,
}
