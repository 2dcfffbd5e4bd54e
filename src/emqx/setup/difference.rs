//! How what EMQX has differs from what it shall have.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::emqx::setup::HIDDEN;

/// A header that nobody may see.
const SECRET_FIELD: &str = "authorization";
/// Objects of which all keys count. Elsewhere EMQX has fields of its own.
const COMPLETE: [&str; 2] = ["body", "headers"];

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
    for (key, value) in wanted {
        compare(&below(field, key), is.and_then(|is| is.get(key)), value, rotate, found);
    }
    let extra = is.and_then(Value::as_object).into_iter().flatten();
    for (key, value) in extra.filter(|(key, _)| is_complete(field) && !wanted.contains_key(*key)) {
        found.push(difference(&below(field, key), Some(value), None));
    }
}

fn is_same(field: &str, is: Option<&Value>, shall: &Value, rotate: bool) -> bool {
    let hidden = is_secret(field) && is.is_some_and(|is| is == HIDDEN);
    if hidden { !rotate } else { is == Some(shall) }
}

fn difference(field: &str, is: Option<&Value>, becomes: Option<&Value>) -> Difference {
    let shown = |value: &Value| {
        if is_secret(field) || is_foreign_header(field) { HIDDEN.into() } else { value.clone() }
    };
    Difference { field: field.to_owned(), is: is.map(shown), becomes: becomes.map(shown) }
}

fn below(field: &str, key: &str) -> String {
    if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") }
}

fn last(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

fn is_secret(field: &str) -> bool {
    last(field) == SECRET_FIELD
}

/// A header that somebody else set may carry a key of theirs.
fn is_foreign_header(field: &str) -> bool {
    field.contains("headers.") && last(field) != "content-type"
}

fn is_complete(field: &str) -> bool {
    COMPLETE.contains(&last(field))
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
    fn an_empty_object_may_be_missing() {
        assert_eq!(differences(&json!({}), &json!({"headers": {}}), false), []);
    }
}
