//! What an administrator notes about a device: a free-form JSON object.

use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

use crate::domain::value::{AsText, StateValue};

/// Why a text is not a device's meta.
#[derive(Debug, Error)]
pub enum MetaError {
    /// It breaks the grammar of JSON.
    #[error("is not valid JSON ({0}); write something like {{\"room\": \"101\"}}")]
    NotJson(serde_json::Error),
    /// It is another kind of JSON.
    #[error("is JSON but no object; write something like {{\"room\": \"101\"}}")]
    NoObject,
    /// It is larger than [`MAX_META_BYTES`]: a list has a thousand of them.
    #[error("has {0} bytes, its numbers written out; at most {MAX_META_BYTES} are kept")]
    TooLarge(usize),
    /// PostgreSQL's `jsonb` cannot hold it.
    #[error("is JSON that cannot be stored: {}", .0.why())]
    NotStorable(AsText),
}

/// Most bytes of the JSON text, with the exponents of its numbers written out as `jsonb` does it.
pub const MAX_META_BYTES: usize = 64 * 1024;

/// A JSON object that PostgreSQL can hold. Every digit of a number is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta(Value);

impl Meta {
    /// The object.
    #[must_use]
    pub fn as_value(&self) -> &Value {
        &self.0
    }
}

impl Default for Meta {
    fn default() -> Self {
        Self(Value::Object(serde_json::Map::new()))
    }
}

impl FromStr for Meta {
    type Err = MetaError;

    fn from_str(text: &str) -> Result<Self, MetaError> {
        if let Some(value) = StateValue::read(text.as_bytes()) {
            if let Some(why) = value.as_text() {
                return Err(MetaError::NotStorable(why));
            }
            if value.stored_bytes() > MAX_META_BYTES {
                return Err(MetaError::TooLarge(value.stored_bytes()));
            }
        }
        match serde_json::from_str(text).map_err(MetaError::NotJson)? {
            value @ Value::Object(_) => Ok(Self(value)),
            _ => Err(MetaError::NoObject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_bounded() {
        let of = |text: &str| text.parse::<Meta>();
        let long = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length));
        assert!(of(&long(MAX_META_BYTES - 8)).is_ok());
        assert!(matches!(of(&long(MAX_META_BYTES - 7)), Err(MetaError::TooLarge(_))));
        // A few bytes that PostgreSQL writes out.
        assert!(of("{\"a\":1e60000}").is_ok());
        assert!(matches!(of("{\"a\":1e60000,\"b\":1e-9000}"), Err(MetaError::TooLarge(_))));
    }
}
