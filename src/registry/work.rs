//! What has to be done elsewhere after a commit: the table `work_queue` (`sql/V7`), which triggers and
//! [`queue`] fill and [`crate::work`] empties.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_postgres::GenericClient;

use crate::registry::error::RegistryError;

/// A piece of work, taken by this replica for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// What it is about; any text.
    pub key: String,
    /// What else there is to know; each kind has its own members.
    pub payload: Value,
    /// When the newest change was made: which change this is about.
    pub changed_at: Timestamp,
    /// When it was seen committed, which was before it was taken.
    pub seen_at: Timestamp,
    /// How often it was taken since, this time included.
    pub attempts: u32,
}

/// Whom to wake when there is work, by kind.
#[derive(Debug, Default)]
pub struct WorkNotices(BTreeMap<&'static str, Arc<Notify>>);

impl WorkNotices {
    /// What is notified when there may be work of this kind.
    pub fn of(&mut self, kind: &'static str) -> Arc<Notify> {
        self.0.entry(kind).or_default().clone()
    }

    pub(super) fn wake(&self, kind: &str) {
        if let Some(worker) = self.0.get(kind) {
            worker.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        self.0.values().for_each(|worker| worker.notify_one());
    }
}

pub(super) fn on_work() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the work queue")
}

/// Queues work of one kind, due at once: pairs of key and payload. Where a key waits already, the newer
/// change replaces the members of the payload that it names. None of the texts holds U+0000.
///
/// # Errors
/// A database that is away.
pub async fn queue(
    client: &impl GenericClient,
    kind: &str,
    work: &[(&str, Value)],
) -> Result<(), RegistryError> {
    let (keys, payloads): (Vec<&str>, Vec<&Value>) =
        work.iter().map(|(key, payload)| (*key, payload)).unzip();
    let queue = "SELECT fleetgate_queue_work($1, $2, $3)";
    client.execute(queue, &[&kind, &keys, &payloads]).await.map(drop).map_err(on_work())
}

/// Takes at most `limit` of a kind that are due, the longest waiting first. No replica takes them again
/// within `lease`, unless there is a newer change.
///
/// # Errors
/// A database that is away.
pub async fn lease(
    client: &impl GenericClient,
    kind: &str,
    limit: usize,
    lease: Duration,
) -> Result<Vec<Work>, RegistryError> {
    let rows = client
        .query(
            "UPDATE work_queue
             SET due_at = now() + $3 * interval '1 second', attempts = attempts + 1,
                 seen_at = coalesce(seen_at, clock_timestamp())
             WHERE kind = $1 AND key IN (
                 SELECT key FROM work_queue WHERE kind = $1 AND due_at <= now()
                 ORDER BY due_at, key LIMIT $2 FOR UPDATE SKIP LOCKED)
             RETURNING key, payload, changed_at, clock_timestamp() AS seen_at, attempts",
            &[&kind, &i64::try_from(limit).unwrap_or(i64::MAX), &lease.as_secs_f64()],
        )
        .await
        .map_err(on_work())?;
    Ok(rows
        .iter()
        .map(|row| Work {
            key: row.get("key"),
            payload: row.get("payload"),
            changed_at: row.get("changed_at"),
            seen_at: row.get("seen_at"),
            attempts: row.get::<_, i32>("attempts").unsigned_abs(),
        })
        .collect())
}

/// Deletes what is done, unless there was a newer change meanwhile. A row that somebody is writing is passed
/// over: that is a newer change.
///
/// # Errors
/// A database that is away.
pub async fn finish(
    client: &impl GenericClient,
    kind: &str,
    done: &[&Work],
) -> Result<(), RegistryError> {
    let (keys, changes) = keys(done);
    let finish = "
        DELETE FROM work_queue WHERE kind = $1 AND key IN (
            SELECT work.key FROM work_queue AS work
            JOIN unnest($2::text[], $3::timestamptz[]) AS done (key, changed_at) USING (key, changed_at)
            WHERE work.kind = $1 FOR UPDATE OF work SKIP LOCKED)";
    client.execute(finish, &[&kind, &keys, &changes]).await.map(drop).map_err(on_work())
}

/// Work that could not be done.
pub struct Postponed<'a> {
    /// The work.
    pub work: &'a Work,
    /// How long to wait before it is due again.
    pub after: Duration,
    /// Why.
    pub why: &'a str,
    /// Whether this was an attempt.
    pub was_tried: bool,
}

/// Puts back what could not be done, unless there was a newer change.
///
/// # Errors
/// A database that is away.
pub async fn postpone(
    client: &impl GenericClient,
    kind: &str,
    later: &[Postponed<'_>],
) -> Result<(), RegistryError> {
    let keys: Vec<&str> = later.iter().map(|one| one.work.key.as_str()).collect();
    let changes: Vec<Timestamp> = later.iter().map(|one| one.work.changed_at).collect();
    let waits: Vec<f64> = later.iter().map(|one| one.after.as_secs_f64()).collect();
    let reasons: Vec<&str> = later.iter().map(|one| one.why).collect();
    let tried: Vec<bool> = later.iter().map(|one| one.was_tried).collect();
    let postpone = "
        WITH later AS (
            SELECT work.key, later.wait, later.why, later.tried FROM work_queue AS work
            JOIN unnest($2::text[], $3::timestamptz[], $4::float8[], $5::text[], $6::boolean[])
                AS later (key, changed_at, wait, why, tried) USING (key, changed_at)
            WHERE work.kind = $1 FOR UPDATE OF work SKIP LOCKED)
        UPDATE work_queue AS work
        SET due_at = now() + wait * interval '1 second', last_error = why,
            attempts = CASE WHEN tried THEN attempts ELSE greatest(attempts - 1, 0) END
        FROM later WHERE work.kind = $1 AND work.key = later.key";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&kind, &keys, &changes, &waits, &reasons, &tried];
    client.execute(postpone, &values).await.map(drop).map_err(on_work())
}

/// Keys, and which change of each.
pub(super) fn keys<'a>(work: &[&'a Work]) -> (Vec<&'a str>, Vec<Timestamp>) {
    work.iter().map(|work| (work.key.as_str(), work.changed_at)).unzip()
}

/// What waits of a kind.
pub struct Waiting {
    /// How many rows.
    pub rows: i64,
    /// Time until the first of them is due; `None` when nothing waits.
    pub until_due: Option<Duration>,
    /// How long the first of them has been due.
    pub overdue: Duration,
}

/// How much of a kind waits, and for how long.
///
/// # Errors
/// A database that is away.
pub async fn waiting(client: &impl GenericClient, kind: &str) -> Result<Waiting, RegistryError> {
    let waiting = "SELECT count(*), extract(epoch FROM min(due_at) - now())::float8
                   FROM work_queue WHERE kind = $1";
    let row = client.query_one(waiting, &[&kind]).await.map_err(on_work())?;
    let until_due: Option<f64> = row.get(1);
    let duration =
        |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    Ok(Waiting {
        rows: row.get(0),
        until_due: until_due.map(duration),
        overdue: duration(-until_due.unwrap_or_default()),
    })
}
