//! The form in which durations, times and scopes are serialized in a report.

use std::time::{Duration, SystemTime};

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

use super::calendar::Utc;
use crate::error::ScopeInfo;

pub(super) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[allow(clippy::ref_option)] // serde passes a reference to the field
pub(super) fn maybe_seconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

pub(super) fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Utc::from(*time).rfc3339())
}

pub(super) fn scope<S: Serializer>(scope: &ScopeInfo, serializer: S) -> Result<S::Ok, S::Error> {
    Scope(scope).serialize(serializer)
}

pub(super) fn scopes<S: Serializer>(scopes: &[ScopeInfo], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(scopes.iter().map(Scope))
}

/// Serializes a scope with its limit in seconds, like all durations of a report.
struct Scope<'a>(&'a ScopeInfo);

impl Serialize for Scope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let scope = self.0;
        let mut fields = serializer.serialize_struct("ScopeInfo", 5)?;
        fields.serialize_field("id", &scope.id())?;
        fields.serialize_field("label", &scope.label())?;
        fields.serialize_field("location", &scope.location().to_string())?;
        fields.serialize_field("limit", &scope.limit().map(|limit| limit.as_secs_f64()))?;
        fields.serialize_field("fields", &Fields(scope))?;
        fields.end()
    }
}

struct Fields<'a>(&'a ScopeInfo);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.fields();
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
