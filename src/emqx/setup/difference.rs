//! How what EMQX has differs from what it shall have.
//!
//! What EMQX fills in by itself is no difference: fields that the target does not name, the headers that
//! its HTTP clients always send ([`EMQX_HEADERS`]), and other spellings of the same value ("2s", "2000ms").
//! A header that somebody added is one: it may carry a key, or change what Fleetgate is told.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::emqx::setup::HIDDEN;
use crate::emqx::setup::place::without_secrets;

/// A header that nobody may see.
const SECRET_FIELD: &str = "authorization";
const HEADERS: &str = "headers";
/// Objects of which all keys count. Elsewhere EMQX has fields of its own.
const COMPLETE: [&str; 2] = ["body", HEADERS];

/// Headers that EMQX adds to what a configuration file names (seen on 5.8.9, where their values are
/// hidden), and the values of which they are EMQX's own. `keep-alive` differs between its kinds of clients.
const EMQX_HEADERS: [(&str, &str); 5] = [
    ("accept", "application/json"),
    ("cache-control", "no-cache"),
    ("connection", "keep-alive"),
    ("content-type", "application/json"),
    ("keep-alive", "timeout="),
];

/// Longest value that is shown whole, in characters: the longest query of a rule of ours fits.
const LONGEST_SHOWN: usize = 300;
/// How much is shown of a longer one.
const SHOWN_OF_LONG: usize = 60;

/// One field. Secrets are `******` on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name, with dots from the outside in.
    pub field: String,
    /// What EMQX has; `None`: nothing.
    pub is: Option<Value>,
    /// What it shall be; `None`: nothing.
    pub becomes: Option<Value>,
}

/// A value for people: JSON on one line, of which only the beginning is shown where it is long.
#[must_use]
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    let length = text.chars().count();
    if length <= LONGEST_SHOWN {
        return text;
    }
    let beginning: String = text.chars().take(SHOWN_OF_LONG).collect();
    format!("{beginning}… ({length} characters)")
}

/// What differs between an object of EMQX and what it shall be.
///
/// A token that EMQX hides counts as the right one, unless `rotate`.
pub(super) fn differences(is: &Value, shall: &Value, rotate: bool) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(is), shall, rotate, &mut found);
    found
}

/// All fields of an object that EMQX does not have yet.
pub(super) fn all_fields(shall: &Value) -> Vec<Difference> {
    differences(&Value::Object(Map::new()), shall, false)
}

fn compare(
    field: &str,
    is: Option<&Value>,
    shall: &Value,
    rotate: bool,
    found: &mut Vec<Difference>,
) {
    let Value::Object(wanted) = shall else {
        if !is_same(field, is, shall, rotate) {
            found.push(difference(field, is, Some(shall)));
        }
        return;
    };
    let is = is.and_then(Value::as_object);
    for (key, value) in wanted {
        let is = is.and_then(|is| is.get(spelling(field, is, key)));
        compare(&below(field, key), is, value, rotate, found);
    }
    for (key, value) in is.into_iter().flatten().filter(|_| is_complete(field)) {
        let is_wanted = wanted.contains_key(&canonical(field, key));
        if !is_wanted && !is_of_emqx(field, key, value) {
            found.push(difference(&below(field, key), Some(value), None));
        }
    }
}

/// How EMQX writes a key: names of headers have no case.
fn spelling<'a>(field: &str, is: &'a Map<String, Value>, key: &'a str) -> &'a str {
    is.keys().map(String::as_str).find(|name| canonical(field, name) == key).unwrap_or(key)
}

fn canonical(field: &str, key: &str) -> String {
    if last_part(field) == HEADERS { key.to_ascii_lowercase() } else { key.to_owned() }
}

/// Whether EMQX added this header by itself.
fn is_of_emqx(field: &str, key: &str, value: &Value) -> bool {
    let name = canonical(field, key);
    last_part(field) == HEADERS
        && EMQX_HEADERS.iter().any(|(header, own)| {
            let is_own = |value: &str| value == HIDDEN || value.starts_with(own);
            name == *header && value.as_str().is_some_and(is_own)
        })
}

fn is_same(field: &str, is: Option<&Value>, shall: &Value, rotate: bool) -> bool {
    match is {
        // Nobody can tell. A token that is refused shows in EMQX's counters.
        Some(is) if is == HIDDEN && is_header(field) => !(rotate && is_secret(field)),
        Some(is) => is == shall || is_same_amount(is, shall),
        None => false,
    }
}

/// Whether two spellings mean the same: `2s` and `2000ms`, `256MB` and `256mb`, 32 and `"32"`.
fn is_same_amount(is: &Value, shall: &Value) -> bool {
    match (amount(is), amount(shall)) {
        (Some(is), Some(shall)) => is == shall,
        _ => false,
    }
}

/// A number with a unit of EMQX's (HOCON of durations and sizes) in its smallest one: milliseconds, bytes.
fn amount(value: &Value) -> Option<(u64, &'static str)> {
    if let Value::Number(number) = value {
        return Some((number.as_u64()?, ""));
    }
    let text = value.as_str()?.trim().to_ascii_lowercase();
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(unit)?;
    let (factor, kind) = match unit {
        "" => (1, ""),
        "ms" => (1, "time"),
        "s" => (1_000, "time"),
        "m" => (60_000, "time"),
        "h" => (3_600_000, "time"),
        "d" => (86_400_000, "time"),
        "kb" => (1 << 10, "size"),
        "mb" => (1 << 20, "size"),
        "gb" => (1 << 30, "size"),
        _ => return None,
    };
    Some((number.parse::<u64>().ok()?.checked_mul(factor)?, kind))
}

