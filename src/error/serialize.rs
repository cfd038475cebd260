use std::error::Error;
use std::fmt::Display;

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

use super::scope::{ScopeId, ScopeInfo};
use super::timeout_error::TimeoutError;

struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Map<I>(I);

impl<'a, I: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone> Serialize for Map<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.clone().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

impl Serialize for ScopeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

impl Serialize for ScopeInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ScopeInfo", 5)?;
        fields.serialize_field("id", &self.id())?;
        fields.serialize_field("label", &self.label())?;
        fields.serialize_field("location", &Shown(self.location()))?;
        fields.serialize_field("limit", &self.limit())?;
        fields.serialize_field("fields", &Map(self.fields()))?;
        fields.end()
    }
}

impl Serialize for TimeoutError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("TimeoutError", 15)?;
        fields.serialize_field("message", &Shown(self))?;
        fields.serialize_field("cause", &self.cause())?;
        fields.serialize_field("reason", &self.reason())?;
        fields.serialize_field("scope", &self.scope())?;
        fields.serialize_field("label", &self.label())?;
        fields.serialize_field("location", &Shown(self.location()))?;
        fields.serialize_field("interrupted_at", &Shown(self.interrupted_at()))?;
        fields.serialize_field("limit", &self.limit())?;
        fields.serialize_field("elapsed", &self.elapsed())?;
        fields.serialize_field("overshoot", &self.overshoot())?;
        fields.serialize_field("started", &self.started())?;
        fields.serialize_field("settled", &self.settled())?;
        fields.serialize_field("fields", &Map(self.fields()))?;
        fields.serialize_field("chain", &*self.0.chain)?;
        fields.serialize_field("source", &self.source().map(Shown))?;
        fields.end()
    }
}
