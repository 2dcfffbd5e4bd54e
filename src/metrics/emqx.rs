//! Metrics of what Fleetgate asks of EMQX: calls, kick-outs, sweeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    looks: Arc<Mutex<BTreeMap<&'static str, Look>>>,
}

/// When it was last seen what waits of a kind.
struct Look {
    at: Instant,
    /// How long the first of it had been due then.
    overdue: Duration,
    /// After this long nobody knows what waits.
    holds: Duration,
    is_carried_out: bool,
}

impl WorkMetrics {
    /// A worker is about to look at a kind for the first time. What it sees holds for so long; then, until it looks again, what
    /// waits is not told any more, and where this replica carries it out, the time since counts as overdue.
    pub fn begin(&self, kind: &'static str, holds: Duration, is_carried_out: bool) {
        let look = Look { at: Instant::now(), overdue: Duration::ZERO, holds, is_carried_out };
        self.looks().insert(kind, look);
        self.waiting(kind, 0, Duration::ZERO);
    }

    /// How much of a kind waits, and how long the first of it has been due.
    pub fn waiting(&self, kind: &str, rows: i64, overdue: Duration) {
        let mut looks = self.looks();
        if let Some(look) = looks.get_mut(kind) {
            (look.at, look.overdue) = (Instant::now(), overdue);
        }
        self.waiting.with_label_values(&[kind]).set(rows);
        self.set_overdue(kind, overdue);
    }

    /// Takes back what was seen too long ago to hold.
    pub(super) fn age(&self, now: Instant) {
        for (kind, look) in self.looks().iter() {
            let age = now.saturating_duration_since(look.at);
            if age <= look.holds {
                continue;
            }
            // An error: it is gone already.
            let _gone = self.waiting.remove_label_values(&[kind]);
            if look.is_carried_out {
                self.set_overdue(kind, look.overdue.saturating_add(age));
            } else {
                let _gone = self.overdue.remove_label_values(&[kind]);
            }
        }
    }

    fn set_overdue(&self, kind: &str, overdue: Duration) {
        let seconds = i64::try_from(overdue.as_secs()).unwrap_or(i64::MAX);
        self.overdue.with_label_values(&[kind]).set(seconds);
    }

    fn looks(&self) -> MutexGuard<'_, BTreeMap<&'static str, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Time from one to the next, in seconds.
    pub interval: Gauge,
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
            "Rows of the work queue by kind: what has yet to be done elsewhere; absent while this replica cannot look. kick_out: client ids whose session has yet to end. command: devices' capabilities with commands that have not ended.",
            &["kind"],
        )?;
        let overdue = self.gauges(
            "fleetgate_work_overdue_seconds",
            "How long the first row of the work queue of a kind has been due. It grows when no replica carries the kind out, or more comes than they can, and while this replica cannot look.",
            &["kind"],
        )?;
        Ok(WorkMetrics { waiting, overdue, looks: Arc::default() })
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
        let interval = Gauge::new(
            "fleetgate_sweep_interval_seconds",
            "Time from one sweep to the next (emqx.sweep_interval).",
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
            interval: self.add(interval)?,
            online_devices: self
                .gauge("fleetgate_devices_online", "Devices online, as last counted.")?,
            offline_devices: self.gauge(
                "fleetgate_devices_offline",
                "Enabled devices that are not online, as last counted.",
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, Snapshot};

    const HOLDS: Duration = Duration::from_secs(90);

    /// What stands there about a kind: how much waits, and for how many seconds.
    fn told(metrics: &Metrics, kind: &str) -> (Option<String>, Option<String>) {
        let text = String::from_utf8(metrics.render(Snapshot::default()).unwrap()).unwrap();
        let value = |name: &str| {
            let series = format!("{name}{{kind=\"{kind}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
        };
        (value("fleetgate_work_waiting"), value("fleetgate_work_overdue_seconds"))
    }

    fn texts(waiting: Option<&str>, overdue: Option<&str>) -> (Option<String>, Option<String>) {
        (waiting.map(str::to_owned), overdue.map(str::to_owned))
    }

    #[test]
    fn what_waits_is_told_for_as_long_as_it_is_known_and_then_it_grows_overdue() {
        let metrics = Metrics::new().unwrap();
        let (work, second) = (&metrics.work, Duration::from_secs(1));
        work.begin("a", HOLDS, true);
        assert_eq!(told(&metrics, "a"), texts(Some("0"), Some("0")), "from zero");
        work.waiting("a", 3, 10 * second);
        let seen = Instant::now();
        work.age(seen + HOLDS - second);
        assert_eq!(told(&metrics, "a"), texts(Some("3"), Some("10")));
        for _ in 0..2 {
            work.age(seen + HOLDS + second);
            assert_eq!(told(&metrics, "a"), texts(None, Some("101")));
        }
        work.age(seen + 10 * HOLDS);
        assert_eq!(told(&metrics, "a"), texts(None, Some("910")));
        work.waiting("a", 0, Duration::ZERO);
        assert_eq!(told(&metrics, "a"), texts(Some("0"), Some("0")), "it could look again");
    }

    #[test]
    fn what_nobody_has_ever_looked_at_grows_overdue_too() {
        let metrics = Metrics::new().unwrap();
        metrics.work.begin("a", HOLDS, true);
        metrics.work.begin("b", HOLDS, false);
        metrics.work.age(Instant::now() + 2 * HOLDS);
        assert_eq!(told(&metrics, "a"), texts(None, Some("180")));
        assert_eq!(told(&metrics, "b"), texts(None, None), "nobody would carry it out");
    }
}
