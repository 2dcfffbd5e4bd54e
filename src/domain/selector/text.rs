//! The text form: an AND of simple tests, `area=lab,kind in (relay,plug),!floor,meta/fw="1.2",state/temperature>25,online`.
//!
//! It is read into the JSON that says the same, and so are its errors. What it cannot say is shown as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::domain::selector::{
    Comparison, Pointer, Scalar, Seen, Selector, SelectorError, Test, TextCheck, TextTest,
    ValueCheck, ValueTest,
};

/// What separates the parts of a test; a key or a value that holds any of it needs its quotes, or JSON.
const SPECIAL: [char; 10] = ['=', '!', '<', '>', ',', '(', ')', '"', '\\', '{'];
/// The longest first: `<=` is not `<`.
const OPERATORS: [(&str, Operator); 8] = [
    ("!=", Operator::Not),
    ("<=", Operator::Compare(Comparison::Le)),
    (">=", Operator::Compare(Comparison::Ge)),
    ("<", Operator::Compare(Comparison::Lt)),
    (">", Operator::Compare(Comparison::Gt)),
    ("=", Operator::Is),
    ("notin", Operator::NotIn),
    ("in", Operator::In),
];

#[derive(Clone, Copy)]
enum Operator {
    Is,
    Not,
    In,
    NotIn,
    Compare(Comparison),
}

/// Reads the text form into JSON. Whether fields and values are right is for whoever reads that.
///
/// # Errors
/// A part that is no test.
pub(super) fn read(text: &str) -> Result<Value, SelectorError> {
    let mut reader = Reader { rest: text };
    let mut selector = Map::new();
    reader.skip_space();
    while !reader.rest.is_empty() {
        let before = reader.rest;
        let (key, value) = reader.test()?;
        let part = before.strip_suffix(reader.rest).unwrap_or(before).trim_end();
        put(&mut selector, &key, value).map_err(|message| about(part, message))?;
        reader.skip_space();
        if !reader.rest.is_empty() && (!reader.skip(",") || reader.is_at_end()) {
            return Err(about(reader.rest, "tests are separated by commas".to_owned()));
        }
    }
    Ok(Value::Object(selector))
}

fn about(part: &str, message: String) -> SelectorError {
    let part: String = part.chars().take(60).collect();
    SelectorError { pointer: if part.is_empty() { part } else { format!("{part:?}") }, message }
}

