//! What has become of a command at one device: a pure function of the facts, the limits and the clock.
//!
//! Facts are noted whenever they come, in any order and more than once, also after the end. The state is read
//! off them here and nowhere else:
//!
//! ```text
//! queued ─ attempt ─► sent ─ acknowledged ─► delivered
//! queued|sent ─ expiry ─► expired            sent, no receipt in the ack timeout ─► queued again, or undeliverable
//! queued ─ a newer one ─► superseded         queued|sent ─ operator, or a right that is gone ─► cancelled
//! ```
//!
//! Where several ends are possible, the one that came first is the end. All timestamps are of one clock, that of
//! PostgreSQL.

use std::time::Duration;

use jiff::Timestamp;

/// How often a command is sent at most.
pub const MOST_ATTEMPTS: u32 = 5;

/// What makes a command succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// EMQX had a subscriber for it.
    Sent,
    /// The device acknowledged it (PUBACK, MQTT 5 §3.4).
    Delivered,
}

impl Confirmation {
    /// As tables, requests and results write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
        }
    }

    /// What a word stands for.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Sent, Self::Delivered].into_iter().find(|confirmation| confirmation.word() == word)
    }
}

/// What bounds a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When it expires.
    pub expires_at: Timestamp,
    /// How long an attempt waits for its receipt.
    pub ack_timeout: Duration,
    /// What makes it succeed.
    pub confirm: Confirmation,
}

/// What is known of a delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// How often it was sent, or may have been.
    pub attempts: u32,
    /// When the newest attempt began that may have reached anybody.
    pub attempted_at: Option<Timestamp>,
    /// When EMQX first said that it has a subscriber.
    pub published_at: Option<Timestamp>,
    /// When EMQX first wrote it to the device's connection.
    pub written_at: Option<Timestamp>,
    /// With which QoS.
    pub written_qos: Option<u8>,
    /// When the device acknowledged it.
    pub acked_at: Option<Timestamp>,
    /// When a newer command took its place.
    pub superseded_at: Option<Timestamp>,
    /// When somebody, or a right that was gone, cancelled it.
    pub cancelled_at: Option<Timestamp>,
}

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits: for the device, for its turn, or to be sent again.
    Queued,
    /// It is on its way, and its receipt is waited for until then.
    Sent {
        /// When it counts as lost.
        until: Timestamp,
    },
    /// It has ended.
    Ended {
        /// How.
        end: End,
        /// When.
        at: Timestamp,
    },
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The device acknowledged it.
    Delivered,
    /// It was handed over, and that is all that was asked for, or all that can be known: the device subscribes with
    /// QoS 0, and gives no receipt.
    Sent,
    /// Its time ran out.
    Expired,
    /// It was sent as often as it may be, and no receipt came.
    Undeliverable,
    /// A newer command took its place before it was sent.
    Superseded,
    /// Somebody cancelled it, or a right that it needed was gone.
    Cancelled,
}

impl End {
    /// Every end.
    pub const ALL: [Self; 6] = [
        Self::Delivered,
        Self::Sent,
        Self::Expired,
        Self::Undeliverable,
        Self::Superseded,
        Self::Cancelled,
    ];

    /// As tables and results write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Sent => "sent",
            Self::Expired => "expired",
            Self::Undeliverable => "undeliverable",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether what was asked for has happened, as far as it can be known.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Delivered | Self::Sent)
    }
}

impl Facts {
    /// What has become of the delivery by now.
    #[must_use]
    pub fn state(&self, limits: &Limits, now: Timestamp) -> State {
        let over = (limits.expires_at <= now).then_some(limits.expires_at);
        let ends = [
            (End::Delivered, self.acked_at),
            (End::Sent, self.sent_is_all(limits)),
            (End::Superseded, self.superseded_at),
            (End::Cancelled, self.cancelled_at),
            (End::Undeliverable, self.given_up_at(limits).filter(|at| *at <= now)),
            (End::Expired, over),
        ];
        let ends = ends.into_iter().filter_map(|(end, at)| at.map(|at| (at, end)));
        // Of two at the same time the first in the list: `min_by_key` takes the first of equal ones.
        if let Some((at, end)) = ends.min_by_key(|(at, _)| *at) {
            return State::Ended { end, at };
        }
        match self.receipt_due(limits) {
            Some(until) if until > now => State::Sent { until },
            _ => State::Queued,
        }
    }

