//! What a device is told to do.

use std::str::FromStr;

use thiserror::Error;

use crate::domain::value::{NotJson, SchemaInput, StateValue};

/// Largest payload that a command may ever have, in bytes: half of what EMQX takes in a message. A setting
/// (`commands.max_payload`) allows less.
pub const MAX_PAYLOAD_BYTES: usize = 512 * 1024;

/// Why a text is not the payload of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// It breaks the grammar of JSON.
    #[error("{0}; write JSON, such as \"on\", 21.5 or {{\"level\": 3}} (a text needs its quotes)")]
    NotJson(NotJson),
    /// More than [`MAX_PAYLOAD_BYTES`].
    #[error("has {0} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")]
    TooLarge(usize),
    /// PostgreSQL's text cannot hold it, or no schema could judge it.
    #[error("{0}")]
    Unfit(&'static str),
}

/// JSON for a device, as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandPayload {
    text: String,
    input: SchemaInput,
}

impl CommandPayload {
    /// The JSON, as it goes to the device.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What a schema validates.
    #[must_use]
    pub fn schema_input(&self) -> &SchemaInput {
        &self.input
    }
}

impl FromStr for CommandPayload {
    type Err = PayloadError;

    fn from_str(text: &str) -> Result<Self, PayloadError> {
        let text = text.trim();
        if text.len() > MAX_PAYLOAD_BYTES {
            return Err(PayloadError::TooLarge(text.len()));
        }
        let value = StateValue::read(text.as_bytes())
            .ok_or(PayloadError::Unfit("is empty; write JSON, such as \"on\", 21.5 or null"))?;
        if let SchemaInput::Not(why) = value.schema_input() {
            return Err(PayloadError::NotJson(*why));
        }
        if let Some(why) = value.as_text() {
            return Err(PayloadError::Unfit(why.why()));
        }
        Ok(Self { text: text.to_owned(), input: value.schema_input().clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_as_it_was_written() {
        for text in ["\"on\"", "21.50", "{\"a\": [1, 2]}", "null", "true"] {
            assert_eq!(text.parse::<CommandPayload>().unwrap().as_str(), text);
        }
        assert!(matches!("on".parse::<CommandPayload>(), Err(PayloadError::NotJson(_))));
        assert!(matches!("".parse::<CommandPayload>(), Err(PayloadError::Unfit(_))));
        assert!(matches!("\"\\u0000\"".parse::<CommandPayload>(), Err(PayloadError::Unfit(_))));
        let large = format!("\"{}\"", "x".repeat(MAX_PAYLOAD_BYTES));
        assert_eq!(large.parse::<CommandPayload>(), Err(PayloadError::TooLarge(524_290)));
    }
}
