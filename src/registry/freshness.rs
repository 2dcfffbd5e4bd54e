//! Whether a record in memory still says what PostgreSQL says.
//!
//! # What it keeps
//! 1. Once a NOTIFY for a name is processed, no record of that name whose load began earlier is
//!    trusted again.
//! 2. Nothing that was loaded while nobody listened is trusted later.
//! 3. While PostgreSQL is away, what is in memory is served for a bounded time only, counted from the
//!    last moment at which the LISTEN connection is known to have worked.
//!
//! # How
//! A [`Stamp`] is taken *before* a record is loaded and kept beside it. A record is trusted while its
//! stamp equals the present one. Two numbers make a stamp, and the stripe that they were read of, so
//! that looking again needs no name and no hash of it:
//! - the **epoch**, raised when LISTEN starts and again when it is lost: even while somebody listens,
//!   odd while nobody does. A stamp of an odd epoch is never trusted.
//! - the **version** of the name's stripe, raised by every change of a name in that stripe.
//!
//! Stripes share one counter between names: a change of one name also sends a few others (registry
//! size in use ÷ [`STRIPES`]) back to PostgreSQL once. That costs a query and needs no memory a name.
//!
//! # Races
//! - *A change during a load.* The version moves on and the stamp taken before the load no longer fits:
//!   what was loaded is not trusted by anybody who comes after the change. PostgreSQL delivers a
//!   notification only once its transaction is visible, so the load that follows sees the change.
//! - *An insert into the cache after the change.* The late entry carries the old stamp and is not
//!   trusted, whoever finds it.
//! - *LISTEN lost without notice* (a dead network path): noticed by the heartbeat in
//!   [`changes`](super::changes) within its interval plus time-out; until then changes are missed. That
//!   window is the staleness bound of a service that believes it is connected.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many counters the names share: 128 KiB of memory.
const STRIPES: usize = 16 * 1024;

/// When a load began, in changes rather than in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    version: u64,
    epoch: u32,
    stripe: u32,
}

impl Stamp {
    /// Whether a change of the name was heard between this stamp and a later one.
    #[must_use]
    pub fn is_older_than(self, later: Self) -> bool {
        self.version < later.version
    }
}

/// See the module documentation.
pub struct Freshness {
    epoch: AtomicU32,
    away: AtomicBool,
    stripes: Box<[AtomicU64]>,
    hasher: RandomState,
    started: Instant,
    /// Milliseconds after `started` at which LISTEN was last known to work; 0 = never.
    confirmed_ms: AtomicU64,
    max_staleness: Duration,
}

impl Freshness {
    /// Nobody listens yet; `max_staleness` bounds how long records are served while PostgreSQL is
    /// away.
    #[must_use]
    pub fn new(max_staleness: Duration) -> Self {
        Self {
            epoch: AtomicU32::new(1),
            away: AtomicBool::new(false),
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            started: Instant::now(),
            confirmed_ms: AtomicU64::new(0),
            max_staleness,
        }
    }

    /// The present stamp of a name: take it before loading.
    #[must_use]
    pub fn stamp(&self, name: &str) -> Stamp {
        self.present(self.stripe_of(name))
    }

    fn present(&self, stripe: u32) -> Stamp {
        Stamp {
            epoch: self.epoch.load(Ordering::SeqCst),
            version: self.stripe(stripe).load(Ordering::SeqCst),
            stripe,
        }
    }

    /// Whether a record with this stamp says what PostgreSQL says.
    #[must_use]
    pub fn trusts(&self, stamp: Stamp) -> bool {
        stamp.epoch.is_multiple_of(2) && self.present(stamp.stripe) == stamp
    }

    /// Whether nothing was heard of the stamp's name since. While nobody listens nothing can be heard.
    #[must_use]
    pub fn unchanged_since(&self, stamp: Stamp) -> bool {
        self.stripe(stamp.stripe).load(Ordering::SeqCst) == stamp.version
    }

    /// Whether a record that is no longer trusted may stand in while PostgreSQL does not answer:
    /// nothing was heard of the name since, and LISTEN worked recently enough.
    #[must_use]
    pub fn may_stand_in(&self, stamp: Stamp) -> bool {
        self.unchanged_since(stamp) && self.within_bound()
    }

    /// Whether somebody listens, so that what is loaded can be trusted.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.epoch.load(Ordering::SeqCst).is_multiple_of(2)
    }

    /// Whether the last attempt to reach PostgreSQL failed, so that asking it is not worth the wait.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    /// Whether LISTEN worked within the staleness bound.
    #[must_use]
    pub fn within_bound(&self) -> bool {
        let confirmed = self.confirmed_ms.load(Ordering::SeqCst);
        confirmed != 0 && self.now_ms().saturating_sub(confirmed) <= self.max_staleness_ms()
    }

    /// LISTEN is in force from now on. Call it after the LISTEN statement has returned.
    pub fn listening(&self) {
        self.confirm();
        self.away.store(false, Ordering::SeqCst);
        if !self.is_listening() {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// LISTEN worked just now.
    pub fn confirm(&self) {
        self.confirmed_ms.store(self.now_ms().max(1), Ordering::SeqCst);
    }

    /// LISTEN is lost: everything in memory is suspect.
    pub fn lost(&self) {
        if self.is_listening() {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// PostgreSQL could not be reached.
    pub fn away(&self) {
        self.lost();
        self.away.store(true, Ordering::SeqCst);
    }

    /// A device of this name changed, came or went.
    pub fn changed(&self, name: &str) {
        self.stripe(self.stripe_of(name)).fetch_add(1, Ordering::SeqCst);
    }

    /// Anything may have changed.
    pub fn everything_changed(&self) {
        for stripe in &self.stripes {
            stripe.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low bits of the hash are wanted")]
    fn stripe_of(&self, name: &str) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    #[allow(clippy::indexing_slicing, reason = "the index is masked by the length")]
    fn stripe(&self, stripe: u32) -> &AtomicU64 {
        &self.stripes[stripe as usize & (STRIPES - 1)]
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn max_staleness_ms(&self) -> u64 {
        u64::try_from(self.max_staleness.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> Freshness {
        let freshness = Freshness::new(Duration::from_secs(60));
        freshness.listening();
        freshness
    }

    #[test]
    fn a_change_ends_trust_in_what_was_loaded_before_it() {
        let freshness = listening();
        let before = freshness.stamp("a");
        assert!(freshness.trusts(before));
        freshness.changed("a");
        assert!(!freshness.trusts(before));
        assert!(!freshness.may_stand_in(before));
        assert!(freshness.trusts(freshness.stamp("a")));
    }

    #[test]
    fn what_was_loaded_while_nobody_listened_is_never_trusted() {
        let freshness = Freshness::new(Duration::from_secs(60));
        let deaf = freshness.stamp("a");
        assert!(!freshness.trusts(deaf));
        freshness.listening();
        assert!(!freshness.trusts(deaf));
        let heard = freshness.stamp("a");
        freshness.lost();
        assert!(!freshness.trusts(heard));
        freshness.listening();
        assert!(!freshness.trusts(heard), "a change may have been missed meanwhile");
    }

    #[test]
    fn records_stand_in_only_within_the_bound() {
        let freshness = Freshness::new(Duration::ZERO);
        let stamp = freshness.stamp("a");
        assert!(!freshness.may_stand_in(stamp), "nobody ever listened");
        let patient = listening();
        let stamp = patient.stamp("a");
        patient.away();
        assert!(patient.is_away() && patient.may_stand_in(stamp));
        patient.everything_changed();
        assert!(!patient.may_stand_in(stamp));
    }
}
