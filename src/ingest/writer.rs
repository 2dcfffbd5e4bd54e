//! Puts events together into transactions, writes them and answers those who wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::domain::device::DeviceId;
use crate::domain::rights::AVAILABILITY;
use crate::ingest::queue::{Batch, Queue};
use crate::ingest::slow::SlowDevices;
use crate::ingest::{IngestError, Submission};
use crate::logging::log_throttled;
use crate::metrics::EventMetrics;
use crate::registry::error::RegistryError;
use crate::registry::events::{self, Outdated};
use crate::registry::live::{Changes, LiveChanges};
use crate::registry::pool::Postgres;
use crate::registry::presence::SessionChange;
use crate::registry::reports::{DeviceUpdate, Partial};

/// How many events are worth a transaction beside one under way: a transaction costs PostgreSQL about as
/// much as thirty events do. docs/PERFORMANCE.md has what others gave.
const WORTH_A_TRANSACTION: usize = 64;
/// How long a transaction under way may hold up what comes after it: several commits of a disk that is
/// fit for a database.
const HOLD_UP: Duration = Duration::from_millis(5);
/// Into how many parts a batch is split that took too long. Each level of parts costs another time-out,
/// so there must be few levels, and each part costs a transaction.
const PARTS: usize = 8;
/// After so many time-outs in a row no more of a batch is tried: it is PostgreSQL that is slow.
const TIME_OUTS: u32 = 3;

/// See [`crate::ingest`].
pub struct Writer {
    queue: Arc<Queue>,
    /// Most batches under way.
    writers: usize,
    /// Most events of a batch.
    batch: usize,
    /// How many events a batch waits for.
    worth: usize,
    /// [`HOLD_UP`].
    hold_up: Duration,
    linger: Duration,
    keep_sessions: Duration,
    postgres: Postgres,
    metrics: EventMetrics,
    /// What those who watch the fleet are told.
    live: LiveChanges,
    slow: SlowDevices,
    /// Whether the last transaction failed, so that an outage is told once.
    failing: AtomicBool,
}

