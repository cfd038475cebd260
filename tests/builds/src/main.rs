//! The stacks of blocked threads, in builds of other kinds: optimised, with fat LTO and `panic = "abort"`, static with
//! musl. `bash .ci/run builds` builds this program in each of these ways, and runs it.
//!
//! A program, since Cargo builds tests without `panic = "abort"`. A package of its own, since it is built three times:
//! it needs only a few of the crates that other tests need.

#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod ways;

fn main() {
    #[cfg(target_os = "linux")]
    check::run();
}
