//! Limits on guessing passwords.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use super::Adder;

/// Locks, and what they refused.
#[derive(Clone)]
pub struct LimitMetrics {
    /// Locks that began, by kind: `device_address`, `address`.
    pub locks: IntCounterVec,
    /// Locks that hold now, by kind.
    pub held: IntGaugeVec,
    /// Password checks refused, by what limited them: `device_address`, `address`, `device`.
    pub refused: IntCounterVec,
    /// Addresses that many devices share, for which there is no limit by address.
    pub shared: IntGauge,
}

impl LimitMetrics {
    /// The kinds of locks.
    pub const KINDS: [&str; 2] = ["device_address", "address"];
}

impl Adder<'_> {
    pub(super) fn limits(&self) -> Result<LimitMetrics, prometheus::Error> {
        let metrics = LimitMetrics {
            locks: self.counters(
                "fleetgate_login_locks_begun_total",
                "Locks that began after wrong passwords, by kind.",
                &["kind"],
            )?,
            held: self.gauges(
                "fleetgate_login_locks",
                "Locks after wrong passwords that hold now, by kind.",
                &["kind"],
            )?,
            refused: self.counters(
                "fleetgate_login_limited_total",
                "Password checks refused without a hash, by what limited them.",
                &["by"],
            )?,
            shared: self.gauge(
                "fleetgate_login_shared_addresses",
                "Addresses that more than 20 devices logged in from within an hour; no limit by address holds for them.",
            )?,
        };
        // There from the start, so that rates over the first one are right.
        for kind in LimitMetrics::KINDS {
            metrics.locks.with_label_values(&[kind]);
            metrics.held.with_label_values(&[kind]);
            metrics.refused.with_label_values(&[kind]);
        }
        metrics.refused.with_label_values(&["device"]);
        Ok(metrics)
    }
}
