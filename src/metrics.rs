//! Every metric that Fleetgate exports, in one place.
//!
//! The labels of the hot path are resolved to counters once, here, so that counting costs an atomic
//! addition. Names follow Prometheus' conventions: base units, `_total` for counters.

use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

mod connections;
mod emqx;
mod events;
mod hash;
mod limits;
mod registry;

pub use connections::{ApiMetrics, ConnectionMetrics};
pub use emqx::{
    CommandMetrics, EmqxMetrics, KickOutMetrics, RequestMetrics, SweepMetrics, WorkMetrics,
};
pub use events::EventMetrics;
pub use hash::HashMetrics;
pub use limits::LimitMetrics;
pub use registry::{CacheMetrics, ListenMetrics};

/// From a cache hit (tens of microseconds) to EMQX's own patience (5 s).
const LATENCY_SECONDS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0,
];

/// What became of a request that EMQX made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Decided: yes.
    Allow,
    /// Decided: no.
    Deny,
    /// 204: an event is dealt with.
    Accepted,
    /// 400: not what EMQX sends.
    BadRequest,
    /// 401: not the webhook token.
    Unauthorized,
    /// 408: the body did not arrive in time.
    Timeout,
    /// 413: a body over the limit.
    TooLarge,
    /// 503: a queue is full.
    Overloaded,
    /// 503: the registry cannot be asked.
    Unavailable,
}

