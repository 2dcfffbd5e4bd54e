//! From a payload to the value that the registry keeps: JSON as JSON, other text as a string, other
//! bytes as `{"base64": …}`; and to what a schema validates: the payload itself, never one of our own
//! wrappers.
//!
//! # JSON that PostgreSQL cannot hold
//! One text that PostgreSQL refuses would fail a whole batch. Such a document is kept as a *string*
//! that holds its text byte for byte, with the reason beside it ([`AsText`]), and is validated as the JSON
//! it is. What jsonb and its numeric do not hold is in [`mod@scan`].
//!
//! # Numbers
//! Numbers are not read and written again: jsonb keeps every digit, a zero at the end included, and
//! writes exponents out (`1.5e3` becomes `1500`), which changes no value. Minus zero loses its sign.
//! serde_json's `arbitrary_precision` keeps digits wherever this program holds a number itself.
//!
//! # Depth
//! PostgreSQL, readers of the registry and most JSON libraries stop somewhere between 100 and 1000
//! levels, some by crashing. So JSON deeper than [`MAX_DEPTH`] is kept as text, and JSON deeper than
//! [`MAX_VALIDATED_DEPTH`] is not validated: under a schema it is a violation that says so.

mod scan;

use std::fmt;

use base64ct::{Base64, Encoding};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use scan::{Scan, scan};

/// Deepest nesting of arrays and objects that is kept as JSON.
pub const MAX_DEPTH: usize = 100;
/// Deepest nesting of arrays and objects that a schema validates.
pub const MAX_VALIDATED_DEPTH: usize = 1000;
/// Deepest nesting of arrays and objects that is read on the stack of the thread that serves a request.
pub const SHALLOW: usize = 16;

/// Most members, at all levels together, that a report to be merged may have.
pub const MAX_PATCH_MEMBERS: usize = 1000;

/// U+FEFF, as some editors and Windows programs put it before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why a payload that is JSON is kept as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsText {
    /// `\u0000` anywhere: PostgreSQL's text cannot hold U+0000 (22P05).
    Nul,
    /// Half of a surrogate pair, which is not a character (22P02).
    Surrogate,
    /// A number beyond numeric's 131,072 digits before the point and 16,383 after it (22003).
    Number,
    /// Numbers whose exponents, written out as jsonb does it, would take more than a mebibyte.
    WrittenOut,
    /// Nested deeper than [`MAX_DEPTH`].
    Depth,
    /// A property name that the JSON library reserves.
    Reserved,
}

impl AsText {
    /// The reason, as it stands beside the stored value.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Nul => "it holds U+0000, which PostgreSQL cannot store",
            Self::Surrogate => "it holds half of a surrogate pair, which PostgreSQL cannot store",
            Self::Number => "it holds a number with more digits than PostgreSQL can store",
            Self::WrittenOut => "its exponents written out would take more than 1 MiB",
            Self::Depth => "it is nested deeper than 100 levels",
            Self::Reserved => "it holds a property name that Fleetgate's JSON library reserves",
        }
    }
}

/// Why a payload cannot be validated by a schema. The text follows the name of a binding in a message, and
/// repeats nothing of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJson {
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// A byte order mark stands before the text. RFC 8259 section 8.1 forbids to send one.
    ByteOrderMark,
    /// Text that is not JSON; where the parser stopped, both counted from 1.
    Syntax {
        /// The line.
        line: usize,
        /// The byte in it.
        column: usize,
    },
    /// JSON nested deeper than [`MAX_VALIDATED_DEPTH`].
    TooDeep,
    /// JSON with a property name that the JSON library reserves.
    Reserved,
}

impl NotJson {
    fn at(error: &serde_json::Error) -> Self {
        Self::Syntax { line: error.line(), column: error.column() }
    }
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("is not UTF-8, so it is not JSON"),
            Self::ByteOrderMark => f.write_str(
                "is not JSON: a byte order mark (U+FEFF) stands in front of it; send it without",
            ),
            Self::Syntax { line, column } => {
                write!(f, "is not JSON (line {line} column {column})")
            }
            Self::TooDeep => write!(
                f,
                "is nested deeper than {MAX_VALIDATED_DEPTH} levels, deeper than schemas validate"
            ),
            Self::Reserved => f.write_str(
                "holds a property name that begins with \"$serde_json::private::\", which \
                 Fleetgate's JSON library reserves",
            ),
        }
    }
}

