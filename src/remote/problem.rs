//! What the API says of a request that it does not do.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::RemoteError;
use crate::fleet::FleetError;
use crate::fleet::error::{Rule, Thing};

/// What every problem's type begins with.
const TYPE: &str = "urn:fleetgate:problem:";

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
    errors: Vec<Wrong>,
    #[serde(default)]
    wrong_lines: usize,
}

#[derive(Deserialize)]
struct Wrong {
    pointer: String,
    detail: String,
    line: Option<u64>,
}

impl Wrong {
    fn told(&self) -> String {
        let space = if self.pointer.is_empty() { "" } else { " " };
        format!("{}{space}{}", self.pointer, self.detail)
    }
}

/// Reads a problem; `None`: it is none of this API's.
pub(super) fn read(status: StatusCode, body: &[u8]) -> Option<RemoteError> {
    let Document { r#type, detail, thing, rule, errors, wrong_lines } =
        serde_json::from_slice(body).ok()?;
    let word = r#type.strip_prefix(TYPE)?.to_owned();
    if let Some(error) = refusal(thing, rule) {
        return Some(RemoteError::Fleet(error));
    }
    let field = errors.first().map(|wrong| wrong.pointer.trim_start_matches('/').to_owned());
    let lines: Vec<_> = errors.iter().filter_map(|it| Some((it.line?, it.told()))).collect();
    let detail = match errors.as_slice() {
        several @ [_, _, ..] if lines.is_empty() => {
            several.iter().map(Wrong::told).collect::<Vec<_>>().join("; ")
        }
        _ => detail,
    };
    let status = status.as_u16();
    Some(RemoteError::Refused { status, word, detail, field, lines, wrong_lines })
}

/// The refusal of the fleet; `None`: it is none, or one that this release does not know.
fn refusal(thing: Option<Value>, rule: Option<Value>) -> Option<FleetError> {
    let thing: Thing = serde_json::from_value(thing?).ok()?;
    let rule: Option<Rule> = rule.map(serde_json::from_value).transpose().ok()?;
    Some(FleetError::of_refusal(thing, rule))
}
