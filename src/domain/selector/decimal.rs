//! Numbers by value: `1`, `1.00` and `10e-1` are one number, and no digit is lost on the way.
//!
//! PostgreSQL's jsonb compares numbers so too. A float would take 2^53 and 2^53+1 for the same.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Number;

/// A number: 0.`digits` × 10^`exponent`. Digits neither begin nor end with a zero; zero itself has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    is_negative: bool,
    digits: Box<str>,
    exponent: i64,
}

impl Decimal {
    /// The value of a JSON number.
    #[must_use]
    pub fn of(number: &Number) -> Self {
        Self::of_text(number.as_str())
    }

    fn of_text(text: &str) -> Self {
        let parts = Parts::of(text);
        let all = format!("{}{}", parts.whole, parts.decimals);
        let significant = all.trim_start_matches('0');
        let leading_zeros = length(&all) - length(significant);
        let digits = significant.trim_end_matches('0');
        if digits.is_empty() {
            return Self { is_negative: false, digits: "".into(), exponent: 0 };
        }
        let exponent = (length(parts.whole) - leading_zeros).saturating_add(parts.exponent);
        Self { is_negative: parts.is_negative, digits: digits.into(), exponent }
    }

    fn compare_magnitude(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            // Of two that begin at the same place, the digits decide from the left, as in a dictionary.
            (false, false) => {
                self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits))
            }
        }
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self::of_text(&number.to_string())
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.is_negative, other.is_negative) {
            (false, false) => self.compare_magnitude(other),
            (true, true) => other.compare_magnitude(self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Without an exponent, as jsonb writes it: only for numbers that a selector may hold.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_negative { "-" } else { "" };
        let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
        let digits = &*self.digits;
        let point = usize::try_from(self.exponent).ok().filter(|point| *point > 0);
        match point {
            _ if digits.is_empty() => f.write_str("0"),
            None => write!(f, "{sign}0.{}{digits}", zeros(-self.exponent)),
            Some(point) => match digits.split_at_checked(point) {
                Some((whole, decimals)) if !decimals.is_empty() => {
                    write!(f, "{sign}{whole}.{decimals}")
                }
                _ => write!(f, "{sign}{digits}{}", zeros(self.exponent - length(digits))),
            },
        }
    }
}

/// How many bytes jsonb writes for a number; it writes exponents out and keeps zeros at the end.
pub(super) fn jsonb_length(number: &Number) -> i64 {
    let parts = Parts::of(number.as_str());
    let decimals = length(parts.decimals).saturating_sub(parts.exponent).max(0);
    let value = Decimal::of_text(number.as_str());
    let sign = i64::from(value.is_negative);
    let point = i64::from(decimals > 0);
    value.exponent.max(1).saturating_add(decimals).saturating_add(sign + point)
}

/// A JSON number's text.
struct Parts<'a> {
    is_negative: bool,
    whole: &'a str,
    decimals: &'a str,
    exponent: i64,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        // Beyond this no other exponent differs: nothing can store such a number.
        let beyond = if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 };
        let exponent = exponent.parse::<i32>().map_or(beyond, i64::from);
        Self {
            is_negative: whole.starts_with('-'),
            whole: whole.trim_start_matches('-'),
            decimals,
            exponent,
        }
    }
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn one_value_is_one_number_however_it_is_written() {
        for (written, plain) in [
            ("1.00", "1"),
            ("10e-1", "1"),
            ("-0.0", "0"),
            ("0e400", "0"),
            ("1.50e3", "1500"),
            ("-12.5e-3", "-0.0125"),
            ("0.05E+1", "0.5"),
            ("9007199254740993", "9007199254740993"),
            ("12.30", "12.3"),
        ] {
            assert_eq!(decimal(written).to_string(), plain);
            assert_eq!(decimal(written), decimal(plain));
        }
        assert_eq!(decimal("1e400").to_string(), format!("1{}", "0".repeat(400)));
    }

    #[test]
    fn numbers_are_in_the_order_of_their_values() {
        let ordered = [
            "-1e400",
            "-10",
            "-9.5",
            "-0.1",
            "-1e-400",
            "0",
            "1e-400",
            "0.99",
            "1",
            "1.0001",
            "9",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e400",
            "1.1e400",
            "1e999999999999999999999",
        ];
        for pair in ordered.windows(2) {
            assert!(decimal(pair[0]) < decimal(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn lengths_are_those_of_jsonb() {
        for (text, jsonb) in [
            ("1", "1"),
            ("-0", "0"),
            ("-0.0", "0.0"),
            ("0e5", "0"),
            ("0.00e1", "0.0"),
            ("1.50e3", "1500"),
            ("1.500", "1.500"),
            ("-1.5e-3", "-0.0015"),
            ("0.05e1", "0.5"),
            ("0.0005e2", "0.05"),
            ("12e-1", "1.2"),
        ] {
            let number = serde_json::from_str(text).unwrap();
            assert_eq!(jsonb_length(&number), length(jsonb), "{text}");
        }
    }
}
