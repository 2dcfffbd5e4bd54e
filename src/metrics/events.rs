//! What the bus said and what became of it.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec};

use super::Adder;

/// Sizes of batches, in powers of two up to the default limit and beyond.
const BATCH_SIZES: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Events, batches, violations.
#[derive(Clone)]
pub struct EventMetrics {
    events: IntCounterVec,
    stale: IntCounterVec,
    malformed: IntCounterVec,
    /// Events with a timestamp further ahead than clocks may differ.
    pub untrusted: IntCounter,
    /// Reports that broke their capability's schema.
    pub violations: IntCounter,
    /// Events that share one transaction.
    pub batch_size: Histogram,
    /// Transactions from begin to commit, retries included, in seconds.
    pub commit: Histogram,
    /// Transactions that failed.
    pub commit_failures: IntCounter,
}

impl EventMetrics {
    /// Counts an event of a kind by what became of it.
    pub fn count(&self, kind: &str, outcome: &str) {
        self.events.with_label_values(&[kind, outcome]).inc();
    }

    /// Counts events that came too late to change anything, or never do.
    pub fn stale(&self, reason: &str, events: u64) {
        if events > 0 {
            self.stale.with_label_values(&[reason]).inc_by(events);
        }
    }

    /// Counts an event that could not be read.
    pub fn malformed(&self, reason: &str) {
        self.malformed.with_label_values(&[reason]).inc();
    }
}

impl Adder<'_> {
    pub(super) fn events(&self) -> Result<EventMetrics, prometheus::Error> {
        let sizes = HistogramOpts::new("fleetgate_ingest_batch_events", "Events a transaction.");
        Ok(EventMetrics {
            events: self.counters(
                "fleetgate_events_total",
                "Events by kind and by what became of them.",
                &["kind", "outcome"],
            )?,
            stale: self.counters(
                "fleetgate_events_stale_total",
                "Events that changed no session or value, by reason: older than what is known, the same again, the end of a session that goes on elsewhere, or older than sessions are kept.",
                &["reason"],
            )?,
            malformed: self.counters(
                "fleetgate_events_malformed_total",
                "Events that could not be read, by reason.",
                &["reason"],
            )?,
            untrusted: self.counter(
                "fleetgate_events_untrusted_total",
                "Events stamped further ahead of PostgreSQL's clock than clocks may differ (5 minutes); whatever has a trusted timestamp replaces what they say.",
            )?,
            violations: self.counter(
                "fleetgate_schema_violations_total",
                "Reports not stored because they broke their capability's schema.",
            )?,
            batch_size: self.add(Histogram::with_opts(sizes.buckets(BATCH_SIZES.to_vec()))?)?,
            commit: self.histogram(
                "fleetgate_ingest_commit_duration_seconds",
                "Transactions of events from begin to commit, retries included.",
            )?,
            commit_failures: self
                .counter("fleetgate_ingest_commit_failures_total", "Transactions that failed.")?,
        })
    }
}