impl Writer {
    pub(super) fn new(
        settings: &config::Ingest,
        queue: Arc<Queue>,
        postgres: Postgres,
        metrics: EventMetrics,
    ) -> Self {
        Self {
            queue,
            writers: settings.writers,
            batch: settings.batch,
            worth: WORTH_A_TRANSACTION.min(settings.batch).min(settings.queue),
            hold_up: HOLD_UP,
            linger: settings.linger,
            keep_sessions: settings.keep_sessions,
            postgres,
            metrics,
            live: LiveChanges::default(),
            slow: SlowDevices::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// What has changed, for those who watch the fleet; closed when the writer ends.
    #[must_use]
    pub fn live(&self) -> LiveChanges {
        self.live.clone()
    }

    /// Writes until `stop` is cancelled, then what still waits; afterwards nothing is taken any more.
    pub async fn run(self, stop: CancellationToken) {
        let mut writes = FuturesUnordered::new();
        // How many callers the last batch answered.
        let mut answered = 0;
        loop {
            tokio::select! {
                biased;
                Some(callers) = writes.next() => answered = callers,
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                () = self.batch_is_due(answered), if writes.len() < self.writers => {
                    let Some(batch) = self.queue.take(self.batch) else { break };
                    answered = 0;
                    writes.push(self.write(batch));
                }
            }
        }
        while writes.next().await.is_some() {}
    }

    /// Returns when a batch should begin, or the queue is closed. It is asked anew whenever a batch was
    /// written.
    async fn batch_is_due(&self, answered: usize) {
        self.queue.holds(1).await;
        let (count, until) = match self.queue.last_began() {
            // A few dozen callers share one transaction at a time, each with all the others.
            Some(began) if began.elapsed() < self.hold_up => (self.worth, began + self.hold_up),
            // Those just answered are likely to be back at once, each with its next event.
            _ if !self.linger.is_zero() => (answered.min(self.worth), Instant::now() + self.linger),
            _ => return,
        };
        let _over = timeout_at(until.into(), self.queue.holds(count)).await;
    }

    /// Writes a batch; returns how many callers it answered.
    async fn write(&self, mut batch: Batch<'_>) -> usize {
        let submissions = std::mem::take(&mut batch.submissions);
        let callers = submissions.len();
        let (submissions, slow) = self.slow.part(submissions);
        self.write_parts(submissions).await;
        if !slow.is_empty() {
            match self.slow.turn() {
                Some(_turn) => self.write_parts(slow).await,
                None => answer(slow, &Err(IngestError::NotCommitted(SLOW.into()))),
            }
        }
        callers
    }

    /// Writes together what can be written together. What is split because it took too long goes to the
    /// end, so that the others need not wait for it.
    async fn write_parts(&self, submissions: Vec<Submission>) {
        let mut parts = VecDeque::from([submissions]);
        parts.retain(|part| !part.is_empty());
        let (mut time_outs, mut written) = (0, false);
        while let Some(mut part) = parts.pop_front() {
            let outcome = self.commit(&part).await;
            let too_long = matches!(outcome, Err(RegistryError::TookTooLong(_)));
            time_outs = if too_long { time_outs + 1 } else { 0 };
            written |= outcome.is_ok();
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
        let statement = Statement::new(part, self.keep_sessions);
        self.metrics.batch_size.observe(f64::from(u32::try_from(part.len()).unwrap_or(u32::MAX)));
        let timer = self.metrics.commit.start_timer();
        let outcome = statement.commit(&self.postgres).await;
        timer.observe_duration();
        // Also where it failed: it may be committed, and its answer lost.
        self.live.add(statement.changes());
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
        self.metrics.untrusted.inc_by(untrusted);
        if untrusted > 0 {
            log_throttled!(
                warn,
                "events are stamped minutes ahead of the database's clock; see `fleetgate doctor`",
                events = untrusted
            );
        }
    }

    /// What the callers are told, and the log.
    fn told(&self, outcome: Result<(), RegistryError>) -> Result<(), IngestError> {
        match outcome {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    log_throttled!(info, "events are written again");
                }
                Ok(())
            }
            Err(error) if error.is_about_data() => {
                log_throttled!(error, "the database refuses an event; it is dropped", %error);
                Err(IngestError::Refused(error.to_string().into()))
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    log_throttled!(error, "events cannot be written; EMQX is asked to send them again", %error);
                }
                Err(IngestError::NotCommitted(error.to_string().into()))
            }
        }
    }
}

/// What is said of an event that may not be tried at present.
const SLOW: &str =
    "events of its device took too long lately, and another of that kind is being tried";

/// What one transaction writes, in any order: PostgreSQL takes what is newest of each client id and device. It
/// borrows: when PostgreSQL refuses it, its events are written in other transactions.
struct Statement<'a> {
    sessions: Vec<&'a SessionChange>,
    updates: Vec<&'a DeviceUpdate>,
    partials: Vec<(DeviceId, &'a Partial)>,
    keep_sessions: Duration,
}

impl<'a> Statement<'a> {
    fn new(part: &'a [Submission], keep_sessions: Duration) -> Self {
        let changes = || part.iter().map(|submission| &submission.change);
        let updates: Vec<_> = changes().flat_map(|change| &change.updates).collect();
        let partials = updates
            .iter()
            .flat_map(|of| of.partials.iter().map(|one| (of.device_id, one)))
            .collect();
        let sessions = changes().filter_map(|change| change.session.as_ref()).collect();
        Self { sessions, updates, partials, keep_sessions }
    }

    /// What it may have changed.
    fn changes(&self) -> Changes {
        let mut changes = Changes::default();
        changes.presence.extend(self.sessions.iter().map(|session| session.device_id.0));
        for update in &self.updates {
            let id = update.device_id.0;
            let availability = usize::from(update.reports.contains_key(AVAILABILITY));
            if availability > 0 {
                changes.presence.insert(id);
            }
            let has_reports = update.reports.len() > availability || !update.partials.is_empty();
            if has_reports || update.violation.is_some() {
                changes.state.insert(id);
            }
        }
        changes
    }

    async fn commit(&self, postgres: &Postgres) -> Result<Outdated, RegistryError> {
        postgres
            .change(self, |statement: &Self, client| {
                let Self { sessions, updates, partials, keep_sessions } = statement;
                events::write(client, sessions, updates, partials, *keep_sessions).boxed()
            })
            .await
    }
}

