//! Metrics of what Fleetgate asks of EMQX: calls, kick-outs, sweeps.

use std::time::Duration;

use prometheus::{
    Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec,
};

use super::Adder;

/// From a healthy broker (tens of milliseconds) to one that was away for an hour.
const DELAY_SECONDS: [f64; 13] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0];

/// Calls of EMQX's REST API.
#[derive(Clone)]
pub struct EmqxMetrics {
    calls: HistogramVec,
    /// 1 when the last call found EMQX away, failing or refusing the key.
    pub failing: IntGauge,
}

impl EmqxMetrics {
    /// Counts one attempt of a call.
    pub fn call(&self, call: &str, outcome: &str, seconds: f64) {
        self.calls.with_label_values(&[call, outcome]).observe(seconds);
    }
}

/// What is done elsewhere after a commit.
#[derive(Clone)]
pub struct WorkMetrics {
    waiting: IntGaugeVec,
    overdue: IntGaugeVec,
}

impl WorkMetrics {
    /// How much of a kind waits, and how long the first of it has been due.
    pub fn waiting(&self, kind: &str, rows: i64, overdue: Duration) {
        self.waiting.with_label_values(&[kind]).set(rows);
        let seconds = i64::try_from(overdue.as_secs()).unwrap_or(i64::MAX);
        self.overdue.with_label_values(&[kind]).set(seconds);
    }
}

/// Kick-outs.
#[derive(Clone)]
pub struct KickOutMetrics {
    outcomes: IntCounterVec,
    /// From the change to EMQX's answer, in seconds.
    pub delay: Histogram,
}

impl KickOutMetrics {
    /// Counts client ids by what became of them.
    pub fn count(&self, outcome: &str, client_ids: u64) {
        self.outcomes.with_label_values(&[outcome]).inc_by(client_ids);
    }
}

/// Commands.
#[derive(Clone)]
pub struct CommandMetrics {
    ended: IntCounterVec,
    /// From when a command was asked for to the device's acknowledgement, in seconds.
    pub delivery: Histogram,
}

impl CommandMetrics {
    /// Counts a delivery that ended, by how.
    pub fn ended(&self, state: &str) {
        self.ended.with_label_values(&[state]).inc();
    }
}

/// What services ask for over MQTT.
#[derive(Clone)]
pub struct RequestMetrics {
    answered: IntCounterVec,
}

impl RequestMetrics {
    /// Counts an answer, by its word.
    pub fn answered(&self, answer: &str) {
        self.answered.with_label_values(&[answer]).inc();
    }
}

/// Comparisons of the registry with EMQX's list of clients.
#[derive(Clone)]
pub struct SweepMetrics {
    sweeps: IntCounterVec,
    /// Sessions that the registry did not know as open.
    pub repaired_online: IntCounter,
    /// Sessions that the registry took for open.
    pub repaired_offline: IntCounter,
    /// Connected clients without right to be.
    pub kicked_out: IntCounter,
    /// Ended sessions that were removed.
    pub pruned_sessions: IntCounter,
    /// How long a sweep took, in seconds.
    pub duration: Histogram,
    /// When the last one succeeded, in seconds since the Unix epoch.
    pub last_success: Gauge,
    /// Devices that are online.
    pub online_devices: IntGauge,
    /// Enabled devices that are not.
    pub offline_devices: IntGauge,
}

impl SweepMetrics {
    /// Counts a sweep by how it ended.
    pub fn ended(&self, outcome: &str) {
        self.sweeps.with_label_values(&[outcome]).inc();
    }
}

