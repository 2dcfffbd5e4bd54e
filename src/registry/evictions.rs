//! Sessions that have to end: the table `session_evictions`, which triggers fill (`sql/V7`), and the table
//! `kick_outs_to_confirm` of those that EMQX has ended while other replicas ran.

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
    /// When it was seen committed, which was before it was taken.
    pub seen_at: Timestamp,
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
             SET next_attempt_at = now() + $2 * interval '1 second', attempts = attempts + 1,
                 seen_at = coalesce(seen_at, clock_timestamp())
             WHERE client_id IN (SELECT client_id FROM session_evictions WHERE next_attempt_at <= now()
                                 ORDER BY next_attempt_at, client_id LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING client_id, device_name, changed_at, clock_timestamp() AS seen_at, attempts",
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
            seen_at: row.get("seen_at"),
            attempts: row.get::<_, i32>("attempts").unsigned_abs(),
        })
        .collect())
}

/// Strikes out what EMQX has done for the replica `by`, unless there was a newer change meanwhile; returns
/// the seconds since each change, by PostgreSQL's clock. While other replicas run, it is kept to be
/// [confirmed](confirm).
///
/// A row that somebody is writing is passed over: that is a newer change.
///
/// # Errors
/// A database that is away.
pub async fn finish(
    client: &impl GenericClient,
    done: &[&Eviction],
    by: &str,
) -> Result<Vec<f64>, RegistryError> {
    let (client_ids, changes) = keys(done);
    let seen: Vec<Timestamp> = done.iter().map(|eviction| eviction.seen_at).collect();
    let rows = client.query(FINISH, &[&client_ids, &changes, &seen, &by]).await;
    Ok(rows.map_err(on_evictions())?.iter().map(|row| row.get(0)).collect())
}

const FINISH: &str = "
    WITH done AS (
        SELECT client_id, d.seen_at FROM session_evictions
        JOIN unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS d (id, at, seen_at)
            ON client_id = id AND changed_at = at
        FOR UPDATE OF session_evictions SKIP LOCKED),
    struck_out AS (
        DELETE FROM session_evictions AS e USING done WHERE e.client_id = done.client_id
        RETURNING e.client_id, e.device_name, e.reason, e.changed_at, e.repeated, done.seen_at),
    kept AS (
        INSERT INTO kick_outs_to_confirm AS known
            (client_id, device_name, reason, changed_at, seen_at, kicked_by)
        SELECT client_id, device_name, reason, changed_at, seen_at, $4 FROM struck_out
        WHERE NOT repeated AND EXISTS (SELECT FROM replicas WHERE id <> $4)
        ORDER BY client_id COLLATE \"C\"
        ON CONFLICT (client_id) DO UPDATE SET
            device_name = EXCLUDED.device_name, reason = EXCLUDED.reason,
            changed_at = least(known.changed_at, EXCLUDED.changed_at),
            seen_at = greatest(known.seen_at, EXCLUDED.seen_at), kicked_by = EXCLUDED.kicked_by)
    SELECT extract(epoch FROM clock_timestamp() - changed_at)::float8 FROM struck_out WHERE NOT repeated";

/// What became of kick-outs that were carried out and wait to be confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmations {
    /// Have to be carried out again; they are due.
    pub repeated: u64,
    /// Still wait.
    pub waiting: u64,
}

/// Looks at the kick-outs that were carried out: one whose change every replica has heard of in time is
/// done. Where one has not, it is put back to be carried out once more, as soon as that replica can
/// decide by old records no longer (its bound, and `slack` for an answer on its way).
///
/// # Errors
/// A database that is away.
pub async fn confirm(
    client: &impl GenericClient,
    slack: Duration,
) -> Result<Confirmations, RegistryError> {
    let row = client.query_one(CONFIRM, &[&slack.as_secs_f64()]).await.map_err(on_evictions())?;
    let count = |column: &str| row.get::<_, i64>(column).unsigned_abs();
    Ok(Confirmations { repeated: count("repeated"), waiting: count("waiting") })
}

const CONFIRM: &str = "
    WITH judged AS (
        SELECT k.client_id, k.device_name, k.reason, k.changed_at, k.seen_at, stale.bound
        FROM kick_outs_to_confirm AS k
        CROSS JOIN LATERAL (
            SELECT max(r.bound) AS bound FROM replicas AS r
            WHERE r.id <> k.kicked_by AND NOT fleetgate_cannot_be_stale(r, k.changed_at, k.seen_at)) AS stale
        WHERE stale.bound IS NULL
           OR clock_timestamp() > k.seen_at + stale.bound + $1 * interval '1 second'
        ORDER BY k.client_id FOR UPDATE OF k SKIP LOCKED),
    settled AS (
        DELETE FROM kick_outs_to_confirm AS k USING judged
        WHERE k.client_id = judged.client_id AND k.seen_at = judged.seen_at
        RETURNING judged.*),
    put_back AS (
        INSERT INTO session_evictions (client_id, device_name, reason, changed_at, seen_at, was_open, repeated)
        SELECT client_id, device_name, reason, changed_at, seen_at, true, true FROM settled WHERE bound IS NOT NULL
        ORDER BY client_id COLLATE \"C\"
        -- A newer change is carried out anyway.
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM put_back) AS repeated,
           (SELECT count(*) FROM kick_outs_to_confirm) - (SELECT count(*) FROM settled) AS waiting";

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