fn difference(field: &str, is: Option<&Value>, becomes: Option<&Value>) -> Difference {
    let shown = |value: &Value| match value {
        _ if is_secret(field) || is_foreign_header(field) => HIDDEN.into(),
        Value::String(url) if last_part(field) == "url" => without_secrets(url).into(),
        _ => value.clone(),
    };
    Difference { field: field.to_owned(), is: is.map(shown), becomes: becomes.map(shown) }
}

fn below(field: &str, key: &str) -> String {
    if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") }
}

fn last_part(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

fn is_secret(field: &str) -> bool {
    last_part(field) == SECRET_FIELD
}

/// A header that somebody else set may carry a key of theirs.
fn is_foreign_header(field: &str) -> bool {
    field.contains("headers.") && last_part(field) != "content-type"
}

fn is_header(field: &str) -> bool {
    field.rsplit('.').nth(1) == Some(HEADERS)
}

fn is_complete(field: &str) -> bool {
    COMPLETE.contains(&last_part(field))
}

/// Puts the fields of an object into another, into its objects as well.
pub(super) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_emqx_has_besides_are_its_own_except_in_bodies_and_headers() {
        let is = json!({"ssl": {"enable": false}, "pool_size": 8, "body": {"a": "${a}", "z": "1"}});
        let shall = json!({"pool_size": 32, "body": {"a": "${a}", "b": "${b}"}});
        let found = differences(&is, &shall, false);
        let fields: Vec<_> = found.iter().map(|difference| difference.field.as_str()).collect();
        assert_eq!(fields, ["body.b", "body.z", "pool_size"]);
        assert_eq!((&found[2].is, &found[2].becomes), (&Some(json!(8)), &Some(json!(32))));
    }

    #[test]
    fn a_token_is_never_shown_and_a_hidden_one_is_taken_for_right() {
        let shall = json!({"headers": {"authorization": "Bearer topsecret"}});
        let hidden = json!({"headers": {"authorization": "******"}});
        assert_eq!(differences(&hidden, &shall, false), []);
        let shown =
            json!({"headers": {"authorization": "Bearer oldsecret", "x-key": "theirsecret"}});
        for (is, rotate, count) in [(&hidden, true, 1), (&json!({}), false, 1), (&shown, false, 2)]
        {
            let found = differences(is, &shall, rotate);
            assert_eq!(found.len(), count, "{found:?}");
            assert!(!format!("{found:?}").contains("secret"), "{found:?}");
        }
    }

    #[test]
    fn a_url_of_others_is_shown_without_its_secrets() {
        let (is, shall) =
            (json!({"url": "http://u:secret@a/b?key=secret"}), json!({"url": "http://f"}));
        let found = differences(&is, &shall, false);
        assert_eq!(found[0].is, Some(json!("http://a/b")));
        assert_eq!(found[0].becomes, Some(json!("http://f")));
    }

    #[test]
    fn headers_that_emqx_adds_are_its_own() {
        // As a connector made by a configuration file comes back.
        let filled = json!({"headers": {
            "accept": "******", "cache-control": "******", "connection": "******",
            "content-type": "******", "keep-alive": "******",
        }});
        assert_eq!(differences(&filled, &json!({"headers": {}}), false), []);
        // Shown instead of hidden, and beside those that are wanted.
        let shown = json!({"headers": {
            "Accept": "application/json", "cache-control": "no-cache", "connection": "keep-alive",
            "Content-Type": "application/json", "keep-alive": "timeout=30, max=1000",
            "Authorization": "******",
        }});
        let shall = json!({"headers": {
            "content-type": "application/json", "authorization": "Bearer topsecret",
        }});
        assert_eq!(differences(&shown, &shall, false), []);
        assert_eq!(differences(&filled, &shall, false).len(), 1, "no authorization");
        assert_eq!(differences(&shown, &shall, true).len(), 1, "sent again on demand");
        // What somebody added, or changed.
        for (name, value) in [
            ("authorization", "******"),
            ("x-key", "******"),
            ("connection", "close"),
            ("accept", "text/xml"),
        ] {
            let mut is = filled.clone();
            is["headers"][name] = json!(value);
            let found = differences(&is, &json!({"headers": {}}), false);
            assert_eq!(found.len(), 1, "{name}: {value}");
            assert_eq!(found[0].field, format!("headers.{name}"));
        }
        let wrong = json!({"headers": {"content-type": "text/plain", "authorization": "******"}});
        assert_eq!(differences(&wrong, &shall, false).len(), 1);
    }

    #[test]
    fn another_spelling_of_the_same_amount_is_no_difference() {
        let is = json!({"ttl": "2000ms", "buffer": "256mb", "pool": "32", "sql": "SELECT 1"});
        let shall = json!({"ttl": "2s", "buffer": "256MB", "pool": 32, "sql": "SELECT 1"});
        assert_eq!(differences(&is, &shall, false), []);
        for (is, shall) in [("2s", "2m"), ("infinity", "2s"), ("256MB", "256s"), ("s", "s s")] {
            assert!(!is_same(".", Some(&json!(is)), &json!(shall), false), "{is} {shall}");
        }
    }

    #[test]
    fn a_long_value_is_shown_by_its_beginning() {
        let rules = json!("{allow, all}.\n".repeat(600));
        let text = shown(&rules);
        assert!(text.chars().count() < 100 && text.contains("characters)"), "{text}");
        assert_eq!(shown(&json!("deny")), "\"deny\"");
    }

    #[test]
    fn an_empty_object_may_be_missing() {
        assert_eq!(differences(&json!({}), &json!({"headers": {}}), false), []);
    }
}
