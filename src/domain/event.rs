//! Events of the bus: a session began, a session ended, a message was published.

use std::borrow::Cow;

use jiff::Timestamp;

/// Latest timestamp that PostgreSQL's constraints take: the end of the year 9998, in ms since 1970.
const LAST_TIMESTAMP_MS: i64 = 253_370_764_799_999;

/// One event of a client, as EMQX sends it. All timestamps are in whole milliseconds, by the clock of the
/// broker node that the client is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The client's user name; `None` for what the broker itself published.
    pub user_name: Option<Cow<'a, str>>,
    /// Its client id; may be empty where the event is a message.
    pub client_id: Cow<'a, str>,
    /// The broker node that sent it, as it calls itself.
    pub node: Option<Cow<'a, str>>,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind<'a> {
    /// A session began.
    Connected {
        /// When; this also names the session among those of its client id.
        connected_at: Timestamp,
    },
    /// A session ended.
    Disconnected {
        /// When it had begun.
        connected_at: Timestamp,
        /// When it ended.
        disconnected_at: Timestamp,
        /// Why.
        cause: EndCause,
    },
    /// A message was published.
    Published(Message<'a>),
    /// What became of a command's message at the client.
    Command(CommandMessage<'a>),
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
    /// program ends. All others are taken for the broker's: `last_seen` is then a little early at worst,
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

/// What EMQX tells of a command's message and one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandMessage<'a> {
    /// The delivery's id, which went with the message (Correlation Data); any text.
    pub delivery: Cow<'a, str>,
    /// What became of it.
    pub outcome: MessageOutcome,
    /// When.
    pub at: Timestamp,
}

/// What became of a message at one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageOutcome {
    /// It was written to the client's connection.
    Written {
        /// With which QoS; 0 is never acknowledged.
        qos: u8,
    },
    /// The client acknowledged it.
    Acknowledged,
    /// EMQX gave it up: it expired, or the client's queue was full.
    Dropped,
}

/// A published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its topic name.
    pub topic: Cow<'a, str>,
    /// EMQX's id of it. Ids of one node grow with time.
    pub id: Cow<'a, str>,
    /// When EMQX received it.
    pub received_at: Timestamp,
    /// The bytes themselves; `None` where they were too many to be read.
    pub payload: Option<Vec<u8>>,
    /// Whether it is a will: the broker publishes it for a client that it has lost.
    pub will: bool,
    /// Its Correlation Data (MQTT 5 §3.3.2.3.6), where it has some that is text.
    pub correlation: Option<Cow<'a, str>>,
}

impl Event<'_> {
    /// When the client was heard, as far as this event says. What the broker says by itself or in the
    /// client's name does not count; a session that ended had begun, and its client was heard then.
    #[must_use]
    pub fn heard_at(&self) -> Option<Timestamp> {
        match &self.kind {
            EventKind::Connected { connected_at } => Some(*connected_at),
            EventKind::Disconnected { connected_at, disconnected_at, cause } => match cause {
                EndCause::Closed => Some(*disconnected_at),
                EndCause::Gone => Some(*connected_at),
                // Some releases put another session's connected_at there (emqx#13484).
                EndCause::TakenOver | EndCause::Discarded => None,
            },
            EventKind::Published(message) => (!message.will).then_some(message.received_at),
            EventKind::Command(_) => None,
        }
    }

    /// The latest timestamp of the event: a clock that is ahead shows in it.
    #[must_use]
    pub fn latest_timestamp(&self) -> Timestamp {
        match &self.kind {
            EventKind::Connected { connected_at } => *connected_at,
            EventKind::Disconnected { connected_at, disconnected_at, .. } => {
                *connected_at.max(disconnected_at)
            }
            EventKind::Published(message) => message.received_at,
            EventKind::Command(message) => message.at,
        }
    }
}

/// The timestamp of so many milliseconds since 1970; `None` for one that the registry cannot hold.
#[must_use]
pub fn timestamp_from_ms(ms: i64) -> Option<Timestamp> {
    (0..=LAST_TIMESTAMP_MS).contains(&ms).then(|| Timestamp::from_millisecond(ms).ok())?
}
