//! Whether a selector holds for a device: what `fleet/selectors.rs` has PostgreSQL compute for a whole fleet.
//!
//! Two-valued: a test on what is absent or of another type is false, and `not` is the exact complement.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Comparison, Decimal, Member, Scalar, Seen, Selector, Test, TextField, TextTest};
use super::{Pointer, ValueTest};

/// What a selector looks at in a device.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Where it is.
    pub area: Option<String>,
    /// Where it is.
    pub floor: Option<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Whether it is online.
    pub online: bool,
    /// Whether it may use the bus.
    pub enabled: bool,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// What is noted about it.
    pub meta: Value,
    /// Its last known values by binding, as `device_state.state` holds them.
    pub state: Value,
}

impl Selector {
    /// Whether the device is one of those selected, at a time.
    #[must_use]
    pub fn selects(&self, device: &Candidate, now: Timestamp) -> bool {
        self.tests().iter().all(|test| test.holds(device, now))
    }
}

impl Test {
    fn holds(&self, device: &Candidate, now: Timestamp) -> bool {
        match self {
            Self::Text(field, test) => test.holds(match field {
                TextField::Name => Some(&device.name),
                TextField::Kind => Some(&device.kind),
                TextField::Area => device.area.as_ref(),
                TextField::Floor => device.floor.as_ref(),
            }),
            Self::Capabilities(all) => all.iter().all(|one| device.capabilities.contains(one)),
            Self::Online(online) => device.online == *online,
            Self::Enabled(enabled) => device.enabled == *enabled,
            Self::Seen(seen) => {
                let (Seen::Within(age) | Seen::Before(age)) = seen;
                let since = now - SignedDuration::from_secs(age.seconds().into());
                let is_within = device.last_seen.is_some_and(|last| last >= since);
                is_within == matches!(seen, Seen::Within(_))
            }
            Self::Meta(pointer, test) => {
                test.holds(&Found { value: pointer.find(&device.meta), at: None }, now)
            }
            Self::State { binding, pointer, test } => {
                test.holds(&Found::in_state(&device.state, binding, pointer), now)
            }
            Self::Any(selectors) => selectors.iter().any(|one| one.selects(device, now)),
            Self::Not(selector) => !selector.selects(device, now),
        }
    }
}

impl TextTest {
    fn holds(&self, text: Option<&String>) -> bool {
        match self {
            Self::Equals(wanted) => text == Some(wanted),
            Self::OneOf(wanted) => text.is_some_and(|text| wanted.contains(text)),
            Self::Absent => text.is_none(),
            Self::Prefix(prefix) => text.is_some_and(|text| text.starts_with(prefix)),
            Self::Not(test) => !test.holds(text),
        }
    }
}

/// A value of a device, and for state when it was reported.
struct Found<'a> {
    value: Option<&'a Value>,
    at: Option<&'a Value>,
}

impl<'a> Found<'a> {
    fn in_state(state: &'a Value, binding: &str, pointer: &Pointer) -> Self {
        let entry = state.as_object().and_then(|state| state.get(binding)?.as_object());
        Self {
            value: entry.and_then(|entry| pointer.find(entry.get("value")?)),
            at: entry.and_then(|entry| entry.get("at")),
        }
    }
}

impl ValueTest {
    fn holds(&self, found: &Found<'_>, now: Timestamp) -> bool {
        match self {
            Self::Equals(wanted) => found.value.is_some_and(|value| wanted.equals(value)),
            Self::OneOf(wanted) => {
                found.value.is_some_and(|value| wanted.iter().any(|one| one.equals(value)))
            }
            Self::All(members) => members.iter().all(|member| member.holds(found, now)),
        }
    }
}

impl Scalar {
    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(wanted), Value::String(text)) => wanted == text,
            (Self::Number(wanted), Value::Number(number)) => *wanted == Decimal::of(number),
            (Self::Bool(wanted), Value::Bool(value)) => wanted == value,
            (Self::Null, Value::Null) => true,
            _ => false,
        }
    }
}

impl Member {
    fn holds(&self, found: &Found<'_>, now: Timestamp) -> bool {
        match self {
            Self::Exists(exists) => found.value.is_some() == *exists,
            Self::Compare(comparison, bound) => {
                let Some(Value::Number(number)) = found.value else { return false };
                let number = Decimal::of(number);
                match comparison {
                    Comparison::Less => number < *bound,
                    Comparison::LessOrEqual => number <= *bound,
                    Comparison::Greater => number > *bound,
                    Comparison::GreaterOrEqual => number >= *bound,
                }
            }
            Self::Within(age) => {
                let Some(Value::Number(at)) = found.at.filter(|_| found.value.is_some()) else {
                    return false;
                };
                let since = now.as_millisecond() - i64::from(age.seconds()) * 1000;
                Decimal::of(at) >= Decimal::from(since)
            }
            Self::Not(test) => !test.holds(found, now),
        }
    }
}
