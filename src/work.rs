//! Carries out what has to be done elsewhere after a commit, such as at EMQX: the workers of the table
//! `work_queue` (`sql/V7`).
//!
//! # What it keeps
//! 1. Whoever makes a change (the API, the command line, `psql`), what follows from it is done: the work is
//!    a row, written in the transaction of the change, and the row goes only when the work is done (or its
//!    kind knows that it is no longer needed).
//! 2. One change is carried out once, however many replicas there are. Several changes of one key that come
//!    together count as one.
//! 3. From commit to the call it takes milliseconds while the other side is well. While it is away, rows
//!    wait, nobody waits for them, and they are done once it is back. Then a replica asks with one row of
//!    a kind, no more often than every [`PAUSE_FIRST`] to [`PAUSE_LONGEST`], so that nothing piles up on
//!    either side.
//! 4. A row that the other side refuses is tried again after longer and longer waits, which its kind sets, and
//!    holds up no other row. That the other side is away is no attempt.
//! 5. A kind that is slow, stuck or failing holds up no other: each has its own worker with its own connection
//!    to PostgreSQL, its own rows under lease and its own pause. Logins wait for none of them.
//! 6. One row a kind and key, so what waits is bounded by the keys that there are.
//!
//! # Design
//! PostgreSQL's notice names the kind and wakes its worker on every replica; each takes what it can get
//! (`FOR UPDATE SKIP LOCKED`) for [`LEASE`], has its kind carry it out, and deletes the rows. A poll every
//! [`POLL`] finds what a lost notice or a crashed replica left behind. This is the only place that tries
//! again: what a kind calls, it calls once.
//!
//! # Races
//! - *A new change while the work is carried out.* The row's `changed_at` has moved on, so it is not deleted,
//!   and is carried out again. If that change is rolled back in the end, the row, which could not be deleted
//!   meanwhile, costs a second call after the lease.
//! - *The replica dies between the answer and the deletion.* The work is done a second time, after the lease:
//!   what a kind does must bear that. At a shutdown the deletion is waited for.
//! - *A batch takes longer than the lease.* Another replica carries it out as well. A kind bounds its calls so
//!   that this does not happen.
//! - *Somebody is changing a row that is due, and does not commit.* It is passed over and looked for again every
//!   [`PAUSE_FIRST`]; the commit wakes besides.
//! - *The other side comes back just after it was asked.* The work waits for the rest of the pause.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::backoff::exponential;
use crate::logging::log_throttled;
use crate::metrics::WorkMetrics;
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::work::{self, Postponed, Waiting, Work};

/// Longest time between two looks at the table.
pub const POLL: Duration = Duration::from_secs(5);
/// How long a replica keeps what it took: longer than a batch ever takes.
pub const LEASE: Duration = Duration::from_secs(60);
/// How long nothing is tried after the other side was found away, at first.
pub const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// … and at most.
pub const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// For how long holds what was seen of what waits. Longer than the time between two looks, which a batch lengthens.
const LOOK_HOLDS: Duration = LEASE.saturating_add(Duration::from_secs(30));

/// Rows taken at once.
const BATCH: usize = 500;
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT: Duration = Duration::from_secs(1);

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// What became of each row, in their order.
    pub outcomes: Vec<Outcome>,
    /// Whether the other side answered any call. Rows may need none, and those tell nothing about it.
    pub answered: bool,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Not this one, not now.
    Again {
        /// How long to wait before it is tried again.
        after: Duration,
        /// The reason.
        why: String,
    },
    /// The other side is away, for whatever row: the reason.
    Away(String),
}

/// A kind of work.
pub trait Kind: Send {
    /// As it stands in the table.
    const NAME: &'static str;
    /// What it is called in the log.
    const LOG_NAME: &'static str;
    /// How long work waits at least after it was seen committed.
    const HEAD_START: Duration = Duration::ZERO;

    /// Whether there is anybody to carry it out; if not, rows wait.
    fn is_carried_out(&self) -> bool {
        true
    }

    /// PostgreSQL was away, or this has just begun.
    fn reconnected(&mut self) {}

    /// Carries rows out. Ends within [`LEASE`].
    fn carry_out(&mut self, batch: &[Work]) -> impl Future<Output = Carried> + Send;

    /// Deletes what is done, as [`work::finish`] does.
    fn finish(
        &mut self,
        client: &Client,
        done: &[&Work],
    ) -> impl Future<Output = Result<(), RegistryError>> + Send {
        work::finish(client, Self::NAME, done)
    }

    /// Does what the kind needs besides, within five seconds, between two batches and after each turn of its work. Returns when it has to
    /// come again at the latest. What fails must not be due again at once: work comes first.
    fn look_after(
        &mut self,
        _client: &Client,
    ) -> impl Future<Output = Result<Duration, RegistryError>> + Send {
        std::future::ready(Ok(POLL))
    }
}

/// See the module documentation.
pub struct Worker<K> {
    kind: K,
    target: Target,
    wake: Arc<Notify>,
    metrics: WorkMetrics,
    pause: Pause,
}

