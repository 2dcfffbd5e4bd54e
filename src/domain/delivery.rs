//! What has become of a command at one device: a pure function of the facts, the limits and the clock.
//!
//! Facts are noted whenever they come, in any order and more than once, also after the end. The state is read
//! off them here and nowhere else:
//!
//! ```text
//! queued ─ attempt ─► sent ─ acknowledged ─► delivered ─ state or reply ─► succeeded | failed
//! queued|sent ─ expiry ─► expired            sent, no receipt in the ack timeout ─► queued again, or undeliverable
//! queued ─ a newer one ─► superseded         any ─ operator, or a right that is gone ─► cancelled
//! delivered, no answer in time ─► timed out ─ late answer ─► succeeded | failed
//! ```
//!
//! Being delivered is the end, unless the command is confirmed by an answer. That it was received, by its receipt or
//! because it was answered, ends its expiry.
//!
//! Where several ends are possible, the one that came first is the end; but an answer is worth more than that it came late.
//! All timestamps are of one clock, that of
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
    /// The device then reported what it was told to be.
    State,
    /// The device said so on its reply topic.
    Reply,
}

words! {
    Confirmation { Sent: "sent", Delivered: "delivered", State: "state", Reply: "reply" }
}

impl Confirmation {
    fn is_by_answer(self) -> bool {
        matches!(self, Self::State | Self::Reply)
    }
}

/// What bounds a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When it expires.
    pub expires_at: Timestamp,
    /// How long an attempt waits for its receipt.
    pub ack_timeout: Duration,
    /// How long after it was received an answer is waited for, where it is confirmed by one.
    pub answer_in: Duration,
    /// What makes it succeed.
    pub confirm: Confirmation,
}

/// What a device answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When that was noted.
    pub at: Timestamp,
    /// Whether it is done.
    pub ok: bool,
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
    /// The device's first answer.
    pub answer: Option<Answer>,
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
    /// The device has it, and its answer is waited for until then.
    Delivered {
        /// When it has timed out.
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
    /// The device acknowledged it, and that is all that was asked for.
    Delivered,
    /// The device answered that it is done.
    Succeeded,
    /// The device answered that it failed.
    Failed,
    /// The device got it, and did not answer in time.
    TimedOut,
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

words! {
    End {
        Delivered: "delivered",
        Succeeded: "succeeded",
        Failed: "failed",
        TimedOut: "timed_out",
        Sent: "sent",
        Expired: "expired",
        Undeliverable: "undeliverable",
        Superseded: "superseded",
        Cancelled: "cancelled",
    }
}

impl End {
    /// Whether it may be asked for again: nobody decided that it should end so.
    #[must_use]
    pub fn may_be_retried(self) -> bool {
        matches!(self, Self::Expired | Self::Undeliverable | Self::Failed | Self::TimedOut)
    }

    /// Whether what was asked for has happened, as far as it can be known.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Delivered | Self::Sent | Self::Succeeded)
    }
}

impl Facts {
    /// What has become of the delivery by now.
    #[must_use]
    pub fn state(&self, limits: &Limits, now: Timestamp) -> State {
        let received = self.received_at(limits);
        // What ends a delivery that nobody received by then.
        let unless_received = |at: &Timestamp| *at <= now && received.is_none_or(|then| then > *at);
        let by_answer = limits.confirm.is_by_answer();
        let answer = self.answer.filter(|_| by_answer);
        let answered = match answer {
            Some(Answer { ok: false, .. }) => End::Failed,
            _ => End::Succeeded,
        };
        let answer_due = received.filter(|_| by_answer).map(|at| later(at, limits.answer_in));
        let in_time = |answer: &Answer| answer_due.is_none_or(|due| answer.at <= due);
        let ends = [
            (End::Delivered, self.acked_at.filter(|_| !by_answer)),
            (End::Sent, self.sent_is_all(limits)),
            (answered, answer.filter(in_time).map(|answer| answer.at)),
            (End::Superseded, self.superseded_at),
            (End::Cancelled, self.cancelled_at),
            (End::TimedOut, answer_due.filter(|due| *due <= now)),
            (End::Undeliverable, self.given_up_at(limits).filter(unless_received)),
            (End::Expired, Some(limits.expires_at).filter(unless_received)),
        ];
        let ends = ends.into_iter().filter_map(|(end, at)| at.map(|at| (at, end)));
        // Of two at the same time the first in the list: `min_by_key` takes the first of equal ones.
        if let Some((at, end)) = ends.min_by_key(|(at, _)| *at) {
            return match answer {
                Some(late) if end == End::TimedOut => State::Ended { end: answered, at: late.at },
                _ => State::Ended { end, at },
            };
        }
        match (answer_due, self.receipt_due(limits)) {
            (Some(until), _) => State::Delivered { until },
            (None, Some(until)) if until > now => State::Sent { until },
            _ => State::Queued,
        }
    }

