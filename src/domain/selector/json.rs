//! Selectors as JSON. The same rules in the same words are in `sql/V9__selectors.sql`, and
//! `tests/integration/selectors.rs` holds the two to each other.

use serde_json::{Map, Value};

use super::decimal::jsonb_length;
use super::pointer::escaped;
use super::{Age, Comparison, Decimal, MAX_ANY, MAX_BYTES, MAX_DEPTH, MAX_LIST, MAX_TESTS, Member};
use super::{Pointer, Scalar, Seen, Selector, SelectorError, Test, TextField, TextTest, ValueTest};
use crate::domain::name::check_name;
use crate::domain::value::StateValue;

/// Reads a text that is JSON.
pub(super) fn parse(text: &str) -> Result<Selector, SelectorError> {
    let whole = |message| SelectorError { pointer: String::new(), message };
    if let Some(why) = StateValue::read(text.as_bytes()).and_then(|value| value.as_text()) {
        return Err(whole(format!("cannot be stored: {}", why.why())));
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|error| whole(format!("is not valid JSON ({error})")))?;
    Selector::from_json(&value)
}

/// What is said of a selector with too many bytes.
pub(super) fn too_large(bytes: impl std::fmt::Display) -> String {
    format!("has {bytes} bytes; at most {MAX_BYTES} are allowed")
}

impl Selector {
    /// Reads a selector from JSON.
    ///
    /// # Errors
    /// The first rule of the grammar that it breaks, and where.
    pub fn from_json(value: &Value) -> Result<Self, SelectorError> {
        let mut reader = Reader { pointer: String::new(), tests: 0, depth: 0 };
        let bytes = jsonb_bytes(value);
        if bytes > i64::try_from(MAX_BYTES).unwrap_or(i64::MAX) {
            return Err(reader.error(too_large(bytes)));
        }
        let selector = reader.selector(value)?;
        if reader.tests > MAX_TESTS {
            let tests = reader.tests;
            return Err(reader.error(format!("has {tests} tests; at most {MAX_TESTS} are allowed")));
        }
        Ok(selector)
    }

    /// The selector as JSON: one value for all selectors that say the same in the same way.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut meta = Map::new();
        let mut state = Map::new();
        for test in self.tests() {
            let (field, value) = match test {
                Test::Text(field, test) => (field.word(), text_test(test)),
                Test::Capabilities(all) => ("capability", Value::from(all.clone())),
                Test::Online(online) => ("online", Value::from(*online)),
                Test::Enabled(enabled) => ("enabled", Value::from(*enabled)),
                Test::Seen(Seen::Within(age)) => ("seen", object("within", age.to_string())),
                Test::Seen(Seen::Before(age)) => ("seen", object("before", age.to_string())),
                Test::Meta(pointer, test) => {
                    meta.insert(pointer.to_string(), value_test(test));
                    continue;
                }
                Test::State { binding, pointer, test } => {
                    state.insert(format!("{binding}{pointer}"), value_test(test));
                    continue;
                }
                Test::Any(selectors) => {
                    ("any", selectors.iter().map(Self::to_json).collect::<Vec<_>>().into())
                }
                Test::Not(selector) => ("not", selector.to_json()),
            };
            fields.insert(field.to_owned(), value);
        }
        for (field, tests) in [("meta", meta), ("state", state)] {
            if !tests.is_empty() {
                fields.insert(field.to_owned(), tests.into());
            }
        }
        fields.into()
    }
}

fn object(name: &str, value: impl Into<Value>) -> Value {
    Map::from_iter([(name.to_owned(), value.into())]).into()
}

fn text_test(test: &TextTest) -> Value {
    match test {
        TextTest::Equals(text) => text.as_str().into(),
        TextTest::OneOf(texts) => texts.clone().into(),
        TextTest::Absent => Value::Null,
        TextTest::Prefix(prefix) => object("prefix", prefix.as_str()),
        TextTest::Not(test) => object("not", text_test(test)),
    }
}

fn value_test(test: &ValueTest) -> Value {
    match test {
        ValueTest::Equals(scalar) => scalar.to_json(),
        ValueTest::OneOf(scalars) => scalars.iter().map(Scalar::to_json).collect::<Vec<_>>().into(),
        ValueTest::All(members) => Value::Object(members.iter().map(member).collect()),
    }
}

