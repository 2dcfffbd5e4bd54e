//! What a sweep reads and repairs: sessions that EMQX lists and the registry doesn't, and the other
//! way round.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{GenericClient, Row};

use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;

/// Key of the advisory lock that lets one process sweep at a time: "fgsweep" in ASCII. Nothing else in
/// the database may use it.
const SWEEP_LOCK: i64 = 0x66_6773_7765_6570;

/// Sessions that one step of the removal looks at.
const PRUNED_AT_ONCE: i32 = 5000;

/// A client that EMQX lists as connected.
#[derive(Debug, Clone, Copy)]
pub struct SeenClient<'a> {
    /// Its client id: any text without U+0000.
    pub client_id: &'a str,
    /// Its user name: any text without U+0000, empty where there is none.
    pub user_name: &'a str,
    /// When its session began, by the broker's clock.
    pub connected_at: Timestamp,
}

/// What the registry says of a client that EMQX lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Which of the clients.
    pub position: usize,
    /// The device whose session is to be opened, where the registry lacks it.
    pub opens: Option<DeviceId>,
    /// Whether the client has no right to be connected: its device is disabled, or the client id is not
    /// the device's own.
    pub unentitled: bool,
}

fn on_sweep() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the sweep of sessions")
}

/// Takes the sweep's lock for as long as the connection lives; `false`: another process sweeps.
///
/// # Errors
/// A database that is away.
pub async fn try_lock(client: &impl GenericClient) -> Result<bool, RegistryError> {
    let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&SWEEP_LOCK]).await;
    Ok(row.map_err(on_sweep())?.get(0))
}

/// Gives the sweep's lock back.
///
/// # Errors
/// A database that is away; the lock is then free as well.
pub async fn unlock(client: &impl GenericClient) -> Result<(), RegistryError> {
    let unlocked = client.execute("SELECT pg_advisory_unlock($1)", &[&SWEEP_LOCK]).await;
    unlocked.map(drop).map_err(on_sweep())
}

/// Whether any process finished a sweep within the last `age`. One that was noted as later than now
/// was noted by a clock that was wrong.
///
/// # Errors
/// A database that is away.
pub async fn finished_within(
    client: &impl GenericClient,
    age: Duration,
) -> Result<bool, RegistryError> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM presence_sweeps
                            WHERE finished_at > now() - $1 * interval '1 second'
                              AND finished_at <= now())",
            &[&age.as_secs_f64()],
        )
        .await
        .map_err(on_sweep())?;
    Ok(row.get(0))
}

/// Notes that a sweep has finished just now.
///
/// # Errors
/// A database that is away.
pub async fn note_finished(client: &impl GenericClient) -> Result<(), RegistryError> {
    client
        .execute(
            "INSERT INTO presence_sweeps (finished_at) VALUES (now())
             ON CONFLICT (only_row) DO UPDATE SET finished_at = EXCLUDED.finished_at",
            &[],
        )
        .await
        .map(drop)
        .map_err(on_sweep())
}

/// PostgreSQL's clock, with which sessions are noted.
///
/// # Errors
/// A database that is away.
pub async fn now(client: &impl GenericClient) -> Result<Timestamp, RegistryError> {
    let row = client.query_one("SELECT clock_timestamp()", &[]).await.map_err(on_sweep())?;
    Ok(row.get(0))
}

