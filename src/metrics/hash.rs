//! Hashing of secrets and passwords.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Adder;

/// The hash threads, for chosen and for imported passwords.
#[derive(Clone)]
pub struct HashMetrics {
    /// Hashes of generated secrets, computed on the spot.
    pub generated: IntCounter,
    /// Passwords that wait for a thread.
    pub queued: IntGauge,
    /// How long they waited, in seconds.
    pub wait: Histogram,
    /// How long hashing took, in seconds.
    pub duration: Histogram,
    /// Passwords refused because the queue was full.
    pub shed: IntCounter,
    /// Passwords not hashed because nobody waited for the answer any more.
    pub abandoned: IntCounter,
    /// Imported hashes that were replaced by argon2id after their first success.
    pub rehashed: IntCounter,
}

impl Adder<'_> {
    pub(super) fn hash(&self) -> Result<HashMetrics, prometheus::Error> {
        Ok(HashMetrics {
            generated: self.counter(
                "fleetgate_hash_generated_total",
                "Hashes of generated secrets, computed without a queue.",
            )?,
            queued: self.gauge(
                "fleetgate_hash_queue_depth",
                "Chosen and imported passwords that wait to be hashed.",
            )?,
            wait: self.histogram(
                "fleetgate_hash_wait_seconds",
                "Wait of a chosen or imported password's hash.",
            )?,
            duration: self.histogram(
                "fleetgate_hash_duration_seconds",
                "Hashing a chosen or imported password.",
            )?,
            shed: self.counter(
                "fleetgate_hash_shed_total",
                "Logins answered 503 because the hash queue was full.",
            )?,
            abandoned: self.counter(
                "fleetgate_hash_abandoned_total",
                "Hashes not computed because the client had gone.",
            )?,
            rehashed: self.counter(
                "fleetgate_hash_rehashed_total",
                "Imported hashes replaced by argon2id after their first success.",
            )?,
        })
    }
}