/// Adds a test to what is there already.
fn put(selector: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), String> {
    let twice = || format!("{key} is tested twice; write one test, or JSON");
    let (field, key_within) = match key.split_once('/') {
        Some(("meta", pointer)) => ("meta", Some(format!("/{pointer}"))),
        Some(("state", path)) => ("state", Some(path.to_owned())),
        _ => (key, None),
    };
    let (tests, key) = match &key_within {
        None => (selector, field),
        Some(key) => match selector.entry(field).or_insert_with(|| json!({})) {
            Value::Object(tests) => (tests, key.as_str()),
            _ => return Err(twice()),
        },
    };
    match (tests.get_mut(key), value) {
        (None, value) => drop(tests.insert(key.to_owned(), value)),
        (Some(Value::Object(known)), Value::Object(more)) if key_within.is_some() => {
            for (name, value) in more {
                if known.insert(name, value).is_some() {
                    return Err(twice());
                }
            }
        }
        (Some(known), more) if field == "capability" => {
            *known = json!([known.take(), more]);
            if let Value::Array(values) = known
                && let Some(Value::Array(first)) = values.first_mut()
            {
                let mut all = std::mem::take(first);
                all.extend(values.pop());
                *values = all;
            }
        }
        _ => return Err(twice()),
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    fn error<T>(&self, message: &str) -> Result<T, SelectorError> {
        Err(about(self.rest, message.to_owned()))
    }

    /// A key with what it is to be, as JSON.
    fn test(&mut self) -> Result<(String, Value), SelectorError> {
        let negated = self.skip("!");
        let key = self.word();
        if key.is_empty() {
            return self.error("a test begins with a field, such as area=lab");
        }
        let is_value = key.starts_with("meta/") || key.starts_with("state/");
        let is_flag = matches!(key, "online" | "enabled");
        self.skip_space();
        let operator = OPERATORS.into_iter().find(|(sign, _)| self.is_operator(sign));
        let Some((sign, operator)) = operator.filter(|_| !negated) else {
            let value = match (is_value, is_flag, negated) {
                (true, _, _) => json!({"exists": !negated}),
                (_, true, _) => Value::Bool(!negated),
                (_, _, true) => Value::Null,
                (_, _, false) => json!({"not": null}),
            };
            return Ok((key.to_owned(), value));
        };
        self.skip(sign);
        self.skip_space();
        let value = match operator {
            Operator::Is if is_flag => self.value(true)?,
            Operator::Is => self.value(is_value)?,
            Operator::Not => json!({"not": self.value(is_value)?}),
            Operator::In => self.list(is_value)?,
            Operator::NotIn => json!({"not": self.list(is_value)?}),
            Operator::Compare(Comparison::Lt) if key == "seen" => {
                json!({"within": self.value(false)?})
            }
            Operator::Compare(Comparison::Gt) if key == "seen" => {
                json!({"before": self.value(false)?})
            }
            Operator::Compare(how) => json!({how.word(): self.value(true)?}),
        };
        if key == "capability" && matches!(operator, Operator::In) {
            return self.error(
                "a device has all capabilities that are named; write capability=a,capability=b",
            );
        }
        Ok((key.to_owned(), value))
    }

    /// Whether this operator comes next; a word is one only with a list behind it.
    fn is_operator(&self, sign: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(sign) else { return false };
        !sign.starts_with(char::is_alphabetic) || rest.trim_start().starts_with('(')
    }

    /// Everything up to white space or a special character.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| c.is_whitespace() || SPECIAL.contains(&c));
        let (word, rest) =
            self.rest.split_at_checked(end.unwrap_or(self.rest.len())).unwrap_or_default();
        self.rest = rest;
        word
    }

    /// A value: in quotes a text; without them, where values have types, what JSON takes it for.
    fn value(&mut self, is_typed: bool) -> Result<Value, SelectorError> {
        self.skip_space();
        if self.rest.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
            let Some(Ok(text)) = values.next() else {
                return self.error("is not a text in quotes, as JSON has them");
            };
            self.rest = self.rest.get(values.byte_offset()..).unwrap_or_default();
            return Ok(Value::String(text));
        }
        let word = self.word();
        if word.is_empty() {
            return self.error("a value is missing here");
        }
        let typed = serde_json::from_str(word).ok().filter(|_| is_typed);
        Ok(typed.unwrap_or_else(|| Value::String(word.to_owned())))
    }

    fn list(&mut self, is_typed: bool) -> Result<Value, SelectorError> {
        self.skip_space();
        if !self.skip("(") {
            return self.error("a list is missing here, such as (relay,plug)");
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value(is_typed)?);
            self.skip_space();
            if self.skip(")") {
                return Ok(Value::Array(values));
            }
            if !self.skip(",") {
                return self.error("values of a list are separated by commas, and end with )");
            }
        }
    }
}

/// The text form where it can say the same, else JSON.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Option<Vec<String>> = self.tests.iter().map(test).collect();
        let text = parts.map(|parts| parts.join(","));
        // Not where two tests are about the same, which is then said in another way.
        match text.filter(|text| read(text).is_ok_and(|json| json == self.to_json())) {
            Some(text) if !text.is_empty() => f.write_str(&text),
            _ => write!(f, "{}", self.to_json()),
        }
    }
}

