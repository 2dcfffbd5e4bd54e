//! EMQX's exact wire types, as recorded in `tests/recorded/events.jsonl`.

use std::borrow::Cow;

use base64ct::{Base64, Encoding};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;
use thiserror::Error;

use crate::domain::event::{
    CommandMessage, EndCause, Event, EventKind, Message, MessageOutcome, timestamp_from_ms,
};
use crate::domain::json_object::Object;
use crate::http::emqx::shorten::CUT;

/// What EMQX writes where a client or message has no such field.
const MISSING: &str = "undefined";
/// Longest message id in bytes; EMQX's have 32.
const MAX_ID_BYTES: usize = 64;
/// Longest name of a broker node that is kept, in bytes; Erlang's own limit is 255 characters.
const MAX_NODE_BYTES: usize = 255;

/// A rule's output. Which fields there are depends on the event and on the rule's SELECT; further
/// fields are fine.
#[derive(Deserialize)]
struct EventBody<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "text")]
    clientid: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    username: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "number")]
    connected_at: Option<i64>,
    #[serde(default, deserialize_with = "number")]
    disconnected_at: Option<i64>,
    #[serde(borrow, default, deserialize_with = "text")]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    node: Option<Cow<'a, str>>,
    #[serde(default)]
    client_attrs: Attributes,
    #[serde(borrow, default, deserialize_with = "text")]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    id: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "number")]
    publish_received_at: Option<i64>,
    #[serde(borrow, default, deserialize_with = "text")]
    correlation: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "number")]
    qos: Option<i64>,
    #[serde(default, deserialize_with = "number")]
    timestamp: Option<i64>,
    /// Not `text`: a payload may well be the word "undefined".
    #[serde(borrow, default)]
    payload_base64: Option<Cow<'a, str>>,
    /// EMQX has replaced what is not UTF-8 in it.
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
}

/// The client's attributes. The answer to a login gives every client some, and EMQX sends none with
/// the will of any (docs/EMQX.md): so they distinguish a will from what a client publishes itself.
#[derive(Default, PartialEq, Eq)]
enum Attributes {
    /// The rule does not select them, or the release has none.
    #[default]
    Unknown,
    None,
    Some,
}

/// What a body is about.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedEvent<'a> {
    /// An event that concerns Fleetgate.
    Event(Event<'a>),
    /// Another of EMQX's events.
    Other,
}

/// Why a body is not a valid event.
#[derive(Debug, Error)]
pub enum Malformed {
    /// Not JSON, or a field of the wrong type.
    #[error("{0}")]
    Json(#[source] serde_json::Error),
    /// A field that the event needs is missing.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// `payload_base64` is not base64.
    #[error("payload_base64 is not base64")]
    Base64,
    /// A time before 1970 or after 9998.
    #[error("the field {0} is not a valid time in milliseconds since 1970")]
    Time(&'static str),
    /// A message id that EMQX would not make.
    #[error("the field id is not a valid message id: 1 to 64 bytes, no control characters")]
    Id,
}

/// Reads a body.
///
/// # Errors
/// [`Malformed`], which holds nothing of a payload.
pub fn parse(body: &[u8]) -> Result<ParsedEvent<'_>, Malformed> {
    let body: EventBody<'_> = match serde_json::from_slice(body) {
        Ok(Object(body)) => body,
        Err(_) if is_other_event(body) => return Ok(ParsedEvent::Other),
        Err(error) => return Err(Malformed::Json(error)),
    };
    let kind = match &*body.event {
        "client.connected" => {
            EventKind::Connected { connected_at: time(body.connected_at, "connected_at")? }
        }
        "client.disconnected" => EventKind::Disconnected {
            connected_at: time(body.connected_at, "connected_at")?,
            disconnected_at: time(body.disconnected_at, "disconnected_at")?,
            cause: EndCause::from_reason(body.reason.as_deref().unwrap_or_default()),
        },
        "message.publish" => EventKind::Published(Message {
            topic: needed(body.topic, "topic")?,
            id: message_id(needed(body.id, "id")?)?,
            received_at: time(body.publish_received_at, "publish_received_at")?,
            payload: payload(body.payload_base64, body.payload)?,
            will: body.client_attrs == Attributes::None,
            correlation: body.correlation,
        }),
        "message.delivered" | "message.acked" | "delivery.dropped" => {
            // Not everything that is published over the REST API is a command.
            let Some(delivery) = body.correlation else { return Ok(ParsedEvent::Other) };
            let outcome = match &*body.event {
                "message.delivered" => MessageOutcome::Written {
                    qos: u8::try_from(needed(body.qos, "qos")?).unwrap_or(u8::MAX),
                },
                "message.acked" => MessageOutcome::Acknowledged,
                _ => MessageOutcome::Dropped,
            };
            let at = time(body.timestamp, "timestamp")?;
            EventKind::Command(CommandMessage { delivery, outcome, at })
        }
        _ => return Ok(ParsedEvent::Other),
    };
    let client_id = match kind {
        EventKind::Published(_) => body.clientid.unwrap_or_default(),
        _ => needed(body.clientid, "clientid")?,
    };
    let node = body.node.filter(|node| is_node(node));
    Ok(ParsedEvent::Event(Event { user_name: body.username, client_id, node, kind }))
}

