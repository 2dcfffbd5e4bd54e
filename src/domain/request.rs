//! What a service publishes to have a command sent: `{"value", "device" | "selector", "expires_in", "id"}`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::domain::command::CommandPayload;
use crate::domain::json_object::Object;
use crate::domain::json_pointer::escaped;
use crate::domain::name::DeviceName;
use crate::domain::selector::{Age, MAX_BYTES, Selector};
use crate::domain::topic::{filters_overlap, grant_covers};

/// What the topics begin with that no device has.
pub const FLEETGATE: &str = "fleetgate/";
/// What the topics begin with that requests are published to; the capability follows.
pub const COMMANDS: &str = "fleetgate/commands/";
/// What the topics begin with that results are published to; the service and the request's id follow.
pub const RESULTS: &str = "fleetgate/results/";
/// Longest request in bytes: the largest payload of a command, and room for what else it says.
pub const MAX_REQUEST_BYTES: usize = crate::domain::command::MAX_PAYLOAD_BYTES + 16 * 1024;
/// Longest id that a service gives a request.
const MAX_ID_BYTES: usize = 64;
/// Most devices that a request names.
const MAX_NAMED: usize = 100;

/// Whether a right to subscribe lets somebody hear what became of other services' requests.
#[must_use]
pub fn hears_results_of_others(device: &str, filter: &str) -> bool {
    filters_overlap(filter, &format!("{RESULTS}+/+"))
        && !grant_covers(&format!("{RESULTS}{device}/#"), filter)
}

/// A command that a service asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRequest {
    /// What devices are told.
    pub payload: CommandPayload,
    /// Whom it is for.
    pub to: Recipients,
    /// How long it may take since EMQX received it; `None`: as the capability says.
    pub expires_in: Option<Duration>,
}

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipients {
    /// These devices.
    Devices(Vec<DeviceName>),
    /// Those that a selector means.
    Selector(Selector),
    /// Whom the capability's routing rules choose.
    Rules,
}

/// Why a text is not a request: where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{pointer} {message}")]
pub struct RequestError {
    /// A JSON Pointer into the request.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

fn wrong<T>(pointer: &str, message: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError { pointer: pointer.to_owned(), message: message.into() })
}

/// Whether a text may name a request: 1 to 64 letters, digits, `_` and `-`. It becomes a level of a topic.
#[must_use]
pub fn is_request_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The id that a service gave its request, if it did and it is one, whatever else is wrong with the request.
#[must_use]
pub fn request_id(payload: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: Option<String>,
    }
    let Object(named): Object<Named> = serde_json::from_str(payload).ok()?;
    named.id.filter(|id| is_request_id(id))
}

impl CommandRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(text: &str) -> Result<Self, RequestError> {
        let value = serde_json::from_str(text);
        let Ok(Value::Object(members)) = value else {
            return wrong(
                "",
                "must be a JSON object such as {\"value\": \"on\", \"device\": \"relay-1\"}",
            );
        };
        for name in members.keys() {
            if !["value", "device", "selector", "expires_in", "id"].contains(&name.as_str()) {
                let pointer = format!("/{}", escaped(name));
                return wrong(
                    &pointer,
                    "is not a member of a request; there are value, device, selector, expires_in and id",
                );
            }
        }
        let id = members.get("id");
        if id.is_some_and(|id| !id.as_str().is_some_and(is_request_id)) {
            return wrong("/id", "must be a text of 1 to 64 letters, digits, _ and -");
        }
        let Some(value) = members.get("value") else {
            return wrong("/value", "is missing: what the devices are told");
        };
        let payload = value.to_string().parse();
        Ok(Self {
            payload: payload.or_else(|why| wrong("/value", format!("{why}")))?,
            to: recipients(&members)?,
            expires_in: members.get("expires_in").map(expiry).transpose()?,
        })
    }
}