impl Outcome {
    /// Every outcome, in the order of their discriminants.
    const ALL: [(Self, &'static str); 9] = [
        (Self::Allow, "allow"),
        (Self::Deny, "deny"),
        (Self::Accepted, "accepted"),
        (Self::BadRequest, "bad_request"),
        (Self::Unauthorized, "unauthorized"),
        (Self::Timeout, "timeout"),
        (Self::TooLarge, "too_large"),
        (Self::Overloaded, "overloaded"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// Requests of one endpoint by outcome, and refusals by reason.
#[derive(Clone)]
pub struct EndpointMetrics {
    endpoint: &'static str,
    durations: Vec<Histogram>,
    refusals: IntCounterVec,
}

impl EndpointMetrics {
    /// Counts a request that took `seconds`.
    pub fn observe(&self, outcome: Outcome, seconds: f64) {
        if let Some(histogram) = self.durations.get(outcome as usize) {
            histogram.observe(seconds);
        }
    }

    /// Has refusals for these reasons counted from zero: a rate does not see the first one of a series that begins with it.
    pub fn refuses_for(&self, reasons: &[&str]) {
        for reason in reasons {
            self.refusals.with_label_values(&[self.endpoint, *reason]);
        }
    }

    /// Counts a refusal for a reason.
    pub fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[self.endpoint, reason]).inc();
    }
}

/// Numbers that are read when somebody scrapes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Device records in memory.
    pub known_devices: usize,
    /// Unknown names in memory.
    pub unknown_names: usize,
    /// Open pool connections.
    pub pool_open: usize,
    /// Idle pool connections.
    pub pool_idle: usize,
    /// Callers that wait for a pool connection.
    pub pool_waiting: usize,
    /// Events that wait for a transaction.
    pub events_queued: usize,
    /// How long the oldest event that is not committed has waited, in seconds; 0 without any.
    pub oldest_event_seconds: f64,
}

/// See the module documentation.
pub struct Metrics {
    registry: Registry,
    /// `/emqx/authn`.
    pub authn: EndpointMetrics,
    /// `/emqx/authz`.
    pub authz: EndpointMetrics,
    /// `/emqx/events`.
    pub events_endpoint: EndpointMetrics,
    /// Events and their batches.
    pub events: EventMetrics,
    /// The device cache.
    pub cache: CacheMetrics,
    /// The LISTEN connection.
    pub listen: ListenMetrics,
    /// Connections of clients.
    pub connections: ConnectionMetrics,
    /// The HTTP API.
    pub api: ApiMetrics,
    /// The hash threads.
    pub hash: HashMetrics,
    /// Limits on guessing.
    pub limits: LimitMetrics,
    /// EMQX's REST API.
    pub emqx: EmqxMetrics,
    /// What is done elsewhere after a commit.
    pub work: WorkMetrics,
    /// Kick-outs.
    pub kick_outs: KickOutMetrics,
    /// Commands.
    pub commands: CommandMetrics,
    /// What services ask for over MQTT.
    pub requests: RequestMetrics,
    /// Sweeps.
    pub sweep: SweepMetrics,
    cache_entries: IntGaugeVec,
    pool: IntGaugeVec,
    events_queued: IntGauge,
    oldest_event: Gauge,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Never in practice: only if two metrics shared a name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let add = Adder { registry: &registry };
        let durations = add.histograms(
            "fleetgate_request_duration_seconds",
            "Requests of EMQX by endpoint and outcome.",
            &["endpoint", "outcome"],
        )?;
        let refusals = add.counters(
            "fleetgate_refusals_total",
            "Refused logins and actions by reason.",
            &["endpoint", "reason"],
        )?;
        let endpoint = |endpoint: &'static str| EndpointMetrics {
            endpoint,
            durations: Outcome::ALL
                .iter()
                .map(|(_, outcome)| durations.with_label_values(&[endpoint, *outcome]))
                .collect(),
            refusals: refusals.clone(),
        };
        let metrics = Self {
            authn: endpoint("authn"),
            authz: endpoint("authz"),
            events_endpoint: endpoint("events"),
            events: add.events()?,
            cache: add.cache()?,
            listen: add.listen()?,
            connections: add.connections()?,
            api: add.api()?,
            hash: add.hash()?,
            limits: add.limits()?,
            emqx: add.emqx()?,
            kick_outs: add.kick_outs()?,
            commands: add.commands()?,
            requests: add.requests()?,
            work: add.work()?,
            sweep: add.sweep()?,
            cache_entries: add.gauges(
                "fleetgate_cache_entries",
                "Device records and unknown names in memory.",
                &["kind"],
            )?,
            pool: add.gauges(
                "fleetgate_database_pool_connections",
                "Pool connections by state; waiting counts callers.",
                &["state"],
            )?,
            events_queued: add
                .gauge("fleetgate_ingest_queue_depth", "Events that wait for a transaction.")?,
            oldest_event: add.add(Gauge::new(
                "fleetgate_ingest_oldest_event_seconds",
                "How long the oldest event that is not committed has waited; 0 without any.",
            )?)?,
            registry: registry.clone(),
        };
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(&self, now: Snapshot) -> Result<Vec<u8>, prometheus::Error> {
        set(&self.cache_entries, "known", now.known_devices);
        set(&self.cache_entries, "unknown", now.unknown_names);
        set(&self.pool, "open", now.pool_open);
        set(&self.pool, "idle", now.pool_idle);
        set(&self.pool, "waiting", now.pool_waiting);
        self.events_queued.set(i64::try_from(now.events_queued).unwrap_or(i64::MAX));
        self.oldest_event.set(now.oldest_event_seconds);
        self.work.age(Instant::now());
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn set(gauge: &IntGaugeVec, label: &str, value: usize) {
    gauge.with_label_values(&[label]).set(i64::try_from(value).unwrap_or(i64::MAX));
}

struct Adder<'a> {
    registry: &'a Registry,
}

impl Adder<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_SECONDS.to_vec());
        self.add(Histogram::with_opts(options)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_SECONDS.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_counts_under_its_own_name() {
        for (position, (outcome, _)) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, position);
        }
        let metrics = Metrics::new().unwrap();
        metrics.authn.observe(Outcome::Overloaded, 0.001);
        metrics.authz.refused("not_granted");
        let text = String::from_utf8(metrics.render(Snapshot::default()).unwrap()).unwrap();
        assert!(text.contains(
            r#"fleetgate_request_duration_seconds_count{endpoint="authn",outcome="overloaded"} 1"#
        ));
        assert!(
            text.contains(r#"fleetgate_refusals_total{endpoint="authz",reason="not_granted"} 1"#)
        );
    }
}