/// Longest part of a field that a log line repeats, in characters.
const MAX_SAMPLE_CHARS: usize = 64;

/// Whose event a malformed body was, as far as that can be read, for the log. Never of its payload;
/// `None` where it is unknown which part of it is the payload.
#[must_use]
pub fn sample(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Sample {
        event: Option<String>,
        clientid: Option<String>,
        username: Option<String>,
        topic: Option<String>,
    }
    let sample: Sample = serde_json::from_slice(body).ok()?;
    let shortened = |field: Option<String>| {
        field.map(|text| text.chars().take(MAX_SAMPLE_CHARS).collect::<String>())
    };
    let Sample { event, clientid, username, topic } = sample;
    Some(format!("{:?}", [event, clientid, username, topic].map(shortened)))
}

/// Whether a body is about an event that does not concern Fleetgate and whose fields may therefore be
/// of any type.
fn is_other_event(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Name<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
    }
    const KNOWN: [&str; 6] = [
        "client.connected",
        "client.disconnected",
        "message.publish",
        "message.delivered",
        "message.acked",
        "delivery.dropped",
    ];
    serde_json::from_slice::<Object<Name<'_>>>(body)
        .is_ok_and(|Object(name)| !KNOWN.contains(&&*name.event))
}

fn needed<T>(field: Option<T>, name: &'static str) -> Result<T, Malformed> {
    field.ok_or(Malformed::Missing(name))
}

fn time(field: Option<i64>, name: &'static str) -> Result<Timestamp, Malformed> {
    timestamp_from_ms(needed(field, name)?).ok_or(Malformed::Time(name))
}

/// An Erlang node name, as far as it is kept.
fn is_node(node: &str) -> bool {
    node.len() <= MAX_NODE_BYTES && !node.contains(char::is_control)
}

fn message_id(id: Cow<'_, str>) -> Result<Cow<'_, str>, Malformed> {
    let good = (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains(char::is_control);
    good.then_some(id).ok_or(Malformed::Id)
}

fn payload(
    base64: Option<Cow<'_, str>>,
    text: Option<Cow<'_, str>>,
) -> Result<Option<Vec<u8>>, Malformed> {
    match (base64, text) {
        (Some(cut), _) | (None, Some(cut)) if cut == CUT => Ok(None),
        (Some(base64), _) => Base64::decode_vec(&base64).map(Some).map_err(|_| Malformed::Base64),
        (None, Some(text)) => Ok(Some(text.into_owned().into_bytes())),
        (None, None) => Err(Malformed::Missing("payload_base64")),
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let Text(text) = Text::deserialize(deserializer)?;
    Ok((text != MISSING).then_some(text))
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Object(attributes) if attributes.is_empty() => Self::None,
            Value::Object(_) => Self::Some,
            _ => Self::Unknown,
        })
    }
}

/// A whole number; larger ones than `i64` holds become its largest, which is not a valid time.
///
/// Through `Value`, because serde_json with `arbitrary_precision` presents numbers to `deserialize_any`
/// as maps of its own.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(number) => {
            let larger = || number.as_u64().map(|_| i64::MAX);
            let whole = number.as_i64().or_else(larger);
            whole.map(Some).ok_or_else(|| D::Error::custom("not a whole number"))
        }
        Value::String(text) if text == MISSING => Ok(None),
        _ => Err(D::Error::custom("not a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_says_whose_event_it_was_and_holds_no_payload() {
        let body = br#"{"event":"message.publish","clientid":"c\u001b","payload":"271828","id":7}"#;
        let sample = sample(body).unwrap();
        assert!(sample.contains("message.publish") && sample.contains(r"c\u{1b}"), "{sample}");
        assert!(!sample.contains("271828"), "{sample}");
        assert_eq!(super::sample(br#"{"payload":"271828"#), None);
    }

    #[test]
    fn times_are_whole_numbers_or_missing() {
        let connected = |at: &str| {
            parse(
                format!(r#"{{"event":"client.connected","clientid":"c","connected_at":{at}}}"#)
                    .as_bytes(),
            )
            .map(|parsed| matches!(parsed, ParsedEvent::Event(_)))
        };
        assert!(connected("1795356000000").unwrap());
        assert!(matches!(connected(r#""undefined""#), Err(Malformed::Missing("connected_at"))));
        assert!(matches!(connected("18446744073709551615"), Err(Malformed::Time(_))));
        for other in ["1.5", "1e3", "[]", r#""1""#, "99999999999999999999", "null", "true"] {
            assert!(matches!(connected(other), Err(Malformed::Json(_))), "{other}");
        }
    }

    #[test]
    fn other_events_may_have_fields_of_any_type() {
        let other = br#"{"event":"session.subscribed","topic":7}"#;
        assert_eq!(parse(other).unwrap(), ParsedEvent::Other);
        assert!(parse(br#"{"event":"message.publish","topic":7}"#).is_err());
    }
}
