//! Whether a selector holds for a device, written apart from the SQL that it compiles to: the two have to agree.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Number, Value};

use fleetgate::domain::json_pointer::Pointer;
use fleetgate::domain::selector::{
    Age, Comparison, Scalar, Seen, Selector, Test, TextCheck, TextField, TextTest, ValueCheck,
    ValueTest, array_index,
};

/// What is known of a device.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// Its name.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) kind: String,
    /// Its area.
    pub(crate) area: Option<String>,
    /// Its floor.
    pub(crate) floor: Option<String>,
    /// Its capabilities.
    pub(crate) capabilities: BTreeSet<String>,
    /// Whether it is online.
    pub(crate) online: bool,
    /// Whether it is enabled.
    pub(crate) enabled: bool,
    /// When it was last heard.
    pub(crate) seen: Option<Timestamp>,
    /// What an administrator noted.
    pub(crate) meta: Value,
    /// Its last reports by binding.
    pub(crate) state: BTreeMap<String, Report>,
}

/// The last report of a binding.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The value; `None`: it was cleared.
    pub(crate) value: Option<Value>,
    /// When it was reported.
    pub(crate) at: Timestamp,
}

/// Whether every test of a selector holds for the device at this time.
pub(crate) fn holds(selector: &Selector, device: &Subject, now: Timestamp) -> bool {
    selector.tests().iter().all(|test| test_holds(test, device, now))
}

fn test_holds(test: &Test, device: &Subject, now: Timestamp) -> bool {
    match test {
        Test::Text(field, test) => {
            let text = match field {
                TextField::Name => Some(device.name.as_str()),
                TextField::Kind => Some(device.kind.as_str()),
                TextField::Area => device.area.as_deref(),
                TextField::Floor => device.floor.as_deref(),
            };
            text_holds(test, text)
        }
        Test::Capabilities(names) => {
            names.iter().all(|name| device.capabilities.contains(name.as_str()))
        }
        Test::Online(online) => device.online == *online,
        Test::Enabled(enabled) => device.enabled == *enabled,
        Test::Seen(Seen::Within(age)) => device.seen.is_some_and(|seen| seen >= before(now, *age)),
        Test::Seen(Seen::Before(age)) => device.seen.is_none_or(|seen| seen < before(now, *age)),
        Test::Meta(pointer, test) => value_holds(test, find(&device.meta, pointer), None, now),
        Test::State(binding, pointer, test) => {
            let report = device.state.get(binding.as_str());
            let value = report.and_then(|report| find(report.value.as_ref()?, pointer));
            value_holds(test, value, report.map(|report| report.at), now)
        }
        Test::Any(selectors) => selectors.iter().any(|selector| holds(selector, device, now)),
        Test::Not(selector) => !holds(selector, device, now),
    }
}

fn before(now: Timestamp, age: Age) -> Timestamp {
    now.saturating_sub(age.duration()).unwrap_or(Timestamp::MIN)
}

fn text_holds(test: &TextTest, text: Option<&str>) -> bool {
    match test {
        TextTest::OneOf(texts) => text.is_some_and(|text| texts.iter().any(|one| one == text)),
        TextTest::Absent => text.is_none(),
        TextTest::All(checks) => checks.iter().all(|check| match check {
            TextCheck::Prefix(prefix) => text.is_some_and(|text| text.starts_with(prefix)),
            TextCheck::Not(test) => !text_holds(test, text),
        }),
    }
}

fn value_holds(
    test: &ValueTest,
    value: Option<&Value>,
    at: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    match test {
        ValueTest::OneOf(scalars) => {
            value.is_some_and(|value| scalars.iter().any(|scalar| equals(scalar, value)))
        }
        ValueTest::All(checks) => checks.iter().all(|check| match check {
            ValueCheck::Exists(exists) => value.is_some() == *exists,
            ValueCheck::Compare(how, number) => match value {
                Some(Value::Number(value)) => is_so(*how, compare(value, number)),
                _ => false,
            },
            ValueCheck::Within(age) => at.is_some_and(|at| at >= before(now, *age)),
            ValueCheck::Not(test) => !value_holds(test, value, at, now),
        }),
    }
}

fn equals(scalar: &Scalar, value: &Value) -> bool {
    match (scalar, value) {
        (Scalar::Null, Value::Null) => true,
        (Scalar::Bool(a), Value::Bool(b)) => a == b,
        (Scalar::Number(a), Value::Number(b)) => compare(a, b).is_eq(),
        (Scalar::Text(a), Value::String(b)) => a == b,
        _ => false,
    }
}

fn is_so(how: Comparison, order: Ordering) -> bool {
    match how {
        Comparison::Lt => order.is_lt(),
        Comparison::Le => order.is_le(),
        Comparison::Gt => order.is_gt(),
        Comparison::Ge => order.is_ge(),
    }
}

/// The value that a pointer names (RFC 6901).
fn find<'a>(document: &'a Value, pointer: &Pointer) -> Option<&'a Value> {
    pointer.tokens().iter().try_fold(document, |value, token| match value {
        Value::Object(members) => members.get(token),
        Value::Array(values) => values.get(usize::try_from(array_index(token)?).ok()?),
        _ => None,
    })
}

/// Compares by value, to the last digit.
fn compare(a: &Number, b: &Number) -> Ordering {
    let (a, b) = (Decimal::read(&a.to_string()), Decimal::read(&b.to_string()));
    match (a.negative, b.negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => a.compare_magnitude(&b),
        (true, true) => b.compare_magnitude(&a),
    }
}

/// 0.`digits` × 10^`exponent`, without zeros at either end of the digits; zero has none and is not negative.
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a number of JSON.
    fn read(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().unwrap_or(0);
        let (negative, mantissa) =
            mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let zeros = i64::try_from(all.len() - digits.len()).unwrap_or(0);
        let exponent = exponent + i64::try_from(whole.len()).unwrap_or(0) - zeros;
        match digits.trim_end_matches('0') {
            "" => Self { negative: false, digits: String::new(), exponent: i64::MIN },
            digits => Self { negative, digits: digits.to_owned(), exponent },
        }
    }

    fn compare_magnitude(&self, other: &Self) -> Ordering {
        (self.exponent, &self.digits).cmp(&(other.exponent, &other.digits))
    }
}

#[test]
fn numbers_compare_by_value() {
    let order = |a: &str, b: &str| {
        compare(&serde_json::from_str(a).unwrap(), &serde_json::from_str(b).unwrap())
    };
    for (a, b) in [("1", "1.0"), ("1e2", "100"), ("0", "-0"), ("0.001", "1E-3"), ("0e9", "0")] {
        assert!(order(a, b).is_eq(), "{a} {b}");
    }
    let rising = [
        "-1e400",
        "-2",
        "-1.5",
        "-0.01",
        "0",
        "1e-400",
        "0.5",
        "9007199254740992",
        "9007199254740993",
        "1e400",
        "2e400",
    ];
    for pair in rising.windows(2) {
        assert!(order(pair[0], pair[1]).is_lt(), "{pair:?}");
        assert!(order(pair[1], pair[0]).is_gt(), "{pair:?}");
    }
}
