//! Whether a record in memory is still up to date.
//!
//! # What it keeps
//! 1. Once a NOTIFY for a name is processed, no record of that name whose load began earlier is
//!    trusted again.
//! 2. Nothing that was loaded without LISTEN is trusted later.
//! 3. A record is *trusted* only while the LISTEN under which it was loaded is in force and was proven
//!    within the last [`TRUST`].
//! 4. A record is *served stale*, in place of one that cannot be loaded, only within `cache.max_staleness` of the last
//!    time at which it is known to have been up to date: the last proof of the LISTEN under which it was
//!    loaded, or its own load if that is later. That LISTEN is back, or that another one works, proves
//!    nothing about it: a change may have been missed in between.
//!
//! From 3 and 4: whatever fails, no record decides longer than [`Freshness::bound`] after it changed in
//! PostgreSQL.
//!
//! # How
//! A [`Stamp`] is taken *before* a record is loaded and kept beside it. A record is trusted while its
//! stamp equals the present one. Two numbers make a stamp, the stripe that they were read of, so that
//! looking again needs no name and no hash of it, and the time:
//! - the **epoch**, raised when LISTEN starts and again when it is lost: even while this replica listens,
//!   odd while it does not. A stamp of an odd epoch is never trusted.
//! - the **version** of the name's stripe, raised by every change of a name in that stripe.
//!
//! The last proofs of the latest [`EPOCHS`] times of listening are kept. A record from before those
//! is served stale within the bound of its own load.
//!
//! Stripes share one counter between names: a change of one name also sends a few others (registry
//! size in use ÷ [`STRIPES`]) back to PostgreSQL once. That costs a query and needs no memory a name.
//!
//! Time is the kernel's coarse monotonic clock: some milliseconds behind, and read in a few nanoseconds
//! by every decision from memory.
//!
//! # Races
//! - *A change during a load.* The version moves on and the stamp taken before the load no longer fits:
//!   no request that comes after the change trusts what was loaded. PostgreSQL delivers a
//!   notification only once its transaction is visible, so the load that follows sees the change.
//! - *An insert into the cache after the change.* The late entry carries the old stamp and is not
//!   trusted.
//! - *LISTEN lost without notice* (a dead network path): noticed by the heartbeat in
//!   [`changes`](super::changes) within its interval plus time-out; until then changes are missed. When
//!   the listener itself gets no processor, 3 ends the trust.
//! - *A proof that arrives late.* It is valid from when it was sent: all that was committed before has
//!   been heard, what came later may still be under way.
//! - *The machine is suspended* (a paused virtual machine, a laptop). The clock stands still meanwhile, and
//!   all bounds are longer by that time: right after it wakes up, what was trusted still is. The
//!   first heartbeat then fails or is answered, within [`TRUST`]. The clock that goes on (`CLOCK_BOOTTIME`) has no
//!   coarse reading: it costs ten times as much in every decision. Don't suspend a machine that serves.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How many counters the names share: 128 KiB of memory.
const STRIPES: usize = 16 * 1024;

/// How long records are trusted after the last proof of LISTEN: the heartbeat's interval, its time-out, and a
/// second for a busy machine.
pub const TRUST: Duration = Duration::from_secs(4);

/// How long a decision may rest on what it found without LISTEN; after that it looks again.
const ANSWER: Duration = Duration::from_secs(1);

/// How many times of listening are remembered.
const EPOCHS: usize = 64;

/// When a load began, in changes and in time.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    version: u64,
    /// See [`now_ms`].
    taken_ms: u64,
    epoch: u32,
    stripe: u32,
}

impl Stamp {
    /// Whether a change of the name was heard between this stamp and a later one, or may have been missed while LISTEN was
    /// lost or came back.
    #[must_use]
    pub fn is_older_than(self, later: Self) -> bool {
        self.version < later.version || self.epoch != later.epoch
    }
}

/// The last proof of a time of listening.
#[derive(Debug, Clone, Copy)]
struct Proof {
    epoch: u32,
    /// See [`now_ms`].
    sent_ms: u64,
}

