//! The task that gathers changes into transactions and answers those who wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::ingest::batch::Batch;
use crate::ingest::{IngestError, Oldest, Submission};
use crate::metrics::EventMetrics;
use crate::registry::error::RegistryError;
use crate::registry::pool::Postgres;

/// See [`crate::ingest`].
pub struct Writer {
    waiting: mpsc::Receiver<Submission>,
    batch: usize,
    linger: Duration,
    postgres: Postgres,
    oldest: Arc<Oldest>,
    metrics: EventMetrics,
    /// Whether the last transaction failed, so that an outage is told once.
    failing: bool,
}

impl Writer {
    pub(super) fn new(
        settings: &config::Ingest,
        waiting: mpsc::Receiver<Submission>,
        postgres: Postgres,
        oldest: Arc<Oldest>,
        metrics: EventMetrics,
    ) -> Self {
        let config::Ingest { batch, linger, .. } = *settings;
        Self { waiting, batch, linger, postgres, oldest, metrics, failing: false }
    }

    /// Writes until `stop` is cancelled, then what still waits; afterwards nothing is taken any more.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let gathered = tokio::select! {
                gathered = self.gather() => gathered,
                () = stop.cancelled() => break,
            };
            if gathered.is_empty() {
                return; // nobody is left who could send
            }
            self.write(gathered).await;
        }
        self.waiting.close();
        loop {
            let mut rest = Vec::new();
            if self.waiting.recv_many(&mut rest, self.batch).await == 0 {
                return;
            }
            self.write(rest).await;
        }
    }

    /// What waits, or comes next; empty when nobody can send any more. When this is cancelled, nothing
    /// was taken.
    async fn gather(&mut self) -> Vec<Submission> {
        let mut gathered = Vec::new();
        self.waiting.recv_many(&mut gathered, self.batch).await;
        gathered
    }

    /// Waits a little for more when the batch is not full.
    async fn linger(&mut self, gathered: &mut Vec<Submission>) {
        if self.linger.is_zero() {
            return;
        }
        let deadline = tokio::time::Instant::now() + self.linger;
        while gathered.len() < self.batch {
            let room = self.batch - gathered.len();
            match timeout_at(deadline, self.waiting.recv_many(gathered, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    async fn write(&mut self, mut gathered: Vec<Submission>) {
        if let Some(first) = gathered.first() {
            self.oldest.set(first.since);
        }
        self.linger(&mut gathered).await;
        let mut parts = vec![gathered];
        while let Some(mut part) = parts.pop() {
            let outcome = self.commit(&part).await;
            match outcome {
                Err(error) if error.is_about_data() && part.len() > 1 => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
                outcome => answer(part, &self.told(outcome)),
            }
        }
        self.oldest.clear();
    }

    async fn commit(&self, part: &[Submission]) -> Result<(), RegistryError> {
        let batch = Batch::new(part.iter().map(|submission| &submission.change));
        self.metrics.batch_size.observe(f64::from(u32::try_from(part.len()).unwrap_or(u32::MAX)));
        let timer = self.metrics.commit.start_timer();
        let outcome = batch.commit(&self.postgres).await;
        timer.observe_duration();
        match outcome {
            Ok(outdated) => {
                self.metrics.stale("session_order", outdated.sessions);
                self.metrics.stale("report_order", outdated.reports);
                Ok(())
            }
            Err(error) => {
                self.metrics.commit_failures.inc();
                Err(error)
            }
        }
    }

    /// What the callers are told, and the log.
    fn told(&mut self, outcome: Result<(), RegistryError>) -> Result<(), IngestError> {
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("events are written again");
                }
                Ok(())
            }
            Err(error) if error.is_about_data() => {
                tracing::error!(%error, "the database refuses an event; it is dropped");
                Err(IngestError::Refused(error.to_string().into()))
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "events cannot be written; EMQX is asked to send them again");
                }
                Err(IngestError::NotCommitted(error.to_string().into()))
            }
        }
    }
}

/// A caller that has gone away needs no answer.
fn answer(part: Vec<Submission>, outcome: &Result<(), IngestError>) {
    for submission in part {
        let _gone = submission.answer.send(outcome.clone());
    }
}

impl Oldest {
    fn set(&self, since: Instant) {
        let micros = since.saturating_duration_since(self.started).as_micros();
        self.micros.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.micros.store(0, Ordering::Relaxed);
    }

    pub(super) fn seconds(&self) -> f64 {
        let micros = self.micros.load(Ordering::Relaxed);
        if micros == 0 {
            return 0.0;
        }
        let since = Duration::from_micros(micros);
        self.started.elapsed().saturating_sub(since).as_secs_f64()
    }
}