fn member(member: &Member) -> (String, Value) {
    let (name, value) = match member {
        Member::Exists(exists) => ("exists", Value::from(*exists)),
        Member::Compare(comparison, bound) => (comparison.word(), bound.to_json()),
        Member::Within(age) => ("within", age.to_string().into()),
        Member::Not(test) => ("not", value_test(test)),
    };
    (name.to_owned(), value)
}

impl Decimal {
    /// The number as JSON, without an exponent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // What it writes is a number.
        self.to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
    }
}

impl Scalar {
    /// The value as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => number.to_json(),
            Self::Bool(value) => (*value).into(),
            Self::Null => Value::Null,
        }
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Number(number) => Some(Self::Number(Decimal::of(number))),
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Null => Some(Self::Null),
            Value::Array(_) | Value::Object(_) => None,
        }
    }
}

const OBJECT: &str = r#"must be a JSON object, such as {"area": "lab"}"#;
const UNKNOWN_FIELD: &str = "is not a field of a selector; the fields are name, kind, area, floor, capability, online, enabled, seen, meta, state, any and not";
const TEXT_TEST: &str =
    r#"must be a text, a list of texts, null, {"prefix": text} or {"not": test}"#;
const TEXT: &str = "must be a text";
const CAPABILITY: &str = "must be a text or a list of texts";
const BOOLEAN: &str = "must be true or false";
const SEEN: &str = r#"must be {"within": time} or {"before": time}"#;
const TIME: &str =
    r#"must be a time such as "30s", "5m", "2h" or "7d": a whole number, at most 3650 days"#;
const META: &str = r#"must be an object of tests, such as {"/fw": "1.2"}"#;
const STATE: &str = r#"must be an object of tests, such as {"temperature": {"gt": 25}}"#;
const POINTER: &str = r#"is not a JSON pointer; write something like "/fw" (~1 for /, ~0 for ~)"#;
const BINDING: &str = r#"is not a binding with or without a JSON pointer; write something like "temperature" or "climate/temperature""#;
const VALUE_TEST: &str = "must be a text, a number, true, false, null, a list of these, or an object with one or more of exists, lt, le, gt, ge, not and (under state) within";
const SCALAR: &str = "must be a text, a number, true, false or null";
const UNKNOWN_MEMBER: &str =
    "is not a test; the tests are exists, lt, le, gt, ge, not and (under state) within";
const NUMBER: &str = "must be a number";
const NUL: &str = "contains U+0000, which PostgreSQL cannot hold";

/// Reads a selector from its top to its leaves.
struct Reader {
    /// Where it is.
    pointer: String,
    /// How many tests there were.
    tests: usize,
    /// How many `any` and `not` are around.
    depth: usize,
}

type Read<T> = Result<T, SelectorError>;

impl Reader {
    fn error(&self, message: impl Into<String>) -> SelectorError {
        SelectorError { pointer: self.pointer.clone(), message: message.into() }
    }

