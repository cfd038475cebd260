//! The errors of [`timebox::tokio::time`](super).

use std::error::Error as StdError;
use std::{fmt, io};

use crate::error::TimeoutError;

#[doc(no_inline)]
pub use ::tokio::time::error::Error;

/// The error of [`timeout`](super::timeout()): the future did not end in time.
///
/// It shows the same text as tokio's, and all values are equal, as tokio's are. Its [`source`](StdError::source) is the
/// [`TimeoutError`], which says which limit it was, how late, and where. [`TimeoutError::find`] finds it, in an
/// [`io::Error`] too.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use timebox::TimeoutError;
/// use timebox::tokio::time::timeout;
///
/// let limit = Duration::from_millis(5);
/// let elapsed = timeout(limit, std::future::pending::<()>()).await.unwrap_err();
/// assert_eq!(elapsed.to_string(), "deadline has elapsed");
/// assert_eq!(TimeoutError::find(&elapsed).unwrap().limit(), Some(limit));
/// # }
/// ```
#[derive(Clone)]
pub struct Elapsed(TimeoutError);

impl Elapsed {
    pub(super) fn new(error: TimeoutError) -> Self {
        Self(error)
    }
}

impl PartialEq for Elapsed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Elapsed {}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl fmt::Debug for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Elapsed").field(&self.0).finish()
    }
}

impl StdError for Elapsed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// The kind is [`TimedOut`](io::ErrorKind::TimedOut), and the `Elapsed` is inside.
impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}

impl From<Elapsed> for TimeoutError {
    fn from(elapsed: Elapsed) -> Self {
        elapsed.0
    }
}
