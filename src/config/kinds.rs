//! The kinds of values that settings take: from what is written to what is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

use super::raw::{LONGEST, Raw, cut, quoted};
use super::setting::Rule;
use crate::domain::address::AddressRange;
use crate::domain::api_token::PresentedToken;
use crate::secret::Secret;

/// A further demand on a text. The error says what is wrong and what would be right, and holds nothing
/// of a secret text.
type Check = fn(&str) -> Result<(), String>;

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// Text that passes the check, which `takes` puts into words.
pub(super) fn text(check: Check, takes: &str) -> Rule<String> {
    Rule::new(takes, move |raw, _| match raw {
        Raw::Text(text) => check(&text).map(|()| text),
        raw => Err(not_text(&raw, false)),
    })
}

/// A URL, kept as it was understood rather than as it was written.
pub(super) fn web_url(read: fn(&str) -> Result<String, String>, takes: &str) -> Rule<String> {
    Rule::new(takes, move |raw, _| match raw {
        Raw::Text(text) => read(&text),
        raw => Err(not_text(&raw, false)),
    })
}

/// Text that must not be shown; otherwise as [`text`].
pub(super) fn secret(check: Check, takes: &str) -> Rule<Secret> {
    let rule = Rule::new(format!("secret: {takes}"), move |raw, _| match raw {
        Raw::Text(text) => check(&text).map(|()| Secret::new(text)),
        raw => Err(not_text(&raw, true)),
    });
    Rule { is_secret: true, ..rule }
}

fn not_text(raw: &Raw, private: bool) -> String {
    let shown = if private { String::new() } else { raw.shown() + " " };
    format!("{shown}is {}; write text in quotes", raw.sort())
}

pub(super) fn boolean() -> Rule<bool> {
    let rule = Rule::new("`true` or `false`", |raw, _| match raw {
        Raw::Boolean(value) => Ok(value),
        raw => Err(format!("{} is not a boolean; write true or false", raw.shown())),
    });
    let from_variable = |text: String| text.parse().map_or(Raw::Text(text), Raw::Boolean);
    Rule { from_variable, ..rule }
}

pub(super) fn count(range: RangeInclusive<usize>) -> Rule<usize> {
    let (from, to) = (*range.start(), *range.end());
    let rule = Rule::new(format!("number, {from} to {to}"), move |raw, _| {
        let Raw::Number(number) = raw else {
            let shown = raw.shown();
            return Err(format!(
                "{shown} is not a whole number; write one from {from} to {to}, without quotes"
            ));
        };
        let fitting = usize::try_from(number).ok().filter(|number| range.contains(number));
        fitting
            .ok_or_else(|| format!("{number} is out of range; write a number from {from} to {to}"))
    });
    let from_variable = |text: String| text.parse().map_or(Raw::Text(text), Raw::Number);
    Rule { from_variable, ..rule }
}

/// A duration; the limits are in milliseconds.
pub(super) fn duration(range: RangeInclusive<u64>) -> Rule<Duration> {
    let [from, to] = [range.start(), range.end()].map(|limit| Duration::from_millis(*limit));
    let takes = format!("duration, `{}` to `{}`", brief(from), brief(to));
    Rule::new(takes, move |raw, _| {
        let allowed = || format!("from \"{}\" to \"{}\"", brief(from), brief(to));
        let text = if let Raw::Text(text) = &raw { text.trim() } else { "" };
        let is_number = text.starts_with(|first: char| first.is_ascii_digit())
            && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if matches!(raw, Raw::Number(_)) || is_number {
            let number = if text.is_empty() { raw.shown() } else { cut(text).into_owned() };
            return Err(format!(
                "{number} has no unit; write the unit as well, for example \"{number}s\" for seconds \
                 or \"{number}ms\" for milliseconds"
            ));
        }
        let parsed = with_days(text).ok_or_else(|| {
            let shown = raw.shown();
            format!(
                "{shown} is not a duration; write a number with its unit (ms, s, m, h or d), {}",
                allowed()
            )
        })?;
        let fitting = Some(parsed).filter(|parsed| (from..=to).contains(parsed));
        let shown = || quoted(text);
        fitting
            .ok_or_else(|| format!("{} is out of range; write a duration {}", shown(), allowed()))
    })
}

/// A duration in which a day has 24 hours. Not `00:00:05`, which says nowhere what it counts.
fn with_days(text: &str) -> Option<Duration> {
    let text = Some(text).filter(|text| text.len() <= LONGEST && !text.contains(':'))?;
    let span = SpanParser::new().parse_span(text).ok()?;
    let has_larger = span.get_years() != 0 || span.get_months() != 0 || span.get_weeks() != 0;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok().filter(|_| !has_larger)
}

