//! What this replica has heard of changes, by PostgreSQL's clock, so that others can tell whether a change
//! was missed here.
//!
//! Changes up to a proof's time have been heard, except for those in the **gap**: the newest stretch in
//! which they may not have been, or only late. Gaps that follow each other are one, so that a LISTEN that
//! comes and goes forgets none of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A notice that travels longer than this tells of a lag: a client that was thrown out may have come back
/// in the meantime.
const LAG: Duration = Duration::from_millis(500);

/// Gaps that are closer than this are one. Longer than a kick-out ever waits for its confirmation while
/// replicas are in good order.
const CLOSE: i64 = 60_000_000;

/// A notice from another session that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Proof {
    /// When it was sent, in microseconds since the Unix epoch by PostgreSQL's clock: what was committed
    /// before has been heard.
    pub sent_at: i64,
    /// How long it took.
    pub travelled: Duration,
}

/// What has been heard; times in microseconds since the Unix epoch by PostgreSQL's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Everything committed up to then, except in the gap; 0: nothing yet.
    pub until: i64,
    /// The gap: from here…
    pub gap_from: i64,
    /// …to here; 0 to 0 where there was none.
    pub gap_until: i64,
    /// Whether changes are heard at present.
    pub listening: bool,
}

impl Heard {
    fn gap(&mut self, from: i64, until: i64) {
        if self.gap_until == 0 || from - self.gap_until > CLOSE {
            self.gap_from = from;
        }
        self.gap_until = until;
    }

    fn proven(&mut self, proof: Proof) {
        let arrived = proof.sent_at
            + i64::try_from(proof.travelled.as_micros()).unwrap_or(i64::MAX - proof.sent_at);
        if proof.travelled > LAG {
            self.gap(self.until, arrived);
        }
        self.until = self.until.max(proof.sent_at);
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Hearing(Mutex<Heard>);

impl Hearing {
    /// What has been heard by now.
    #[must_use]
    pub fn now(&self) -> Heard {
        *self.heard()
    }

    /// LISTEN is in force, and this is its first proof. Nothing was heard since the last one before.
    pub fn begins(&self, proof: Proof) {
        let mut heard = self.heard();
        if heard.until > 0 {
            let from = heard.until;
            heard.gap(from, proof.sent_at);
        }
        heard.proven(proof);
        heard.listening = true;
    }

    /// Another proof.
    pub fn confirm(&self, proof: Proof) {
        self.heard().proven(proof);
    }

    /// LISTEN is lost: nothing is heard from the last proof on.
    pub fn lost(&self) {
        self.heard().listening = false;
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(sent_at: i64) -> Proof {
        Proof { sent_at, travelled: Duration::from_millis(1) }
    }

    #[test]
    fn a_replica_that_always_listened_has_no_gap() {
        let hearing = Hearing::default();
        hearing.begins(proof(1_000));
        hearing.confirm(proof(2_000));
        let heard = Heard { until: 2_000, listening: true, ..Heard::default() };
        assert_eq!(hearing.now(), heard);
    }

    #[test]
    fn a_gap_reaches_from_the_last_proof_to_the_next() {
        let hearing = Hearing::default();
        hearing.begins(proof(1_000));
        hearing.lost();
        assert_eq!(hearing.now(), Heard { until: 1_000, ..Heard::default() });
        hearing.begins(proof(9_000));
        let gap = |heard: Heard| (heard.gap_from, heard.gap_until);
        assert_eq!(gap(hearing.now()), (1_000, 9_000));
        // One that follows soon belongs to it, one much later does not.
        hearing.begins(proof(20_000));
        assert_eq!(gap(hearing.now()), (1_000, 20_000));
        hearing.confirm(proof(20_000 + 2 * CLOSE));
        hearing.begins(proof(21_000 + 2 * CLOSE));
        assert_eq!(gap(hearing.now()), (20_000 + 2 * CLOSE, 21_000 + 2 * CLOSE));
    }

    #[test]
    fn a_slow_notice_is_a_gap() {
        let hearing = Hearing::default();
        hearing.begins(proof(1_000));
        hearing.confirm(Proof { sent_at: 2_000, travelled: LAG * 2 });
        let heard = hearing.now();
        assert_eq!((heard.gap_from, heard.gap_until, heard.until), (1_000, 1_002_000, 2_000));
    }
}
