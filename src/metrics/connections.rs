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

/// The HTTP API.
#[derive(Clone)]
pub struct ApiMetrics {
    /// Its connections.
    pub connections: ConnectionMetrics,
    requests: IntCounterVec,
}

impl ApiMetrics {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        self.requests.with_label_values(&[status.to_string().as_str()]).inc();
    }
}

impl ConnectionMetrics {
    /// Counts a connection that this side closed.
    pub fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

impl Adder<'_> {
    /// Of the HTTP API.
    pub(super) fn api(&self) -> Result<ApiMetrics, prometheus::Error> {
        let requests = self.counters(
            "fleetgate_api_requests_total",
            "Requests to the HTTP API that were answered, by status.",
            &["status"],
        )?;
        // From zero, so that the first failure is one.
        for status in ["500", "503"] {
            requests.with_label_values(&[status]);
        }
        Ok(ApiMetrics {
            connections: ConnectionMetrics {
                open: self
                    .gauge("fleetgate_api_connections", "Open connections of the HTTP API.")?,
                closed: self.counters(
                    "fleetgate_api_connections_closed_total",
                    "Connections of the HTTP API that this side closed, by reason.",
                    &["reason"],
                )?,
            },
            requests,
        })
    }

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
