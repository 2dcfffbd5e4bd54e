//! JSON Schemas of payloads, compiled once.
//!
//! References to other documents are not followed: a registry must not fetch what a schema names.
//!
//! # Stack
//! Judging recurses with the depth of the value, some kilobytes a level, times what the schema nests at
//! each level. The threads that serve requests have 2 MiB, and a stack that overflows ends the process.
//! So what is nested deeper than `value::SHALLOW` is validated on a thread of its own with a stack, of which only
//! what is used becomes memory ([`deep`]); values from devices rarely are.

mod bundle;
mod deep;
mod words;

use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::domain::value::{SchemaInput, StateValue, read_deep};
pub use bundle::{SchemaDocument, bundle};
pub use deep::NotValidated;
use words::MAX_ERROR_CHARS;
pub(crate) use words::visible;

/// Most bytes of a schema's JSON text, with the exponents of its numbers written out as `jsonb` does it. A line of an export, which
/// has two of them, stays within what an import reads.
pub const MAX_SCHEMA_BYTES: usize = 240 * 1024;
/// The same as `jsonb` writes it: with a space after each comma and colon.
const MAX_STORED_BYTES: usize = 2 * MAX_SCHEMA_BYTES;
/// Steps that a pattern of a schema may take over one string before the string is taken for not matching. Below `not` that
/// makes it valid: there a pattern is only as good as it is quick.
const PATTERN_STEPS: usize = 100_000;

/// Why a schema cannot be used. The text says where in the schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SchemaError(String);

/// Where a value breaks a schema. Nothing here repeats a value; names of properties are shortened and
/// without anything that a terminal would act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON pointer (RFC 6901) into the value; empty for the value itself.
    pub pointer: String,
    /// Which rule it breaks.
    pub message: String,
}

impl Violation {
    /// A violation by the value as a whole.
    #[must_use]
    pub fn of_all(message: String) -> Self {
        Self { pointer: String::new(), message }
    }
}

/// A schema that a capability can be given: PostgreSQL can hold it, it is no larger than [`MAX_SCHEMA_BYTES`], and it compiles.
#[derive(Debug, Clone, PartialEq)]
pub struct UsableSchema(Value);

impl UsableSchema {
    /// Checks a schema, with what it refers to in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(schema: Value) -> Result<Self, SchemaError> {
        let text = schema.to_string();
        if let Some(stored) = StateValue::read(text.as_bytes()) {
            if let Some(why) = stored.as_text() {
                return Err(SchemaError(format!("it cannot be stored: {}", why.why())));
            }
            if stored.stored_bytes() > MAX_SCHEMA_BYTES {
                return Err(SchemaError(format!(
                    "it has {} bytes with all that it refers to, its numbers written out; at most {MAX_SCHEMA_BYTES} are kept",
                    stored.stored_bytes()
                )));
            }
        }
        StateSchema::compile(&schema)?;
        Ok(Self(schema))
    }

    /// The schema.
    #[must_use]
    pub fn as_value(&self) -> &Value {
        &self.0
    }
}

/// A schema that is ready to validate.
pub struct StateSchema(Validator);

