use http::HeaderMap;
use timebox::Limit;

/// Where the deadline of an incoming request stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Propagation;

/// A deadline that cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("malformed deadline")]
#[non_exhaustive]
pub struct Malformed;

impl Propagation {
    /// The limit that the headers ask for, if they ask for one.
    pub fn deadline_of(&self, headers: &HeaderMap) -> Result<Option<Limit>, Malformed> {
        let _ = headers;
        Ok(None)
    }
}
