//! What differs between processors. Both have the same functions. `leave`, of `x86_64`, is long, so it has its own
//! file.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod leave;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub(super) use leave::leave;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::*;