/// The time in which the other side is not asked.
#[derive(Default)]
struct Pause {
    /// How often it was found away since it last answered.
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    fn left(&self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn lengthen(&mut self) {
        let pause = exponential(PAUSE_FIRST, PAUSE_LONGEST, self.failures).min(PAUSE_LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + pause);
    }
}

impl<K: Kind> Worker<K> {
    /// Carries nothing out yet. `wake` is what the change listener notifies.
    #[must_use]
    pub fn new(kind: K, target: Target, wake: Arc<Notify>, metrics: WorkMetrics) -> Self {
        let target = target.for_background();
        metrics.begin(K::NAME, LOOK_HOLDS, kind.is_carried_out());
        Self { kind, target, wake, metrics, pause: Pause::default() }
    }

    /// Works until `stop` is cancelled; what is under way then is finished.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Err(error) = self.work(&stop).await {
            // Where nobody carries it out, it would wait anyway.
            if self.kind.is_carried_out() {
                log_throttled!(warn, "work waits for the database", work = K::LOG_NAME, %error);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    async fn work(&mut self, stop: &CancellationToken) -> Result<(), RegistryError> {
        let client = self.target.open_guarded().await?;
        self.kind.reconnected();
        while !stop.is_cancelled() {
            self.carry_out_what_is_due(&client, stop).await?;
            let longest = within(QUERY_TIMEOUT, self.kind.look_after(&client)).await?;
            let waiting = Self::look_at_what_waits(&self.metrics, &client).await?;
            // What is due and was not taken is being changed by somebody: its commit wakes, or a later look.
            let until_due = waiting.until_due.filter(|_| self.kind.is_carried_out());
            let until_due = until_due.map(|until| until.max(PAUSE_FIRST));
            let wait = self.pause.left().or(until_due).unwrap_or(POLL);
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait.min(longest)) => {}
            }
        }
        Ok(())
    }

    /// Looks at what waits, and tells it.
    async fn look_at_what_waits(
        metrics: &WorkMetrics,
        client: &Client,
    ) -> Result<Waiting, RegistryError> {
        let waiting = within(QUERY_TIMEOUT, work::waiting(client, K::NAME)).await?;
        metrics.waiting(K::NAME, waiting.rows, waiting.overdue);
        Ok(waiting)
    }

    /// Works until nothing is due, or the other side is away.
    async fn carry_out_what_is_due(
        &mut self,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<(), RegistryError> {
        let mut is_first = true;
        while self.kind.is_carried_out() && self.pause.left().is_none() && !stop.is_cancelled() {
            // One is enough to find out whether the other side is back.
            let limit = if self.pause.failures > 0 { 1 } else { BATCH };
            let batch = within(QUERY_TIMEOUT, work::lease(client, K::NAME, limit, LEASE)).await?;
            if batch.is_empty() {
                break;
            }
            // Also while more and more comes. Behind the last batch the caller does it.
            if !std::mem::take(&mut is_first) {
                within(QUERY_TIMEOUT, self.kind.look_after(client)).await?;
                Self::look_at_what_waits(&self.metrics, client).await?;
            }
            tokio::time::sleep(K::HEAD_START).await;
            let carried = self.kind.carry_out(&batch).await;
            self.settle(client, &batch, &carried).await?;
        }
        Ok(())
    }

    /// Deletes what is done and puts back the rest.
    async fn settle(
        &mut self,
        client: &Client,
        batch: &[Work],
        carried: &Carried,
    ) -> Result<(), RegistryError> {
        let (mut done, mut later, mut is_away) = (Vec::new(), Vec::new(), false);
        for (work, outcome) in batch.iter().zip(&carried.outcomes) {
            match outcome {
                Outcome::Done => done.push(work),
                Outcome::Again { after, why } => {
                    later.push(Postponed { work, after: *after, why, was_tried: true });
                }
                Outcome::Away(why) => {
                    is_away = true;
                    later.push(Postponed { work, after: Duration::ZERO, why, was_tried: false });
                }
            }
        }
        if is_away {
            self.pause.lengthen();
        } else if carried.answered {
            if self.pause.failures > 0 {
                log_throttled!(info, "work that waited goes on", work = K::LOG_NAME);
            }
            self.pause = Pause::default();
        }
        if !done.is_empty() {
            within(QUERY_TIMEOUT, self.kind.finish(client, &done)).await?;
        }
        if !later.is_empty() {
            within(QUERY_TIMEOUT, work::postpone(client, K::NAME, &later)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_to_its_limit_and_ends() {
        let mut pause = Pause::default();
        assert_eq!(pause.left(), None);
        for (failures, longest) in [(0, 120), (1, 240), (2, 480), (6, 5_000), (40, 5_000)] {
            pause.failures = failures;
            pause.lengthen();
            let left = pause.left().unwrap().as_millis();
            assert!((longest / 2..=longest).contains(&left), "{failures}: {left}");
        }
        pause.until = Some(Instant::now());
        assert_eq!((pause.left(), pause.failures), (None, 41), "then one row is tried");
    }
}
