//! How many wrong guesses at one device all addresses together may make: a rate, never a lock.
//!
//! A lock by the device's name alone would let anybody keep the device out. A rate only makes guesses
//! from many addresses slow: [`BURST`] at once, then one every [`INTERVAL`]. It is the generic cell
//! rate algorithm (ITU-T I.371): one timestamp, no counter to reset.

const SECOND: i64 = 1_000_000;

/// Wrong guesses at once.
pub const BURST: i64 = 20;

/// Time in microseconds that each takes to be given back: ten a minute.
pub const INTERVAL: i64 = 6 * SECOND;

/// The guesses spent on one device, as the time at which all of them are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate(i64);

impl Rate {
    /// Whether another guess may be made.
    #[must_use]
    pub fn allows(&self, now: i64) -> bool {
        self.spent_until(now).saturating_sub(now) <= (BURST - 1) * INTERVAL
    }

    /// Counts a wrong guess.
    pub fn spend(&mut self, now: i64) {
        self.0 = self.spent_until(now).saturating_add(INTERVAL);
    }

    /// When nothing of it matters any more.
    #[must_use]
    pub fn full_at(&self) -> i64 {
        self.0
    }

    /// A time further away than a spent burst comes from a clock that was set back.
    fn spent_until(&self, now: i64) -> i64 {
        let ahead = self.0.saturating_sub(now);
        if (1..=(BURST + 1) * INTERVAL).contains(&ahead) { self.0 } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000 * SECOND;

    #[test]
    fn a_burst_then_one_at_a_time() {
        let mut rate = Rate::default();
        for _ in 0..BURST {
            assert!(rate.allows(NOW));
            rate.spend(NOW);
        }
        assert!(!rate.allows(NOW));
        assert!(!rate.allows(NOW + INTERVAL - 1));
        assert!(rate.allows(NOW + INTERVAL));
        assert_eq!(rate.full_at(), NOW + BURST * INTERVAL);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_more_than_a_burst_and_the_rate(steps in prop::collection::vec(0..3 * INTERVAL, 1..200)) {
            let (mut rate, mut now, mut allowed) = (Rate::default(), NOW, 0);
            for step in steps {
                now += step;
                if rate.allows(now) {
                    rate.spend(now);
                    allowed += 1;
                }
            }
            prop_assert!(allowed <= BURST + (now - NOW) / INTERVAL);
            prop_assert!(rate.allows(now + INTERVAL), "never a lock");
        }
    }
}