    /// When it was handed over, where that is all that is asked for or can be known.
    fn sent_is_all(&self, limits: &Limits) -> Option<Timestamp> {
        match limits.confirm {
            Confirmation::Sent => self.published_at,
            Confirmation::Delivered => self.written_at.filter(|_| self.written_qos == Some(0)),
        }
    }

    /// When the receipt of the newest attempt must have come.
    fn receipt_due(&self, limits: &Limits) -> Option<Timestamp> {
        self.attempted_at.map(|at| at.saturating_add(limits.ack_timeout).unwrap_or(Timestamp::MAX))
    }

    fn given_up_at(&self, limits: &Limits) -> Option<Timestamp> {
        self.receipt_due(limits).filter(|_| self.attempts >= MOST_ATTEMPTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn limits() -> Limits {
        Limits {
            expires_at: at(60),
            ack_timeout: Duration::from_secs(10),
            confirm: Confirmation::Delivered,
        }
    }

    fn ended(facts: Facts, limits: &Limits, now: i64) -> Option<(&'static str, Timestamp)> {
        match facts.state(limits, at(now)) {
            State::Ended { end, at } => Some((end.word(), at)),
            _ => None,
        }
    }

    #[test]
    fn a_delivery_goes_its_way() {
        let mut facts = Facts::default();
        assert_eq!(facts.state(&limits(), at(0)), State::Queued);
        (facts.attempts, facts.attempted_at) = (1, Some(at(1)));
        assert_eq!(facts.state(&limits(), at(2)), State::Sent { until: at(11) });
        assert_eq!(facts.state(&limits(), at(11)), State::Queued, "to be sent again");
        facts.acked_at = Some(at(3));
        assert_eq!(ended(facts, &limits(), 99), Some(("delivered", at(3))));
    }

    #[test]
    fn what_came_first_is_the_end() {
        let cancelled = Facts { cancelled_at: Some(at(5)), ..Facts::default() };
        let late = Facts { acked_at: Some(at(8)), ..cancelled };
        assert_eq!(ended(late, &limits(), 9), Some(("cancelled", at(5))));
        let early = Facts { acked_at: Some(at(4)), ..cancelled };
        assert_eq!(ended(early, &limits(), 9), Some(("delivered", at(4))));
        let after_expiry = Facts { acked_at: Some(at(61)), ..Facts::default() };
        assert_eq!(ended(after_expiry, &limits(), 62), Some(("expired", at(60))));
        let superseded = Facts { superseded_at: Some(at(7)), ..Facts::default() };
        assert_eq!(ended(superseded, &limits(), 99), Some(("superseded", at(7))));
    }

    #[test]
    fn attempts_are_bounded() {
        let mut facts = Facts { attempts: 4, attempted_at: Some(at(20)), ..Facts::default() };
        assert_eq!(facts.state(&limits(), at(30)), State::Queued);
        facts.attempts = MOST_ATTEMPTS;
        assert_eq!(facts.state(&limits(), at(29)), State::Sent { until: at(30) });
        assert_eq!(ended(facts, &limits(), 30), Some(("undeliverable", at(30))));
    }

    #[test]
    fn qos_0_gives_no_receipt() {
        let mut facts = Facts {
            attempts: 1,
            attempted_at: Some(at(1)),
            published_at: Some(at(1)),
            written_at: Some(at(2)),
            written_qos: Some(1),
            ..Facts::default()
        };
        assert_eq!(facts.state(&limits(), at(3)), State::Sent { until: at(11) });
        let sent = Limits { confirm: Confirmation::Sent, ..limits() };
        assert_eq!(ended(facts, &sent, 3), Some(("sent", at(1))));
        facts.written_qos = Some(0);
        assert_eq!(ended(facts, &limits(), 3), Some(("sent", at(2))));
    }
}
