//! Sessions that have to end: the table `session_evictions`. Triggers fill it (`sql/V5`).

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::GenericClient;

use crate::registry::error::RegistryError;

/// A client id whose session has to end, taken by this replica for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// The client id, which may be any text.
    pub client_id: String,
    /// The device whose rights changed, where there was one.
    pub device_name: Option<String>,
    /// When the newest change was made: which change this is about.
    pub changed_at: Timestamp,
    /// How often it was taken since, this time included.
    pub attempts: u32,
}

fn on_evictions() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the sessions that have to end")
}

/// Takes at most `limit` that are due, the longest waiting first. No replica takes them again within
/// `lease`, unless there is a newer change.
///
/// # Errors
/// A database that is away.
pub async fn lease(
    client: &impl GenericClient,
    limit: usize,
    lease: Duration,
) -> Result<Vec<Eviction>, RegistryError> {
    let rows = client
        .query(
            "UPDATE session_evictions
             SET next_attempt_at = now() + $2 * interval '1 second', attempts = attempts + 1
             WHERE client_id IN (SELECT client_id FROM session_evictions WHERE next_attempt_at <= now()
                                 ORDER BY next_attempt_at, client_id LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING client_id, device_name, changed_at, attempts",
            &[&i64::try_from(limit).unwrap_or(i64::MAX), &lease.as_secs_f64()],
        )
        .await
        .map_err(on_evictions())?;
    Ok(rows
        .iter()
        .map(|row| Eviction {
            client_id: row.get("client_id"),
            device_name: row.get("device_name"),
            changed_at: row.get("changed_at"),
            attempts: row.get::<_, i32>("attempts").unsigned_abs(),
        })
        .collect())
}

/// Strikes out what EMQX has done, unless there was a newer change meanwhile; returns the seconds
/// since each change, by PostgreSQL's clock.
///
/// A row that somebody is writing is passed over: that is a newer change.
///
/// # Errors
/// A database that is away.
pub async fn finish(
    client: &impl GenericClient,
    done: &[&Eviction],
) -> Result<Vec<f64>, RegistryError> {
    let (client_ids, changes) = keys(done);
    let rows = client
        .query(
            "WITH done AS (
                 SELECT client_id FROM session_evictions
                 JOIN unnest($1::text[], $2::timestamptz[]) AS d (id, at) ON client_id = id AND changed_at = at
                 FOR UPDATE OF session_evictions SKIP LOCKED)
             DELETE FROM session_evictions USING done WHERE session_evictions.client_id = done.client_id
             RETURNING extract(epoch FROM clock_timestamp() - changed_at)::float8",
            &[&client_ids, &changes],
        )
        .await
        .map_err(on_evictions())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Puts back what could not be done, due again after `wait`, unless there was a newer change.
///
/// # Errors
/// A database that is away.
pub async fn postpone(
    client: &impl GenericClient,
    failed: &[&Eviction],
    wait: Duration,
    why: &str,
) -> Result<(), RegistryError> {
    let (client_ids, changes) = keys(failed);
    client
        .execute(
            "WITH failed AS (
                 SELECT client_id FROM session_evictions
                 JOIN unnest($1::text[], $2::timestamptz[]) AS f (id, at) ON client_id = id AND changed_at = at
                 FOR UPDATE OF session_evictions SKIP LOCKED)
             UPDATE session_evictions
             SET next_attempt_at = now() + $3 * interval '1 second', last_error = $4
             FROM failed WHERE session_evictions.client_id = failed.client_id",
            &[&client_ids, &changes, &wait.as_secs_f64(), &why],
        )
        .await
        .map_err(on_evictions())?;
    Ok(())
}

fn keys<'a>(evictions: &[&'a Eviction]) -> (Vec<&'a str>, Vec<Timestamp>) {
    evictions.iter().map(|eviction| (eviction.client_id.as_str(), eviction.changed_at)).unzip()
}

/// Notes that the sessions of these clients have to end; pairs of client id and user name. None of
/// the texts holds U+0000.
///
/// # Errors
/// A database that is away.
pub async fn add(
    client: &impl GenericClient,
    clients: &[(&str, &str)],
    reason: &str,
) -> Result<(), RegistryError> {
    let (client_ids, names): (Vec<&str>, Vec<&str>) = clients.iter().copied().unzip();
    client
        .execute(
            "SELECT fleetgate_evict(ARRAY[client_id], nullif(name, ''), $3)
             FROM (SELECT * FROM unnest($1::text[], $2::text[]) AS c (client_id, name)
                   ORDER BY client_id COLLATE \"C\") AS ordered",
            &[&client_ids, &names, &reason],
        )
        .await
        .map_err(on_evictions())?;
    Ok(())
}

/// Drops what has waited longer than `age`; returns how many.
///
/// # Errors
/// A database that is away.
pub async fn drop_older_than(
    client: &impl GenericClient,
    age: Duration,
) -> Result<u64, RegistryError> {
    client
        .execute(
            "DELETE FROM session_evictions WHERE client_id IN (
                 SELECT client_id FROM session_evictions
                 WHERE changed_at < now() - $1 * interval '1 second' FOR UPDATE SKIP LOCKED)",
            &[&age.as_secs_f64()],
        )
        .await
        .map_err(on_evictions())
}

/// How many wait, and the time until the first of them is due; `None` when none waits.
///
/// # Errors
/// A database that is away.
pub async fn waiting(
    client: &impl GenericClient,
) -> Result<(i64, Option<Duration>), RegistryError> {
    let row = client
        .query_one(
            "SELECT count(*), extract(epoch FROM min(next_attempt_at) - now())::float8
             FROM session_evictions",
            &[],
        )
        .await
        .map_err(on_evictions())?;
    let until_due: Option<f64> = row.get(1);
    let until_due = until_due
        .map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
    Ok((row.get(0), until_due))
}
