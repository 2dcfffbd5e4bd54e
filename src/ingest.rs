//! From events to rows: an acknowledged event is committed.
//!
//! # What it keeps
//! 1. [`Ingest::take`] succeeds only after COMMIT, or when the event changes nothing by its nature (no
//!    such device, a disabled one, a client id that is not its own, a service's message).
//! 2. Whatever the order, number and split over replicas in which events arrive, the rows end the
//!    same: sessions by `presence`, values by (trusted, time, message id), `last_seen` by the latest
//!    timestamp. So a caller that is told "not now" may send the event again, and so may one that was
//!    told nothing.
//! 3. Memory is bounded: a queue of `ingest.queue` events; a full one refuses at once.
//! 4. One event that PostgreSQL refuses cannot hold up others, and no outage is answered with a
//!    refusal of the event itself.
//!
//! # Design
//! ```text
//! take() ─► classify: whose, what does it change? ─► queue ─► writer: batches ─► COMMIT
//!   ▲        (device cache, schema cache)                                          │
//!   └───────────────────────────── one answer a caller ────────────────────────────┘
//! ```
//! `ingest.writers` batches are under way at most, and batches grow with the load by themselves. A batch
//! takes what waits, up to `ingest.batch`; if many callers were just answered, it waits `ingest.linger`
//! at most for them to be back. Another begins beside it if enough wait to be worth a transaction, or if the
//! first takes so long that something must hold it up, such as a lock on one device, that need not hold up
//! the others. So a few dozen callers share one transaction at a time; hundreds fill several. A batch is *one statement*, so one round trip and one transaction, which picks
//! what is newest of each client id and device (`registry::events`).
//!
//! Batches, like replicas, need not know of one another: the order is in the data (2), and rows are
//! locked in one order: devices by id, sessions by client id, states by device id.
//!
//! A batch that PostgreSQL refuses for its data (SQLSTATE class 22 or 23) is halved and each half
//! written on its own, down to the event that is at fault; that one is refused and logged. A batch that takes
//! longer than `database.query_timeout` is split too, into more parts because each may take that long again,
//! until the events are alone that take so long (a lock on their device, say); only those are answered
//! "not now". Several time-outs in a row end this: then it is PostgreSQL that is slow. Whose event timed out
//! alone is remembered for a minute ([`slow`]): its events come last, and with one writer at a time. Merging
//! is what costs most, so a batch holds [`queue::MOST_MERGE_WORK`] of it at most. Any other failure is
//! answered "not now" to every caller of the batch. Deadlocks and serialization failures
//! are tried again a few times first (`registry::pool`).
//!
//! # Races
//! - *A caller goes away while its event waits*: it is written all the same.
//! - *COMMIT happened but its answer was lost*: callers are told "not now"; the events come again and
//!   change nothing (2).
//! - *A device or its bindings change between classification and write*: the event counts as it was when
//!   it arrived. A device deleted meanwhile is skipped in SQL; one deleted *within* the statement
//!   breaks a foreign key, and halving the batch comes round to it again.
//! - *A schema changes meanwhile*: the value was validated by the newest schema heard of on arrival.
//! - *Shutdown*: the writer ends after the HTTP side is silent, and writes what is still queued.
//! - *Two batches under way change one device*: the second waits for the first's commit and
//!   compares with what it wrote.
//! - *The writer panics*: all batches under way are one task. Every waiting caller is told "not now" and the service
//!   stops.

mod classify;
mod command;
mod queue;
mod request;
mod slow;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::oneshot;

use crate::config;
use crate::domain::device::DeviceId;
use crate::domain::event::{Event, EventKind};
use crate::metrics::EventMetrics;
use crate::registry::cache::{CacheError, DeviceCache};
use crate::registry::error::RegistryError;
use crate::registry::pool::Postgres;
use crate::registry::presence::SessionChange;
use crate::registry::reports::DeviceUpdate;
use crate::registry::schemas::SchemaCache;

use queue::Queue;

pub use classify::IngestOutcome;
pub use writer::Writer;

