//! How many wrong guesses at one device all addresses together may make: a rate, never a lock.
//!
//! A lock by the device's name alone would let anybody keep the device out. A rate only makes guesses
//! from many addresses slow: [`BURST`] at once, then one every [`INTERVAL`]. It is the generic cell
//! rate algorithm (ITU-T I.371): one timestamp, no counter to reset.

use jiff::{SignedDuration, Timestamp};

use crate::clock::saturating_add;

/// Wrong guesses at once.
pub const BURST: i32 = 20;

/// Time that each takes to be given back: ten a minute.
pub const INTERVAL: SignedDuration = SignedDuration::from_secs(6);

/// The guesses spent on one device, as the time at which all of them are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate(Timestamp);

impl Rate {
    /// Whether another guess may be made.
    #[must_use]
    pub fn allows(&self, now: Timestamp) -> bool {
        self.spent_until(now).duration_since(now) <= INTERVAL * (BURST - 1)
    }

    /// Counts a wrong guess.
    pub fn spend(&mut self, now: Timestamp) {
        self.0 = saturating_add(self.spent_until(now), INTERVAL);
    }

    /// When nothing of it matters any more.
    #[must_use]
    pub fn full_at(&self) -> Timestamp {
        self.0
    }

    /// A time further away than a spent burst comes from a clock that was set back.
    fn spent_until(&self, now: Timestamp) -> Timestamp {
        let ahead = self.0.duration_since(now);
        if ahead.is_positive() && ahead <= INTERVAL * (BURST + 1) { self.0 } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn a_burst_then_one_at_a_time() {
        let mut rate = Rate::default();
        for _ in 0..BURST {
            assert!(rate.allows(NOW));
            rate.spend(NOW);
        }
        assert!(!rate.allows(NOW));
        assert!(!rate.allows(NOW + INTERVAL - SignedDuration::from_micros(1)));
        assert!(rate.allows(NOW + INTERVAL));
        assert_eq!(rate.full_at(), NOW + INTERVAL * BURST);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_more_than_a_burst_and_the_rate(steps in prop::collection::vec(0..18_000_000_i64, 1..200)) {
            let (mut rate, mut now, mut allowed) = (Rate::default(), NOW, 0);
            for step in steps {
                now += SignedDuration::from_micros(step);
                if rate.allows(now) {
                    rate.spend(now);
                    allowed += 1;
                }
            }
            let given_back = now.duration_since(NOW).as_secs() / INTERVAL.as_secs();
            prop_assert!(allowed <= i64::from(BURST) + given_back);
            prop_assert!(rate.allows(now + INTERVAL), "never a lock");
        }
    }
}
