//! Selectors as JSON, which is what is stored.

use std::str::FromStr;

use serde_json::{Map, Value};

use crate::domain::name::check_name;
use crate::domain::selector::{
    Age, Comparison, MAX_ANY, MAX_BYTES, MAX_DEPTH, MAX_LIST, MAX_STORED_BYTES, MAX_TESTS,
    MAX_TEXT_BYTES, Pointer, Scalar, Seen, Selector, SelectorError, Test, TextCheck, TextField,
    TextTest, ValueCheck, ValueTest, escaped, text,
};
use crate::domain::value::StateValue;

const FIELDS: &str =
    "name, kind, area, floor, capability, online, enabled, seen, meta, state, any, not";
const AGE: &str = "must be a span of time such as \"30s\", \"5m\", \"2h\" or \"7d\"";

impl FromStr for Selector {
    type Err = SelectorError;

    /// Reads a selector in either form: JSON, which begins with `{`, or text.
    fn from_str(selector: &str) -> Result<Self, SelectorError> {
        let selector = selector.trim();
        let about_all = |message: String| SelectorError { pointer: String::new(), message };
        if selector.len() > MAX_BYTES {
            let length = selector.len();
            return Err(about_all(format!("has {length} bytes; at most {MAX_BYTES} are allowed")));
        }
        let json = match selector.starts_with('{') {
            true => serde_json::from_str(selector)
                .map_err(|error| about_all(format!("is not JSON: {error}")))?,
            false => text::read(selector)?,
        };
        Self::from_json(&json)
    }
}

impl Selector {
    /// Reads a selector from JSON: at most [`MAX_STORED_BYTES`] of it without spaces, with the exponents of numbers written out.
    /// The database, which writes spaces, takes twice as much.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn from_json(json: &Value) -> Result<Self, SelectorError> {
        let about_all =
            |message: &str| SelectorError { pointer: String::new(), message: message.to_owned() };
        let written = json.to_string();
        let stored = StateValue::read(written.as_bytes());
        let bytes = stored.as_ref().map_or(written.len(), StateValue::stored_bytes);
        if bytes > MAX_STORED_BYTES {
            let message =
                format!("has {bytes} bytes as JSON; at most {MAX_STORED_BYTES} are allowed");
            return Err(about_all(&message));
        }
        if let Some(why) = stored.and_then(|value| value.as_text()) {
            return Err(about_all(&format!("cannot be stored: {}", why.why())));
        }
        let mut reader = Reader { tests: 0, at: Vec::new() };
        reader.selector(json, 1)
    }

    /// As it is stored.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        for test in &self.tests {
            let (field, value) = match test {
                Test::Text(field, test) => (field.word(), text_test(test)),
                Test::Capabilities(names) => {
                    ("capability", list(names.iter().map(|name| name.as_str().into())))
                }
                Test::Online(online) => ("online", Value::Bool(*online)),
                Test::Enabled(enabled) => ("enabled", Value::Bool(*enabled)),
                Test::Seen(Seen::Within(age)) => ("seen", member("within", age.to_string().into())),
                Test::Seen(Seen::Before(age)) => ("seen", member("before", age.to_string().into())),
                Test::Meta(pointer, test) => {
                    add(&mut members, "meta", pointer.to_string(), value_test(test));
                    continue;
                }
                Test::State(binding, pointer, test) => {
                    add(&mut members, "state", format!("{binding}{pointer}"), value_test(test));
                    continue;
                }
                Test::Any(selectors) => {
                    ("any", Value::Array(selectors.iter().map(Self::to_json).collect()))
                }
                Test::Not(selector) => ("not", selector.to_json()),
            };
            members.insert(field.to_owned(), value);
        }
        Value::Object(members)
    }
}

fn member(name: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
}

fn add(members: &mut Map<String, Value>, field: &str, key: String, test: Value) {
    let tests = members.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(tests) = tests {
        tests.insert(key, test);
    }
}

