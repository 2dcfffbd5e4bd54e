//! Up to when this replica has heard of all changes, by PostgreSQL's clock, so that others know whether a
//! change was missed here.
//!
//! Changes up to a proof's time have been heard, except for those in the **gap**: the newest stretch in
//! which they may not have been, or only late. The first one reaches from the start of the process to the
//! first proof. Gaps that follow each other are one, so that a LISTEN that comes and goes forgets none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::secret::random_bytes;

/// A notice that travels longer than this is a lag: a client that was kicked out may have come back in the
/// meantime. A lag shorter than the time between two heartbeats may meet none of them anyway.
const LAG: Duration = Duration::from_secs(1);

/// Added to a replica's bound: gaps that are closer than this are one. A kick-out that waits for the bound
/// of a replica that had a gap still finds it then.
const CLOSE: Duration = Duration::from_secs(60);

/// A notice from another session that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Proof {
    /// When it was sent, by PostgreSQL's clock: what was committed before has been heard.
    pub sent_at: Timestamp,
    /// How long it took.
    pub travelled: Duration,
}

/// A stretch of time in which changes may not have been heard, or only late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

/// What has been heard, by PostgreSQL's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Everything committed up to then, except in the gap; `None`: nothing yet.
    pub until: Option<Timestamp>,
    /// The newest gap.
    pub gap: Option<Gap>,
    /// Whether changes are heard at present.
    pub listening: bool,
}

impl Heard {
    /// Notes a gap; one that begins less than `close` after the last one ended belongs to it.
    fn note_gap(&mut self, from: Timestamp, until: Timestamp, close: SignedDuration) {
        let last = self.gap.filter(|gap| from.duration_since(gap.until) <= close);
        self.gap = Some(Gap { from: last.map_or(from, |gap| gap.from), until });
    }

    fn note_proof(&mut self, proof: Proof, close: SignedDuration) {
        let until = self.until.unwrap_or(proof.sent_at);
        if proof.travelled > LAG {
            let arrived = proof.sent_at.saturating_add(proof.travelled);
            self.note_gap(until, arrived.unwrap_or(Timestamp::MAX), close);
        }
        self.until = Some(until.max(proof.sent_at));
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Hearing {
    id: String,
    began: Instant,
    /// See [`CLOSE`].
    close: SignedDuration,
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
            close: SignedDuration::try_from(bound + CLOSE).unwrap_or(SignedDuration::MAX),
            heard: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// This replica's id, random for each start.
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
        let began = proof.sent_at.saturating_sub(self.age()).unwrap_or(Timestamp::MIN);
        let mut heard = self.heard();
        let from = heard.until.unwrap_or(began);
        heard.note_gap(from, proof.sent_at, self.close);
        heard.note_proof(proof, self.close);
        heard.listening = true;
        drop(heard);
        self.changed.notify_one();
    }

    /// Another proof.
    pub fn confirm(&self, proof: Proof) {
        self.heard().note_proof(proof, self.close);
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

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn proof(sent_at: Timestamp) -> Proof {
        Proof { sent_at, travelled: Duration::from_millis(1) }
    }

    fn gap(from: i64, until: i64) -> Option<Gap> {
        Some(Gap { from: at(from), until: at(until) })
    }

    #[test]
    fn the_first_gap_reaches_from_the_start_to_the_first_proof() {
        let hearing = Hearing::new(Duration::ZERO);
        assert_eq!(hearing.now(), Heard::default());
        hearing.begins(proof(at(0)));
        hearing.confirm(proof(at(2)));
        let first = hearing.now().gap.unwrap();
        assert!(first.from <= first.until && first.until == at(0), "{first:?}");
        assert_eq!(hearing.now().until, Some(at(2)));
        assert!(hearing.now().listening);
    }

    #[test]
    fn a_gap_reaches_from_the_last_proof_to_the_next() {
        let hearing = Hearing::new(Duration::ZERO);
        hearing.begins(proof(at(60)));
        hearing.confirm(proof(at(180)));
        hearing.lost();
        assert_eq!((hearing.now().until, hearing.now().listening), (Some(at(180)), false));
        hearing.begins(proof(at(189)));
        assert_eq!(hearing.now().gap, gap(180, 189));
        // One that follows soon belongs to it, one much later does not.
        hearing.begins(proof(at(200)));
        assert_eq!(hearing.now().gap, gap(180, 200));
        hearing.confirm(proof(at(540)));
        hearing.begins(proof(at(541)));
        assert_eq!(hearing.now().gap, gap(540, 541));
    }

    #[test]
    fn a_slow_notice_is_a_gap() {
        let hearing = Hearing::new(Duration::ZERO);
        hearing.begins(proof(at(60)));
        hearing.confirm(proof(at(300)));
        hearing.confirm(Proof { sent_at: at(301), travelled: LAG * 2 });
        assert_eq!(hearing.now().gap, gap(300, 303));
        assert_eq!(hearing.now().until, Some(at(301)));
    }
}