fn recipients(members: &Map<String, Value>) -> Result<Recipients, RequestError> {
    match (members.get("device"), members.get("selector")) {
        (Some(_), Some(_)) => wrong("/selector", "excludes device; write one of them"),
        (None, None) => Ok(Recipients::Rules),
        (None, Some(selector)) => {
            // As long as one that is written elsewhere.
            let length = selector.to_string().len();
            if length > MAX_BYTES {
                let message = format!("has {length} bytes; at most {MAX_BYTES} are allowed");
                return wrong("/selector", message);
            }
            let selector = Selector::from_json(selector)
                .or_else(|error| wrong(&format!("/selector{}", error.pointer), error.message))?;
            Ok(Recipients::Selector(selector))
        }
        (Some(Value::Array(names)), None) if (1..=MAX_NAMED).contains(&names.len()) => {
            names.iter().map(device).collect::<Result<_, _>>().map(Recipients::Devices)
        }
        (Some(name), None) => Ok(Recipients::Devices(vec![device(name)?])),
    }
}

fn device(name: &Value) -> Result<DeviceName, RequestError> {
    match name.as_str().map(str::parse) {
        Some(Ok(name)) => Ok(name),
        Some(Err(why)) => wrong("/device", format!("the name {why}")),
        None => wrong("/device", format!("must be a device's name, or a list of 1 to {MAX_NAMED}")),
    }
}

fn expiry(value: &Value) -> Result<Duration, RequestError> {
    let age = value.as_str().and_then(Age::parse);
    age.map(Age::duration).map_or_else(
        || wrong("/expires_in", "must be a span of time such as \"30s\" or \"5m\""),
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_and_whom() {
        let read = |text: &str| CommandRequest::read(text).unwrap();
        let bare = read(r#"{"value": {"level": 3.50}}"#);
        assert_eq!((bare.payload.as_str(), bare.to), (r#"{"level":3.50}"#, Recipients::Rules));
        assert_eq!(bare.expires_in, None);
        let one =
            read(r#"{"value": null, "device": "relay-1", "expires_in": "5m", "id": "a_B-9"}"#);
        assert_eq!(one.to, Recipients::Devices(vec!["relay-1".parse().unwrap()]));
        assert_eq!(one.expires_in, Some(Duration::from_secs(300)));
        let some = read(r#"{"value": 1, "selector": {"area": "lab"}}"#);
        assert_eq!(some.to, Recipients::Selector("area=lab".parse().unwrap()));
        let two = read(r#"{"value": 1, "device": ["a", "b"]}"#).to;
        assert_eq!(two, Recipients::Devices(vec!["a".parse().unwrap(), "b".parse().unwrap()]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!("{{\"value\": \"{}\"}}", "x".repeat(600_000));
        for (text, pointer, part) in [
            ("on", "", "must be a JSON object"),
            ("[1]", "", "must be a JSON object"),
            (r#"{"value": 1, "to": "x"}"#, "/to", "is not a member"),
            (r#"{"value": 1, "a/b": "x"}"#, "/a~1b", "is not a member"),
            (r#"{"device": "x"}"#, "/value", "is missing"),
            (&long, "/value", "at most 524288"),
            (r#"{"value": "\u0000"}"#, "/value", "U+0000"),
            (r#"{"value": 1, "id": ""}"#, "/id", "1 to 64"),
            (r#"{"value": 1, "id": "a/b"}"#, "/id", "1 to 64"),
            (r#"{"value": 1, "id": 7}"#, "/id", "1 to 64"),
            (r#"{"value": 1, "device": "a/b"}"#, "/device", "contains '/'"),
            (r#"{"value": 1, "device": []}"#, "/device", "a list of 1 to 100"),
            (r#"{"value": 1, "device": "a", "selector": {}}"#, "/selector", "excludes device"),
            (r#"{"value": 1, "selector": "area=lab"}"#, "/selector", "must be a selector"),
            (r#"{"value": 1, "selector": {"area": 7}}"#, "/selector/area", "must be a text"),
            (r#"{"value": 1, "expires_in": 30}"#, "/expires_in", "such as"),
        ] {
            let error = CommandRequest::read(text).unwrap_err();
            assert_eq!(error.pointer, pointer, "{text}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ids_are_found_whatever_else_is_wrong() {
        assert_eq!(request_id(r#"{"id": "a-1", "nonsense": 1}"#).as_deref(), Some("a-1"));
        for none in [r#"{"id": "a b"}"#, r#"{"id": 7}"#, "{}", "nonsense", "[]"] {
            assert_eq!(request_id(none), None, "{none}");
        }
    }
}
