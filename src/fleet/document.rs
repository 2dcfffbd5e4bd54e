//! JSON documents in columns.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tokio_postgres::Row;

use crate::registry::error::RegistryError;

/// A JSON document of a list, as text: the tree of one that is made of small numbers takes twenty times as much, and a page has a
/// thousand of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(String);

impl Document {
    /// The document itself.
    #[must_use]
    pub fn value(&self) -> Value {
        // It was made of one.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        Self(value.to_string())
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::from(&value))
    }
}

/// Reads a `jsonb` column of a thing's row; `None` for NULL. Every digit of a number is kept.
///
/// # Errors
/// Names thing and column when the document is one that PostgreSQL holds and Fleetgate cannot read,
/// which only somebody in `psql` can have written: nested deeper than 127 levels, for one.
pub(super) fn document(
    row: &Row,
    thing: &str,
    column: &str,
) -> Result<Option<Value>, RegistryError> {
    row.try_get(column).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        RegistryError::Database {
            thing: thing.to_owned(),
            message: format!(
                "its {column} cannot be read: {}; write another with psql",
                cause.unwrap_or_else(|| error.to_string())
            ),
        }
    })
}
