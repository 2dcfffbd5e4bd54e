//! The registry in memory, and what keeps it in step with PostgreSQL.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::Adder;

/// The device cache.
#[derive(Clone)]
pub struct CacheMetrics {
    /// Answers from memory.
    pub hits: IntCounter,
    /// Answers that needed PostgreSQL or a wait for it.
    pub misses: IntCounter,
    /// How long loads take, in seconds.
    pub load_duration: Histogram,
    /// Loads that failed.
    pub load_failures: IntCounter,
    /// Suspect records served because PostgreSQL did not answer.
    pub stale_hits: IntCounter,
}

/// The LISTEN connection.
#[derive(Clone)]
pub struct ListenMetrics {
    /// 1 while somebody listens.
    pub up: IntGauge,
    /// Travel time of the last heartbeat, in seconds.
    pub lag: Gauge,
    /// Lost connections.
    pub losses: IntCounter,
    /// Notifications of changed devices.
    pub changes: IntCounter,
}

impl Adder<'_> {
    pub(super) fn cache(&self) -> Result<CacheMetrics, prometheus::Error> {
        Ok(CacheMetrics {
            hits: self.counter("fleetgate_cache_hits_total", "Records answered from memory.")?,
            misses: self.counter(
                "fleetgate_cache_misses_total",
                "Records that needed PostgreSQL, or a load that was already under way.",
            )?,
            load_duration: self.histogram(
                "fleetgate_cache_load_duration_seconds",
                "Loads of one record from PostgreSQL, waiting for a connection included.",
            )?,
            load_failures: self.counter(
                "fleetgate_cache_load_failures_total",
                "Loads that failed or took too long.",
            )?,
            stale_hits: self.counter(
                "fleetgate_cache_stale_hits_total",
                "Stale records served because PostgreSQL did not answer.",
            )?,
        })
    }

    pub(super) fn listen(&self) -> Result<ListenMetrics, prometheus::Error> {
        let lag = Gauge::new(
            "fleetgate_listen_lag_seconds",
            "Travel time of the last heartbeat through PostgreSQL's NOTIFY.",
        )?;
        Ok(ListenMetrics {
            up: self.gauge("fleetgate_listen_up", "1 while changes are listened to.")?,
            lag: self.add(lag)?,
            losses: self.counter("fleetgate_listen_losses_total", "Lost LISTEN connections.")?,
            changes: self
                .counter("fleetgate_listen_changes_total", "Notifications of changed devices.")?,
        })
    }
}