/// One value stands for itself.
fn list(values: impl Iterator<Item = Value>) -> Value {
    let mut values: Vec<Value> = values.collect();
    match (values.pop(), values.is_empty()) {
        (Some(value), true) => value,
        (last, _) => {
            values.extend(last);
            Value::Array(values)
        }
    }
}

fn text_test(test: &TextTest) -> Value {
    match test {
        TextTest::OneOf(texts) => list(texts.iter().map(|text| text.as_str().into())),
        TextTest::Absent => Value::Null,
        TextTest::All(checks) => Value::Object(
            checks
                .iter()
                .map(|check| match check {
                    TextCheck::Prefix(prefix) => ("prefix".to_owned(), prefix.as_str().into()),
                    TextCheck::Not(test) => ("not".to_owned(), text_test(test)),
                })
                .collect(),
        ),
    }
}

fn value_test(test: &ValueTest) -> Value {
    match test {
        ValueTest::OneOf(scalars) => list(scalars.iter().map(Scalar::to_json)),
        ValueTest::All(checks) => Value::Object(
            checks
                .iter()
                .map(|check| match check {
                    ValueCheck::Exists(exists) => ("exists".to_owned(), Value::Bool(*exists)),
                    ValueCheck::Compare(how, number) => {
                        (how.word().to_owned(), Value::Number(number.clone()))
                    }
                    ValueCheck::Within(age) => ("within".to_owned(), age.to_string().into()),
                    ValueCheck::Not(test) => ("not".to_owned(), value_test(test)),
                })
                .collect(),
        ),
    }
}

/// Reads JSON, and knows where it is.
struct Reader {
    tests: usize,
    at: Vec<String>,
}

type Read<T> = Result<T, SelectorError>;

impl Reader {
    fn error<T>(&self, message: impl Into<String>) -> Read<T> {
        let pointer = self.at.iter().map(|token| format!("/{}", escaped(token))).collect();
        Err(SelectorError { pointer, message: message.into() })
    }

    /// Reads a part of what is read.
    fn within<T>(&mut self, token: &str, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        self.at.push(token.to_owned());
        let part = read(self)?;
        self.at.pop();
        Ok(part)
    }

    fn count(&mut self) -> Read<()> {
        self.tests += 1;
        match self.tests > MAX_TESTS {
            true => Err(SelectorError {
                pointer: String::new(),
                message: format!("has too many tests; a selector has at most {MAX_TESTS}"),
            }),
            false => Ok(()),
        }
    }

    fn deeper(&self, depth: usize) -> Read<usize> {
        match depth < MAX_DEPTH {
            true => Ok(depth + 1),
            false => {
                self.error(format!("is nested too deep; any and not go {MAX_DEPTH} levels deep"))
            }
        }
    }

    fn selector(&mut self, json: &Value, depth: usize) -> Read<Selector> {
        let Value::Object(members) = json else {
            return self.error("must be a selector, a JSON object such as {\"area\": \"lab\"}");
        };
        let mut tests = Vec::new();
        for (field, value) in members {
            self.within(field, |reader| reader.field(field, value, depth, &mut tests))?;
        }
        Ok(Selector { tests })
    }

    fn field(
        &mut self,
        field: &str,
        value: &Value,
        depth: usize,
        tests: &mut Vec<Test>,
    ) -> Read<()> {
        if let Some(field) = TextField::of_word(field) {
            tests.push(Test::Text(field, self.text_test(value, depth)?));
            return Ok(());
        }
        tests.push(match field {
            "capability" => {
                self.count()?;
                Test::Capabilities(self.capabilities(value)?)
            }
            "online" => Test::Online(self.boolean(value)?),
            "enabled" => Test::Enabled(self.boolean(value)?),
            "seen" => Test::Seen(self.seen(value)?),
            "meta" | "state" => return self.values(field, value, depth, tests),
            "any" => Test::Any(self.any(value, depth)?),
            "not" => {
                let depth = self.deeper(depth)?;
                Test::Not(self.selector(value, depth)?)
            }
            _ => return self.error(format!("is not a field of a selector; there are {FIELDS}")),
        });
        Ok(())
    }

