//! JSON Schemas of payloads, compiled once.
//!
//! References to other documents are not followed: a registry must not fetch what a schema names.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

/// Longest JSON pointer that a violation tells, in bytes: keys of a payload may be long.
const MAX_POINTER_BYTES: usize = 256;
/// Steps that a pattern of a schema may take over one string before the string counts as no match.
const PATTERN_STEPS: usize = 100_000;

/// Why a schema cannot be used. The text says where in the schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SchemaError(String);

/// Where a value breaks a schema. Nothing here repeats the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer (RFC 6901) into the value; empty for the value itself.
    pub pointer: String,
    /// Which rule it breaks.
    pub message: String,
}

/// A schema that is ready to judge.
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
            .map_err(|error| SchemaError(format!("{error} (at \"{}\")", error.instance_path())))
    }

    /// Judges a value.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, value: &Value) -> Result<(), Violation> {
        self.0.validate(value).map_err(|error| Violation {
            pointer: shortened(error.instance_path().as_str()),
            message: format!("breaks \"{}\" of the schema", error.kind().keyword()),
        })
    }
}

fn shortened(pointer: &str) -> String {
    if pointer.len() <= MAX_POINTER_BYTES {
        return pointer.to_owned();
    }
    let end = pointer.floor_char_boundary(MAX_POINTER_BYTES);
    format!("{}…", pointer.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn celsius() -> StateSchema {
        StateSchema::compile(&json!({
            "type": "object",
            "properties": {"celsius": {"type": "number", "minimum": -50}},
            "required": ["celsius"]
        }))
        .unwrap()
    }

    #[test]
    fn a_violation_says_where_and_which_rule_but_not_what() {
        assert_eq!(celsius().check(&json!({"celsius": 21.5})), Ok(()));
        let cold = celsius().check(&json!({"celsius": -271_828})).unwrap_err();
        assert_eq!(cold.pointer, "/celsius");
        assert_eq!(cold.message, "breaks \"minimum\" of the schema");
        let text = celsius().check(&json!("271828")).unwrap_err();
        assert_eq!((text.pointer.as_str(), text.message.contains("271828")), ("", false));
    }

    #[test]
    fn pointers_are_bounded() {
        let schema = StateSchema::compile(&json!({"additionalProperties": {"type": "null"}}));
        let value = json!({ "é".repeat(40_000): 1 });
        let pointer = schema.unwrap().check(&value).unwrap_err().pointer;
        assert!(pointer.starts_with("/éé") && pointer.len() <= MAX_POINTER_BYTES + 3);
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
        assert!(StateSchema::compile(&json!(false)).unwrap().check(&json!(1)).is_err());
    }

    #[test]
    fn a_pattern_that_backtracks_is_stopped() {
        let schema = StateSchema::compile(&json!({"pattern": "^(?=a)(a|aa)+$"})).unwrap();
        assert!(schema.check(&json!(format!("{}b", "a".repeat(60_000)))).is_err());
    }
}
