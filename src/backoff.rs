//! Waits that grow, and that differ from replica to replica.

use std::time::Duration;

use crate::secret::random_bytes;

/// A duration changed at random by up to `share` of it (0 to 1), either way: what several replicas
/// do at intervals then doesn't stay in step.
#[must_use]
pub fn jittered(duration: Duration, share: f64) -> Duration {
    let random = f64::from(u32::from_ne_bytes(random_bytes())) / f64::from(u32::MAX);
    duration.mul_f64(1.0 + share.clamp(0.0, 1.0) * (2.0 * random - 1.0))
}

/// The wait before attempt `attempt` (from 0): `first`, doubled with each attempt up to `longest`,
/// give or take a fifth.
#[must_use]
pub fn exponential(first: Duration, longest: Duration, attempt: u32) -> Duration {
    let factor = 2_u32.saturating_pow(attempt.min(20));
    jittered(first.saturating_mul(factor).min(longest), 0.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_keep_near_it() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        for (attempt, expected) in [(0, 100), (1, 200), (3, 800), (6, 5_000), (u32::MAX, 5_000)] {
            let wait = exponential(first, longest, attempt).as_millis();
            assert!((expected * 8 / 10..=expected * 12 / 10).contains(&wait), "{attempt}: {wait}");
        }
    }

    #[test]
    fn jitter_stays_in_bounds_and_varies() {
        let waits: Vec<_> = (0..100).map(|_| jittered(Duration::from_secs(60), 0.1)).collect();
        assert!(waits.iter().all(|wait| (54..=66).contains(&wait.as_secs())));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