    fn any(&mut self, value: &Value, depth: usize) -> Read<Vec<Selector>> {
        let depth = self.deeper(depth)?;
        let Value::Array(selectors) = value else {
            return self.error("must be a list of selectors");
        };
        if !(1..=MAX_ANY).contains(&selectors.len()) {
            return self.error(format!("must be a list of 1 to {MAX_ANY} selectors"));
        }
        let read = |(place, selector): (usize, &Value)| {
            self.within(&place.to_string(), |reader| reader.selector(selector, depth))
        };
        selectors.iter().enumerate().map(read).collect()
    }

    fn boolean(&mut self, value: &Value) -> Read<bool> {
        self.count()?;
        value.as_bool().map_or_else(|| self.error("must be true or false"), Ok)
    }

    fn capabilities(&mut self, value: &Value) -> Read<Vec<crate::domain::name::CapabilityName>> {
        let one = |reader: &Self, value: &Value| match value {
            Value::String(name) => match name.parse() {
                Ok(name) => Ok(name),
                Err(why) => reader.error(format!("the name {why}")),
            },
            _ => reader.error("must be the name of a capability, or a list of them"),
        };
        match value {
            Value::Array(values) => {
                self.check_length(values)?;
                values.iter().map(|value| one(self, value)).collect()
            }
            value => Ok(vec![one(self, value)?]),
        }
    }

    fn check_length(&self, values: &[Value]) -> Read<()> {
        match (1..=MAX_LIST).contains(&values.len()) {
            true => Ok(()),
            false => self.error(format!("must be a list of 1 to {MAX_LIST} values")),
        }
    }

    fn text_test(&mut self, value: &Value, depth: usize) -> Read<TextTest> {
        match value {
            Value::Null => {
                self.count()?;
                Ok(TextTest::Absent)
            }
            Value::String(_) => {
                self.count()?;
                Ok(TextTest::OneOf(vec![self.name(value)?]))
            }
            Value::Array(values) => {
                self.count()?;
                self.check_length(values)?;
                values.iter().map(|value| self.name(value)).collect::<Read<_>>().map(TextTest::OneOf)
            }
            Value::Object(members) if !members.is_empty() => {
                let read = |(name, value): (&String, &Value)| {
                    self.within(name, |reader| match name.as_str() {
                        "prefix" => reader.prefix(value).map(TextCheck::Prefix),
                        "not" => {
                            let depth = reader.deeper(depth)?;
                            reader.text_test(value, depth).map(TextCheck::Not)
                        }
                        _ => reader.error("is not a test of a text; there are prefix and not"),
                    })
                };
                members.iter().map(read).collect::<Read<_>>().map(TextTest::All)
            }
            _ => self.error(
                "must be a text, a list of texts, null (absent), {\"prefix\": \"x\"} or {\"not\": …}",
            ),
        }
    }

    fn name(&self, value: &Value) -> Read<String> {
        let Value::String(name) = value else {
            return self.error("must be a text, or a list of texts");
        };
        match check_name(name) {
            Ok(()) => Ok(name.clone()),
            Err(why) => self.error(format!("the name {why}")),
        }
    }

    fn prefix(&mut self, value: &Value) -> Read<String> {
        self.count()?;
        match value {
            Value::String(prefix) if (1..=MAX_TEXT_BYTES).contains(&prefix.len()) => {
                Ok(prefix.clone())
            }
            _ => self.error(format!("must be a text of 1 to {MAX_TEXT_BYTES} bytes")),
        }
    }

    fn seen(&mut self, value: &Value) -> Read<Seen> {
        self.count()?;
        let one = value.as_object().filter(|members| members.len() == 1);
        let seen = one.and_then(|members| {
            let (name, age) = members.iter().next()?;
            let age = age.as_str().and_then(Age::parse)?;
            match name.as_str() {
                "within" => Some(Seen::Within(age)),
                "before" => Some(Seen::Before(age)),
                _ => None,
            }
        });
        let right = "must be {\"within\": \"5m\"} or {\"before\": \"7d\"}";
        seen.map_or_else(|| self.error(right), Ok)
    }

