//! How long guesses have to wait: a pure state machine, one a (device, address) and one an address.
//!
//! After Kanidm's softlock: a wrong password costs a wait that grows, a right one ends it, and nothing
//! locks for ever.
//!
//! ```text
//!            wrong, within the free ones
//!            ┌──────┐
//!            ▼      │
//!         ┌──────────┐  wrong: failures + 1          ┌─────────────────────────┐
//!   ────▶ │   open   │ ────────────────────────────▶ │ locked for DELAYS[n - 1]│ ◀─┐ guesses are not looked
//!         └──────────┘ ◀──────────────────────────── └─────────────────────────┘ ──┘ at and change nothing
//!            ▲   │        the time is over: n stays
//!            │   │ right, cleared, or MEMORY without another wrong one: n = 0
//!            └───┘
//! ```
//!
//! The present time is passed in. A clock that is set back cannot lock for
//! longer: an end further away than the longest lock is invalid, and what is forgotten by that rule is
//! dropped by the lock keeper.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::saturating_add;

/// The waits in seconds after the first, second … wrong guess; the last one stays.
pub const DELAYS_SECONDS: [i64; 10] = [1, 3, 5, 10, 30, 60, 120, 300, 600, 900];

/// The longest lock.
pub const LONGEST: SignedDuration = SignedDuration::from_secs(900);

/// How long wrong guesses are remembered after the last lock has ended.
pub const MEMORY: SignedDuration = SignedDuration::from_secs(900);

/// One softlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softlock {
    failures: u32,
    locked_until: Timestamp,
    forgotten_at: Timestamp,
}

impl Softlock {
    /// One that another replica or an earlier process has counted.
    #[must_use]
    pub fn known(failures: u32, locked_until: Timestamp) -> Self {
        Self { failures, locked_until, forgotten_at: saturating_add(locked_until, MEMORY) }
    }

    /// Wrong guesses so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long guesses still have to wait; `None` when they need not.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Option<Duration> {
        let left = self.locked_until.duration_since(now);
        (left.is_positive() && left <= LONGEST).then(|| left.unsigned_abs())
    }

    /// Whether nothing of it matters any more.
    #[must_use]
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        let left = self.forgotten_at.duration_since(now);
        !left.is_positive() || left > LONGEST + MEMORY
    }

    /// When it is forgotten without another wrong guess.
    #[must_use]
    pub fn forgotten_at(&self) -> Timestamp {
        self.forgotten_at
    }

    /// Counts a wrong guess; the first `free` ones lock nothing. Returns the lock that begins.
    pub fn failed(&mut self, free: u32, now: Timestamp) -> Option<Duration> {
        if self.is_forgotten(now) {
            *self = Self::default();
        }
        self.failures = self.failures.saturating_add(1);
        let counted = usize::try_from(self.failures.saturating_sub(free)).unwrap_or(usize::MAX);
        let delay = counted
            .checked_sub(1)
            .and_then(|over| DELAYS_SECONDS.get(over).or(DELAYS_SECONDS.last()).copied());
        let delay = delay.map(SignedDuration::from_secs);
        let held = if self.left(now).is_some() { self.locked_until } else { now };
        self.locked_until = held.max(saturating_add(now, delay.unwrap_or_default()));
        self.forgotten_at = saturating_add(self.locked_until, MEMORY);
        delay.and_then(|_| self.left(now))
    }

    /// Takes in what another replica counted: the stricter of both holds.
    pub fn merge(&mut self, other: Self, now: Timestamp) {
        if self.is_forgotten(now) {
            *self = other;
            return;
        }
        if other.is_forgotten(now) {
            return;
        }
        self.failures = self.failures.max(other.failures);
        self.locked_until = self.locked_until.max(other.locked_until);
        self.forgotten_at = self.forgotten_at.max(other.forgotten_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const SECOND: SignedDuration = SignedDuration::from_secs(1);
    const MICROSECOND: SignedDuration = SignedDuration::from_micros(1);

    fn seconds(count: i64) -> SignedDuration {
        SignedDuration::from_secs(count)
    }

    #[test]
    fn the_waits_grow_to_a_quarter_of_an_hour_and_no_further() {
        let (mut lock, mut now) = (Softlock::default(), NOW);
        for expected in DELAYS_SECONDS.iter().chain([&900, &900]) {
            assert_eq!(lock.left(now), None);
            let wait = lock.failed(0, now).unwrap();
            assert_eq!(i64::try_from(wait.as_secs()).unwrap(), *expected);
            assert!(lock.left(now + seconds(*expected) - MICROSECOND).is_some());
            now += seconds(*expected);
        }
    }

    #[test]
    fn free_failures_lock_nothing() {
        let mut lock = Softlock::default();
        for _ in 0..20 {
            assert_eq!(lock.failed(20, NOW), None);
            assert_eq!(lock.left(NOW), None);
        }
        assert_eq!(lock.failed(20, NOW), Some(Duration::from_secs(1)));
    }

    #[test]
    fn it_is_forgotten_a_quarter_of_an_hour_after_the_last_lock() {
        let mut lock = Softlock::default();
        lock.failed(0, NOW);
        lock.failed(0, NOW + SECOND);
        assert!(!lock.is_forgotten(NOW + seconds(4) + MEMORY - MICROSECOND));
        assert!(lock.is_forgotten(NOW + seconds(4) + MEMORY));
        lock.failed(0, NOW + seconds(4) + MEMORY);
        assert_eq!(lock.failures(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever comes, and whatever the clock does: no lock is longer than the longest, more
        /// failures never mean a shorter wait, and it is forgotten in the end.
        #[test]
        fn no_lock_outlasts_the_longest(
            steps in prop::collection::vec((-2_000_i64..2_000, any::<bool>()), 0..60),
            free in 0..4_u32,
        ) {
            let (mut lock, mut now, mut last) = (Softlock::default(), NOW, None::<Duration>);
            let mut went_back = false;
            for (step, wrong) in steps {
                now += seconds(step);
                went_back |= step < 0;
                if wrong {
                    let before = lock.failures();
                    let wait = lock.failed(free, now);
                    prop_assert!(lock.failures() == before + 1 || lock.failures() == 1);
                    if lock.failures() == before + 1 && !went_back {
                        prop_assert!(wait >= last || last.is_none());
                    }
                    last = wait;
                }
                let left = lock.left(now).unwrap_or_default();
                prop_assert!(left <= Duration::from_secs(900));
                if lock.is_forgotten(now) {
                    (lock, last) = (Softlock::default(), None);
                }
                prop_assert!(lock.left(now + LONGEST + MEMORY).is_none());
                prop_assert!(lock.is_forgotten(now + LONGEST + MEMORY));
            }
        }

        /// Replicas that hear of each other end with the same, whatever the order.
        #[test]
        fn merging_has_no_order(a in 0..12_u32, b in 0..12_u32, ends in (0..900_i64, 0..900_i64)) {
            let one = Softlock::known(a, NOW + seconds(ends.0));
            let other = Softlock::known(b, NOW + seconds(ends.1));
            let (mut left, mut right) = (one, other);
            left.merge(other, NOW);
            right.merge(one, NOW);
            prop_assert_eq!(left, right);
        }
    }
}
