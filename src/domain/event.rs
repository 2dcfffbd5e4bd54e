//! What the bus tells: a session began, a session ended, a message was published.

use std::borrow::Cow;

/// Latest moment that PostgreSQL's constraints take: the end of the year 9998, in ms since 1970.
const LAST_MOMENT_MS: i64 = 253_370_764_799_999;

/// One event of a client, as EMQX tells it. All moments are milliseconds since 1970 by the clock of
/// the broker node that the client is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The client's user name; `None` for what the broker itself published.
    pub user_name: Option<Cow<'a, str>>,
    /// Its client id; may be empty where the event is a message.
    pub client_id: Cow<'a, str>,
    /// The broker node that tells it, as it calls itself.
    pub node: Option<Cow<'a, str>>,
    /// What happened.
    pub happening: Happening<'a>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening<'a> {
    /// A session began.
    Connected {
        /// When; this also names the session among those of its client id.
        connected_at_ms: i64,
    },
    /// A session ended.
    Disconnected {
        /// When it had begun.
        connected_at_ms: i64,
        /// When it ended.
        disconnected_at_ms: i64,
        /// Why.
        cause: EndCause,
    },
    /// A message was published.
    Published(Message<'a>),
}

/// Why a session ended, as far as presence cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// The client closed its connection: it was heard then.
    Closed,
    /// The broker ended the session, or concluded that the client is gone.
    Gone,
    /// The client goes on in a newer connection (EMQX's reason `takenover`).
    TakenOver,
    /// The client began a newer session (EMQX's reason `discarded`).
    Discarded,
}

impl EndCause {
    /// EMQX's reason in an event; any but two means that the client is gone.
    ///
    /// Few of them are the client's own doing: a DISCONNECT packet (MQTT 5 section 3.14, with or without
    /// its will), and the end of the TCP or TLS connection, which its operating system sends when a
    /// program ends. All others count as the broker's: `last_seen` is then a little early at worst,
    /// while a keepalive that ran out would make it late by the whole silence.
    #[must_use]
    pub fn from_reason(reason: &str) -> Self {
        match reason {
            "normal" | "disconnect_with_will_message" | "tcp_closed" | "ssl_closed" => Self::Closed,
            "takenover" => Self::TakenOver,
            "discarded" => Self::Discarded,
            _ => Self::Gone,
        }
    }
}

/// A published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its topic name.
    pub topic: Cow<'a, str>,
    /// EMQX's id of it. Ids of one node grow with time.
    pub id: Cow<'a, str>,
    /// When EMQX received it.
    pub received_at_ms: i64,
    /// The bytes themselves; `None` where they are more than anybody wanted to read.
    pub payload: Option<Vec<u8>>,
    /// Whether it is a will: the broker publishes it for a client that it has lost.
    pub will: bool,
}

impl Event<'_> {
    /// When the client was heard, as far as this event tells. What the broker says by itself or in the
    /// client's name is not hearing it; a session that ended had begun, and its client was heard then.
    #[must_use]
    pub fn heard_at_ms(&self) -> Option<i64> {
        match &self.happening {
            Happening::Connected { connected_at_ms } => Some(*connected_at_ms),
            Happening::Disconnected { connected_at_ms, disconnected_at_ms, cause } => match cause {
                EndCause::Closed => Some(*disconnected_at_ms),
                EndCause::Gone => Some(*connected_at_ms),
                // Some releases put another session's connected_at there (emqx#13484).
                EndCause::TakenOver | EndCause::Discarded => None,
            },
            Happening::Published(message) => (!message.will).then_some(message.received_at_ms),
        }
    }

    /// The latest timestamp of the event: it tells a clock that is ahead.
    #[must_use]
    pub fn latest_ms(&self) -> i64 {
        match &self.happening {
            Happening::Connected { connected_at_ms } => *connected_at_ms,
            Happening::Disconnected { connected_at_ms, disconnected_at_ms, .. } => {
                *connected_at_ms.max(disconnected_at_ms)
            }
            Happening::Published(message) => message.received_at_ms,
        }
    }
}

/// Whether a number of milliseconds since 1970 is a moment that the registry can hold.
#[must_use]
pub fn is_moment(ms: i64) -> bool {
    (0..=LAST_MOMENT_MS).contains(&ms)
}
