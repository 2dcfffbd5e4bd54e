//! The task that gathers changes into transactions and answers those who wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::ingest::batch::Batch;
use crate::ingest::gather::{Gathered, Gatherer};
use crate::ingest::oldest::Oldest;
use crate::ingest::queue::Queue;
use crate::ingest::slow::SlowDevices;
use crate::ingest::{IngestError, Submission};
use crate::lifecycle::LogThrottle;
use crate::metrics::EventMetrics;
use crate::registry::error::RegistryError;
use crate::registry::pool::Postgres;

/// Into how many parts a batch is split that took too long. Each level of parts costs another time-out,
/// so there must be few levels, and each part costs a transaction.
const PARTS: usize = 8;
/// After so many time-outs in a row no more of a batch is tried: it is PostgreSQL that is slow.
const TIME_OUTS: u32 = 3;

/// See [`crate::ingest`].
pub struct Writer {
    queue: Arc<Queue>,
    gatherer: Gatherer,
    writers: usize,
    keep_sessions: Duration,
    postgres: Postgres,
    oldest: Arc<Oldest>,
    metrics: EventMetrics,
    slow: SlowDevices,
    /// Whether the last transaction failed, so that an outage is told once.
    failing: AtomicBool,
}

impl Writer {
    pub(super) fn new(
        settings: &config::Ingest,
        queue: Arc<Queue>,
        postgres: Postgres,
        oldest: Arc<Oldest>,
        metrics: EventMetrics,
    ) -> Self {
        Self {
            queue,
            gatherer: Gatherer::new(settings),
            writers: settings.writers,
            keep_sessions: settings.keep_sessions,
            postgres,
            oldest,
            metrics,
            slow: SlowDevices::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// Writes until `stop` is cancelled, then what still waits; afterwards nothing is taken any more.
    ///
    /// All the writers are one task: when one panics, all end.
    pub async fn run(self, stop: CancellationToken) {
        let mut writing = std::pin::pin!(join_all((0..self.writers).map(|_| self.write_all())));
        tokio::select! {
            _ = &mut writing => return,
            () = stop.cancelled() => self.queue.close(),
        }
        writing.await;
    }

    /// Writes one batch after the other until the queue is closed and empty.
    async fn write_all(&self) {
        loop {
            let gathered = self.gatherer.gather(&self.queue).await;
            if gathered.submissions.is_empty() {
                return;
            }
            self.write(gathered).await;
        }
    }

    async fn write(&self, mut gathered: Gathered<'_>) {
        let submissions = std::mem::take(&mut gathered.submissions);
        let _since = submissions.first().map(|first| self.oldest.note(first.since));
        let callers = submissions.len();
        let (submissions, slow) = self.slow.part(submissions);
        self.write_parts(submissions, &mut gathered).await;
        if !slow.is_empty() {
            gathered.stand_aside();
            match self.slow.turn() {
                Some(_turn) => self.write_parts(slow, &mut gathered).await,
                None => answer(slow, &Err(IngestError::NotCommitted(SLOW.into()))),
            }
        }
        self.gatherer.answered(callers);
    }

    /// Writes together what can be written together. What is split because it took too long goes to the
    /// end, so that the others need not wait for it.
    async fn write_parts(&self, submissions: Vec<Submission>, gathered: &mut Gathered<'_>) {
        let mut parts = VecDeque::from([submissions]);
        parts.retain(|part| !part.is_empty());
        let (mut time_outs, mut written) = (0, false);
        while let Some(mut part) = parts.pop_front() {
            let outcome = self.commit(&part).await;
            let too_long = matches!(outcome, Err(RegistryError::TookTooLong(_)));
            time_outs = if too_long { time_outs + 1 } else { 0 };
            written |= outcome.is_ok();
            if too_long {
                gathered.stand_aside();
            }
            match outcome {
                Err(error) if error.is_about_data() && part.len() > 1 => {
                    let half = part.split_off(part.len() / 2);
                    parts.push_front(half);
                    parts.push_front(part);
                }
                Err(_) if too_long && time_outs < TIME_OUTS && part.len() > 1 => {
                    let size = part.len().div_ceil(PARTS);
                    while !part.is_empty() {
                        parts.push_back(part.split_off(part.len().saturating_sub(size)));
                    }
                }
                outcome => {
                    match part.as_slice() {
                        [alone] if too_long && written => self.slow.add(alone.change.device()),
                        _ if outcome.is_ok() => self.slow.remove(&part),
                        _ => {}
                    }
                    let told = self.told(outcome);
                    answer(part, &told);
                    if too_long && time_outs >= TIME_OUTS {
                        parts.drain(..).for_each(|part| answer(part, &told));
                    }
                }
            }
        }
    }

    async fn commit(&self, part: &[Submission]) -> Result<(), RegistryError> {
        let changes = part.iter().map(|submission| &submission.change);
        let batch = Batch::new(changes, self.keep_sessions);
        self.metrics.batch_size.observe(f64::from(u32::try_from(part.len()).unwrap_or(u32::MAX)));
        let timer = self.metrics.commit.start_timer();
        let outcome = batch.commit(&self.postgres).await;
        timer.observe_duration();
        match outcome {
            Ok(outdated) => {
                self.metrics.stale("session_order", outdated.sessions);
                self.metrics.stale("session_age", outdated.too_old);
                self.metrics.stale("report_order", outdated.reports);
                self.doubt(outdated.untrusted);
                Ok(())
            }
            Err(error) => {
                self.metrics.commit_failures.inc();
                Err(error)
            }
        }
    }

    /// Events with timestamps that cannot be right.
    fn doubt(&self, untrusted: u64) {
        static THROTTLE: LogThrottle = LogThrottle::new("untrusted timestamps");
        self.metrics.untrusted.inc_by(untrusted);
        if untrusted > 0
            && let Some(unsaid) = THROTTLE.now()
        {
            tracing::warn!(
                events = untrusted,
                unsaid,
                "events are stamped minutes ahead of the database's clock; see `fleetgate doctor`"
            );
        }
    }

    /// What the callers are told, and the log.
    fn told(&self, outcome: Result<(), RegistryError>) -> Result<(), IngestError> {
        match outcome {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    static THROTTLE: LogThrottle = LogThrottle::new("events are written again");
                    if let Some(unsaid) = THROTTLE.now() {
                        tracing::info!(unsaid, "events are written again");
                    }
                }
                Ok(())
            }
            Err(error) if error.is_about_data() => {
                static THROTTLE: LogThrottle = LogThrottle::new("events that the database refuses");
                if let Some(unsaid) = THROTTLE.now() {
                    tracing::error!(%error, unsaid, "the database refuses an event; it is dropped");
                }
                Err(IngestError::Refused(error.to_string().into()))
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    static THROTTLE: LogThrottle = LogThrottle::new("events cannot be written");
                    if let Some(unsaid) = THROTTLE.now() {
                        tracing::error!(%error, unsaid, "events cannot be written; EMQX is asked to send them again");
                    }
                }
                Err(IngestError::NotCommitted(error.to_string().into()))
            }
        }
    }
}

