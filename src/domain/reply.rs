//! What a device says on its reply topic about a command that it was given.

use serde_json::Value;

use crate::domain::delivery::is_id;
use crate::domain::event::Message;

/// Most bytes of a reply that are kept.
pub const MAX_REPLY_BYTES: usize = 4096;

/// A reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which delivery it is about; any text.
    pub delivery: String,
    /// Whether it is done.
    pub ok: bool,
    /// What it said, at most [`MAX_REPLY_BYTES`].
    pub text: String,
}

impl Reply {
    /// Reads a message on a reply topic: a JSON object whose `status` is `"ok"`, `"error"` or a number as of HTTP (2xx is
    /// ok). The delivery is named by the message's Correlation Data (MQTT 5 §4.10) or, where that is no id of ours (some clients
    /// have their own), by the member `id`. `None` for anything else, and for a will, which the device has not said itself.
    #[must_use]
    pub fn read(message: &Message<'_>) -> Option<Self> {
        if message.will {
            return None;
        }
        let text = std::str::from_utf8(message.payload.as_deref()?).ok()?;
        let value: Value = serde_json::from_str(text).ok()?;
        let ok = match value.get("status")? {
            Value::String(word) if word == "ok" => true,
            Value::String(word) if word == "error" => false,
            Value::Number(number) => (200..300).contains(&number.as_i64()?),
            _ => return None,
        };
        let correlation = message.correlation.as_deref().filter(|correlation| is_id(correlation));
        let delivery = correlation.or_else(|| value.get("id")?.as_str())?.to_owned();
        let text = text.get(..text.floor_char_boundary(MAX_REPLY_BYTES)).unwrap_or_default();
        Some(Self { delivery, ok, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use jiff::Timestamp;

    use super::*;

    const ID: &str = "0ea7a7a2-9a5e-4e62-8a3e-0d3c1c2b4a5f";

    fn message(payload: &str, correlation: Option<&'static str>) -> Message<'static> {
        Message {
            topic: "a/reply".into(),
            id: "0A".into(),
            received_at: Timestamp::UNIX_EPOCH,
            payload: Some(payload.as_bytes().to_vec()),
            will: false,
            correlation: correlation.map(Cow::Borrowed),
        }
    }

    #[test]
    fn the_status_decides() {
        for (payload, ok) in [
            (r#"{"status":"ok"}"#, Some(true)),
            (r#"{"status":"error","why":"jammed"}"#, Some(false)),
            (r#"{"status":200}"#, Some(true)),
            (r#"{"status":204}"#, Some(true)),
            (r#"{"status":404}"#, Some(false)),
            (r#"{"status":"OK"}"#, None),
            (r#"{"status":true}"#, None),
            (r#"{"status":2.5}"#, None),
            (r#"{"status":1e400}"#, None),
            (r#"{"done":1}"#, None),
            (r#""ok""#, None),
            ("", None),
        ] {
            let reply = Reply::read(&message(payload, Some(ID)));
            assert_eq!(reply.as_ref().map(|reply| reply.ok), ok, "{payload}");
            assert!(reply.is_none_or(|reply| reply.text == payload));
        }
    }

    #[test]
    fn correlation_data_names_the_delivery_before_the_payload_does() {
        let delivery = |message: &Message<'_>| Reply::read(message).map(|reply| reply.delivery);
        let payload = r#"{"id":"in the payload","status":"ok"}"#;
        assert_eq!(delivery(&message(payload, None)).as_deref(), Some("in the payload"));
        assert_eq!(delivery(&message(payload, Some(ID))).as_deref(), Some(ID));
        assert_eq!(delivery(&message(payload, Some("theirs"))).as_deref(), Some("in the payload"));
        assert_eq!(delivery(&message(r#"{"status":"ok"}"#, None)), None);
        assert_eq!(delivery(&message(r#"{"id":7,"status":"ok"}"#, None)), None);
    }

    #[test]
    fn wills_and_what_is_too_large_or_no_text_say_nothing() {
        let good = message(r#"{"status":"ok"}"#, Some(ID));
        assert_eq!(Reply::read(&Message { will: true, ..good.clone() }), None);
        assert_eq!(Reply::read(&Message { payload: None, ..good.clone() }), None);
        assert_eq!(Reply::read(&Message { payload: Some(vec![0xff]), ..good }), None);
        let long = format!("{{\"status\":\"ok\",\"why\":\"{}\"}}", "é".repeat(4000));
        let kept = Reply::read(&message(&long, Some(ID))).unwrap().text;
        assert!((4090..=4096).contains(&kept.len()));
    }
}