    fn age(&self, value: &Value) -> Read<Age> {
        value.as_str().and_then(Age::parse).map_or_else(|| self.error(AGE), Ok)
    }

    fn values(
        &mut self,
        field: &str,
        value: &Value,
        depth: usize,
        tests: &mut Vec<Test>,
    ) -> Read<()> {
        let is_state = field == "state";
        let members = value.as_object().filter(|members| !members.is_empty());
        let Some(members) = members else {
            return self.error(match is_state {
                true => {
                    "must be an object of tests by binding, such as {\"temperature\": {\"gt\": 25}}"
                }
                false => "must be an object of tests by JSON Pointer, such as {\"/room\": \"101\"}",
            });
        };
        for (key, value) in members {
            let test = self.within(key, |reader| {
                let slash = if is_state { key.find('/').unwrap_or(key.len()) } else { 0 };
                let (binding, pointer) = key.split_at_checked(slash).unwrap_or((key, ""));
                let pointer = Pointer::parse(pointer).or_else(|why| reader.error(why))?;
                let test = reader.value_test(value, is_state, depth)?;
                if !is_state {
                    return Ok(Test::Meta(pointer, test));
                }
                match binding.parse() {
                    Ok(binding) => Ok(Test::State(binding, pointer, test)),
                    Err(why) => reader.error(format!("the binding's name {why}")),
                }
            })?;
            tests.push(test);
        }
        Ok(())
    }

    fn value_test(&mut self, value: &Value, is_state: bool, depth: usize) -> Read<ValueTest> {
        match value {
            Value::Array(values) => {
                self.count()?;
                self.check_length(values)?;
                values
                    .iter()
                    .map(|value| self.scalar(value))
                    .collect::<Read<_>>()
                    .map(ValueTest::OneOf)
            }
            Value::Object(members) if !members.is_empty() => {
                let read = |(name, value): (&String, &Value)| {
                    self.within(name, |reader| reader.value_check(name, value, is_state, depth))
                };
                members.iter().map(read).collect::<Read<_>>().map(ValueTest::All)
            }
            Value::Object(_) => {
                self.error("must name at least one test, such as {\"exists\": true}")
            }
            scalar => {
                self.count()?;
                Ok(ValueTest::OneOf(vec![self.scalar(scalar)?]))
            }
        }
    }

    fn value_check(
        &mut self,
        name: &str,
        value: &Value,
        is_state: bool,
        depth: usize,
    ) -> Read<ValueCheck> {
        if name == "not" {
            let depth = self.deeper(depth)?;
            return self.value_test(value, is_state, depth).map(ValueCheck::Not);
        }
        self.count()?;
        if let Some(how) = Comparison::ALL.into_iter().find(|how| how.word() == name) {
            return match value {
                Value::Number(number) => Ok(ValueCheck::Compare(how, number.clone())),
                _ => self.error("must be a number"),
            };
        }
        match name {
            "exists" => match value {
                Value::Bool(exists) => Ok(ValueCheck::Exists(*exists)),
                _ => self.error("must be true or false"),
            },
            "within" if is_state => self.age(value).map(ValueCheck::Within),
            _ if is_state => self.error(
                "is not a test of a value; there are exists, lt, le, gt, ge, within and not",
            ),
            _ => self.error("is not a test of a value; there are exists, lt, le, gt, ge and not"),
        }
    }

    fn scalar(&self, value: &Value) -> Read<Scalar> {
        match value {
            Value::Null => Ok(Scalar::Null),
            Value::Bool(value) => Ok(Scalar::Bool(*value)),
            Value::Number(number) => Ok(Scalar::Number(number.clone())),
            Value::String(text) if text.len() <= MAX_TEXT_BYTES => Ok(Scalar::Text(text.clone())),
            Value::String(_) => {
                self.error(format!("must be a text of at most {MAX_TEXT_BYTES} bytes"))
            }
            Value::Array(_) | Value::Object(_) => {
                self.error("must be a text, a number, true, false or null")
            }
        }
    }
}