/// A value that jsonb can hold, and what a schema validates.
#[derive(Debug, Clone, PartialEq)]
pub struct StateValue {
    text: String,
    as_text: Option<AsText>,
    input: SchemaInput,
    written_out: usize,
}

/// What a schema validates.
#[derive(Debug, Clone, PartialEq)]
pub enum SchemaInput {
    /// The document itself.
    Value(Value),
    /// JSON nested deeper than [`SHALLOW`]: its text, read only where there is stack for it.
    Deep(Box<str>),
    /// Not JSON, and why.
    Not(NotJson),
}

/// Reads what [`SchemaInput::Deep`] holds; needs some kilobytes of stack a level.
///
/// # Errors
/// A text that is not JSON.
pub fn read_deep(text: &str) -> Result<Value, NotJson> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit();
    Value::deserialize(&mut reader).map_err(|error| NotJson::at(&error))
}

impl StateValue {
    /// Reads a payload; `None` for an empty one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        if payload.is_empty() {
            return None;
        }
        let Ok(text) = std::str::from_utf8(payload) else {
            return Some(Self::bytes(payload, NotJson::NotUtf8));
        };
        // At any depth, numbers of any size and any escapes: this reads without recursion.
        Some(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Self::document(text),
            Err(_) if text.starts_with(BYTE_ORDER_MARK) => Self::text(text, NotJson::ByteOrderMark),
            Err(error) => Self::text(text, NotJson::at(&error)),
        })
    }

    /// Its JSON text, as it is stored.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.text
    }

    /// Why the payload is JSON and yet stored as the string that holds its text; `None` where it is
    /// stored as it came.
    #[must_use]
    pub fn as_text(&self) -> Option<AsText> {
        self.as_text
    }

    /// About how many bytes its JSON text has once it is stored: the exponents of numbers are written out.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.text.len() + self.written_out
    }

    /// What a schema validates.
    #[must_use]
    pub fn schema_input(&self) -> &SchemaInput {
        &self.input
    }

    /// The payload as a JSON merge patch (RFC 7396).
    ///
    /// # Errors
    /// Why it cannot be merged, to go on after the name of a binding. Unlike a value that replaces, one
    /// that cannot be kept as JSON cannot be a member of a merged one.
    pub fn merge_patch(&self) -> Result<&str, String> {
        if let Some(why) = self.as_text {
            return Err(format!("cannot be merged: {}", why.why()));
        }
        match &self.input {
            SchemaInput::Not(why) => Err(why.to_string()),
            SchemaInput::Deep(_) => {
                Err(format!("cannot be merged: it is nested deeper than {SHALLOW} levels"))
            }
            SchemaInput::Value(patch) if members(patch) > MAX_PATCH_MEMBERS => {
                Err(format!("cannot be merged: it has more than {MAX_PATCH_MEMBERS} members"))
            }
            SchemaInput::Value(_) => Ok(&self.text),
        }
    }

    /// How many members a merge patch has that [`StateValue::merge_patch`] gives, at all levels together.
    #[must_use]
    pub fn patch_members(&self) -> usize {
        match &self.input {
            SchemaInput::Value(patch) => members(patch),
            SchemaInput::Deep(_) | SchemaInput::Not(_) => 0,
        }
    }

    /// A text that is JSON.
    fn document(text: &str) -> Self {
        let scan = scan(text);
        let as_text = scan.as_text();
        let input = schema_input(text, &scan);
        // What is stored as a string has no numbers.
        let written_out = if as_text.is_some() { 0 } else { scan.written_out() };
        let text = if as_text.is_some() { as_string(text) } else { text.to_owned() };
        Self { text, as_text, input, written_out }
    }

    fn text(text: &str, why: NotJson) -> Self {
        if text.contains('\0') {
            return Self::bytes(text.as_bytes(), why);
        }
        let (text, input) = (as_string(text), SchemaInput::Not(why));
        Self { text, as_text: None, input, written_out: 0 }
    }

    fn bytes(payload: &[u8], why: NotJson) -> Self {
        let text = format!("{{\"base64\":\"{}\"}}", Base64::encode_string(payload));
        Self { text, as_text: None, input: SchemaInput::Not(why), written_out: 0 }
    }
}

