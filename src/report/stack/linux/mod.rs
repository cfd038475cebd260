//! Linux on `x86_64` and `aarch64`.

mod arch;
mod elf;
mod landing;
mod location;
mod memory;
mod modules;
mod names;
mod own;
mod signal;
mod slots;
mod spare;
mod system;
mod target;
mod task;
mod unwind;

pub(crate) use location::location;
pub(crate) use memory::Memory;
pub(super) use modules::Modules;
pub(crate) use names::Names;
pub(crate) use own::own;
pub(crate) use spare::Copy;
#[cfg(test)]
pub(super) use target::ask;
pub(crate) use target::{Begun, Target, begin, begin_prepared, prepare, refill};
#[cfg(test)]
pub(super) use task::Task;
pub(crate) use unwind::Unwinder;
