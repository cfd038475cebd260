use std::error::Error;
use std::io;
use std::sync::Arc;

use super::timeout_error::TimeoutError;

impl TimeoutError {
    /// The timeout behind an error, if there is one: the error itself, or one of its [sources](Error::source). A
    /// timeout is also found inside an [`io::Error`], even if that is inside another `io::Error`, and inside an error
    /// of this crate.
    ///
    /// For an `anyhow::Error` or a boxed error write `&*error`.
    ///
    /// Some errors hide the error that they hold: their `source` returns the source of the held error, not the held
    /// error itself. An error with `#[error(transparent)]` of thiserror hides its error; with `#[error("{0}")]` it
    /// shows the same text and hides nothing. An `anyhow::Error` without a context hides its error once it is converted
    /// into a `Box<dyn Error>` or an `io::Error`: call `find` before the conversion.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{self, Read};
    /// use std::time::Duration;
    /// use timebox::TimeoutError;
    ///
    /// /// A stream that nothing comes from.
    /// struct Silent;
    ///
    /// impl Read for Silent {
    ///     fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
    ///         timebox::sleep(Duration::from_secs(3600))?;
    ///         Ok(0)
    ///     }
    /// }
    ///
    /// fn load() -> Result<String, Box<dyn std::error::Error>> {
    ///     Ok(io::read_to_string(Silent)?)
    /// }
    ///
    /// let error = timebox::timeout(Duration::from_millis(10), load).unwrap_err();
    /// let timeout = TimeoutError::find(&*error).expect("it was a timeout");
    /// assert_eq!(timeout.limit(), Some(Duration::from_millis(10)));
    /// ```
    #[doc(alias("is_timeout", "downcast_ref"))]
    #[must_use]
    pub fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e TimeoutError> {
        std::iter::successors(Some(error), |error| next(*error)).find_map(|error| error.downcast_ref())
    }
}

/// The next error behind `error`: the error that `error` holds, or else the source of `error`. Some types that hold an
/// error, such as `io::Error`, return the source of the held error as their own source. So `source` alone would skip
/// the held error.
fn next<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    fn held<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
        if let Some(held) = error.downcast_ref::<Arc<T>>() {
            return Some(&**held);
        }
        error.downcast_ref::<Box<T>>().map(|held| &**held as _)
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|held| held as _);
    }
    if let Some(held) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**held);
    }
    held::<TimeoutError>(error).or_else(|| held::<io::Error>(error)).or_else(|| error.source())
}