/// Why an event is not committed.
#[derive(Debug, Clone, Error)]
pub enum IngestError {
    /// Too many events wait already.
    #[error("too many events wait to be written")]
    QueueFull,
    /// The registry cannot be asked about the event's device.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The transaction failed, or nobody knows whether it did.
    #[error("the event could not be written: {0}")]
    NotCommitted(Arc<str>),
    /// PostgreSQL refuses this very event; sending it again cannot help.
    #[error("the database refuses this event: {0}")]
    Refused(Arc<str>),
    /// The service is ending.
    #[error("the service is stopping")]
    Stopped,
}

impl IngestError {
    /// What PostgreSQL said while one event was written.
    fn of(error: &RegistryError) -> Self {
        match error.is_about_data() {
            true => Self::Refused(error.to_string().into()),
            false => Self::NotCommitted(error.to_string().into()),
        }
    }

    /// The outcome as metrics name it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Cache(_) | Self::NotCommitted(_) | Self::Stopped => "unavailable",
            Self::Refused(_) => "refused",
        }
    }
}

/// What one event changes.
struct Change {
    session: Option<SessionChange>,
    /// Of the device that was heard; of a gateway's message, also of the children that it is about.
    updates: Vec<DeviceUpdate>,
}

/// What a merge costs besides its members, in members: the known value is read and written.
const MERGE: usize = 20;

impl Change {
    /// What PostgreSQL has to do to merge its partial reports, in members of merge patches.
    fn merge_work(&self) -> usize {
        let partials = self.updates.iter().flat_map(|update| &update.partials);
        partials.map(|partial| MERGE + partial.members).sum()
    }

    fn device(&self) -> Option<DeviceId> {
        let update = self.updates.first().map(|update| update.device_id);
        update.or_else(|| self.session.as_ref().map(|session| session.device_id))
    }
}

/// A change on its way, and who waits for it.
struct Submission {
    change: Change,
    since: Instant,
    answer: oneshot::Sender<Result<(), IngestError>>,
}

/// Takes events in. See the module documentation.
pub struct Ingest {
    devices: Arc<DeviceCache>,
    schemas: Arc<SchemaCache>,
    max_payload: usize,
    queue: Arc<Queue>,
    /// For what becomes of commands, which changes no device.
    postgres: Postgres,
    metrics: EventMetrics,
}

impl Ingest {
    /// The way in, and the writer that has to run for it.
    #[must_use]
    pub fn new(
        settings: &config::Ingest,
        devices: Arc<DeviceCache>,
        schemas: Arc<SchemaCache>,
        postgres: Postgres,
        metrics: EventMetrics,
    ) -> (Self, Writer) {
        let queue = Arc::new(Queue::new(settings.queue));
        let writer = Writer::new(settings, queue.clone(), postgres.clone(), metrics.clone());
        let max_payload = settings.max_payload;
        (Self { devices, schemas, max_payload, queue, postgres, metrics }, writer)
    }

    /// Takes an event in; returns when what it changes is committed.
    ///
    /// # Errors
    /// [`IngestError::Refused`] when sending the event again cannot help; any other when it may.
    pub async fn take(&self, event: Event<'_>) -> Result<IngestOutcome, IngestError> {
        if let EventKind::Command(message) = &event.kind {
            return self.note_command(&event, message).await;
        }
        let (outcome, change) = self.classify(event).await?;
        if let Some(change) = change {
            self.commit(change).await?;
        }
        if outcome == IngestOutcome::Violation {
            self.metrics.violations.inc();
        }
        Ok(outcome)
    }

    /// Events that wait for a transaction.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How long the oldest event that is not committed has waited, in seconds.
    #[must_use]
    pub fn oldest_seconds(&self) -> f64 {
        self.queue.oldest().map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    async fn commit(&self, change: Change) -> Result<(), IngestError> {
        let (answer, answered) = oneshot::channel();
        let submission = Submission { change, since: Instant::now(), answer };
        self.queue.put(submission)?;
        answered.await.unwrap_or(Err(IngestError::Stopped))
    }
}
