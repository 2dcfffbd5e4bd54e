//! Kick-outs: what is special about this kind of [work], which triggers queue (`sql/V7`), and the
//! table `kick_outs_to_confirm` of those that were carried out.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, Row};

use crate::domain::name::DeviceName;
use crate::registry::error::RegistryError;
use crate::registry::work::{self, Work, keys, on_work};

/// The kind of work.
pub const KIND: &str = "kick_out";

/// The device whose rights changed, where there was one.
#[must_use]
pub fn device(kick_out: &Work) -> Option<&str> {
    kick_out.payload.get("device")?.as_str()
}

/// Deletes what EMQX has done for the replica `by`, unless there was a newer change meanwhile; returns
/// the seconds since each change, by PostgreSQL's clock. It is kept to be [confirmed](confirm).
///
/// A row that somebody is writing is passed over: that is a newer change.
///
/// # Errors
/// A database that is away.
pub async fn finish(
    client: &impl GenericClient,
    done: &[&Work],
    by: &str,
) -> Result<Vec<f64>, RegistryError> {
    let (client_ids, changes) = keys(done);
    let seen: Vec<Timestamp> = done.iter().map(|work| work.seen_at).collect();
    let rows = client.query(FINISH, &[&client_ids, &changes, &seen, &by]).await;
    Ok(rows.map_err(on_work())?.iter().map(|row| row.get(0)).collect())
}

const FINISH: &str = "
    WITH done AS (
        SELECT key, d.seen_at FROM work_queue
        JOIN unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS d (id, at, seen_at)
            ON kind = 'kick_out' AND key = id AND changed_at = at
        FOR UPDATE OF work_queue SKIP LOCKED),
    finished AS (
        DELETE FROM work_queue AS w USING done WHERE w.kind = 'kick_out' AND w.key = done.key
        RETURNING w.key, w.payload, w.changed_at, (w.payload ->> 'repeated')::boolean IS TRUE AS repeated,
                  done.seen_at),
    kept AS (
        INSERT INTO kick_outs_to_confirm AS known
            (client_id, device_name, reason, changed_at, seen_at, kicked_by)
        SELECT key, payload ->> 'device', payload ->> 'reason', changed_at, seen_at, $4 FROM finished
        WHERE NOT repeated
        ORDER BY key COLLATE \"C\"
        ON CONFLICT (client_id) DO UPDATE SET
            device_name = EXCLUDED.device_name, reason = EXCLUDED.reason,
            changed_at = least(known.changed_at, EXCLUDED.changed_at),
            seen_at = greatest(known.seen_at, EXCLUDED.seen_at), kicked_by = EXCLUDED.kicked_by,
            carried_out_at = clock_timestamp())
    SELECT extract(epoch FROM clock_timestamp() - changed_at)::float8 FROM finished WHERE NOT repeated";

/// What became of kick-outs that were carried out and wait to be confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmations {
    /// Have to be carried out again; they are due.
    pub repeated: u64,
    /// Still wait.
    pub waiting: u64,
}

/// Looks at the kick-outs that were carried out and then `kept` for so long: one whose change every replica has heard of in time is
/// done. Where one has not, it is put back to be carried out once more, as soon as that replica can
/// decide by old records no longer (its bound, and `on_its_way` for an answer). At most 10,000 at once.
///
/// # Errors
/// A database that is away.
pub async fn confirm(
    client: &impl GenericClient,
    on_its_way: Duration,
    kept: Duration,
) -> Result<Confirmations, RegistryError> {
    let (on_its_way, kept) = (on_its_way.as_secs_f64(), kept.as_secs_f64());
    let row = client.query_one(CONFIRM, &[&on_its_way, &kept]).await.map_err(on_work())?;
    let count = |column: &str| row.get::<_, i64>(column).unsigned_abs();
    Ok(Confirmations { repeated: count("repeated"), waiting: count("waiting") })
}

