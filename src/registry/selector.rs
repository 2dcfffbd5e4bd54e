//! A selector as one condition of SQL. Nothing of the selector stands in the text: its values are parameters.
//!
//! The condition is about `device` (a row of `devices`) and `heard` (its row of `device_state`, which may be missing), and
//! is never NULL, so that NOT is its complement.

use serde_json::Value;
use tokio_postgres::types::ToSql;

use crate::domain::json_pointer::Pointer;
use crate::domain::selector::{
    Age, Scalar, Seen, Selector, Test, TextCheck, TextField, TextTest, ValueCheck, ValueTest,
    array_index,
};

/// Whether `device` is online. The view says it; of a device without gateway it is the column itself, which is looked at
/// here because 100,000 looks into the view take 0.4 s.
pub const ONLINE: &str = "(CASE WHEN device.gateway IS NULL THEN device.online
    ELSE (SELECT online FROM device_presence WHERE device_id = device.id) END)";

/// A condition with its parameters.
pub struct Condition {
    text: String,
    parameters: Vec<Box<dyn ToSql + Sync + Send>>,
    before: usize,
}

/// What the placeholders of a statement stand for: its own, and then those of its conditions, in the order in which they
/// count on from each other.
pub fn values<'a>(
    own: &[&'a (dyn ToSql + Sync)],
    conditions: impl IntoIterator<Item = &'a Condition>,
) -> Vec<&'a (dyn ToSql + Sync)> {
    let of_conditions = conditions.into_iter().flat_map(|condition| &condition.parameters);
    let of_conditions = of_conditions.map(|parameter| &**parameter as &(dyn ToSql + Sync));
    own.iter().copied().chain(of_conditions).collect()
}

/// A value that a pointer names. It is written out only where it is tested: every parameter has to be used.
struct Place<'a> {
    document: String,
    pointer: &'a Pointer,
    value: Option<String>,
}

impl<'a> Place<'a> {
    fn new(document: String, pointer: &'a Pointer) -> Self {
        Self { document, pointer, value: None }
    }
}

impl Condition {
    /// The condition of a selector, for a statement that has so many parameters before.
    #[must_use]
    pub fn of(selector: &Selector, before: usize) -> Self {
        let mut condition = Self { text: String::new(), parameters: Vec::new(), before };
        condition.text = condition.selector(selector);
        condition
    }

    /// The same condition within other SQL, which holds it once.
    #[must_use]
    pub fn within(mut self, sql: impl FnOnce(&str) -> String) -> Self {
        self.text = sql(&self.text);
        self
    }

    /// How many parameters a statement has with these: what comes next has so many before.
    #[must_use]
    pub fn end(&self) -> usize {
        self.before + self.parameters.len()
    }

