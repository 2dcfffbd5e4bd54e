//! Selectors: which devices are meant. One small JSON object, an AND of its members; `docs/SELECTORS.md` tells the
//! grammar, and `fleetgate_selector_problem` in `sql/` checks the same.
//!
//! A test is true or false and nothing between: on what is absent or of another type it is false, and `not` is its exact
//! complement. Numbers compare by value, whatever their number of digits.

mod json;
mod text;

use std::fmt;
use std::time::Duration;

use serde_json::{Number, Value};
use thiserror::Error;

use crate::domain::json_pointer::{Pointer, escaped};
use crate::domain::name::{BindingName, CapabilityName};

/// Longest selector in bytes, as it is written.
pub const MAX_BYTES: usize = 4096;
/// Longest selector as JSON, in bytes: the text form is shorter.
pub const MAX_STORED_BYTES: usize = 8192;
/// How deep `any` and `not` go, the selector itself counted.
pub const MAX_DEPTH: usize = 4;
/// Most tests of a selector.
pub const MAX_TESTS: usize = 32;
/// Most values of a list.
pub const MAX_LIST: usize = 100;
/// Most selectors of an `any`.
pub const MAX_ANY: usize = 8;
/// Longest text that a test compares with, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Which devices are meant: those for which every test holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    tests: Vec<Test>,
}

/// One member of a selector.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// A text of the device's own row.
    Text(TextField, TextTest),
    /// It has all of these capabilities.
    Capabilities(Vec<CapabilityName>),
    /// Whether it is online.
    Online(bool),
    /// Whether it is enabled.
    Enabled(bool),
    /// When it was last heard.
    Seen(Seen),
    /// A value in its meta.
    Meta(Pointer, ValueTest),
    /// A value in the last report of a binding.
    State(BindingName, Pointer, ValueTest),
    /// One of these at least.
    Any(Vec<Selector>),
    /// Not this.
    Not(Selector),
}

/// A text of a device's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TextField {
    /// Its name.
    Name,
    /// Its kind.
    Kind,
    /// Its area, if it has one.
    Area,
    /// Its floor, if it has one.
    Floor,
}

impl TextField {
    const ALL: [Self; 4] = [Self::Name, Self::Kind, Self::Area, Self::Floor];

    /// As selectors write it, and the column.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Kind => "kind",
            Self::Area => "area",
            Self::Floor => "floor",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.word() == word)
    }
}

/// What a text must be.
#[derive(Debug, Clone, PartialEq)]
pub enum TextTest {
    /// One of these names.
    OneOf(Vec<String>),
    /// Not there.
    Absent,
    /// All of these.
    All(Vec<TextCheck>),
}

/// One member of an object that tests a text.
#[derive(Debug, Clone, PartialEq)]
pub enum TextCheck {
    /// It begins so.
    Prefix(String),
    /// Not this.
    Not(TextTest),
}

/// When a device was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Within so much time before now.
    Within(Age),
    /// Before that, or never.
    Before(Age),
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueTest {
    /// One of these.
    OneOf(Vec<Scalar>),
    /// All of these.
    All(Vec<ValueCheck>),
}

/// One member of an object that tests a value.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueCheck {
    /// Whether it is there.
    Exists(bool),
    /// It is a number, and compares so.
    Compare(Comparison, Number),
    /// It was reported within so much time before now; of states alone.
    Within(Age),
    /// Not this.
    Not(ValueTest),
}

/// How a number compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comparison {
    /// Less than.
    Lt,
    /// At most.
    Le,
    /// Greater than.
    Gt,
    /// At least.
    Ge,
}

impl Comparison {
    const ALL: [Self; 4] = [Self::Lt, Self::Le, Self::Gt, Self::Ge];

    /// As JSON writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Lt => "lt",
            Self::Le => "le",
            Self::Gt => "gt",
            Self::Ge => "ge",
        }
    }

    /// As SQL and the text form write it.
    #[must_use]
    pub fn operator(self) -> &'static str {
        match self {
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

/// A JSON value that is no array and no object.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `null`: it is there, and null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number; every digit is kept.
    Number(Number),
    /// A text.
    Text(String),
}

impl Scalar {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
        }
    }
}

/// The place in an array that a token names (RFC 6901 §4): no sign, no zero in front. `None` for a token that names
/// only members of objects, and for a place that no array in PostgreSQL has.
#[must_use]
pub fn array_index(token: &str) -> Option<i32> {
    let is_plain = token == "0" || !token.starts_with('0');
    let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && digits).then(|| token.parse().ok()).flatten()
}

/// A span of time as it was written: digits and `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    count: u32,
    unit: char,
}

impl Age {
    /// Reads a span; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let is_number =
            (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let unit = unit.chars().next().filter(|unit| "smhd".contains(*unit))?;
        is_number.then(|| digits.parse().ok()).flatten().map(|count| Self { count, unit })
    }

    /// The span itself.
    #[must_use]
    pub fn duration(self) -> Duration {
        let seconds = match self.unit {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            _ => 24 * 60 * 60,
        };
        Duration::from_secs(u64::from(self.count) * seconds)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit)
    }
}

/// Why a text is not a selector: where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{message}", if .pointer.is_empty() { String::new() } else { format!("{pointer}: ") })]
pub struct SelectorError {
    /// A JSON Pointer into the selector; of the text form the part that is meant.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Selector {
    /// Its tests, all of which have to hold.
    #[must_use]
    pub fn tests(&self) -> &[Test] {
        &self.tests
    }

    /// Whether it says anything of whether devices are enabled, at any place.
    #[must_use]
    pub fn mentions_enabled(&self) -> bool {
        self.tests.iter().any(|test| match test {
            Test::Enabled(_) => true,
            Test::Any(selectors) => selectors.iter().any(Self::mentions_enabled),
            Test::Not(selector) => selector.mentions_enabled(),
            _ => false,
        })
    }

