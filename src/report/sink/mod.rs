mod definition;
mod directory;
mod stderr;
pub(super) mod thread;
#[cfg(feature = "tracing")]
mod tracing;

pub use self::definition::Sink;
pub use self::directory::Directory;
pub use self::stderr::Stderr;
#[cfg(feature = "tracing")]
pub use self::tracing::Tracing;
