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
    /// PostgreSQL's `jsonb` cannot hold it.
    #[error("is JSON that cannot be stored: {}", .0.why())]
    NotStorable(AsText),
}

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
        if let Some(why) = StateValue::read(text.as_bytes()).and_then(|value| value.as_text()) {
            return Err(MetaError::NotStorable(why));
        }
        match serde_json::from_str(text).map_err(MetaError::NotJson)? {
            value @ Value::Object(_) => Ok(Self(value)),
            _ => Err(MetaError::NoObject),
        }
    }
}