impl StateSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        jsonschema::options()
            .offline()
            .with_pattern_options(PatternOptions::fancy_regex().backtrack_limit(PATTERN_STEPS))
            .build(schema)
            .map(Self)
            .map_err(|error| {
                let text = format!("{error} (at \"{}\")", error.instance_path());
                SchemaError(visible(&text, MAX_ERROR_CHARS))
            })
    }

    /// Reads a schema and compiles it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, SchemaError> {
        if text.len() > MAX_STORED_BYTES {
            return Err(SchemaError(format!("it is larger than {MAX_STORED_BYTES} bytes")));
        }
        let schema = serde_json::from_str(text).map_err(|error| SchemaError(error.to_string()))?;
        Self::compile(&schema)
    }

    /// Validates a value: the first rule that it breaks, or why it is not a JSON value; `None` if it is
    /// valid.
    ///
    /// # Errors
    /// [`NotValidated`] when that was not possible at present; nothing is known of the value then.
    pub async fn find_violation(
        self: &Arc<Self>,
        input: &SchemaInput,
    ) -> Result<Option<Violation>, NotValidated> {
        match input {
            SchemaInput::Value(value) => Ok(self.violation_of(value)),
            SchemaInput::Deep(text) => {
                let (schema, text) = (self.clone(), text.clone());
                deep::with_deep_stack(move || schema.violation_of_text(&text)).await
            }
            SchemaInput::Not(why) => Ok(Some(Violation::of_all(why.to_string()))),
        }
    }

    fn violation_of(&self, value: &Value) -> Option<Violation> {
        self.0.validate(value).err().map(|error| words::violation(&error))
    }

    fn violation_of_text(&self, text: &str) -> Option<Violation> {
        match read_deep(text) {
            Ok(value) => self.violation_of(&value),
            Err(why) => Some(Violation::of_all(why.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::words::MAX_POINTER_BYTES;
    use super::*;
    use crate::domain::value::StateValue;

    fn schema(schema: &str) -> Arc<StateSchema> {
        Arc::new(StateSchema::compile(&serde_json::from_str(schema).unwrap()).unwrap())
    }

    pub(super) fn check_bytes(schema: &Arc<StateSchema>, payload: &[u8]) -> Result<(), Violation> {
        let value = StateValue::read(payload).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let violation = runtime.block_on(schema.find_violation(value.schema_input())).unwrap();
        violation.map_or(Ok(()), Err)
    }

    fn check(schema: &Arc<StateSchema>, payload: &str) -> Result<(), Violation> {
        check_bytes(schema, payload.as_bytes())
    }

    fn said(schema_text: &str, payload: &str) -> (String, String) {
        let Violation { pointer, message } = check(&schema(schema_text), payload).unwrap_err();
        (pointer, message)
    }

    const CELSIUS: &str = r#"{
        "type": "object", "properties": {"celsius": {"type": "number", "minimum": -50}},
        "required": ["celsius"], "additionalProperties": false}"#;

    #[test]
    fn a_violation_says_where_and_which_rule_but_not_what() {
        assert_eq!(check(&schema(CELSIUS), r#"{"celsius": 21.5}"#), Ok(()));
        let violation = |payload| said(CELSIUS, payload);
        let said = |pointer: &str, message: &str| (pointer.to_owned(), message.to_owned());
        assert_eq!(
            violation(r#"{"celsius": -271828}"#),
            said("/celsius", "breaks \"minimum\" of the schema")
        );
        assert_eq!(
            violation("\"271828\""),
            said("", "breaks \"type\" of the schema: expected object, got string")
        );
        assert_eq!(
            violation("{}"),
            said("", "breaks \"required\" of the schema: the property \"celsius\" is missing")
        );
        let (pointer, message) = violation(r#"{"celsius": "271828"}"#);
        assert_eq!(pointer, "/celsius");
        assert!(message.ends_with("expected number, got string"), "{message}");
        let (_, message) = violation(r#"{"celsius": 1, "c\u001b\u0000": 271828, "d": 2}"#);
        assert!(message.contains(r#"the property "c\u{1b}\0" is not allowed"#), "{message}");
    }

    #[test]
    fn names_from_a_payload_are_bounded_and_harmless() {
        let long = "é".repeat(40_000);
        let (pointer, _) =
            said(r#"{"additionalProperties": {"type": "null"}}"#, &json!({ &long: 1 }).to_string());
        assert!(pointer.starts_with("/éé") && pointer.len() <= MAX_POINTER_BYTES + 3);
        let (pointer, _) =
            said(r#"{"additionalProperties": false}"#, &json!({ &long: 1 }).to_string());
        assert!(pointer.len() <= MAX_POINTER_BYTES + 3);
        let many = (0..1000).map(|i| (format!("{i}{long}"), json!(1))).take(9).collect();
        let many = Value::Object(many).to_string();
        let (_, message) = said(r#"{"unevaluatedProperties": false}"#, &many);
        assert!(message.chars().count() < 350 && message.contains("and 6 more"), "{message}");
        let (pointer, _) =
            said(r#"{"additionalProperties": {"type": "null"}}"#, "{\"\\u0000\\u202e\":1}");
        assert_eq!(pointer, r"/\0\u{202e}");
    }

    #[test]
    fn what_is_not_json_breaks_every_schema() {
        for text in ["nan", "+1", "\u{feff}1", "{'a':1}", "[1] x", " "] {
            for any in ["true", "{}", r#"{"type":"string"}"#, r#"{"type":"object"}"#] {
                let (pointer, message) = said(any, text);
                assert!(pointer.is_empty() && message.contains("is not JSON"), "{text}: {message}");
            }
        }
        let violation = check_bytes(&schema(r#"{"type":"object"}"#), b"\x08\x96\x01").unwrap_err();
        assert!(violation.message.contains("not UTF-8"), "{}", violation.message);
    }

    #[test]
    fn numbers_are_judged_by_their_digits() {
        let validated = |text: &str, payload: &str| check(&schema(text), payload).is_ok();
        for (text, payload, good) in [
            (r#"{"const":9007199254740993}"#, "9007199254740993", true),
            (r#"{"const":9007199254740993}"#, "9007199254740992", false),
            (r#"{"const":1.0}"#, "1", true),
            (r#"{"maximum":89441100680000000001}"#, "89441100680000000001", true),
            (r#"{"maximum":89441100680000000001}"#, "89441100680000000002", false),
            (r#"{"multipleOf":0.01}"#, "19.99", true),
            (r#"{"multipleOf":0.1}"#, "0.1000", true),
            (r#"{"type":"integer"}"#, "1e400", true),
            (r#"{"type":"number","maximum":1e400}"#, "1e200000", false),
            (r#"{"type":"integer"}"#, "1.0", true),
            (r#"{"type":"number"}"#, "-1e99999999999999999999", true),
            (r#"{"minimum":0}"#, "-0", true),
        ] {
            assert_eq!(validated(text, payload), good, "{text} {payload}");
        }
    }

    #[test]
    fn deep_values_are_judged_and_cannot_overflow_a_stack() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let any = schema(r#"{"type":"array"}"#);
        let recursive = schema(
            r##"{"anyOf":[{"type":"string"},{"allOf":[{"type":"array","items":{"$ref":"#"}}]}]}"##,
        );
        for levels in [1, 17, 100, 101, 128, 129, 1000] {
            assert_eq!(check(&any, &nested(levels)), Ok(()), "{levels}");
            assert_eq!(check(&recursive, &nested(levels)), Ok(()), "{levels}");
            let bad = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
            assert!(check(&recursive, &bad).is_err(), "{levels}");
        }
        for levels in [1001, 32_000] {
            let message = check(&any, &nested(levels)).unwrap_err().message;
            assert!(message.contains("nested deeper than 1000 levels"), "{message}");
        }
    }

    #[test]
    fn what_does_not_compile_is_refused_and_nothing_is_fetched() {
        for schema in [
            json!({"type": "nonsense"}),
            json!({"pattern": "("}),
            json!({"$ref": "http://127.0.0.1:9/schema.json"}),
            json!({"$ref": "file:///etc/hostname"}),
            json!({"$ref": "#/nowhere"}),
        ] {
            assert!(StateSchema::compile(&schema).is_err(), "{schema}");
        }
        assert!(check(&schema("false"), "1").is_err());
    }

    #[test]
    fn a_pattern_that_backtracks_is_stopped() {
        let schema = schema(r#"{"pattern": "^(?=a)(a|aa)+$"}"#);
        assert!(check(&schema, &format!("\"{}b\"", "a".repeat(60_000))).is_err());
    }
}