    /// The same, and one more test.
    #[must_use]
    pub fn and(mut self, test: Test) -> Self {
        self.tests.push(test);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        text.parse::<Selector>().unwrap_or_else(|error| panic!("{text}: {error}")).to_json()
    }

    fn refused(text: &str) -> String {
        text.parse::<Selector>().unwrap_err().to_string()
    }

    #[test]
    fn the_text_form_says_what_json_says() {
        let text =
            "area=lab,kind in (relay,plug),!floor,meta/fw=\"1.2\",state/temperature>25,online";
        let expected = json!({"area": "lab", "kind": ["relay", "plug"], "floor": null, "meta": {"/fw": "1.2"},
            "state": {"temperature": {"gt": 25}}, "online": true});
        assert_eq!(read(text), expected);
        assert_eq!(read(&expected.to_string()), expected);
        for (text, expected) in [
            ("", json!({})),
            ("area", json!({"area": {"not": null}})),
            ("!online , enabled", json!({"online": false, "enabled": true})),
            ("area != lab", json!({"area": {"not": "lab"}})),
            ("area notin (a, \"b c\")", json!({"area": {"not": ["a", "b c"]}})),
            ("capability=a,capability=b,capability=c", json!({"capability": ["a", "b", "c"]})),
            (
                "meta/a=1,meta/b=true,meta/c=null,meta/d=x",
                json!({"meta": {"/a": 1, "/b": true, "/c": null, "/d": "x"}}),
            ),
            ("meta/a/b>=1.5,meta/a/b<2", json!({"meta": {"/a/b": {"ge": 1.5, "lt": 2}}})),
            (
                "state/t,!state/u/x",
                json!({"state": {"t": {"exists": true}, "u/x": {"exists": false}}}),
            ),
            ("seen<5m", json!({"seen": {"within": "5m"}})),
            ("seen>7d", json!({"seen": {"before": "7d"}})),
            ("kind=1", json!({"kind": "1"})),
        ] {
            assert_eq!(read(text).to_string(), expected.to_string(), "{text}");
        }
    }

    #[test]
    fn what_the_text_form_cannot_say_is_shown_as_json() {
        for (json, text) in [
            (json!({}), "{}"),
            (json!({"name": {"prefix": "a"}}), "{\"name\":{\"prefix\":\"a\"}}"),
            (json!({"meta": {"/a b": 1}}), "{\"meta\":{\"/a b\":1}}"),
            (json!({"meta": {"": 1}}), "{\"meta\":{\"\":1}}"),
            (json!({"area": "1 a"}), "area=\"1 a\""),
            (json!({"meta": {"/a": "1"}}), "meta/a=\"1\""),
            (json!({"meta": {"/a": ["x", 1, null]}}), "meta/a in (x,1,null)"),
            (json!({"state": {"t": {"gt": 1, "not": 7}}}), "state/t>1,state/t!=7"),
            (
                json!({"capability": ["a", "b"], "online": false}),
                "capability=a,capability=b,!online",
            ),
        ] {
            let selector = Selector::from_json(&json).unwrap();
            assert_eq!(selector.to_string(), text);
            assert_eq!(text.parse::<Selector>().unwrap(), selector);
        }
    }

    #[test]
    fn errors_say_where_and_what_would_be_right() {
        let long = format!("{{\"area\": [\"a\"{}]}}", ",\"a\"".repeat(2000));
        for (text, part) in [
            ("{", "is not JSON"),
            ("colour=red", "/colour: is not a field of a selector; there are name, kind"),
            ("area=a/b", "/area: the name contains '/'"),
            ("area in (a", "separated by commas, and end with )"),
            ("area=", "a value is missing"),
            ("in in (in)", "/in: is not a field"),
            ("area=a b", "tests are separated by commas"),
            ("area=a,", "tests are separated by commas"),
            ("=a", "begins with a field"),
            ("area=a,area=b", "area is tested twice"),
            ("meta/a=1,meta/a=2", "meta/a is tested twice"),
            ("area>5", "/area/gt: is not a test of a text"),
            ("state/t>warm", "/state/t/gt: must be a number"),
            ("capability in (a,b)", "write capability=a,capability=b"),
            ("seen=5m", "must be {\"within\": \"5m\"}"),
            ("online=maybe", "/online: must be true or false"),
            ("meta/a=\"x", "is not a text in quotes"),
            ("{\"meta\": {\"fw\": 1}}", "/meta/fw: is not a JSON Pointer; write /member"),
            ("{\"meta\": {\"/~2\": 1}}", "~ is written ~0"),
            ("{\"meta\": {\"/a\": {\"within\": \"5m\"}}}", "/meta/~1a/within: is not a test"),
            ("{\"state\": {\"t\": {\"within\": \"5 m\"}}}", "must be a span of time"),
            (
                "{\"not\": {\"not\": {\"not\": {\"not\": {}}}}}",
                "/not/not/not/not: is nested too deep",
            ),
            ("{\"any\": []}", "/any: must be a list of 1 to 8 selectors"),
            ("{\"name\": \"\\u0000\"}", "holds U+0000"),
            ("{\"meta\": {\"/a\": 1e200000}}", "more digits than PostgreSQL"),
            ("[]", "is not a field"),
            (long.as_str(), "at most 4096"),
        ] {
            let error = refused(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn array_places_are_those_of_rfc_6901() {
        for (token, place) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("01", None),
            ("-1", None),
            ("", None),
            ("+1", None),
            ("-", None),
            ("1 ", None),
            ("99999999999", None),
        ] {
            assert_eq!(array_index(token), place, "{token}");
        }
    }
}
