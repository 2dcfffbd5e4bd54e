//! Spares an EMQX that is away, and whoever would wait for it.
//!
//! *Closed*: calls go through; [`FAILURES`] in a row open it. *Open*: none goes through for a while.
//! *Half-open*, once that while is over: one call goes through. If it succeeds the circuit closes, if
//! not it stays open for twice as long, up to [`LONGEST`]. A call that is given up counts for nothing,
//! and the next one tries in its place.
//!
//! EMQX may start after Fleetgate (`docker/compose.yaml` has it so): until it has answered once, for
//! [`STARTING`] at most, it is awaited, and that it does not answer is nothing to complain about.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

use crate::backoff::exponential;
use crate::logging::log_throttled;

/// Failures in a row that open the circuit.
pub const FAILURES: u32 = 3;
/// How long it stays open at first.
pub const SHORTEST: Duration = Duration::from_millis(250);
/// How long it stays open at most.
pub const LONGEST: Duration = Duration::from_secs(5);

/// How long EMQX may take to answer for the first time.
pub const STARTING: Duration = Duration::from_secs(60);

/// See the module documentation.
pub struct Circuit {
    state: Mutex<State>,
    began: Instant,
    /// 1 while it is not closed.
    open: IntGauge,
}

#[derive(Default)]
struct State {
    failures: u32,
    /// How often it opened since it was last closed; 0: it is closed.
    openings: u32,
    open_until: Option<Instant>,
    probing: bool,
    /// Whether it was ever closed by an answer.
    answered: bool,
    /// Whether the log tells of these failures.
    told: bool,
}

/// A call on its way. Dropped without outcome, it counts for nothing.
pub struct Passage<'a> {
    circuit: &'a Circuit,
    is_probe: bool,
}

impl Circuit {
    pub(super) fn new(open: IntGauge) -> Self {
        Self { state: Mutex::default(), began: Instant::now(), open }
    }

    /// Lets a call through, or not.
    pub(super) fn pass(&self) -> Option<Passage<'_>> {
        let mut state = self.state();
        if state.openings == 0 {
            return Some(Passage { circuit: self, is_probe: false });
        }
        if state.probing || state.wait() > Duration::ZERO {
            return None;
        }
        state.probing = true;
        Some(Passage { circuit: self, is_probe: true })
    }

    /// Whether calls are being refused, or only one is let through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().openings > 0
    }

    /// How long it will certainly let nothing through.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.state().wait()
    }

    /// Whether EMQX has not answered yet and need not have.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.state().answered && self.began.elapsed() < STARTING
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self) -> Duration {
        self.open_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

impl Passage<'_> {
    /// EMQX answered.
    pub(super) fn succeeded(self) {
        let mut state = self.circuit.state();
        // A call that began before the circuit opened says nothing of now.
        if state.openings == 0 || self.is_probe {
            if self.is_probe {
                log_throttled!(info, "EMQX answers again");
            }
            *state = State { answered: true, ..State::default() };
            self.circuit.open.set(0);
        }
    }

    /// EMQX did not answer, or cannot work.
    pub(super) fn failed(self) {
        let is_awaited = self.circuit.is_awaited();
        let mut state = self.circuit.state();
        state.failures = state.failures.saturating_add(1);
        let opens = state.openings == 0 && state.failures >= FAILURES;
        if opens && is_awaited {
            tracing::info!("waiting for EMQX's REST API");
        }
        if (opens || state.openings > 0) && !is_awaited && !state.told {
            state.told = true;
            log_throttled!(error, "EMQX's REST API fails; it is tried again until it answers");
        }
        if opens || self.is_probe {
            state.open_until =
                Some(Instant::now() + exponential(SHORTEST, LONGEST, state.openings));
            state.openings = state.openings.saturating_add(1);
            self.circuit.open.set(1);
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.circuit.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Circuit {
        Circuit::new(IntGauge::new("open", "open").unwrap())
    }

    fn opened() -> Circuit {
        let circuit = circuit();
        for _ in 0..FAILURES {
            circuit.pass().unwrap().failed();
        }
        circuit
    }

    fn let_the_wait_pass(circuit: &Circuit) {
        circuit.state().open_until = Some(Instant::now());
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let circuit = circuit();
        for _ in 0..10 {
            circuit.pass().unwrap().failed();
            circuit.pass().unwrap().succeeded();
        }
        assert!(!circuit.is_open());
        let circuit = opened();
        assert!(circuit.is_open() && circuit.pass().is_none() && circuit.open.get() == 1);
        assert!(circuit.wait() > Duration::ZERO);
    }

    #[test]
    fn an_emqx_that_never_answered_is_awaited_for_a_while() {
        let mut circuit = opened();
        assert!(circuit.is_awaited() && !circuit.state().told);
        circuit.began = Instant::now().checked_sub(STARTING).unwrap();
        let_the_wait_pass(&circuit);
        circuit.pass().unwrap().failed();
        assert!(!circuit.is_awaited() && circuit.state().told, "told once it should be there");
        let circuit = self::circuit();
        circuit.pass().unwrap().succeeded();
        assert!(!circuit.is_awaited(), "it is there");
        for _ in 0..FAILURES {
            circuit.pass().unwrap().failed();
        }
        assert!(circuit.state().told);
    }

    #[test]
    fn one_call_finds_out_whether_emqx_is_back() {
        let circuit = opened();
        let_the_wait_pass(&circuit);
        let probe = circuit.pass().unwrap();
        assert!(circuit.pass().is_none(), "one at a time");
        probe.failed();
        assert!(circuit.pass().is_none(), "open again");
        let_the_wait_pass(&circuit);
        drop(circuit.pass().unwrap());
        circuit.pass().expect("a probe that was given up made room").succeeded();
        assert!(!circuit.is_open() && circuit.open.get() == 0);
        assert!(circuit.pass().is_some() && circuit.pass().is_some());
    }

    #[test]
    fn a_late_success_does_not_close_it() {
        let circuit = circuit();
        let late = circuit.pass().unwrap();
        for _ in 0..FAILURES {
            circuit.pass().unwrap().failed();
        }
        late.succeeded();
        assert!(circuit.is_open());
    }
}