/// How many members the objects have that a merge goes into.
fn members(patch: &Value) -> usize {
    let below = |object: &serde_json::Map<_, _>| object.values().map(members).sum::<usize>();
    patch.as_object().map_or(0, |object| object.len() + below(object))
}

fn as_string(text: &str) -> String {
    Value::from(text).to_string()
}

fn schema_input(text: &str, scan: &Scan) -> SchemaInput {
    if scan.reserved {
        return SchemaInput::Not(NotJson::Reserved);
    }
    if scan.depth > MAX_VALIDATED_DEPTH {
        return SchemaInput::Not(NotJson::TooDeep);
    }
    let text = scan::with_whole_surrogates(text, scan);
    if scan.depth > SHALLOW {
        return SchemaInput::Deep(text.into());
    }
    match serde_json::from_str(&text) {
        Ok(value) => SchemaInput::Value(value),
        Err(error) => SchemaInput::Not(NotJson::at(&error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(payload: &[u8]) -> StateValue {
        StateValue::read(payload).unwrap()
    }

    fn stored(payload: &[u8]) -> String {
        read(payload).json().to_owned()
    }

    fn validated(payload: &[u8]) -> Result<Value, NotJson> {
        match read(payload).schema_input() {
            SchemaInput::Value(value) => Ok(value.clone()),
            // A test's thread has room for some hundred levels.
            SchemaInput::Deep(text) if text.len() < 1000 => read_deep(text),
            SchemaInput::Deep(_) => Ok(Value::Null),
            SchemaInput::Not(why) => Err(*why),
        }
    }

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn json_is_kept_as_it_came() {
        for text in [
            "21.50",
            r#"{"c": 12345678901234567890123}"#,
            "null",
            r#"["\\u0000"]"#,
            "1e-300",
            "1e400",
            "-0",
            "0.1000",
            r#"{"a":1,"a":2}"#,
            r#""😀""#,
            &nested(MAX_DEPTH),
            &"9".repeat(60_000),
        ] {
            let value = read(text.as_bytes());
            assert_eq!((value.json(), value.as_text()), (text, None));
            assert!(validated(text.as_bytes()).is_ok());
        }
    }

    #[test]
    fn other_text_is_a_string_and_other_bytes_are_base64_and_neither_is_judged() {
        assert_eq!(stored(b"late"), r#""late""#);
        assert_eq!(stored(b"\0"), r#"{"base64":"AA=="}"#);
        assert_eq!(stored(&[0, 0xff, 0xfe]), r#"{"base64":"AP/+"}"#);
        assert_eq!(StateValue::read(b""), None);
        for latin in [&b"\x08\x96\x01"[..], b"caf\xe9", b"\xff\xfe1\x00"] {
            assert_eq!(validated(latin), Err(NotJson::NotUtf8));
        }
        for text in [
            "nan", "NaN", "-nan", "inf", "Infinity", "+1", "'a'", "{'a':1}", "01", "1.", ".5", " ",
            "1 2", "{}x", "[1,]", "{a:1}", "True", "0x10", "1,5", "\"a\tb\"", "[", "\0", "// c\n1",
            "{\"a\":1",
        ] {
            let why = validated(text.as_bytes()).unwrap_err();
            assert!(matches!(why, NotJson::Syntax { .. }), "{text}");
            assert!(why.to_string().starts_with("is not JSON"), "{why}");
        }
        let marked = read("\u{feff}{\"a\":1}".as_bytes());
        assert_eq!(marked.schema_input(), &SchemaInput::Not(NotJson::ByteOrderMark));
        assert_eq!(marked.json(), "\"\u{feff}{\\\"a\\\":1}\"");
    }

    #[test]
    fn json_that_jsonb_cannot_hold_is_kept_as_text_and_judged_as_the_json_it_is() {
        let cases = [
            (r#"{"a":"\u0000"}"#.to_owned(), AsText::Nul),
            (r#"{"\u0000":1}"#.to_owned(), AsText::Nul),
            (r#"[{"d":"x\u0000"}]"#.to_owned(), AsText::Nul),
            (r#""\ud800""#.to_owned(), AsText::Surrogate),
            (r#"["\udc00\ud800"]"#.to_owned(), AsText::Surrogate),
            (r#"{"\uDFFF":1}"#.to_owned(), AsText::Surrogate),
            ("1e200000".to_owned(), AsText::Number),
            ("-1E+131072".to_owned(), AsText::Number),
            ("[1e-99999999999999999999]".to_owned(), AsText::Number),
            (format!("0.{}", "1".repeat(16_384)), AsText::Number),
            ("9".repeat(131_073), AsText::Number),
            (format!("[{}1]", "1e131071,".repeat(9)), AsText::WrittenOut),
            (nested(MAX_DEPTH + 1), AsText::Depth),
            (nested(MAX_VALIDATED_DEPTH), AsText::Depth),
        ];
        for (text, why) in cases {
            let value = read(text.as_bytes());
            assert_eq!(value.as_text(), Some(why));
            assert_eq!(value.json(), as_string(&text));
            assert!(validated(text.as_bytes()).is_ok(), "{why:?}");
        }
        let validated = |text: &str| validated(text.as_bytes());
        assert_eq!(validated(r#""a\ud800\u0062\ud83d\ude00""#), Ok(Value::from("a\u{fffd}b😀")));
        assert_eq!(validated(&nested(MAX_VALIDATED_DEPTH + 1)), Err(NotJson::TooDeep));
        assert_eq!(validated(&nested(32_000)), Err(NotJson::TooDeep));
    }

    #[test]
    fn what_cannot_be_merged_says_why() {
        let patch = |text: &str| read(text.as_bytes()).merge_patch().map(str::to_owned);
        for good in [r#"{"a":{"b":null}}"#, "1", "[1]", "null", &nested(SHALLOW)] {
            assert_eq!(patch(good).as_deref(), Ok(good));
        }
        let many = |most: usize| {
            let members = (0..most / 2).map(|i| format!("\"{i}\":{{\"a\":1}}")).collect::<Vec<_>>();
            format!("{{{}}}", members.join(","))
        };
        assert!(patch(&many(MAX_PATCH_MEMBERS)).is_ok());
        for (bad, why) in [
            (&*many(MAX_PATCH_MEMBERS + 2), "more than 1000 members"),
            (&nested(SHALLOW + 1), "deeper than 16"),
            (r#"{"a":"\u0000"}"#, "U+0000"),
            ("nan", "not JSON"),
        ] {
            assert!(patch(bad).unwrap_err().contains(why), "{why}");
        }
    }

    #[test]
    fn a_mark_of_the_json_library_is_not_taken_for_one() {
        for text in [
            r#"{"$serde_json::private::Number":"12"}"#,
            r#"[{"\u0024serde_json::private::Number":[1]}]"#,
            r#"{"a":{"$serde_json::private::RawValue":"["}}"#,
        ] {
            let value = read(text.as_bytes());
            assert_eq!(value.schema_input(), &SchemaInput::Not(NotJson::Reserved), "{text}");
            assert_eq!(
                (value.as_text(), value.json()),
                (Some(AsText::Reserved), &*as_string(text))
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_text_is_judged_only_if_it_is_json(
            payload in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let value = read(&payload);
            prop_assert!(serde_json::from_str::<IgnoredAny>(value.json()).is_ok());
            let json = serde_json::from_slice::<IgnoredAny>(&payload).is_ok();
            prop_assert!(json || matches!(value.schema_input(), SchemaInput::Not(_)));
        }

        #[test]
        fn no_digit_of_a_number_changes(number in "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?") {
            let value = read(number.as_bytes());
            prop_assert_eq!(value.json(), &number);
            // serde_json spells an exponent with a small e and a sign.
            let spelt = validated(number.as_bytes()).unwrap().to_string().replace("e+", "e");
            prop_assert_eq!(spelt, number.to_lowercase().replace("e+", "e"));
        }
    }
}
