//! What several commands read from the command line, with words that say what is expected.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanTotal, Unit};

use crate::domain::selector::{Selector, SelectorError};

/// A parser of whole numbers within a range.
pub(super) fn number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.trim().parse::<T>().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!("write a whole number from {} to {}", range.start(), range.end())
        })
    }
}

/// Parses a selector. An empty text may be a variable of a script that is not set.
pub(super) fn parse_selector(text: &str) -> Result<Selector, String> {
    match text.trim() {
        "" => Err("is empty; write {} for every device".to_owned()),
        text => text.parse().map_err(|error: SelectorError| error.to_string()),
    }
}

/// Parses an IP address and a port.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        "write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080".to_owned()
    })
}

/// Parses a length of time, such as `30s`, `5m` or `2h`; a day has 24 hours.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let asked = || "write a time such as 30s, 5m or 2h".to_owned();
    let span = text.parse::<Span>().map_err(|_| asked())?;
    let seconds = span.total(SpanTotal::from(Unit::Second).days_are_24_hours());
    Duration::try_from_secs_f64(seconds.map_err(|_| asked())?).map_err(|_| asked())
}

/// What an option with a value and the flag that clears it ask for: `None` leaves what is there.
pub(super) fn value_or_none<T>(value: Option<T>, none: bool) -> Option<Option<T>> {
    value.map(Some).or(none.then_some(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_said() {
        assert_eq!(number(1..=30)("30"), Ok(30));
        for text in ["", "0", "31", "-1", "1.5", "many", "99999999"] {
            assert_eq!(number(1..=30)(text).unwrap_err(), "write a whole number from 1 to 30");
        }
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for text in ["", "5", "-1s", "soon", "99999999y"] {
            assert!(duration(text).unwrap_err().contains("30s"), "{text}");
        }
        assert!(listen_address("[::1]:8080").is_ok());
        for text in ["", "nonsense", "8080", "localhost:8080", "127.0.0.1", "127.0.0.1:70000"] {
            assert!(listen_address(text).unwrap_err().contains("127.0.0.1:8080"), "{text}");
        }
    }
}
