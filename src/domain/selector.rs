//! Selectors: which devices are meant. The grammar with examples is in `docs/SELECTORS.md`.
//!
//! A selector is one small JSON object, and all of its fields must hold; `{}` means every device. It is parsed
//! once, by [`json`] or, in its short form, by [`text`]. [`Selector::selects`] is what it means;
//! `fleet/selectors.rs` compiles it to SQL, and `fleetgate_selector_problem` of `sql/V9` refuses in the
//! database what is refused here. Tests hold the three to one another (`tests/integration/selectors.rs`).

mod decimal;
mod evaluate;
mod json;
mod pointer;
mod text;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use decimal::Decimal;
pub use evaluate::Candidate;
pub use pointer::{Pointer, position};

/// Most bytes of a selector: of its text, and of the JSON that PostgreSQL makes of it.
pub const MAX_BYTES: usize = 4096;
/// How deep `any` and `not` may be nested.
pub const MAX_DEPTH: usize = 4;
/// Most tests that a selector may have.
pub const MAX_TESTS: usize = 32;
/// Most entries of a list of values.
pub const MAX_LIST: usize = 100;
/// Most selectors of an `any`.
pub const MAX_ANY: usize = 8;

/// Why a text or JSON is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} {message}", if pointer.is_empty() { "the selector" } else { pointer })]
pub struct SelectorError {
    /// JSON pointer to what is wrong; empty for the selector as a whole.
    pub pointer: String,
    /// What would be right, to go on after the pointer.
    pub message: String,
}

/// Which devices: those for which all tests hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Test>);

/// A test of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Of a text.
    Text(TextField, TextTest),
    /// It has all of these capabilities.
    Capabilities(Vec<String>),
    /// It is online, or it is not.
    Online(bool),
    /// It is enabled, or it is not.
    Enabled(bool),
    /// When it was last heard.
    Seen(Seen),
    /// Of a value in its meta.
    Meta(Pointer, ValueTest),
    /// Of its last known values.
    State {
        /// The binding.
        binding: String,
        /// Where in the binding's value.
        pointer: Pointer,
        /// The test.
        test: ValueTest,
    },
    /// One of these selectors holds.
    Any(Vec<Selector>),
    /// The selector does not hold.
    Not(Selector),
}

/// A text of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextField {
    /// Its name.
    Name,
    /// What it is.
    Kind,
    /// Where it is.
    Area,
    /// Where it is.
    Floor,
}

impl TextField {
    const ALL: [Self; 4] = [Self::Name, Self::Kind, Self::Area, Self::Floor];

    /// Its name in selectors.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Kind => "kind",
            Self::Area => "area",
            Self::Floor => "floor",
        }
    }
}

/// A test of a text that may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextTest {
    /// It is this one.
    Equals(String),
    /// It is one of these.
    OneOf(Vec<String>),
    /// There is none.
    Absent,
    /// It begins with this.
    Prefix(String),
    /// The test does not hold.
    Not(Box<Self>),
}

/// When a device was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// At most so long ago.
    Within(Age),
    /// Longer ago, or never.
    Before(Age),
}

/// A length of time in whole seconds: `30s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age(u32);

impl Age {
    /// The longest: 3650 days.
    pub const MAX_SECONDS: u32 = 3650 * 86_400;
    const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, seconds) = Self::UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
        let digits = text.strip_suffix(unit)?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let count = digits.parse::<u32>().ok().filter(|_| is_plain)?;
        count.checked_mul(seconds).filter(|age| *age <= Self::MAX_SECONDS).map(Self)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Self::UNITS.into_iter().find(|(_, seconds)| self.0.is_multiple_of(*seconds));
        let (unit, seconds) = whole.unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

/// A test of a JSON value that may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueTest {
    /// It is this one.
    Equals(Scalar),
    /// It is one of these.
    OneOf(Vec<Scalar>),
    /// All of these hold.
    All(Vec<Member>),
}

/// A JSON value that is neither array nor object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    Text(String),
    /// A number.
    Number(Decimal),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// A part of a [`ValueTest::All`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// There is a value, or there is none.
    Exists(bool),
    /// It is a number, and compares so.
    Compare(Comparison, Decimal),
    /// It was reported at most so long ago. Only of state.
    Within(Age),
    /// The test does not hold.
    Not(Box<ValueTest>),
}

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `lt`
    Less,
    /// `le`
    LessOrEqual,
    /// `gt`
    Greater,
    /// `ge`
    GreaterOrEqual,
}

impl Comparison {
    const ALL: [Self; 4] = [Self::Less, Self::LessOrEqual, Self::Greater, Self::GreaterOrEqual];

    /// Its name in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Less => "lt",
            Self::LessOrEqual => "le",
            Self::Greater => "gt",
            Self::GreaterOrEqual => "ge",
        }
    }

    /// Its sign in the short form and in SQL.
    #[must_use]
    pub fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Selector {
    /// The tests, all of which must hold, in the order of the grammar.
    #[must_use]
    pub fn tests(&self) -> &[Test] {
        &self.0
    }

    /// Whether it says anything about `enabled`, at any depth: where commands choose, only enabled devices are
    /// meant otherwise.
    #[must_use]
    pub fn mentions_enabled(&self) -> bool {
        self.0.iter().any(|test| match test {
            Test::Enabled(_) => true,
            Test::Any(selectors) => selectors.iter().any(Self::mentions_enabled),
            Test::Not(selector) => selector.mentions_enabled(),
            _ => false,
        })
    }
}

/// JSON if it begins with `{`, otherwise the short form.
impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let whole = |message| SelectorError { pointer: String::new(), message };
        if text.len() > MAX_BYTES {
            return Err(whole(json::too_large(text.len())));
        }
        match text.chars().next() {
            None => Err(whole("is empty; write {} for all devices".to_owned())),
            Some('{') => json::parse(text),
            Some(_) => text::parse(text),
        }
    }
}

/// The short form where it can say it, otherwise JSON.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match text::write(self) {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}", self.to_json()),
        }
    }
}

#[cfg(test)]
mod tests;
