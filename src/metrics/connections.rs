//! Connections of clients: EMQX's, operators' and strangers'.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

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
    /// These have no labels. A plain gauge would be there, as 0, also where there is nothing to tell.
    serving: IntGaugeVec,
    certificate_end: IntGaugeVec,
}

/// No labels.
const NO_LABELS: [&str; 0] = [];

impl ApiMetrics {
    /// Whether it is served. Not to be told where nobody wants it served.
    pub fn serves(&self, serves: bool) {
        self.serving.with_label_values(&NO_LABELS).set(i64::from(serves));
    }

    /// When the certificate ends that it presents, in Unix seconds.
    pub fn certificate_ends(&self, end: i64) {
        self.certificate_end.with_label_values(&NO_LABELS).set(end);
    }

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
            serving: self.gauges(
                "fleetgate_api_serving",
                "1 while the HTTP API is served; 0: its address was taken. Absent where api.listen is off.",
                &NO_LABELS,
            )?,
            certificate_end: self.gauges(
                "fleetgate_api_certificate_end_timestamp_seconds",
                "When the certificate ends that the HTTP API presents. Absent without TLS.",
                &NO_LABELS,
            )?,
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