    /// Its SQL.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.text
    }

    fn parameter(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.parameters.push(Box::new(value));
        format!("${}", self.before + self.parameters.len())
    }

    fn selector(&mut self, selector: &Selector) -> String {
        let tests: Vec<String> = selector.tests().iter().map(|test| self.test(test)).collect();
        if tests.is_empty() { "true".to_owned() } else { tests.join(" AND ") }
    }

    fn test(&mut self, test: &Test) -> String {
        match test {
            Test::Text(field, test) => self.text_test(*field, test),
            Test::Capabilities(names) => {
                let each = names.iter().map(|name| {
                    let name = self.parameter(name.to_string());
                    format!("EXISTS (SELECT FROM device_capabilities AS has WHERE has.device_id = device.id AND has.capability = {name}::text)")
                });
                each.collect::<Vec<_>>().join(" AND ")
            }
            Test::Online(true) => ONLINE.to_owned(),
            Test::Online(false) => format!("NOT {ONLINE}"),
            Test::Enabled(true) => "device.enabled".to_owned(),
            Test::Enabled(false) => "NOT device.enabled".to_owned(),
            Test::Seen(seen) => {
                let (Seen::Within(age) | Seen::Before(age)) = seen;
                let then = self.then(*age);
                let within = format!("coalesce(heard.last_seen >= {then}, false)");
                if matches!(seen, Seen::Within(_)) { within } else { format!("NOT {within}") }
            }
            Test::Meta(pointer, test) => {
                let mut value = Place::new("device.meta".to_owned(), pointer);
                let condition = self.value_test(&mut value, None, test);
                match self.contained(pointer, test) {
                    Some(contained) => format!("{contained} AND {condition}"),
                    None => condition,
                }
            }
            Test::State(binding, pointer, test) => {
                let binding = self.parameter(binding.to_string());
                let entry = format!("(heard.state -> {binding}::text)");
                let mut value = Place::new(format!("({entry} -> 'value')"), pointer);
                self.value_test(&mut value, Some(&entry), test)
            }
            Test::Any(selectors) => {
                let each =
                    selectors.iter().map(|selector| format!("({})", self.selector(selector)));
                format!("({})", each.collect::<Vec<_>>().join(" OR "))
            }
            Test::Not(selector) => format!("NOT ({})", self.selector(selector)),
        }
    }

    fn then(&mut self, age: Age) -> String {
        let seconds = self.parameter(age.duration().as_secs_f64());
        format!("now() - {seconds}::float8 * interval '1 second'")
    }

    fn text_test(&mut self, field: TextField, test: &TextTest) -> String {
        let column = format!("device.{}", field.word());
        // What is never NULL can be looked up in an index.
        let two_valued = |condition: String| match field {
            TextField::Name | TextField::Kind => condition,
            TextField::Area | TextField::Floor => format!("{condition} AND {column} IS NOT NULL"),
        };
        match test {
            TextTest::OneOf(texts) => {
                let texts = self.parameter(texts.clone());
                format!("({})", two_valued(format!("{column} = ANY ({texts}::text[])")))
            }
            TextTest::Absent => format!("{column} IS NULL"),
            TextTest::All(checks) => {
                let each = checks.iter().map(|check| match check {
                    TextCheck::Prefix(prefix) => {
                        let prefix = self.parameter(prefix.clone());
                        format!(
                            "({})",
                            two_valued(format!("starts_with({column}, {prefix}::text)"))
                        )
                    }
                    TextCheck::Not(test) => format!("NOT ({})", self.text_test(field, test)),
                });
                each.collect::<Vec<_>>().join(" AND ")
            }
        }
    }

    /// The value at a place; NULL where there is none. PostgreSQL's `#>` would do but for `-1` and `01`, which it takes for
    /// places in arrays and RFC 6901 does not: `->` with a text finds members of objects alone.
    fn value(&mut self, place: &mut Place<'_>) -> String {
        if let Some(value) = &place.value {
            return value.clone();
        }
        let tokens = place.pointer.tokens();
        let document = place.document.clone();
        let value = if tokens.iter().any(|token| array_index(token).is_some()) {
            // Whether a number names a place or a member is known when the level above is: written out, each level would
            // hold the one above several times.
            let path = self.parameter(tokens.to_vec());
            format!("fleetgate_at({document}, {path}::text[])")
        } else {
            tokens.iter().fold(document, |value, token| {
                let name = self.parameter(token.clone());
                format!("({value} -> {name}::text)")
            })
        };
        place.value.insert(value).clone()
    }

    fn value_test(
        &mut self,
        place: &mut Place<'_>,
        entry: Option<&str>,
        test: &ValueTest,
    ) -> String {
        match test {
            ValueTest::OneOf(scalars) => {
                let scalars: Vec<Value> = scalars.iter().map(Scalar::to_json).collect();
                let (value, scalars) = (self.value(place), self.parameter(scalars));
                format!("coalesce({value} = ANY ({scalars}::jsonb[]), false)")
            }
            ValueTest::All(checks) => {
                let each = checks.iter().map(|check| self.value_check(place, entry, check));
                each.collect::<Vec<_>>().join(" AND ")
            }
        }
    }

    fn value_check(
        &mut self,
        place: &mut Place<'_>,
        entry: Option<&str>,
        check: &ValueCheck,
    ) -> String {
        match (check, entry) {
            (ValueCheck::Exists(true), _) => format!("{} IS NOT NULL", self.value(place)),
            (ValueCheck::Exists(false), _) => format!("{} IS NULL", self.value(place)),
            (ValueCheck::Compare(how, number), _) => {
                let (value, operator) = (self.value(place), how.operator());
                let number = self.parameter(Value::Number(number.clone()));
                // Numbers of jsonb compare by value.
                format!(
                    "coalesce(jsonb_typeof({value}) = 'number' AND {value} {operator} {number}::jsonb, false)"
                )
            }
            (ValueCheck::Within(age), Some(entry)) => {
                let then = self.then(*age);
                format!(
                    "coalesce(jsonb_typeof({entry} -> 'at') = 'number' AND {entry} -> 'at' >= to_jsonb(extract(epoch FROM {then}) * 1000), false)"
                )
            }
            // The grammar has it for states alone.
            (ValueCheck::Within(_), None) => "false".to_owned(),
            (ValueCheck::Not(test), _) => format!("NOT ({})", self.value_test(place, entry, test)),
        }
    }

    /// What has to hold besides where one value of meta is looked for, and an index finds (`devices_by_meta`): that the
    /// document contains it. Not where the pointer may go through an array.
    fn contained(&mut self, pointer: &Pointer, test: &ValueTest) -> Option<String> {
        let ValueTest::OneOf(scalars) = test else { return None };
        let [scalar] = scalars.as_slice() else { return None };
        if pointer.tokens().is_empty()
            || pointer.tokens().iter().any(|token| array_index(token).is_some())
        {
            return None;
        }
        let document = pointer.tokens().iter().rev().fold(scalar.to_json(), |value, token| {
            Value::Object(serde_json::Map::from_iter([(token.clone(), value)]))
        });
        let document = self.parameter(document);
        Some(format!("device.meta @> {document}::jsonb"))
    }
}