const CONFIRM: &str = "
    WITH old AS MATERIALIZED (
        SELECT * FROM kick_outs_to_confirm WHERE carried_out_at < clock_timestamp() - $2 * interval '1 second'
        ORDER BY carried_out_at, client_id LIMIT 10000 FOR UPDATE SKIP LOCKED),
    judged AS (
        SELECT k.client_id, k.device_name, k.reason, k.changed_at, k.seen_at, stale.bound
        FROM old AS k
        CROSS JOIN LATERAL (
            SELECT max(r.bound) AS bound FROM replicas AS r
            WHERE r.id <> k.kicked_by AND NOT fleetgate_cannot_be_stale(r, k.changed_at, k.seen_at)) AS stale
        WHERE stale.bound IS NULL
           OR clock_timestamp() > k.seen_at + stale.bound + $1 * interval '1 second'),
    settled AS (
        DELETE FROM kick_outs_to_confirm AS k USING judged
        WHERE k.client_id = judged.client_id AND k.seen_at = judged.seen_at
        RETURNING judged.*),
    put_back AS (
        INSERT INTO work_queue (kind, key, payload, changed_at, seen_at)
        SELECT 'kick_out', client_id,
               jsonb_build_object('device', device_name, 'reason', reason, 'was_open', true, 'repeated', true),
               changed_at, seen_at
        FROM settled WHERE bound IS NOT NULL
        ORDER BY client_id COLLATE \"C\"
        -- A newer change is carried out anyway.
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM put_back) AS repeated,
           (SELECT count(*) FROM kick_outs_to_confirm) - (SELECT count(*) FROM settled) AS waiting";

/// A kick-out that was carried out.
#[derive(Debug, Clone)]
pub struct CarriedOut {
    /// The client id.
    pub client_id: String,
    /// The device that lost a right; `None`: no device did, and a client was connected that may not be.
    pub device: Option<DeviceName>,
    /// Since its change was seen committed.
    pub age: Duration,
}

/// The kick-outs that were carried out within half a minute and whose changes were seen so long ago. The oldest, at most 10,000: those that
/// [`confirm`] then settles are among them.
///
/// # Errors
/// A database that is away.
pub async fn carried_out(
    client: &impl GenericClient,
    ago: Duration,
) -> Result<Vec<CarriedOut>, RegistryError> {
    let rows = client.query(CARRIED_OUT, &[&ago.as_secs_f64()]).await.map_err(on_work())?;
    let row = |row: &Row| CarriedOut {
        client_id: row.get(0),
        device: row.get::<_, Option<&str>>(1).and_then(|name| name.parse().ok()),
        age: Duration::from_secs_f64(row.get::<_, f64>(2).max(0.0)),
    };
    Ok(rows.iter().map(row).collect())
}

const CARRIED_OUT: &str = "
    SELECT client_id, CASE WHEN reason <> 'swept' THEN device_name END,
           extract(epoch FROM clock_timestamp() - seen_at)::float8
    FROM kick_outs_to_confirm
    WHERE carried_out_at > clock_timestamp() - interval '30 seconds' AND clock_timestamp() > seen_at + $1 * interval '1 second'
    ORDER BY carried_out_at, client_id LIMIT 10000";

/// Queues kick-outs of these client ids, each for the same reason as that of the other client id beside it, which was carried out; all or
/// none. Tells how many; `None`: somebody is changing one of them, and that is not waited for.
///
/// # Errors
/// A database that is away.
pub async fn repeat(
    client: &Client,
    repeats: &[(&str, &str)],
) -> Result<Option<u64>, RegistryError> {
    let (client_ids, as_those_of): (Vec<&str>, Vec<&str>) = repeats.iter().copied().unzip();
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = '200ms'").await.map_err(on_work())?;
    let queued = client.execute(REPEAT, &[&client_ids, &as_those_of]).await;
    let end = if queued.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(on_work())?;
    match queued {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(None),
        queued => queued.map(Some).map_err(on_work()),
    }
}