fn test(test: &Test) -> Option<String> {
    match test {
        Test::Text(field, test) => text_test(field.word(), test),
        Test::Capabilities(names) => {
            let each =
                names.iter().map(|name| format!("capability={}", shown(name.as_str(), false)));
            Some(each.collect::<Vec<_>>().join(","))
        }
        Test::Online(online) => Some(flag("online", *online)),
        Test::Enabled(enabled) => Some(flag("enabled", *enabled)),
        Test::Seen(Seen::Within(age)) => Some(format!("seen<{age}")),
        Test::Seen(Seen::Before(age)) => Some(format!("seen>{age}")),
        Test::Meta(pointer, test) => value_test(&key("meta", pointer)?, test),
        Test::State(binding, pointer, test) => {
            value_test(&key(&format!("state/{binding}"), pointer)?, test)
        }
        Test::Any(_) | Test::Not(_) => None,
    }
}

fn flag(word: &str, value: bool) -> String {
    if value { word.to_owned() } else { format!("!{word}") }
}

/// A key that needs no quotes.
fn key(field: &str, pointer: &Pointer) -> Option<String> {
    let key = format!("{field}{pointer}");
    let is_plain = !key.contains(|c: char| c.is_whitespace() || SPECIAL.contains(&c));
    (is_plain && (field != "meta" || !pointer.tokens().is_empty())).then_some(key)
}

fn text_test(field: &str, test: &TextTest) -> Option<String> {
    match test {
        TextTest::OneOf(texts) => Some(match texts.as_slice() {
            [text] => format!("{field}={}", shown(text, false)),
            texts => format!("{field} in ({})", texts_of(texts)),
        }),
        TextTest::Absent => Some(format!("!{field}")),
        TextTest::All(checks) => match checks.as_slice() {
            [TextCheck::Not(TextTest::Absent)] => Some(field.to_owned()),
            [TextCheck::Not(TextTest::OneOf(texts))] => Some(match texts.as_slice() {
                [text] => format!("{field}!={}", shown(text, false)),
                texts => format!("{field} notin ({})", texts_of(texts)),
            }),
            _ => None,
        },
    }
}

fn texts_of(texts: &[String]) -> String {
    texts.iter().map(|text| shown(text, false)).collect::<Vec<_>>().join(",")
}

fn value_test(key: &str, test: &ValueTest) -> Option<String> {
    let scalars = |scalars: &[Scalar]| scalars.iter().map(scalar).collect::<Vec<_>>().join(",");
    match test {
        ValueTest::OneOf(values) => Some(match values.as_slice() {
            [value] => format!("{key}={}", scalar(value)),
            values => format!("{key} in ({})", scalars(values)),
        }),
        ValueTest::All(checks) => {
            let parts: Option<Vec<String>> = checks
                .iter()
                .map(|check| match check {
                    ValueCheck::Exists(exists) => Some(flag(key, *exists)),
                    ValueCheck::Compare(how, number) => {
                        Some(format!("{key}{}{number}", how.operator()))
                    }
                    ValueCheck::Not(ValueTest::OneOf(values)) => Some(match values.as_slice() {
                        [value] => format!("{key}!={}", scalar(value)),
                        values => format!("{key} notin ({})", scalars(values)),
                    }),
                    ValueCheck::Within(_) | ValueCheck::Not(ValueTest::All(_)) => None,
                })
                .collect();
            parts.map(|parts| parts.join(","))
        }
    }
}

fn scalar(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Text(text) => shown(text, true),
        other => other.to_json().to_string(),
    }
}

/// A text, in quotes where it would be read as something else without them.
fn shown(text: &str, is_typed: bool) -> String {
    let special = |c: char| c.is_whitespace() || c.is_control() || SPECIAL.contains(&c);
    let is_json = is_typed && serde_json::from_str::<Value>(text).is_ok();
    match text.is_empty() || text.contains(special) || is_json {
        true => Value::String(text.to_owned()).to_string(),
        false => text.to_owned(),
    }
}
