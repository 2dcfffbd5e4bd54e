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
//! Times are microseconds since the Unix epoch and passed in. A clock that is set back cannot lock for
//! longer: an end further away than the longest lock is invalid, and what is forgotten by that rule is
//! dropped by whoever keeps the locks.

use std::time::Duration;

const SECOND: i64 = 1_000_000;

/// The waits in seconds after the first, second … wrong guess; the last one stays.
pub const DELAYS_SECONDS: [i64; 10] = [1, 3, 5, 10, 30, 60, 120, 300, 600, 900];

/// The longest lock.
pub const LONGEST: i64 = 900 * SECOND;

/// How long wrong guesses are remembered after the last lock has ended.
pub const MEMORY: i64 = 900 * SECOND;

/// One softlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softlock {
    failures: u32,
    locked_until: i64,
    forgotten_at: i64,
}

impl Softlock {
    /// One that another replica or an earlier process has counted; `locked_until` in microseconds
    /// since the Unix epoch.
    #[must_use]
    pub fn known(failures: u32, locked_until: i64) -> Self {
        Self { failures, locked_until, forgotten_at: locked_until.saturating_add(MEMORY) }
    }

    /// Wrong guesses so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long guesses still have to wait; `None` when they need not.
    #[must_use]
    pub fn left(&self, now: i64) -> Option<Duration> {
        let left = self.locked_until.saturating_sub(now);
        if !(1..=LONGEST).contains(&left) {
            return None;
        }
        u64::try_from(left).ok().map(Duration::from_micros)
    }

    /// Whether nothing of it matters any more.
    #[must_use]
    pub fn is_forgotten(&self, now: i64) -> bool {
        !(1..=LONGEST + MEMORY).contains(&self.forgotten_at.saturating_sub(now))
    }

    /// When it is forgotten without another wrong guess.
    #[must_use]
    pub fn forgotten_at(&self) -> i64 {
        self.forgotten_at
    }

    /// Counts a wrong guess; the first `free` ones lock nothing. Returns the lock that begins.
    pub fn failed(&mut self, free: u32, now: i64) -> Option<Duration> {
        if self.is_forgotten(now) {
            *self = Self::default();
        }
        self.failures = self.failures.saturating_add(1);
        let counted = usize::try_from(self.failures.saturating_sub(free)).unwrap_or(usize::MAX);
        let delay = counted.checked_sub(1).and_then(|over| {
            DELAYS_SECONDS.get(over).or(DELAYS_SECONDS.last()).map(|seconds| seconds * SECOND)
        });
        let held = if self.left(now).is_some() { self.locked_until } else { now };
        self.locked_until = held.max(now.saturating_add(delay.unwrap_or(0)));
        self.forgotten_at = self.locked_until.saturating_add(MEMORY);
        delay.and_then(|_| self.left(now))
    }

    /// Takes in what another replica counted: the stricter of both holds.
    pub fn merge(&mut self, other: Self, now: i64) {
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

    const NOW: i64 = 1_800_000_000 * SECOND;

    #[test]
    fn the_waits_grow_to_a_quarter_of_an_hour_and_no_further() {
        let (mut lock, mut now) = (Softlock::default(), NOW);
        for expected in DELAYS_SECONDS.iter().chain([&900, &900]) {
            assert_eq!(lock.left(now), None);
            let wait = lock.failed(0, now).unwrap();
            assert_eq!(i64::try_from(wait.as_secs()).unwrap(), *expected);
            assert!(lock.left(now + expected * SECOND - 1).is_some());
            now += expected * SECOND;
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
        assert!(!lock.is_forgotten(NOW + 4 * SECOND + MEMORY - 1));
        assert!(lock.is_forgotten(NOW + 4 * SECOND + MEMORY));
        lock.failed(0, NOW + 4 * SECOND + MEMORY);
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
                now += step * SECOND;
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
            let one = Softlock::known(a, NOW + ends.0 * SECOND);
            let other = Softlock::known(b, NOW + ends.1 * SECOND);
            let (mut left, mut right) = (one, other);
            left.merge(other, NOW);
            right.merge(one, NOW);
            prop_assert_eq!(left, right);
        }
    }
}