/// However the writer ends, nobody waits for it any longer.
impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.abandon();
        self.live.close();
    }
}

/// A caller that has gone away needs no answer.
fn answer(part: Vec<Submission>, outcome: &Result<(), IngestError>) {
    for submission in part {
        let _gone = submission.answer.send(outcome.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::oneshot;

    use super::*;
    use crate::ingest::queue;
    use crate::metrics::Metrics;

    const LONG: Duration = Duration::from_secs(3600);

    fn writer(queue: &Arc<Queue>, linger: Duration) -> Writer {
        let settings = config::Ingest {
            queue: 1000,
            batch: 512,
            linger,
            writers: 2,
            max_payload: 1,
            keep_sessions: LONG,
        };
        let metrics = Metrics::new().unwrap().events;
        let mut writer = Writer::new(&settings, queue.clone(), Postgres::unreachable(), metrics);
        writer.hold_up = LONG;
        writer
    }

    fn submission() -> (Submission, oneshot::Receiver<Result<(), IngestError>>) {
        let (answer, answered) = oneshot::channel();
        (Submission { answer, ..queue::tests::submission(1) }, answered)
    }

    /// A queue in which so many wait, and its writer.
    fn waiting(count: usize, linger: Duration) -> (Arc<Queue>, Writer) {
        let queue = Arc::new(Queue::new(1000));
        fill(&queue, count);
        let writer = writer(&queue, linger);
        (queue, writer)
    }

    fn fill(queue: &Queue, count: usize) {
        for _ in 0..count {
            queue.put(queue::tests::submission(1)).unwrap();
        }
    }

    fn is_due(writer: &Writer) -> bool {
        writer.batch_is_due(0).now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_batch_begins_as_soon_as_there_is_anything() {
        let (queue, writer) = waiting(0, LONG);
        assert!(!is_due(&writer));
        fill(&queue, 1);
        assert!(is_due(&writer));
    }

    #[tokio::test]
    async fn another_begins_beside_it_if_it_is_worth_a_transaction() {
        let (queue, writer) = waiting(1, LONG);
        let under_way = queue.take(1);
        fill(&queue, WORTH_A_TRANSACTION - 1);
        assert!(!is_due(&writer));
        drop(under_way);
        assert!(is_due(&writer), "nothing is under way");
        fill(&queue, 1);
        let _under_way = queue.take(1);
        fill(&queue, 1);
        assert!(is_due(&writer), "many wait");
    }

    #[tokio::test]
    async fn one_that_takes_long_holds_up_nobody() {
        let (queue, mut writer) = waiting(1, LONG);
        writer.hold_up = HOLD_UP;
        let _under_way = queue.take(1);
        fill(&queue, 1);
        writer.batch_is_due(0).await;
        assert!(is_due(&writer), "nor again");
    }

    #[tokio::test]
    async fn those_just_answered_are_waited_for() {
        for (answered, share) in [
            (WORTH_A_TRANSACTION / 2, WORTH_A_TRANSACTION / 2),
            (4 * WORTH_A_TRANSACTION, WORTH_A_TRANSACTION),
        ] {
            let (queue, writer) = waiting(share - 1, LONG);
            let mut due = pin!(writer.batch_is_due(answered));
            assert!(due.as_mut().now_or_never().is_none());
            fill(&queue, 1);
            due.now_or_never().expect("they are back");
        }
        let (_queue, writer) = waiting(1, Duration::from_millis(1));
        writer.batch_is_due(WORTH_A_TRANSACTION).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_a_writer_that_is_gone() {
        let (queue, writer) = waiting(0, LONG);
        let (waiting, answered) = submission();
        queue.put(waiting).unwrap();
        drop(writer);
        assert!(answered.await.is_err(), "told that there will be no answer");
        assert!(matches!(queue.put(submission().0), Err(IngestError::Stopped)));
    }

    #[tokio::test]
    async fn what_waits_when_it_is_stopped_is_answered() {
        let (queue, writer) = waiting(600, LONG);
        let (waiting, answered) = submission();
        queue.put(waiting).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        writer.run(stop).await;
        let outcome = answered.await.unwrap();
        assert!(matches!(outcome, Err(IngestError::NotCommitted(_))), "no database: {outcome:?}");
    }
}
