//! From a payload to the value that the registry keeps: JSON as JSON, other text as a string, other
//! bytes as `{"base64": …}`.
//!
//! # What jsonb refuses though it is JSON
//! PostgreSQL and serde_json do not accept the same texts, and one text that PostgreSQL refuses would
//! fail a whole batch. Such a document is kept as a *string* that holds its text, byte for byte:
//! - `\u0000` anywhere: PostgreSQL's text cannot hold U+0000 (22P05);
//! - numbers beyond an IEEE double (serde_json refuses) and numbers of more than [`MAX_NUMBER_BYTES`]
//!   or with an exponent below [`MIN_EXPONENT`] (numeric ends at 16,383 decimals: 22003);
//! - unpaired surrogates (serde_json refuses them as 22P05 would);
//! - nesting deeper than [`MAX_DEPTH`]: readers of the registry, this one included, stop at 128, and
//!   the value itself lies two levels deep.
//!
//! Numbers are not read and written again: jsonb keeps every digit, where a double would not.

use base64ct::{Base64, Encoding};
use serde_json::Value;

/// Deepest nesting of arrays and objects that is kept as JSON.
pub const MAX_DEPTH: usize = 100;
/// Longest number that is kept as JSON.
pub const MAX_NUMBER_BYTES: usize = 512;
/// Smallest decimal exponent that is kept as JSON; a double's own is -324.
pub const MIN_EXPONENT: i32 = -1000;

/// A value that jsonb can hold.
#[derive(Debug, Clone, PartialEq)]
pub struct StateValue {
    text: String,
    value: Value,
}

impl StateValue {
    /// Reads a payload; `None` for an empty one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        if payload.is_empty() {
            return None;
        }
        Some(match std::str::from_utf8(payload) {
            Ok(text) => Self::document(text).unwrap_or_else(|| Self::text(text)),
            Err(_) => Self::bytes(payload),
        })
    }

    /// Its JSON text, as it is stored.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.text
    }

    /// What a schema judges.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    fn document(text: &str) -> Option<Self> {
        let value = serde_json::from_str(text).ok()?;
        jsonb_holds(text.as_bytes()).then(|| Self { text: text.to_owned(), value })
    }

    fn text(text: &str) -> Self {
        if text.contains('\0') {
            Self::bytes(text.as_bytes())
        } else {
            Self::from(Value::from(text))
        }
    }

    fn bytes(payload: &[u8]) -> Self {
        Self::from(serde_json::json!({ "base64": Base64::encode_string(payload) }))
    }
}

impl From<Value> for StateValue {
    fn from(value: Value) -> Self {
        Self { text: value.to_string(), value }
    }
}

/// Whether jsonb takes a text that serde_json has accepted.
fn jsonb_holds(text: &[u8]) -> bool {
    let (mut rest, mut depth) = (text, 0_usize);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'"' => match string_end(after) {
                Some(end) => rest = end,
                None => return false,
            },
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let more = after.iter().take_while(|byte| is_in_number(**byte)).count();
                let (number, end) = after.split_at(more);
                if !is_modest(number) {
                    return false;
                }
                rest = end;
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return false;
        }
    }
    true
}

/// What follows a string whose opening quote was just read; `None` if the string holds `\u0000`.
fn string_end(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        match rest {
            [b'\\', b'u', b'0', b'0', b'0', b'0', ..] | [] => return None,
            [b'\\', _, after @ ..] => rest = after,
            [b'"', after @ ..] => return Some(after),
            [_, after @ ..] => rest = after,
        }
    }
}

fn is_in_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')
}

/// Whether numeric holds a number, of which the first byte may be missing.
fn is_modest(number: &[u8]) -> bool {
    let exponent =
        number.iter().position(|byte| matches!(byte, b'e' | b'E')).and_then(|position| {
            std::str::from_utf8(number.get(position + 1..)?).ok().map(str::parse::<i32>)
        });
    let exponent_fits = match exponent {
        None => true,
        Some(Ok(exponent)) => exponent >= MIN_EXPONENT,
        Some(Err(_)) => false,
    };
    number.len() < MAX_NUMBER_BYTES && exponent_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(payload: &[u8]) -> String {
        StateValue::read(payload).unwrap().json().to_owned()
    }

    fn as_string(text: &str) -> String {
        Value::from(text).to_string()
    }

    #[test]
    fn json_is_kept_as_it_came() {
        for text in
            ["21.50", r#"{"c": 12345678901234567890123}"#, "null", r#"["\\u0000"]"#, "1e-300"]
        {
            assert_eq!(stored(text.as_bytes()), text);
        }
    }

    #[test]
    fn other_text_is_a_string_and_other_bytes_are_base64() {
        assert_eq!(stored(b"late"), r#""late""#);
        assert_eq!(stored(b"\0"), r#"{"base64":"AA=="}"#);
        assert_eq!(stored(&[0, 0xff, 0xfe]), r#"{"base64":"AP/+"}"#);
        assert_eq!(StateValue::read(b""), None);
    }

    #[test]
    fn what_jsonb_refuses_is_a_string() {
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        let long = format!("0.{}", "1".repeat(MAX_NUMBER_BYTES));
        for text in [
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#""\ud800""#,
            "1e999",
            "1e-20000",
            "[1e-99999999999]",
            deep.as_str(),
            long.as_str(),
        ] {
            assert_eq!(stored(text.as_bytes()), as_string(text), "{text}");
        }
        let shallow = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert_eq!(stored(shallow.as_bytes()), shallow);
    }
}
