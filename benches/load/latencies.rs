//! How long answers took.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::plan::Report;

/// From a microsecond to a minute, to three digits.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000, 3).expect("good bounds"))
    }

    /// An answer that is here now.
    pub(crate) fn record(&mut self, sent: Instant) {
        let micros = u64::try_from(sent.elapsed().as_micros()).expect("less than an age");
        self.0.saturating_record(micros);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// What a run was like in which `counted` of all `answers` came within `time`.
    pub(crate) fn report(&self, counted: u64, answers: u64, time: Duration) -> Report {
        let at = |quantile| Duration::from_micros(self.0.value_at_quantile(quantile));
        #[allow(clippy::cast_precision_loss, reason = "far less than 2^52 answers")]
        let per_second = counted as f64 / time.as_secs_f64();
        Report { per_second, answers, p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}
