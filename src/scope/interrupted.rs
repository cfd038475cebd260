//! The result of a call that its hook may have interrupted. The rules are the same for blocks and for futures.

use std::error::Error;
use std::panic::Location;

use crate::error::RaiseContext;
use crate::time::clock;
use crate::token::hook::Entry;

/// Decides the result of a call whose hook has ended.
///
/// | the call returned | the hook | result |
/// |---|---|---|
/// | a value | has not [spoilt](crate::Hook::spoils) it | `Ok(Ok(value))`, even if the hook fired |
/// | a value | has spoilt it | `Err`: the value is dropped |
/// | an error | did not fire | `Ok(Err(error))`: the call failed by itself |
/// | an error | fired | `Err`, whose source is the call's error |
pub(crate) fn result_of_call<T, X>(
    result: Result<T, X>,
    hook: &Entry,
    location: &'static Location<'static>,
) -> Result<Result<T, X>, RaiseContext>
where
    X: Into<Box<dyn Error + Send + Sync>>,
{
    let source = match result {
        Ok(value) if !hook.has_spoilt() => return Ok(Ok(value)),
        Err(error) if hook.fires() == 0 => return Ok(Err(error)),
        Ok(_) => None,
        Err(error) => Some(error.into()),
    };
    Err(RaiseContext { source, hook_failure: hook.failure(), ..RaiseContext::at(location, clock::now()) })
}
