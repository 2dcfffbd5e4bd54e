//! Timestamps on the command line.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::clock::Clock;

/// Length of `2027-01-01`.
const DATE_LENGTH: usize = 10;

/// Parses a timestamp: `90d` or `12h` from now, `2027-01-01`, or `2027-01-01T00:00:00Z`.
pub(super) fn parse_timestamp(text: &str) -> Result<Timestamp, String> {
    timestamp_from(text, Clock::System.now()).ok_or_else(|| {
        "write how long from now (90d, 12h), a date (2027-01-01) or a time (2027-01-01T00:00:00Z)"
            .to_owned()
    })
}

/// Parses a timestamp that must still come.
pub(super) fn parse_future_timestamp(text: &str) -> Result<Timestamp, String> {
    let timestamp = parse_timestamp(text)?;
    if timestamp <= Clock::System.now() {
        return Err("is in the past; choose a later time".to_owned());
    }
    Ok(timestamp)
}

/// Parses a timestamp that was: `24h` or `7d` ago, `2027-01-01`, or `2027-01-01T00:00:00Z`.
pub(super) fn parse_past_timestamp(text: &str) -> Result<Timestamp, String> {
    let now = Clock::System.now();
    timestamp_from(&format!("-{text}"), now).or_else(|| timestamp_from(text, now)).filter(|then| *then <= now).ok_or_else(|| {
        "write how long ago (24h, 7d), or a date (2027-01-01) or a time (2027-01-01T00:00:00Z) that was"
            .to_owned()
    })
}

fn timestamp_from(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp);
    }
    // Only a date: jiff would read one from the front of a timestamp without time zone as well, and the
    // time of day would be lost without a word.
    if let (DATE_LENGTH, Ok(date)) = (text.len(), text.parse::<Date>()) {
        return date.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    }
    let span = text.parse::<Span>().ok()?;
    now.to_zoned(TimeZone::UTC).checked_add(span).ok().map(|then| then.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_in_the_ways_people_write_them() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, timestamp) in [
            ("90d", "2026-05-01T12:00:00Z"),
            ("12h", "2026-02-01T00:00:00Z"),
            ("1mo", "2026-02-28T12:00:00Z"),
            ("2027-01-01", "2027-01-01T00:00:00Z"),
            ("2027-01-01T02:00:00+02:00", "2027-01-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp_from(text, now), Some(timestamp.parse().unwrap()), "{text}");
        }
        for text in ["", "90", "soon", "2027-13-01", "2027-01-01T18:00:00", "99999999999y"] {
            assert_eq!(timestamp_from(text, now), None, "{text}");
        }
    }

    #[test]
    fn what_was_is_read_as_ago() {
        let day_ago = parse_past_timestamp("24h").unwrap();
        let ago = Clock::System.now() - day_ago;
        assert!((86_400..86_500).contains(&ago.get_seconds()), "{ago}");
        assert_eq!(parse_past_timestamp("2020-01-01"), Ok("2020-01-01T00:00:00Z".parse().unwrap()));
        for text in ["9000-01-01", "--1d", "soon", ""] {
            assert!(parse_past_timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_past_is_no_expiry() {
        assert!(parse_future_timestamp("2020-01-01").is_err());
        assert!(parse_future_timestamp("-1d").is_err());
        assert!(parse_future_timestamp("1d").is_ok());
    }
}
