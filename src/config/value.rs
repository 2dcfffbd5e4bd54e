//! From what is written to what is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::fmt::friendly::SpanParser;

use super::given::{Given, Raw};
use super::parts::LogFormat;
use super::table::{Kind, Rule};
use crate::domain::address::AddressRange;
use crate::secret::Secret;

/// A setting's value.
#[derive(Clone)]
pub(super) enum Value {
    Address(SocketAddr),
    Count(usize),
    Duration(Duration),
    Text(String),
    Path(PathBuf),
    Paths(Vec<PathBuf>),
    Networks(Vec<IpNet>),
    Secret(Secret),
    Choice(&'static str),
    Flag(bool),
}

macro_rules! value_gives {
    ($($variant:ident => $type:ty),* $(,)?) => {$(
        impl TryFrom<Value> for $type {
            type Error = ();

            fn try_from(value: Value) -> Result<Self, ()> {
                match value {
                    Value::$variant(inner) => Ok(inner),
                    _ => Err(()),
                }
            }
        }
    )*};
}

value_gives! {
    Address => SocketAddr,
    Count => usize,
    Duration => Duration,
    Text => String,
    Path => PathBuf,
    Paths => Vec<PathBuf>,
    Networks => Vec<IpNet>,
    Secret => Secret,
    Flag => bool,
}

impl TryFrom<Value> for LogFormat {
    type Error = ();

