//! What became of everybody.

use std::time::Duration;

use super::Moment;

/// How a client's storm ended: exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// In, at the first attempt.
    InAtOnce,
    /// In, after it was refused.
    InLater,
    /// Not in when it gave up or the storm was over.
    Out,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Report {
    pub(crate) in_at_once: u32,
    pub(crate) in_later: u32,
    pub(crate) out: u32,
    /// Attempts without an answer within the time-out.
    pub(crate) timed_out: u64,
    /// Attempts answered 503.
    pub(crate) refused: u64,
    /// From the client's CONNECT to its answer, of logins that were let in, in order.
    latencies: Vec<Duration>,
    first: Moment,
    last: Moment,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            in_at_once: 0,
            in_later: 0,
            out: 0,
            timed_out: 0,
            refused: 0,
            latencies: Vec::new(),
            first: Moment::MAX,
            last: Moment::ZERO,
        }
    }

    /// A login that was let in.
    pub(crate) fn allowed(&mut self, began: Moment, answered: Moment) {
        self.latencies.push(answered.saturating_sub(began));
        self.first = self.first.min(began);
        self.last = self.last.max(answered);
    }

    pub(crate) fn ended(&mut self, fate: Fate) {
        match fate {
            Fate::InAtOnce => self.in_at_once += 1,
            Fate::InLater => self.in_later += 1,
            Fate::Out => self.out += 1,
        }
    }

    /// Once all is told.
    pub(crate) fn finished(mut self) -> Self {
        self.latencies.sort_unstable();
        self
    }

    pub(crate) fn clients(&self) -> u32 {
        self.in_at_once + self.in_later + self.out
    }

    /// The latency that this share of logins, in thousandths, does not exceed.
    pub(crate) fn latency(&self, thousandths: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * thousandths / 1000).copied().unwrap_or_default()
    }

    pub(crate) fn mean_latency(&self) -> Duration {
        let logins = u32::try_from(self.latencies.len()).unwrap_or(u32::MAX);
        self.latencies.iter().sum::<Duration>().checked_div(logins).unwrap_or_default()
    }

    pub(crate) fn logins_per_second(&self) -> f64 {
        let time = self.last.saturating_sub(self.first).as_secs_f64();
        if time > 0.0 { self.latencies.len() as f64 / time } else { 0.0 }
    }

    /// When the last client was in.
    pub(crate) fn over_after(&self) -> Duration {
        self.last
    }

    /// Whether everybody was let in at the first attempt and within this time.
    pub(crate) fn every_login_within(&self, limit: Duration) -> bool {
        self.in_at_once == self.clients() && self.latency(1000) < limit
    }
}