/// What is said of an event that may not be tried at present.
const SLOW: &str =
    "events of its device took too long lately, and another of that kind is being tried";

/// However the writer ends, nobody waits for it any longer.
impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        drop(self.queue.take_all());
    }
}

/// A caller that has gone away needs no answer.
fn answer(part: Vec<Submission>, outcome: &Result<(), IngestError>) {
    for submission in part {
        let _gone = submission.answer.send(outcome.clone());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::ingest::queue;
    use crate::metrics::Metrics;

    pub(in crate::ingest) fn settings() -> config::Ingest {
        let linger = Duration::ZERO;
        let keep_sessions = Duration::from_secs(3600);
        config::Ingest {
            queue: 1000,
            batch: 512,
            linger,
            writers: 2,
            max_payload: 1,
            keep_sessions,
        }
    }

    fn writer(queue: &Arc<Queue>) -> Writer {
        let metrics = Metrics::new().unwrap().events;
        Writer::new(&settings(), queue.clone(), Postgres::of_nobody(), Arc::default(), metrics)
    }

    fn submission() -> (Submission, oneshot::Receiver<Result<(), IngestError>>) {
        let (answer, answered) = oneshot::channel();
        (Submission { answer, ..queue::tests::submission(1) }, answered)
    }

    #[tokio::test]
    async fn nobody_waits_for_a_writer_that_is_gone() {
        let queue = Arc::new(Queue::new(10));
        let writer = writer(&queue);
        let (waiting, answered) = submission();
        queue.put(waiting).unwrap();
        drop(writer);
        assert!(answered.await.is_err(), "told that there will be no answer");
        assert!(matches!(queue.put(submission().0), Err(IngestError::Stopped)));
    }

    #[tokio::test]
    async fn what_waits_when_it_is_stopped_is_answered() {
        let queue = Arc::new(Queue::new(10));
        let (waiting, answered) = submission();
        queue.put(waiting).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        writer(&queue).run(stop).await;
        let outcome = answered.await.unwrap();
        assert!(matches!(outcome, Err(IngestError::NotCommitted(_))), "no database: {outcome:?}");
    }
}
