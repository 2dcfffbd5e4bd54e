//! What the API says of a request that it does not do.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{RemoteError, Wrong, WrongLine};
use crate::fleet::FleetError;
use crate::fleet::error::{Rule, Thing};
use crate::fleet::wire::PROBLEM;

/// A problem (RFC 9457).
#[derive(Deserialize)]
struct Document {
    r#type: String,
    detail: String,
    #[serde(default)]
    thing: Option<Value>,
    #[serde(default)]
    rule: Option<Value>,
    #[serde(default)]
    errors: Vec<Place>,
    #[serde(default)]
    wrong_lines: usize,
}

/// What is wrong in a request.
#[derive(Deserialize)]
struct Place {
    pointer: String,
    detail: String,
    line: Option<u64>,
    #[serde(default)]
    thing: Option<Value>,
    #[serde(default)]
    rule: Option<Value>,
}

impl Place {
    fn told(&self) -> String {
        let space = if self.pointer.is_empty() { "" } else { " " };
        format!("{}{space}{}", self.pointer, self.detail)
    }
}

/// Reads a problem; `None`: it is none of this API's.
pub(super) fn read(status: StatusCode, body: &[u8]) -> Option<RemoteError> {
    let Document { r#type, detail, thing, rule, errors, wrong_lines } =
        serde_json::from_slice(body).ok()?;
    let word = r#type.strip_prefix(PROBLEM)?.to_owned();
    if let Some(error) = refusal(thing, rule) {
        return Some(RemoteError::Fleet(error));
    }
    let field = errors.first().map(|place| place.pointer.trim_start_matches('/').to_owned());
    let is_about_lines = errors.iter().any(|place| place.line.is_some());
    let detail = match errors.as_slice() {
        several @ [_, _, ..] if !is_about_lines => {
            several.iter().map(Place::told).collect::<Vec<_>>().join("; ")
        }
        _ => detail,
    };
    let lines = errors.into_iter().filter_map(|place| {
        let told = place.told();
        Some(WrongLine { line: place.line?, wrong: Wrong::read(place.thing, place.rule, told) })
    });
    let lines = lines.collect();
    let status = status.as_u16();
    Some(RemoteError::Refused { status, word, detail, field, lines, wrong_lines })
}

impl Wrong {
    /// What the API says of a line, for programs and in words.
    pub(super) fn read(thing: Option<Value>, rule: Option<Value>, told: String) -> Self {
        refusal(thing, rule).map_or(Self::Other(told), Self::Refused)
    }
}

/// The refusal of the fleet; `None`: it is none, or one that this release does not know.
fn refusal(thing: Option<Value>, rule: Option<Value>) -> Option<FleetError> {
    let thing: Thing = serde_json::from_value(thing?).ok()?;
    let rule: Option<Rule> = rule.map(serde_json::from_value).transpose().ok()?;
    Some(FleetError::of_refusal(thing, rule))
}
