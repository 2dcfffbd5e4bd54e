//! What this replica has heard of changes, by PostgreSQL's clock, so that others can tell whether a change
//! was missed here.
//!
//! Changes up to a proof's time have been heard, except for those in the **gap**: the newest stretch in
//! which they may not have been, or only late. The first one reaches from the start of the process to the
//! first proof. Gaps that follow each other are one, so that a LISTEN that comes and goes forgets none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::secret::random_bytes;

/// A notice that travels longer than this tells of a lag: a client that was thrown out may have come back
/// in the meantime. A lag shorter than the time between two heartbeats may meet none of them anyway.
const LAG: Duration = Duration::from_secs(1);

/// Added to a replica's bound: gaps that are closer than this are one. A kick-out that waits for the bound
/// of a replica that had a gap still finds it then.
const CLOSE: Duration = Duration::from_secs(60);

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
    fn gap(&mut self, from: i64, until: i64, close: i64) {
        if self.gap_until == 0 || from - self.gap_until > close {
            self.gap_from = from;
        }
        self.gap_until = until;
    }

    fn proven(&mut self, proof: Proof, close: i64) {
        let arrived = proof.sent_at
            + i64::try_from(proof.travelled.as_micros()).unwrap_or(i64::MAX - proof.sent_at);
        if proof.travelled > LAG {
            self.gap(self.until, arrived, close);
        }
        self.until = self.until.max(proof.sent_at);
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Hearing {
    id: String,
    began: Instant,
    /// In microseconds, see [`CLOSE`].
    close: i64,
    heard: Mutex<Heard>,
    changed: Notify,
}

impl Hearing {
    /// Nothing is heard yet. `bound` is how long a record here may decide after a change, whatever fails.
    #[must_use]
    pub fn new(bound: Duration) -> Self {
        Self {
            id: format!("{:016x}", u64::from_ne_bytes(random_bytes())),
            began: Instant::now(),
            close: i64::try_from((bound + CLOSE).as_micros()).unwrap_or(i64::MAX),
            heard: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// What this replica is called, drawn at its start.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How long ago that was.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until LISTEN begins or is lost.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What has been heard by now.
    #[must_use]
    pub fn now(&self) -> Heard {
        *self.heard()
    }

    /// LISTEN is in force, and this is its first proof. Nothing was heard since the last one before.
    pub fn begins(&self, proof: Proof) {
        let age = i64::try_from(self.age().as_micros()).unwrap_or(proof.sent_at);
        let mut heard = self.heard();
        let from = if heard.until > 0 { heard.until } else { proof.sent_at - age };
        heard.gap(from, proof.sent_at, self.close);
        heard.proven(proof, self.close);
        heard.listening = true;
        drop(heard);
        self.changed.notify_one();
    }

    /// Another proof.
    pub fn confirm(&self, proof: Proof) {
        self.heard().proven(proof, self.close);
    }

    /// LISTEN is lost: nothing is heard from the last proof on.
    pub fn lost(&self) {
        self.heard().listening = false;
        self.changed.notify_one();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute.
    const CLOSE: i64 = 60_000_000;

    fn proof(sent_at: i64) -> Proof {
        Proof { sent_at, travelled: Duration::from_millis(1) }
    }

    fn gap(hearing: &Hearing) -> (i64, i64) {
        let heard = hearing.now();
        (heard.gap_from, heard.gap_until)
    }

    #[test]
    fn the_first_gap_reaches_from_the_start_to_the_first_proof() {
        let hearing = Hearing::new(Duration::ZERO);
        assert_eq!(hearing.now(), Heard::default());
        hearing.begins(proof(1_000_000_000));
        hearing.confirm(proof(1_002_000_000));
        let (from, until) = gap(&hearing);
        assert!(from <= until && until == 1_000_000_000, "{from} {until}");
        assert_eq!(hearing.now().until, 1_002_000_000);
        assert!(hearing.now().listening);
    }

    #[test]
    fn a_gap_reaches_from_the_last_proof_to_the_next() {
        let hearing = Hearing::new(Duration::ZERO);
        hearing.begins(proof(CLOSE));
        hearing.confirm(proof(3 * CLOSE));
        hearing.lost();
        assert_eq!((hearing.now().until, hearing.now().listening), (3 * CLOSE, false));
        hearing.begins(proof(3 * CLOSE + 9));
        assert_eq!(gap(&hearing), (3 * CLOSE, 3 * CLOSE + 9));
        // One that follows soon belongs to it, one much later does not.
        hearing.begins(proof(3 * CLOSE + 20));
        assert_eq!(gap(&hearing), (3 * CLOSE, 3 * CLOSE + 20));
        hearing.confirm(proof(9 * CLOSE));
        hearing.begins(proof(9 * CLOSE + 1));
        assert_eq!(gap(&hearing), (9 * CLOSE, 9 * CLOSE + 1));
    }

    #[test]
    fn a_slow_notice_is_a_gap() {
        let hearing = Hearing::new(Duration::ZERO);
        hearing.begins(proof(CLOSE));
        hearing.confirm(proof(5 * CLOSE));
        hearing.confirm(Proof { sent_at: 5 * CLOSE + 1_000, travelled: LAG * 2 });
        assert_eq!(gap(&hearing), (5 * CLOSE, 5 * CLOSE + 2_001_000));
        assert_eq!(hearing.now().until, 5 * CLOSE + 1_000);
    }
}
