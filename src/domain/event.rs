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
    /// The client is gone.
    Gone,
    /// The client goes on in a newer connection (EMQX's reason `takenover`).
    TakenOver,
    /// The client began a newer session (EMQX's reason `discarded`).
    Discarded,
}

impl EndCause {
    /// EMQX's reason in an event; any but two means that the client is gone.
    #[must_use]
    pub fn from_reason(reason: &str) -> Self {
        match reason {
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
}

impl Event<'_> {
    /// When it happened.
    #[must_use]
    pub fn at_ms(&self) -> i64 {
        match &self.happening {
            Happening::Connected { connected_at_ms } => *connected_at_ms,
            Happening::Disconnected { disconnected_at_ms, .. } => *disconnected_at_ms,
            Happening::Published(message) => message.received_at_ms,
        }
    }
}

/// Whether a number of milliseconds since 1970 is a moment that the registry can hold.
#[must_use]
pub fn is_moment(ms: i64) -> bool {
    (0..=LAST_MOMENT_MS).contains(&ms)
}