/// What ends sessions besides this table.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// How long a record may decide after a change, whatever fails.
    pub bound: Duration,
    /// Whether EMQX is asked to end them, and so whether every row is settled by its answer.
    pub asks_emqx: bool,
    /// Longest time that a session may last, where there is one.
    pub max_session: Option<Duration>,
}

/// Drops the kick-outs of clients that are known to have no session any more by which they use the old
/// right. Returns how many.
///
/// Nobody can be let in by it from *enough* time after the change on: the bound of every replica, and
/// [`CLOCKS_APART`], counted from when the change was seen committed. After that a kick-out goes when its
/// client's session has ended, or another began, later than enough. Where EMQX is not asked, also when events tell that
/// no session is open; or, of a client whose sessions nobody tells any more because its device was
/// removed, once `max_session` is over as well. (A session from before that setting may last longer.)
///
/// # Errors
/// A database that is away.
pub async fn drop_unneeded(client: &impl GenericClient, ends: Ends) -> Result<u64, RegistryError> {
    client.execute(SEE, &[]).await.map_err(on_evictions())?;
    let (bound, apart) = (ends.bound.as_secs_f64(), CLOCKS_APART.as_secs_f64());
    let longest = ends.max_session.map(|longest| longest.as_secs_f64());
    client
        .execute(DROP_UNNEEDED, &[&bound, &apart, &!ends.asks_emqx, &longest])
        .await
        .map_err(on_evictions())
}

/// Sessions are told by the broker's clock, changes by PostgreSQL's. What is told is believed only where it
/// lies no further ahead of PostgreSQL's clock.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// What is seen here is committed.
const SEE: &str = "
    UPDATE session_evictions SET seen_at = clock_timestamp() WHERE client_id IN (
        SELECT client_id FROM session_evictions WHERE seen_at IS NULL
        ORDER BY client_id COLLATE \"C\" FOR UPDATE SKIP LOCKED)";

const DROP_UNNEEDED: &str = "
    WITH late AS (
        SELECT e.client_id, e.seen_at + apart.seconds
               + greatest($1 * interval '1 second', (SELECT max(bound) FROM replicas)) AS enough, apart.seconds
        FROM session_evictions AS e CROSS JOIN (SELECT $2 * interval '1 second' AS seconds) AS apart)
    DELETE FROM session_evictions WHERE client_id IN (
        SELECT e.client_id FROM session_evictions AS e
        JOIN late USING (client_id) LEFT JOIN client_sessions AS s USING (client_id)
        WHERE s.noted_at > late.enough
              AND (s.connected_at > late.enough AND s.connected_at <= s.noted_at + late.seconds
                OR NOT s.open AND s.ended_at > late.enough AND s.ended_at <= s.noted_at + late.seconds)
           OR $3 AND clock_timestamp() > late.enough AND NOT coalesce(s.open OR s.inferred, e.was_open, false)
           OR $3 AND clock_timestamp() > late.enough + $4::float8 * interval '1 second' AND s.open IS NOT TRUE
        FOR UPDATE OF e SKIP LOCKED)";

/// A kick-out that waits, as `doctor` tells.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The client id.
    pub client_id: String,
    /// What was taken away.
    pub reason: String,
    /// When.
    pub changed_at: Timestamp,
    /// How often EMQX was asked.
    pub attempts: i32,
    /// What it said last.
    pub last_error: Option<String>,
}

/// The kick-outs that have waited longer than `age`: how many, and the `limit` oldest.
///
/// # Errors
/// A database that is away.
pub async fn oldest(
    client: &impl GenericClient,
    age: Duration,
    limit: i64,
) -> Result<(i64, Vec<Waiting>), RegistryError> {
    let rows = client
        .query(
            "SELECT client_id, reason, changed_at, attempts, last_error, count(*) OVER ()
             FROM session_evictions WHERE changed_at < now() - $1 * interval '1 second'
             ORDER BY changed_at, client_id LIMIT $2",
            &[&age.as_secs_f64(), &limit],
        )
        .await
        .map_err(on_evictions())?;
    let count = rows.first().map_or(0, |row| row.get(5));
    let oldest = rows.iter().map(|row| Waiting {
        client_id: row.get(0),
        reason: row.get(1),
        changed_at: row.get(2),
        attempts: row.get(3),
        last_error: row.get(4),
    });
    Ok((count, oldest.collect()))
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