    /// Whether the answer came after the time that it had.
    #[must_use]
    pub fn is_answer_late(&self, limits: &Limits) -> bool {
        let due = self.received_at(limits).map(|at| later(at, limits.answer_in));
        self.answer.zip(due).is_some_and(|(answer, due)| answer.at > due)
    }

    /// When the device is known to have received it: it gave a receipt or an answer; or it was written to its connection,
    /// where no receipt can come.
    fn received_at(&self, limits: &Limits) -> Option<Timestamp> {
        let answered =
            self.answer.map(|answer| answer.at).filter(|_| limits.confirm.is_by_answer());
        [self.acked_at, answered, self.written_without_receipt()].into_iter().flatten().min()
    }

    /// When it was written to the connection of a device that subscribes with QoS 0.
    fn written_without_receipt(&self) -> Option<Timestamp> {
        self.written_at.filter(|_| self.written_qos == Some(0))
    }

    /// When it was handed over, where that is all that is asked for or can be known.
    fn sent_is_all(&self, limits: &Limits) -> Option<Timestamp> {
        match limits.confirm {
            // Written to the connection, so EMQX had a subscriber: its answer may have been lost.
            Confirmation::Sent => [self.published_at, self.written_at].into_iter().flatten().min(),
            Confirmation::Delivered => self.written_without_receipt(),
            Confirmation::State | Confirmation::Reply => None,
        }
    }

    /// When the receipt of the newest attempt must have come.
    fn receipt_due(&self, limits: &Limits) -> Option<Timestamp> {
        self.attempted_at.map(|at| later(at, limits.ack_timeout))
    }

    fn given_up_at(&self, limits: &Limits) -> Option<Timestamp> {
        self.receipt_due(limits).filter(|_| self.attempts >= MOST_ATTEMPTS)
    }
}

/// Whether a text is the id of a command or a delivery, as PostgreSQL writes it: `8-4-4-4-12` hexadecimal digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn later(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
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
            answer_in: Duration::from_secs(5),
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
    fn ids_are_told_from_any_other_text() {
        assert!(is_id("0ea7a7a2-9a5e-4e62-8a3e-0d3c1c2b4a5f"));
        for other in [
            "",
            "cmd-1",
            "0ea7a7a2-9a5e-4e62-8a3e-0d3c1c2b4a5",
            "0ea7a7a2x9a5e-4e62-8a3e-0d3c1c2b4a5f",
            "\u{fffd}",
        ] {
            assert!(!is_id(other), "{other}");
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

    #[test]
    fn an_answer_is_waited_for_where_it_confirms() {
        let reply = Limits { confirm: Confirmation::Reply, ..limits() };
        let sent = Facts { attempts: 1, attempted_at: Some(at(50)), ..Facts::default() };
        let acked = Facts { acked_at: Some(at(58)), ..sent };
        assert_eq!(acked.state(&reply, at(61)), State::Delivered { until: at(63) }, "no expiry");
        assert_eq!(ended(acked, &reply, 63), Some(("timed_out", at(63))));
        let answered = |seconds, ok| Some(Answer { at: at(seconds), ok });
        let ok = Facts { answer: answered(62, true), ..acked };
        assert_eq!(ended(ok, &reply, 90), Some(("succeeded", at(62))));
        assert!(!ok.is_answer_late(&reply));
        let late = Facts { answer: answered(70, false), ..acked };
        assert_eq!(ended(late, &reply, 90), Some(("failed", at(70))));
        assert!(late.is_answer_late(&reply));
        let without_receipt = Facts { answer: answered(55, true), ..sent };
        assert_eq!(ended(without_receipt, &reply, 90), Some(("succeeded", at(55))));
        let qos_0 = Facts { written_at: Some(at(51)), written_qos: Some(0), ..sent };
        assert_eq!(qos_0.state(&reply, at(52)), State::Delivered { until: at(56) });
        let expired = Facts { answer: answered(61, true), ..sent };
        assert_eq!(ended(expired, &reply, 90), Some(("expired", at(60))));
        assert_eq!(
            ended(late, &limits(), 90),
            Some(("delivered", at(58))),
            "its receipt was enough"
        );
    }
}
