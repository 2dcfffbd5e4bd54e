//! Connections of clients: EMQX's, operators' and strangers'.

use prometheus::{IntCounterVec, IntGauge};

use super::Adder;

/// Connections of clients.
#[derive(Clone)]
pub struct ConnectionMetrics {
    /// Open ones.
    pub open: IntGauge,
    closed: IntCounterVec,
}

impl ConnectionMetrics {
    /// Counts a connection that this side closed.
    pub fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

impl Adder<'_> {
    pub(super) fn connections(&self) -> Result<ConnectionMetrics, prometheus::Error> {
        Ok(ConnectionMetrics {
            open: self.gauge("fleetgate_http_connections", "Open connections of clients.")?,
            closed: self.counters(
                "fleetgate_http_connections_closed_total",
                "Connections that this side closed, by reason.",
                &["reason"],
            )?,
        })
    }
}
