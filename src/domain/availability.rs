//! What a gateway says of whether it reaches a child.

use serde_json::Value;

/// Whether a gateway reaches a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It does.
    Online,
    /// It does not.
    Offline,
}

impl Availability {
    /// Reads a message on an availability topic: `online` or `offline`, or a JSON object with such a `state`. `None` for
    /// anything else.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        match payload {
            b"online" => Some(Self::Online),
            b"offline" => Some(Self::Offline),
            _ => match serde_json::from_slice::<Value>(payload).ok()?.get("state")?.as_str()? {
                "online" => Some(Self::Online),
                "offline" => Some(Self::Offline),
                _ => None,
            },
        }
    }

    /// As it is stored and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words_or_in_json() {
        for (payload, read) in [
            ("online", Some(Availability::Online)),
            ("offline", Some(Availability::Offline)),
            (r#"{"state": "online"}"#, Some(Availability::Online)),
            (r#"{"state": "offline", "since": 3}"#, Some(Availability::Offline)),
            ("Online", None),
            ("\"online\"", None),
            (r#"{"state": true}"#, None),
            (r#"{"state": "away"}"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(Availability::read(payload.as_bytes()), read, "{payload}");
        }
    }
}
