//! EMQX's exact wire types, as recorded in `tests/recorded/events.jsonl`.

use std::borrow::Cow;
use std::fmt;

use base64ct::{Base64, Encoding};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use thiserror::Error;

use crate::domain::event::{EndCause, Event, Happening, Message, is_moment};

/// What EMQX writes where a client or message has no such field.
const MISSING: &str = "undefined";
/// Longest message id in bytes; EMQX's have 32.
const MAX_ID_BYTES: usize = 64;

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
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    id: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "number")]
    publish_received_at: Option<i64>,
    /// Not `text`: a payload may well be the word "undefined".
    #[serde(borrow, default)]
    payload_base64: Option<Cow<'a, str>>,
    /// EMQX has replaced what is not UTF-8 in it.
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
}

/// What a body tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// An event that concerns Fleetgate.
    Event(Event<'a>),
    /// Another of EMQX's events.
    Other,
}

/// Why a body is no event.
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
    #[error("the field {0} is no time in milliseconds since 1970")]
    Time(&'static str),
    /// A message id that EMQX would not make.
    #[error("the field id is no message id: 1 to 64 bytes, no control characters")]
    Id,
}

/// Reads a body.
///
/// # Errors
/// [`Malformed`], which holds nothing of a payload.
pub fn parse(body: &[u8]) -> Result<Told<'_>, Malformed> {
    let body: EventBody<'_> = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(_) if is_other_event(body) => return Ok(Told::Other),
        Err(error) => return Err(Malformed::Json(error)),
    };
    let happening = match &*body.event {
        "client.connected" => {
            Happening::Connected { connected_at_ms: time(body.connected_at, "connected_at")? }
        }
        "client.disconnected" => Happening::Disconnected {
            connected_at_ms: time(body.connected_at, "connected_at")?,
            disconnected_at_ms: time(body.disconnected_at, "disconnected_at")?,
            cause: EndCause::from_reason(body.reason.as_deref().unwrap_or_default()),
        },
        "message.publish" => Happening::Published(Message {
            topic: needed(body.topic, "topic")?,
            id: message_id(needed(body.id, "id")?)?,
            received_at_ms: time(body.publish_received_at, "publish_received_at")?,
            payload: payload(body.payload_base64, body.payload)?,
        }),
        _ => return Ok(Told::Other),
    };
    let client_id = match happening {
        Happening::Published(_) => body.clientid.unwrap_or_default(),
        _ => needed(body.clientid, "clientid")?,
    };
    Ok(Told::Event(Event { user_name: body.username, client_id, happening }))
}

/// Longest part of a field that a log line shows, in characters.
const SHOWN_CHARS: usize = 64;

/// Whose event a malformed body was, as far as that can be read, for the log. Never of its payload;
/// `None` where nobody knows which part of it is the payload.
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
    let shown = |field: Option<String>| {
        field.map(|text| text.chars().take(SHOWN_CHARS).collect::<String>())
    };
    let Sample { event, clientid, username, topic } = sample;
    Some(format!("{:?}", [event, clientid, username, topic].map(shown)))
}

/// Whether a body is about an event that does not concern Fleetgate and whose fields may therefore be
/// of any type.
fn is_other_event(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Name<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
    }
    const KNOWN: [&str; 3] = ["client.connected", "client.disconnected", "message.publish"];
    serde_json::from_slice::<Name<'_>>(body).is_ok_and(|name| !KNOWN.contains(&&*name.event))
}

fn needed<T>(field: Option<T>, name: &'static str) -> Result<T, Malformed> {
    field.ok_or(Malformed::Missing(name))
}

fn time(field: Option<i64>, name: &'static str) -> Result<i64, Malformed> {
    let ms = needed(field, name)?;
    is_moment(ms).then_some(ms).ok_or(Malformed::Time(name))
}

fn message_id(id: Cow<'_, str>) -> Result<Cow<'_, str>, Malformed> {
    let good = (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains(char::is_control);
    good.then_some(id).ok_or(Malformed::Id)
}

fn payload(base64: Option<Cow<'_, str>>, text: Option<Cow<'_, str>>) -> Result<Vec<u8>, Malformed> {
    match (base64, text) {
        (Some(base64), _) => Base64::decode_vec(&base64).map_err(|_| Malformed::Base64),
        (None, Some(text)) => Ok(text.into_owned().into_bytes()),
        (None, None) => Err(Malformed::Missing("payload_base64")),
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let Text(text) = Text::deserialize(deserializer)?;
    Ok((text != MISSING).then_some(text))
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = Option<i64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(i64::try_from(number).unwrap_or(i64::MAX)))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            if text == MISSING { Ok(None) } else { Err(E::custom("text where a number belongs")) }
        }
    }
    deserializer.deserialize_any(Number)
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
    fn other_events_may_have_fields_of_any_type() {
        let other = br#"{"event":"session.subscribed","topic":7}"#;
        assert_eq!(parse(other).unwrap(), Told::Other);
        assert!(parse(br#"{"event":"message.publish","topic":7}"#).is_err());
    }
}
