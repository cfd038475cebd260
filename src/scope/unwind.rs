use std::any::Any;
use std::panic::resume_unwind;

use super::frame::Scope;
use crate::error::TimeoutError;

/// The panic payload with which [`checkpoint_or_unwind`](super::checkpoint_or_unwind) unwinds.
#[derive(Debug)]
pub(crate) struct Unwind {
    pub(crate) error: TimeoutError,
    /// The address of the frame that stops the unwinding.
    pub(crate) catcher: usize,
}

/// If the unwinding is meant for this scope, stops it and returns its error. Any other panic goes on.
#[cold]
#[inline(never)]
pub(crate) fn caught(scope: &Scope, payload: Box<dyn Any + Send>) -> TimeoutError {
    if !is_meant_for(scope, &*payload) {
        resume_unwind(payload);
    }
    match payload.downcast::<Unwind>() {
        Ok(unwind) => unwind.error,
        Err(payload) => resume_unwind(payload),
    }
}

pub(crate) fn is_meant_for(scope: &Scope, payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<Unwind>().is_some_and(|unwind| unwind.catcher == std::ptr::from_ref(scope).addr())
}