    /// Reads what is below a name or position.
    fn below<T>(&mut self, token: &str, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&escaped(token));
        let value = read(self)?;
        self.pointer.truncate(length);
        Ok(value)
    }

    /// Reads what is in an `any` or `not`.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("is nested too deep; any and not go {MAX_DEPTH} deep")));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn list<T>(
        &mut self,
        values: &[Value],
        most: usize,
        mut read: impl FnMut(&mut Self, &Value) -> Read<T>,
    ) -> Read<Vec<T>> {
        if values.is_empty() || values.len() > most {
            return Err(self.error(format!("must have 1 to {most} entries")));
        }
        let values = values.iter().enumerate();
        values.map(|(at, value)| self.below(&at.to_string(), |it| read(it, value))).collect()
    }

    fn selector(&mut self, value: &Value) -> Read<Selector> {
        let Value::Object(fields) = value else { return Err(self.error(OBJECT)) };
        let mut tests = Vec::new();
        let known = ["capability", "online", "enabled", "seen", "meta", "state", "any", "not"];
        let known = TextField::ALL.map(TextField::word).into_iter().chain(known);
        let known: Vec<&str> = known.collect();
        if let Some(unknown) = fields.keys().find(|name| !known.contains(&name.as_str())) {
            return self.below(unknown, |it| Err(it.error(UNKNOWN_FIELD)));
        }
        for field in known {
            if let Some(value) = fields.get(field) {
                self.below(field, |it| it.field(field, value, &mut tests))?;
            }
        }
        Ok(Selector(tests))
    }

    fn field(&mut self, field: &str, value: &Value, tests: &mut Vec<Test>) -> Read<()> {
        let test = match field {
            "capability" => Test::Capabilities(self.capabilities(value)?),
            "online" => Test::Online(self.boolean(value)?),
            "enabled" => Test::Enabled(self.boolean(value)?),
            "seen" => Test::Seen(self.seen(value)?),
            "meta" => return self.values(value, META, |it, key, test| it.meta(key, test), tests),
            "state" => {
                return self.values(value, STATE, |it, key, test| it.state(key, test), tests);
            }
            "any" => Test::Any(self.nested(|it| match value {
                Value::Array(values) => it.list(values, MAX_ANY, Self::selector),
                _ => Err(it.error(format!("must be a list of 1 to {MAX_ANY} selectors"))),
            })?),
            "not" => Test::Not(self.nested(|it| it.selector(value))?),
            word => {
                let field = TextField::ALL.into_iter().find(|field| field.word() == word);
                let field = field.ok_or_else(|| self.error(UNKNOWN_FIELD))?;
                Test::Text(field, self.text_test(value)?)
            }
        };
        tests.push(test);
        Ok(())
    }

    fn text(&self, value: &Value, otherwise: &str) -> Read<String> {
        match value {
            Value::String(text) if text.contains('\0') => Err(self.error(NUL)),
            Value::String(text) => Ok(text.clone()),
            _ => Err(self.error(otherwise)),
        }
    }

    fn boolean(&mut self, value: &Value) -> Read<bool> {
        self.tests += 1;
        value.as_bool().ok_or_else(|| self.error(BOOLEAN))
    }

    fn text_test(&mut self, value: &Value) -> Read<TextTest> {
        if let Some((name, inner)) = single(value) {
            return self.below(name, |it| match name {
                "prefix" => {
                    it.tests += 1;
                    Ok(TextTest::Prefix(it.text(inner, TEXT)?))
                }
                "not" => it.nested(|it| Ok(TextTest::Not(Box::new(it.text_test(inner)?)))),
                _ => Err(it.error("is not a test of a text; the tests are prefix and not")),
            });
        }
        self.tests += 1;
        match value {
            Value::Null => Ok(TextTest::Absent),
            Value::Array(values) => {
                self.list(values, MAX_LIST, |it, value| it.text(value, TEXT)).map(TextTest::OneOf)
            }
            _ => self.text(value, TEXT_TEST).map(TextTest::Equals),
        }
    }

    fn capabilities(&mut self, value: &Value) -> Read<Vec<String>> {
        self.tests += 1;
        match value {
            Value::Array(values) => self.list(values, MAX_LIST, |it, value| it.text(value, TEXT)),
            _ => Ok(vec![self.text(value, CAPABILITY)?]),
        }
    }

    fn age(&self, value: &Value) -> Read<Age> {
        value.as_str().and_then(Age::parse).ok_or_else(|| self.error(TIME))
    }

    fn seen(&mut self, value: &Value) -> Read<Seen> {
        self.tests += 1;
        match single(value) {
            Some(("within", age)) => self.below("within", |it| it.age(age)).map(Seen::Within),
            Some(("before", age)) => self.below("before", |it| it.age(age)).map(Seen::Before),
            _ => Err(self.error(SEEN)),
        }
    }

    /// Reads the tests of meta or state, in the order of their keys.
    fn values(
        &mut self,
        value: &Value,
        otherwise: &str,
        mut read: impl FnMut(&mut Self, &str, &Value) -> Read<Test>,
        tests: &mut Vec<Test>,
    ) -> Read<()> {
        let named = value.as_object().filter(|named| !named.is_empty());
        let named = named.ok_or_else(|| self.error(otherwise))?;
        let mut named: Vec<(&String, &Value)> = named.iter().collect();
        named.sort_by_key(|(key, _)| *key);
        for (key, value) in named {
            tests.push(self.below(key, |it| read(it, key, value))?);
        }
        Ok(())
    }

    fn meta(&mut self, key: &str, value: &Value) -> Read<Test> {
        let pointer = Pointer::parse(key).filter(|_| !key.contains('\0'));
        let pointer = pointer.ok_or_else(|| self.error(POINTER))?;
        Ok(Test::Meta(pointer, self.value_test(value, false)?))
    }

    fn state(&mut self, key: &str, value: &Value) -> Read<Test> {
        let (binding, pointer) = key.split_at(key.find('/').unwrap_or(key.len()));
        let pointer = Pointer::parse(pointer).filter(|_| check_name(binding).is_ok());
        let pointer = pointer.filter(|_| !key.contains('\0')).ok_or_else(|| self.error(BINDING))?;
        let test = self.value_test(value, true)?;
        Ok(Test::State { binding: binding.to_owned(), pointer, test })
    }

    fn scalar(&self, value: &Value, otherwise: &str) -> Read<Scalar> {
        match Scalar::of(value) {
            Some(Scalar::Text(text)) if text.contains('\0') => Err(self.error(NUL)),
            Some(scalar) => Ok(scalar),
            None => Err(self.error(otherwise)),
        }
    }

    fn value_test(&mut self, value: &Value, of_state: bool) -> Read<ValueTest> {
        match value {
            Value::Object(members) if !members.is_empty() => {
                let known = ["exists"].into_iter().chain(Comparison::ALL.map(Comparison::word));
                let known = known.chain(of_state.then_some("within")).chain(["not"]);
                let known: Vec<&str> = known.collect();
                if let Some(unknown) = members.keys().find(|name| !known.contains(&name.as_str())) {
                    return self.below(unknown, |it| Err(it.error(UNKNOWN_MEMBER)));
                }
                let known = known.into_iter();
                let members = known.filter_map(|name| Some((name, members.get(name)?)));
                members
                    .map(|(name, value)| self.below(name, |it| it.member(name, value, of_state)))
                    .collect::<Read<_>>()
                    .map(ValueTest::All)
            }
            Value::Array(values) => {
                self.tests += 1;
                self.list(values, MAX_LIST, |it, value| it.scalar(value, SCALAR))
                    .map(ValueTest::OneOf)
            }
            _ => {
                self.tests += 1;
                self.scalar(value, VALUE_TEST).map(ValueTest::Equals)
            }
        }
    }

    fn member(&mut self, name: &str, value: &Value, of_state: bool) -> Read<Member> {
        if name == "not" {
            let test = self.nested(|it| it.value_test(value, of_state))?;
            return Ok(Member::Not(Box::new(test)));
        }
        if name == "exists" {
            return self.boolean(value).map(Member::Exists);
        }
        self.tests += 1;
        if name == "within" {
            return self.age(value).map(Member::Within);
        }
        let comparison = Comparison::ALL.into_iter().find(|comparison| comparison.word() == name);
        match (comparison, value) {
            (Some(comparison), Value::Number(bound)) => {
                Ok(Member::Compare(comparison, Decimal::of(bound)))
            }
            (Some(_), _) => Err(self.error(NUMBER)),
            (None, _) => Err(self.error(UNKNOWN_MEMBER)),
        }
    }
}

/// The one member of an object that has one.
fn single(value: &Value) -> Option<(&str, &Value)> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.iter().next().map(|(name, value)| (name.as_str(), value))
}

/// How many bytes PostgreSQL's text of the value as `jsonb` has: the database measures that.
fn jsonb_bytes(value: &Value) -> i64 {
    // `[` and `]`, or `{` and `}`; between two, a comma and a space.
    let around = |count: usize| {
        if count == 0 { 2 } else { 2 * i64::try_from(count).unwrap_or(i64::MAX / 4) }
    };
    match value {
        Value::Number(number) => jsonb_length(number),
        Value::Array(values) => {
            values.iter().map(jsonb_bytes).fold(around(values.len()), i64::saturating_add)
        }
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                text_bytes(name).saturating_add(2).saturating_add(jsonb_bytes(value))
            })
            .fold(around(members.len()), i64::saturating_add),
        other => text_bytes_of(other),
    }
}

fn text_bytes(text: &str) -> i64 {
    text_bytes_of(&Value::from(text))
}

/// Texts and words: PostgreSQL writes them as serde_json does.
fn text_bytes_of(value: &Value) -> i64 {
    i64::try_from(value.to_string().len()).unwrap_or(i64::MAX)
}