/// See the module documentation.
pub struct Freshness {
    epoch: AtomicU32,
    away: AtomicBool,
    deaf: AtomicBool,
    loads_fail: AtomicBool,
    stripes: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Of the present time of listening: what decisions from memory look at.
    proven_ms: AtomicU64,
    /// Of the latest times of listening, the newest last.
    proofs: Mutex<VecDeque<Proof>>,
    /// The epoch of the last record that was loaded; 0: none was.
    loaded_in: AtomicU32,
    max_staleness: Duration,
}

impl Freshness {
    /// Nothing listens yet; `max_staleness` bounds how long records are served stale.
    #[must_use]
    pub fn new(max_staleness: Duration) -> Self {
        Self {
            epoch: AtomicU32::new(1),
            away: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            loads_fail: AtomicBool::new(false),
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            proven_ms: AtomicU64::new(0),
            proofs: Mutex::default(),
            loaded_in: AtomicU32::new(0),
            max_staleness,
        }
    }

    /// How long a record may still decide after it changed in PostgreSQL, whatever fails.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.max_staleness.max(TRUST)
    }

    /// The present stamp of a name: take it before loading.
    #[must_use]
    pub fn stamp(&self, name: &str) -> Stamp {
        let stripe = self.stripe_of(name);
        let taken_ms = now_ms();
        let epoch = self.epoch.load(Ordering::SeqCst);
        let version = self.stripe(stripe).load(Ordering::SeqCst);
        Stamp { version, taken_ms, epoch, stripe }
    }

    /// Whether a record with this stamp is up to date.
    #[must_use]
    pub fn trusts(&self, stamp: Stamp) -> bool {
        self.trusts_at(now_ms(), stamp)
    }

    fn trusts_at(&self, now_ms: u64, stamp: Stamp) -> bool {
        stamp.epoch.is_multiple_of(2)
            && self.epoch.load(Ordering::SeqCst) == stamp.epoch
            && self.unchanged_since(stamp)
            && is_within(now_ms, self.proven_ms.load(Ordering::SeqCst), TRUST)
    }

    /// Whether no change of the stamp's name was heard since. Without LISTEN none can be heard.
    #[must_use]
    pub fn unchanged_since(&self, stamp: Stamp) -> bool {
        self.stripe(stamp.stripe).load(Ordering::SeqCst) == stamp.version
    }

    /// Whether what was found at the stamp may still decide: nothing was heard of the name since, and either
    /// something would have been, because the same LISTEN is in force all the time, or it was found just now.
    #[must_use]
    pub fn still_holds(&self, stamp: Stamp) -> bool {
        self.still_holds_at(now_ms(), stamp)
    }

    fn still_holds_at(&self, now_ms: u64, stamp: Stamp) -> bool {
        self.trusts_at(now_ms, stamp)
            || self.unchanged_since(stamp) && is_within(now_ms, stamp.taken_ms, ANSWER)
    }

    /// Whether a record that is no longer trusted may be served stale while it cannot be loaded: no change of
    /// the name was heard since, and the record is known to have been up to date recently enough.
    #[must_use]
    pub fn may_serve_stale(&self, stamp: Stamp) -> bool {
        self.may_serve_stale_at(now_ms(), stamp)
    }

    fn may_serve_stale_at(&self, now_ms: u64, stamp: Stamp) -> bool {
        let proof = self.proofs().iter().rev().find(|proof| proof.epoch == stamp.epoch).copied();
        if proof.is_none() && self.is_deaf() {
            return false;
        }
        let current_ms = proof.map_or(0, |proof| proof.sent_ms).max(stamp.taken_ms);
        self.unchanged_since(stamp) && is_within(now_ms, current_ms, self.max_staleness)
    }

    /// Whether LISTEN is in force, so that what is loaded can be trusted.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.epoch.load(Ordering::SeqCst).is_multiple_of(2)
    }

    /// Whether the last attempt to reach PostgreSQL failed, so that asking it is not worth the wait.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    /// Whether LISTEN is accepted but no notice arrives.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Whether records from before LISTEN was lost may still be served stale, whether or not it is back.
    #[must_use]
    pub fn within_bound(&self) -> bool {
        let present = self.epoch.load(Ordering::SeqCst);
        let newest = self.proofs().iter().rev().find(|proof| proof.epoch != present).copied();
        newest.is_some_and(|proof| is_within(now_ms(), proof.sent_ms, self.max_staleness))
    }

    /// Whether the last load (or [probe](super::probe)) failed.
    #[must_use]
    pub fn loads_fail(&self) -> bool {
        self.loads_fail.load(Ordering::Relaxed)
    }

    /// Whether a record was loaded since LISTEN is in force, so that something can be decided from
    /// memory although loads fail.
    #[must_use]
    pub fn has_trusted_records(&self) -> bool {
        self.is_listening()
            && self.loaded_in.load(Ordering::Relaxed) == self.epoch.load(Ordering::SeqCst)
    }

    /// A record with this stamp was loaded.
    pub fn loaded(&self, stamp: Stamp) {
        self.loaded_in.store(stamp.epoch, Ordering::Relaxed);
        self.loading(true);
    }

    /// Loads, or a probe in their place, work or fail.
    pub fn loading(&self, works: bool) {
        if self.loads_fail.load(Ordering::Relaxed) == works {
            self.loads_fail.store(!works, Ordering::Relaxed);
        }
    }

    /// LISTEN is in force from now on, and proven. Call it after the proof has arrived.
    pub fn listening(&self) {
        self.listening_since(now_ms());
    }

    /// As [`Freshness::listening`], with the time at which the proof was sent.
    pub(super) fn listening_since(&self, sent_ms: u64) {
        self.away.store(false, Ordering::SeqCst);
        self.deaf.store(false, Ordering::SeqCst);
        if !self.is_listening() {
            let epoch = self.epoch.load(Ordering::SeqCst).wrapping_add(1);
            let mut proofs = self.proofs();
            if proofs.len() == EPOCHS {
                proofs.pop_front();
            }
            proofs.push_back(Proof { epoch, sent_ms });
            drop(proofs);
            self.proven_ms.store(sent_ms, Ordering::SeqCst);
            self.epoch.store(epoch, Ordering::SeqCst);
        }
        self.confirm(sent_ms);
    }

    /// A notice that was sent then has arrived: everything committed before has been heard.
    ///
    /// `sent_ms` is what [`now_ms`] said before it was sent.
    pub(super) fn confirm(&self, sent_ms: u64) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if let Some(proof) = self.proofs().back_mut().filter(|proof| proof.epoch == epoch) {
            proof.sent_ms = proof.sent_ms.max(sent_ms);
            self.proven_ms.store(proof.sent_ms, Ordering::SeqCst);
        }
    }

    /// LISTEN is lost: nothing in memory is trusted.
    pub fn lost(&self) {
        if self.is_listening() {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// PostgreSQL accepts LISTEN and no notice arrives.
    pub fn deaf(&self) {
        self.lost();
        self.away.store(false, Ordering::SeqCst);
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// PostgreSQL could not be reached.
    pub fn away(&self) {
        self.lost();
        self.deaf.store(false, Ordering::SeqCst);
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

    fn proofs(&self) -> MutexGuard<'_, VecDeque<Proof>> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low bits of the hash are wanted")]
    fn stripe_of(&self, name: &str) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    #[allow(clippy::indexing_slicing, reason = "the index is masked by the length")]
    fn stripe(&self, stripe: u32) -> &AtomicU64 {
        &self.stripes[stripe as usize & (STRIPES - 1)]
    }
}

/// Milliseconds of the kernel's coarse monotonic clock.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1000 + nanoseconds / 1_000_000
}

fn is_within(now_ms: u64, since_ms: u64, limit: Duration) -> bool {
    u128::from(now_ms.saturating_sub(since_ms)) <= limit.as_millis()
}

#[cfg(test)]
mod tests;
