//! One thread that notices deadlines.
//!
//! `README.md` beside this file has the protocol (arm, disarm, fire, sleep, end, fork) and the proof that no expiry is
//! lost; `model.rs` runs this code under loom. The watchdog knows slots, timers and wakers. It knows neither tokens nor
//! scopes: when a timer is due, the watchdog wakes the timer's waker, and does nothing else.

mod arm;
mod deputy;
#[cfg(feature = "testing")]
pub(crate) mod mock;
#[cfg(all(test, timebox_loom))]
pub(crate) mod model;
#[cfg(feature = "report")]
mod observe;
mod pass;
#[cfg(feature = "report")]
mod reports;
mod settings;
pub(crate) mod slots;
mod start;
pub(crate) mod timers;

pub(crate) use arm::{global, prepare};
#[cfg(not(timebox_loom))]
pub(crate) use pass::is_this_thread;
#[cfg(feature = "report")]
pub(crate) use reports::{NO_WARNING, Observer};
pub(crate) use start::NAP;
pub(crate) use timers::Timer;
