use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU64;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::text::OneLine;

/// The identity of one scope: unique for as long as the process runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeId(NonZeroU64);

impl ScopeId {
    /// A new identity. It is made on demand, since most scopes never need one.
    #[inline]
    pub(crate) fn next() -> Self {
        // Each thread takes a batch at a time, so that threads seldom write the shared counter.
        const BATCH: u64 = 1024;
        static NEXT: AtomicU64 = AtomicU64::new(BATCH);
        thread_local!(static MINE: Cell<u64> = const { Cell::new(0) });
        let id = MINE.with(|mine| {
            let mut id = mine.get();
            if id % BATCH == 0 {
                // Relaxed: the identities need only be unique.
                id = NEXT.fetch_add(BATCH, Ordering::Relaxed);
            }
            mine.set(id + 1);
            id
        });
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }

    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }

    pub(crate) fn from_raw(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }
}

impl fmt::Debug for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeId({})", self.0)
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The description of one scope in an error: an element of [`TimeoutError::chain`](crate::TimeoutError::chain).
#[derive(Clone, Debug)]
pub struct ScopeInfo {
    pub(crate) id: ScopeId,
    pub(crate) label: Option<Cow<'static, str>>,
    pub(crate) location: &'static Location<'static>,
    pub(crate) limit: Option<Duration>,
    pub(crate) fields: Fields,
}

/// Named values, in the order in which the names were first set. Clones share the values until one of the clones is
/// changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Option<Arc<Vec<Field>>>);

type Field = (Cow<'static, str>, String);

impl Fields {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn set(&mut self, name: Cow<'static, str>, value: String) {
        let fields = Arc::make_mut(self.0.get_or_insert_default());
        match fields.iter_mut().find(|field| field.0 == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        let fields = self.0.as_ref().map_or(&[][..], |fields| fields);
        fields.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl ScopeInfo {
    pub(crate) fn at(location: &'static Location<'static>) -> Self {
        Self { id: ScopeId::next(), label: None, location, limit: None, fields: Fields::default() }
    }

    /// The scope's identity, as [`Scope::id`](crate::Scope::id) gives it.
    pub fn id(&self) -> ScopeId {
        self.id
    }

    /// The label given with [`Timebox::label`](crate::Timebox::label), if there is one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Where the scope was opened.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The duration of the scope's limit. For a quota: the time that the quota had left when the scope was entered.
    /// `None` if the limit is an instant, or if there is none.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// The names and values given with [`Timebox::field`](crate::Timebox::field).
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.fields.iter()
    }
}

impl fmt::Display for ScopeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "`{}` ({})", OneLine(label), self.location),
            None => write!(f, "scope at {}", self.location),
        }
    }
}