    fn try_from(value: Value) -> Result<Self, ()> {
        match value {
            Value::Choice("text") => Ok(Self::Text),
            Value::Choice("json") => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// Understands a given value. The `_file` form of a secret gives the path.
///
/// # Errors
/// What is wrong and what would be right; nothing of a secret or of a path to one.
pub(super) fn parse(given: Given) -> Result<Value, String> {
    let base = given.base;
    match (&given.setting.kind, given.raw) {
        (Kind::Secret(_), Raw::Text(path)) if given.in_file => {
            resolve(&path, &base).map(Value::Path)
        }
        (Kind::Secret(rule), Raw::Text(text)) => secret(rule, text).map(Value::Secret),
        (Kind::Address, raw) => address(&raw).map(Value::Address),
        (Kind::Count(range), raw) => count(range, &raw).map(Value::Count),
        (Kind::Duration(range), raw) => duration(range, &raw).map(Value::Duration),
        (Kind::Choice(words), raw) => choice(words, &raw).map(Value::Choice),
        (Kind::Flag, Raw::Flag(flag)) => Ok(Value::Flag(flag)),
        (Kind::Flag, raw) => {
            Err(format!("{} is not a yes or no; write true or false", raw.shown()))
        }
        (Kind::Text(rule), Raw::Text(text)) => (rule.check)(&text).map(|()| Value::Text(text)),
        (Kind::Path { .. }, Raw::Text(path)) => resolve(&path, &base).map(Value::Path),
        (Kind::Secret(_) | Kind::Path { private: true }, raw) => {
            Err(format!("is {}; write text in quotes", raw.sort()))
        }
        (Kind::Text(_) | Kind::Path { private: false }, raw) => {
            Err(format!("{} is {}; write text in quotes", raw.shown(), raw.sort()))
        }
        (Kind::Paths, raw) => paths(raw, &base).map(Value::Paths),
        (Kind::Networks, raw) => networks(raw).map(Value::Networks),
    }
}

/// Checks a secret's text and takes it in.
pub(super) fn secret(rule: &Rule, text: String) -> Result<Secret, String> {
    (rule.check)(&text).map(|()| Secret::new(text))
}

fn address(raw: &Raw) -> Result<SocketAddr, String> {
    let text = if let Raw::Text(text) = raw { text.as_str() } else { "" };
    text.parse()
        .map_err(|_| format!("{} is not an address; write \"{}\"", raw.shown(), meant_address(raw)))
}

/// The address that was probably meant: a port alone, an address alone, a host name.
fn meant_address(raw: &Raw) -> SocketAddr {
    const PORT: u16 = 8080;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
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
    loopback(port.unwrap_or(PORT))
}

fn count(range: &RangeInclusive<usize>, raw: &Raw) -> Result<usize, String> {
    let (from, to) = (range.start(), range.end());
    let Raw::Number(number) = raw else {
        let shown = raw.shown();
        return Err(format!(
            "{shown} is not a whole number; write one from {from} to {to}, without quotes"
        ));
    };
    let fitting = usize::try_from(*number).ok().filter(|number| range.contains(number));
    fitting.ok_or_else(|| format!("{number} is out of range; write a number from {from} to {to}"))
}

fn duration(range: &RangeInclusive<Duration>, raw: &Raw) -> Result<Duration, String> {
    let allowed = || format!("from \"{}\" to \"{}\"", brief(*range.start()), brief(*range.end()));
    let text = if let Raw::Text(text) = raw { text.trim() } else { "" };
    if matches!(raw, Raw::Number(_)) || text.parse::<f64>().is_ok() {
        let number = if text.is_empty() { raw.shown() } else { text.to_owned() };
        return Err(format!(
            "{number} says no unit; write the unit as well, for example \"{number}s\" for seconds \
             or \"{number}ms\" for milliseconds"
        ));
    }
    let parsed = SpanParser::new().parse_unsigned_duration(text).map_err(|_| {
        format!("{} is not a duration; write a number with its unit, {}", raw.shown(), allowed())
    })?;
    let fitting = Some(parsed).filter(|parsed| range.contains(parsed));
    fitting.ok_or_else(|| format!("{text:?} is out of range; write a duration {}", allowed()))
}

/// A duration in its largest whole unit: `10m`.
pub(super) fn brief(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.iter().find(|(size, _)| millis >= *size && millis.is_multiple_of(*size));
    match whole {
        Some((size, unit)) => format!("{}{unit}", millis / size),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

fn choice(words: &'static [&'static str], raw: &Raw) -> Result<&'static str, String> {
    let chosen = words.iter().find(|word| matches!(raw, Raw::Text(text) if text == **word));
    chosen.copied().ok_or_else(|| {
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        format!("{} is not known; write {}", raw.shown(), quoted.join(" or "))
    })
}

fn paths(raw: Raw, base: &Path) -> Result<Vec<PathBuf>, String> {
    let Raw::List(items) = raw else {
        return Err(format!("{} is not a list; write [\"path\", \"path\"]", raw.shown()));
    };
    let path = |item| match item {
        Raw::Text(path) => resolve(&path, base),
        other => Err(format!("{} in the list is not a path; write text in quotes", other.shown())),
    };
    items.into_iter().map(path).collect()
}

fn networks(raw: Raw) -> Result<Vec<IpNet>, String> {
    const EXAMPLE: &str = "write [\"192.0.2.0/24\", \"2001:db8::7\"]";
    const SEVERAL: &str = "several in a variable have commas between them";
    let Raw::List(items) = raw else {
        return Err(format!("{} is not a list; {EXAMPLE}", raw.shown()));
    };
    let network = |item: Raw| match &item {
        Raw::Text(text) => match text.trim().parse::<AddressRange>() {
            Ok(range) => Ok(range.0),
            Err(error) => Err(format!("{} {error}; {SEVERAL}", item.shown())),
        },
        other => Err(format!("{} in the list is not a network; {EXAMPLE}", other.shown())),
    };
    items.into_iter().map(network).collect()
}

fn resolve(path: &str, base: &Path) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("the path is empty; write the path of a file".to_owned());
    }
    if path.contains('\0') {
        return Err("the path holds a NUL character; write the path of a file".to_owned());
    }
    Ok(base.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_was_meant_is_proposed() {
        let proposal = |text: &str| meant_address(&Raw::Text(text.to_owned())).to_string();
        assert_eq!(proposal("9000"), "127.0.0.1:9000");
        assert_eq!(proposal(":9000"), "0.0.0.0:9000");
        assert_eq!(proposal("localhost:9000"), "127.0.0.1:9000");
        assert_eq!(proposal("10.0.0.1"), "10.0.0.1:8080");
        assert_eq!(proposal("::1"), "[::1]:8080");
        assert_eq!(proposal("nonsense"), "127.0.0.1:8080");
        assert_eq!(meant_address(&Raw::Number(9000)).to_string(), "127.0.0.1:9000");
    }

    #[test]
    fn durations_are_shown_in_their_largest_whole_unit() {
        let shown = |millis| brief(Duration::from_millis(millis));
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(250), "250ms");
        assert_eq!(shown(1_500), "1500ms");
        assert_eq!(shown(90_000), "90s");
        assert_eq!(shown(600_000), "10m");
        assert_eq!(shown(7_200_000), "2h");
    }
}