/// Compares clients that EMQX lists with the registry; what agrees is left out, and so are clients whose
/// user name is no device: they may be another authenticator's, and a registry that is empty by mistake
/// must not empty the broker. A device that was removed is kicked out by the removal itself. `began`: when
/// reading the broker's list began; what was noted since is right.
///
/// # Errors
/// A database that is away.
pub async fn compare(
    client: &impl GenericClient,
    seen: &[SeenClient<'_>],
    began: Timestamp,
) -> Result<Vec<Difference>, RegistryError> {
    let client_ids: Vec<&str> = seen.iter().map(|client| client.client_id).collect();
    let user_names: Vec<&str> = seen.iter().map(|client| client.user_name).collect();
    let connected_at: Vec<Timestamp> = seen.iter().map(|client| client.connected_at).collect();
    let rows = client
        .query(COMPARE, &[&client_ids, &user_names, &connected_at, &began])
        .await
        .map_err(on_sweep())?;
    Ok(rows.iter().map(difference).collect())
}

/// Whose a client id is, and the order of sessions, are the functions that events go by. Whatever
/// timestamps say, the broker lists the client now: a session that is noted as ended is opened, unless
/// that was noted since reading began or is the told end of the very session.
const COMPARE: &str = "
    SELECT seen.n - 1 AS position, device.id AS device_id, told.opens, told.entitled
    FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY
         AS seen (client_id, user_name, connected_at, n)
    JOIN devices AS device ON device.name = seen.user_name
    LEFT JOIN client_sessions AS session ON session.client_id = seen.client_id
    CROSS JOIN LATERAL (SELECT
        device.enabled AND fleetgate_owns_client_id(
            device.name, device.effective_client_id, device.kind, seen.client_id) AS entitled,
        least(session.noted_at, now()) AS noted_at) AS own
    CROSS JOIN LATERAL (SELECT
        own.entitled,
        own.entitled AND (session.client_id IS NULL
            OR fleetgate_session_order(seen.connected_at, NULL, false, now())
               > fleetgate_session_order(session.connected_at, session.ended_at, session.inferred, own.noted_at)
            OR session.noted_at < $4
               AND (session.device_id <> device.id
                    OR NOT session.open
                       AND NOT (session.connected_at = seen.connected_at AND NOT session.inferred
                                AND NOT fleetgate_is_ahead(session.connected_at, own.noted_at)))) AS opens) AS told
    WHERE told.opens OR NOT told.entitled";

fn difference(row: &Row) -> Difference {
    let position: i64 = row.get("position");
    let opens: bool = row.get("opens");
    Difference {
        position: usize::try_from(position).unwrap_or(usize::MAX),
        opens: opens.then(|| DeviceId(row.get("device_id"))),
        unentitled: !row.get::<_, bool>("entitled"),
    }
}

/// Client ids, at most `limit` in the order of bytes after `after`, whose session is open and was
/// noted before a timestamp.
///
/// # Errors
/// A database that is away.
pub async fn open_sessions(
    client: &impl GenericClient,
    noted_before: Timestamp,
    after: &str,
    limit: usize,
) -> Result<Vec<String>, RegistryError> {
    let rows = client
        .query(
            "SELECT client_id FROM client_sessions
             WHERE open AND (noted_at < $1 OR noted_at > clock_timestamp()) AND client_id > $2
             ORDER BY client_id LIMIT $3",
            &[&noted_before, &after, &i64::try_from(limit).unwrap_or(i64::MAX)],
        )
        .await
        .map_err(on_sweep())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Ends the open sessions of these client ids that were noted before a timestamp: nothing that was heard
/// since is undone. What was noted later than now was noted by a clock that was wrong. Devices without a
/// session left go offline (by triggers). Returns how many sessions ended.
///
/// Locks as presence does: devices by id, then sessions by client id.
///
/// # Errors
/// A database that is away, or another change that got in the way.
pub async fn end_sessions(
    transaction: &impl GenericClient,
    client_ids: &[&str],
    noted_before: Timestamp,
) -> Result<u64, RegistryError> {
    let locked = transaction
        .query(
            "SELECT id FROM devices
             WHERE id IN (SELECT device_id FROM client_sessions WHERE client_id = ANY($1))
             ORDER BY id FOR NO KEY UPDATE",
            &[&client_ids],
        )
        .await
        .map_err(on_sweep())?;
    let devices: Vec<i64> = locked.iter().map(|row| row.get(0)).collect();
    // A session that went to another device meanwhile is not ended here: that device is not locked.
    let ended = transaction
        .execute(
            "WITH unlisted AS (
                 SELECT client_id FROM client_sessions
                 WHERE client_id = ANY($1) AND device_id = ANY($3) AND open
                   AND (noted_at < $2 OR noted_at > clock_timestamp())
                 ORDER BY client_id FOR UPDATE)
             UPDATE client_sessions SET open = false, ended_at = greatest($2, connected_at),
                    inferred = true, noted_at = clock_timestamp()
             FROM unlisted WHERE client_sessions.client_id = unlisted.client_id",
            &[&client_ids, &noted_before, &devices],
        )
        .await
        .map_err(on_sweep())?;
    Ok(ended)
}

/// Takes a step of the removal of sessions that ended longer than `keep` ago, unless another process
/// takes one or none is due. Returns how many went, and whether the next step is due at once.
///
/// # Errors
/// A database that is away.
pub async fn prune_sessions(
    client: &impl GenericClient,
    keep: Duration,
) -> Result<(u64, bool), RegistryError> {
    let step = "SELECT fleetgate_prune_sessions($1 * interval '1 second', $2)";
    let row = client.query_one(step, &[&keep.as_secs_f64(), &PRUNED_AT_ONCE]).await;
    let counts: Vec<i64> = row.map_err(on_sweep())?.get(0);
    let mut counts = counts.into_iter().map(|count| u64::try_from(count).unwrap_or(0));
    Ok((counts.next().unwrap_or(0), counts.next() == Some(1)))
}

/// Removes entries of the audit log that are older than `keep`, so many at most; tells whether there may be more.
///
/// # Errors
/// A database that is away.
pub async fn prune_audit(
    client: &impl GenericClient,
    keep: Duration,
) -> Result<bool, RegistryError> {
    let step = "SELECT fleetgate_prune_audit($1 * interval '1 second', $2)";
    let row = client.query_one(step, &[&keep.as_secs_f64(), &PRUNED_AT_ONCE]).await;
    let pruned: i64 = row.map_err(RegistryError::on("the audit log"))?.get(0);
    Ok(pruned == i64::from(PRUNED_AT_ONCE))
}

/// Devices by whether they are online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Online.
    pub online: i64,
    /// Enabled and not online: those that somebody may miss.
    pub offline: i64,
}

/// How many devices are online, and how many could be and are not.
///
/// # Errors
/// A database that is away.
pub async fn count_devices(client: &impl GenericClient) -> Result<DeviceCounts, RegistryError> {
    let counts = "SELECT count(*) FILTER (WHERE online),
                         count(*) FILTER (WHERE enabled AND NOT online)
                  FROM (SELECT enabled, presence.online
                        FROM devices JOIN device_presence AS presence ON device_id = id) AS device";
    let row = client.query_one(counts, &[]).await.map_err(on_sweep())?;
    Ok(DeviceCounts { online: row.get(0), offline: row.get(1) })
}