/// A duration in its largest whole unit: `10m`.
fn brief(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.iter().find(|(size, _)| millis >= *size && millis.is_multiple_of(*size));
    match whole {
        Some((size, unit)) => format!("{}{unit}", millis / size),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// One of a few words, and what it means.
pub(super) fn choice<T: Copy + 'static>(words: &'static [(&'static str, T)]) -> Rule<T> {
    let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let takes = quoted.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    Rule::new(takes, move |raw, _| {
        let chosen = words.iter().find(|(word, _)| matches!(&raw, Raw::Text(text) if text == word));
        let unknown = || format!("{} is not known; write {}", raw.shown(), quoted.join(" or "));
        chosen.map(|(_, meaning)| *meaning).ok_or_else(unknown)
    })
}

pub(super) fn address() -> Rule<SocketAddr> {
    Rule::new("IP address and port", |raw, _| {
        let parsed = if let Raw::Text(text) = &raw { text.parse().ok() } else { None };
        parsed.ok_or_else(|| {
            format!("{} is not an address; write \"{}\"", raw.shown(), meant_address(&raw))
        })
    })
}

/// An address, or `off`.
pub(super) fn address_or_off() -> Rule<Option<SocketAddr>> {
    let address = address();
    Rule::new("IP address and port, or `off`", move |raw, base| match &raw {
        Raw::Text(text) if text == "off" => Ok(None),
        _ => (address.parse)(raw, base).map(Some).map_err(|why| format!("{why}, or \"off\"")),
    })
}

/// The address that was probably meant: a port alone, an address alone, a host name.
fn meant_address(raw: &Raw) -> SocketAddr {
    const PORT: u16 = 8080;
    let text = match raw {
        Raw::Text(text) => text.trim().to_owned(),
        other => other.shown(),
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return SocketAddr::new(address, PORT);
    }
    if let Some(Ok(port)) = text.strip_prefix(':').map(str::parse) {
        return SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    }
    let port = text.rsplit(':').next().and_then(|port| port.parse().ok());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(PORT)))
}

/// IP networks and addresses.
pub(super) fn networks() -> Rule<Vec<IpNet>> {
    const EXAMPLE: &str = "write [\"192.0.2.0/24\", \"2001:db8::7\"]";
    const SEVERAL: &str = "several in a variable have commas between them";
    let network = |item: &Raw| match item {
        Raw::Text(text) => match text.trim().parse::<AddressRange>() {
            Ok(range) => Ok(range.0),
            Err(error) => Err(format!("{} {error}; {SEVERAL}", item.shown())),
        },
        other => Err(format!("{} in the list is not a network; {EXAMPLE}", other.shown())),
    };
    let rule = Rule::new("list of IP addresses and networks", move |raw, _| match &raw {
        Raw::List(items) => items.iter().map(network).collect(),
        raw => Err(format!("{} is not a list; {EXAMPLE}", raw.shown())),
    });
    // Not at colons: they belong to IPv6.
    Rule { from_variable: |text| list(&text, ','), ..rule }
}

/// An existing file.
pub(super) fn file() -> Rule<PathBuf> {
    Rule { files: |path| from_ref(path), ..Rule::new("path", |raw, base| path(raw, base, false)) }
}

/// An existing file that nobody but its owner should read.
pub(super) fn private_file() -> Rule<PathBuf> {
    let rule = Rule::new("path", |raw, base| path(raw, base, true));
    Rule { files: |path| from_ref(path), files_are_private: true, ..rule }
}

/// A file that need not be there yet, and will hold an API token.
pub(super) fn new_token_file() -> Rule<PathBuf> {
    Rule::new("path", |raw, base| {
        // Unlike that of other files, it would pass for the path of one that is not there yet.
        let is_token = |text: &str| PresentedToken::parse(text.trim().as_bytes()).is_some();
        if matches!(&raw, Raw::Text(text) if is_token(text)) {
            return Err(
                "holds a token; write the path of the file that it is to be written to, and \
                        revoke it if others could read it"
                    .to_owned(),
            );
        }
        path(raw, base, true)
    })
}

/// Existing files.
pub(super) fn files() -> Rule<Vec<PathBuf>> {
    let rule = Rule::new("list of paths", |raw, base| match raw {
        Raw::List(items) => items.into_iter().map(|item| item_path(item, base)).collect(),
        raw => Err(format!("{} is not a list; write [\"path\", \"path\"]", raw.shown())),
    });
    Rule { files: Vec::as_slice, from_variable: |text| list(&text, ':'), ..rule }
}

fn item_path(item: Raw, base: &Path) -> Result<PathBuf, String> {
    match item {
        Raw::Text(_) => path(item, base, false),
        item => Err(format!("{} in the list is not a path; write text in quotes", item.shown())),
    }
}

/// No path that Linux takes is longer.
const LONGEST_PATH: usize = 4096;

/// The path of a file. `private`: people do paste the secret where the path belongs.
pub(super) fn path(raw: Raw, base: &Path, private: bool) -> Result<PathBuf, String> {
    match raw {
        Raw::Text(path) if path.is_empty() => {
            Err("the path is empty; write the path of a file".to_owned())
        }
        Raw::Text(path) if path.len() > LONGEST_PATH => {
            Err(format!("the path is longer than {LONGEST_PATH} bytes; write the path of a file"))
        }
        Raw::Text(path) if path.contains('\0') => {
            Err("the path holds a NUL character; write the path of a file".to_owned())
        }
        Raw::Text(path) => Ok(base.join(path)),
        raw => Err(not_text(&raw, private)),
    }
}

fn list(text: &str, separator: char) -> Raw {
    let items = text.split(separator).filter(|_| !text.is_empty());
    Raw::List(items.map(|item| Raw::Text(item.to_owned())).collect())
}