impl Adder<'_> {
    pub(super) fn emqx(&self) -> Result<EmqxMetrics, Error> {
        Ok(EmqxMetrics {
            calls: self.histograms(
                "fleetgate_emqx_call_duration_seconds",
                "Attempted calls of EMQX's REST API by call and outcome.",
                &["call", "outcome"],
            )?,
            failing: self.gauge(
                "fleetgate_emqx_api_failing",
                "1 when the last call of EMQX's REST API found it away, failing or refusing the key.",
            )?,
        })
    }

    pub(super) fn work(&self) -> Result<WorkMetrics, Error> {
        let waiting = self.gauges(
            "fleetgate_work_waiting",
            "Rows of the work queue by kind: what has yet to be done elsewhere. kick_out: client ids whose session has yet to end. command: devices' capabilities with commands that have not ended.",
            &["kind"],
        )?;
        let overdue = self.gauges(
            "fleetgate_work_overdue_seconds",
            "How long the first row of the work queue of a kind has been due. It grows when no replica carries the kind out, or more comes than they can.",
            &["kind"],
        )?;
        Ok(WorkMetrics { waiting, overdue })
    }

    pub(super) fn kick_outs(&self) -> Result<KickOutMetrics, Error> {
        let delay = HistogramOpts::new(
            "fleetgate_kick_out_delay_seconds",
            "From the change that took a right away to EMQX's answer that the session has ended.",
        );
        Ok(KickOutMetrics {
            outcomes: self.counters(
                "fleetgate_kick_outs_total",
                "Kick-outs of client ids by outcome. in_bulk: EMQX does not say whether there was a session. repeated: to be carried out again, because a replica heard late of the change, or an answer to a login may have been on its way. ended_by_itself: no longer needed.",
                &["outcome"],
            )?,
            delay: self.add(Histogram::with_opts(delay.buckets(DELAY_SECONDS.to_vec()))?)?,
        })
    }

    pub(super) fn commands(&self) -> Result<CommandMetrics, Error> {
        let ended = self.counters(
            "fleetgate_command_deliveries_total",
            "Deliveries of commands that ended, by how. sent: no receipt was asked for, or none is possible with QoS 0.",
            &["state"],
        )?;
        // From the start, so that the first one is an increase.
        let states = [
            "delivered",
            "succeeded",
            "failed",
            "timed_out",
            "sent",
            "expired",
            "undeliverable",
            "superseded",
            "cancelled",
        ];
        for state in states {
            ended.with_label_values(&[state]);
        }
        let delivery = HistogramOpts::new(
            "fleetgate_command_delivery_seconds",
            "From when a command was asked for to the device's acknowledgement, or its answer where that confirms it; devices that were offline are waited for.",
        );
        let delivery = delivery.buckets(DELAY_SECONDS.to_vec());
        Ok(CommandMetrics { ended, delivery: self.add(Histogram::with_opts(delivery)?)? })
    }

    pub(super) fn requests(&self) -> Result<RequestMetrics, Error> {
        let answered = self.counters(
            "fleetgate_command_requests_total",
            "Commands that services asked for over MQTT, by what they were told. expired: it came too late.",
            &["answer"],
        )?;
        for answer in ["accepted", "expired", "refused"] {
            answered.with_label_values(&[answer]);
        }
        Ok(RequestMetrics { answered })
    }

    pub(super) fn sweep(&self) -> Result<SweepMetrics, Error> {
        let duration = HistogramOpts::new("fleetgate_sweep_duration_seconds", "Finished sweeps.");
        let last_success = Gauge::new(
            "fleetgate_sweep_last_success_timestamp_seconds",
            "When this replica last finished a sweep; 0: never.",
        )?;
        Ok(SweepMetrics {
            sweeps: self.counters(
                "fleetgate_sweeps_total",
                "Sweeps by outcome. elsewhere: another replica does it, or just did.",
                &["outcome"],
            )?,
            repaired_online: self.counter(
                "fleetgate_sweep_repaired_online_total",
                "Sessions that a sweep found open and the registry did not.",
            )?,
            repaired_offline: self.counter(
                "fleetgate_sweep_repaired_offline_total",
                "Sessions that the registry took for open and a sweep did not find.",
            )?,
            kicked_out: self.counter(
                "fleetgate_sweep_kicked_out_total",
                "Connected clients that a sweep found to have no right to be, and so are kicked out.",
            )?,
            pruned_sessions: self.counter(
                "fleetgate_sessions_pruned_total",
                "Sessions removed because they ended longer ago than sessions are kept.",
            )?,
            duration: self.add(Histogram::with_opts(duration.buckets(DELAY_SECONDS.to_vec()))?)?,
            last_success: self.add(last_success)?,
            online_devices: self
                .gauge("fleetgate_devices_online", "Devices online, as last counted.")?,
            offline_devices: self.gauge(
                "fleetgate_devices_offline",
                "Enabled devices that are not online, as last counted.",
            )?,
        })
    }
}
