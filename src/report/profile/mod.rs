//! Profiles: many looks at one piece of code.

mod builder;
mod contents;
#[cfg(feature = "flamegraph")]
mod flame_graph;
mod folded;
mod functions;
mod future;
mod names;
mod random;
mod recording;
mod report;
mod sampler;
mod session;
mod setup;
mod shared;
mod text;
mod waiting;

pub use builder::{LiveProfile, Profile};
pub use contents::{Doing, FunctionTime, ProfileStack};
pub use future::Profiled;
pub use report::ProfileReport;