const REPEAT: &str = "
    INSERT INTO work_queue (kind, key, payload, changed_at, seen_at)
    SELECT 'kick_out', it.client_id,
           jsonb_build_object('device', k.device_name, 'reason', k.reason, 'was_open', true, 'repeated', true),
           k.changed_at, k.seen_at
    FROM unnest($1::text[], $2::text[]) AS it (client_id, like_that)
    JOIN kick_outs_to_confirm AS k ON k.client_id = it.like_that
    ORDER BY it.client_id COLLATE \"C\"
    ON CONFLICT DO NOTHING";

/// Queues kick-outs of clients that EMQX lists as connected; pairs of client id and user name. None of the
/// texts holds U+0000.
///
/// # Errors
/// A database that is away.
pub async fn queue_swept(
    client: &impl GenericClient,
    clients: &[(&str, &str)],
) -> Result<(), RegistryError> {
    let queued: Vec<_> = clients
        .iter()
        .map(|(client_id, name)| {
            let device = (!name.is_empty()).then_some(name);
            let payload =
                json!({"device": device, "reason": "swept", "was_open": true, "repeated": false});
            (*client_id, payload)
        })
        .collect();
    work::queue(client, KIND, &queued).await
}

/// What ends sessions besides kick-outs.
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
/// removed, once `max_session` is over as well. (A session from before that setting may last longer.) At most 10,000
/// at once.
///
/// # Errors
/// A database that is away.
pub async fn drop_unneeded(client: &impl GenericClient, ends: Ends) -> Result<u64, RegistryError> {
    client.execute(SEE, &[]).await.map_err(on_work())?;
    let (bound, apart) = (ends.bound.as_secs_f64(), CLOCKS_APART.as_secs_f64());
    let longest = ends.max_session.map(|longest| longest.as_secs_f64());
    client
        .execute(DROP_UNNEEDED, &[&bound, &apart, &!ends.asks_emqx, &longest])
        .await
        .map_err(on_work())
}

/// Sessions are told by the broker's clock, changes by PostgreSQL's. What is told is believed only where it
/// lies no further ahead of PostgreSQL's clock.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// What is seen here is committed.
const SEE: &str = "
    UPDATE work_queue SET seen_at = clock_timestamp() WHERE kind = 'kick_out' AND key IN (
        SELECT key FROM work_queue WHERE kind = 'kick_out' AND seen_at IS NULL
        ORDER BY key COLLATE \"C\" LIMIT 10000 FOR UPDATE SKIP LOCKED)";

const DROP_UNNEEDED: &str = "
    WITH late AS (
        SELECT w.key, w.seen_at + apart.seconds
               + greatest($1 * interval '1 second', (SELECT max(bound) FROM replicas)) AS enough, apart.seconds
        FROM work_queue AS w CROSS JOIN (SELECT $2 * interval '1 second' AS seconds) AS apart
        WHERE w.kind = 'kick_out')
    DELETE FROM work_queue WHERE kind = 'kick_out' AND key IN (
        SELECT w.key FROM work_queue AS w
        JOIN late USING (key) LEFT JOIN client_sessions AS s ON s.client_id = w.key
        WHERE w.kind = 'kick_out' AND (
              s.noted_at > late.enough
              AND (s.connected_at > late.enough AND s.connected_at <= s.noted_at + late.seconds
                OR NOT s.open AND s.ended_at > late.enough AND s.ended_at <= s.noted_at + late.seconds)
           OR $3 AND clock_timestamp() > late.enough
              AND NOT coalesce(s.open OR s.inferred, (w.payload ->> 'was_open')::boolean, false)
           OR $3 AND clock_timestamp() > late.enough + $4::float8 * interval '1 second' AND s.open IS NOT TRUE)
        LIMIT 10000 FOR UPDATE OF w SKIP LOCKED)";

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
            "SELECT key, payload ->> 'reason', changed_at, attempts, last_error, count(*) OVER ()
             FROM work_queue WHERE kind = 'kick_out' AND changed_at < now() - $1 * interval '1 second'
             ORDER BY changed_at, key LIMIT $2",
            &[&age.as_secs_f64(), &limit],
        )
        .await
        .map_err(on_work())?;
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
