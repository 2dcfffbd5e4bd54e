//! Sessions and the online flag that follows them (`client_sessions`, `devices.online`).
//!
//! The order of sessions and the races are told in [`crate`]'s `presence`. Here is what needs
//! PostgreSQL: locks in one order (devices by id, then sessions by client id), and the flag computed
//! *after* the devices are locked, so that two replicas which each close one of a service's two
//! sessions cannot each see the other's as open.

use jiff::Timestamp;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;

/// What an event or a sweep says of one session. Moments are ms since 1970 by the broker's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMove {
    /// Whose session.
    pub client_id: String,
    /// The device that the user name names.
    pub device_id: DeviceId,
    /// When the session began, which names it.
    pub connected_at_ms: i64,
    /// When it ended; `None`: it is open.
    pub ended_at_ms: Option<i64>,
    /// Whether the end was concluded from the broker's silence rather than told by it.
    pub inferred: bool,
}

/// What became of moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Sessions that were written.
    pub moved: u64,
    /// Moves that brought nothing new: of an older session than the one known, or the same again.
    pub ignored: u64,
}

/// The devices of the moves, and those that own a session which a move may take over.
const LOCK_DEVICES: &str = "
    SELECT id FROM devices
    WHERE id IN (SELECT unnest($1::bigint[])
                 UNION SELECT device_id FROM client_sessions WHERE client_id = ANY ($2::text[]))
    ORDER BY id FOR NO KEY UPDATE";

/// Forward only; the one step back is out of an end that was only inferred. A device that is gone
/// by now has no sessions.
const MOVE: &str = r#"
    INSERT INTO client_sessions AS known
        (client_id, device_id, connected_at, open, ended_at, inferred, noted_at)
    SELECT move.client_id, move.device_id, move.connected_at, move.ended_at IS NULL, move.ended_at,
           move.inferred AND move.ended_at IS NOT NULL, clock_timestamp()
    FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::boolean[])
         AS move (client_id, device_id, connected_at, ended_at, inferred)
    WHERE move.device_id = ANY ($6::bigint[])
    ORDER BY move.client_id COLLATE "C"
    ON CONFLICT (client_id) DO UPDATE SET
        device_id = EXCLUDED.device_id, connected_at = EXCLUDED.connected_at, open = EXCLUDED.open,
        ended_at = EXCLUDED.ended_at, inferred = EXCLUDED.inferred, noted_at = EXCLUDED.noted_at
    WHERE EXCLUDED.connected_at > known.connected_at
       OR EXCLUDED.connected_at = known.connected_at AND (
              known.open AND NOT EXCLUDED.open
           OR known.inferred AND NOT EXCLUDED.inferred
           OR NOT known.open AND NOT EXCLUDED.open AND known.inferred = EXCLUDED.inferred
              AND EXCLUDED.ended_at > known.ended_at)
    RETURNING 1"#;

const FOLLOW: &str = "
    UPDATE devices SET online = NOT online
    WHERE id = ANY ($1::bigint[])
      AND online <> EXISTS (SELECT FROM client_sessions WHERE device_id = devices.id AND open)";

/// Moves sessions and lets the devices' flags follow. At most one move a client id; within a
/// transaction, before anything else of it locks `client_sessions` or `device_state`.
///
/// # Errors
/// A client id that is no name, moments beyond the year 9998, a database that is away.
pub async fn apply_sessions(
    tx: &impl GenericClient,
    moves: &[SessionMove],
) -> Result<Applied, RegistryError> {
    if moves.is_empty() {
        return Ok(Applied::default());
    }
    let devices = lock_devices(tx, moves).await?;
    let moved = move_sessions(tx, moves, &devices).await?;
    if moved > 0 {
        tx.query_typed(FOLLOW, &[(&devices, Type::INT8_ARRAY)])
            .await
            .map_err(RegistryError::on("the online flags"))?;
    }
    let total = u64::try_from(moves.len()).unwrap_or(u64::MAX);
    Ok(Applied { moved, ignored: total.saturating_sub(moved) })
}

async fn lock_devices(
    tx: &impl GenericClient,
    moves: &[SessionMove],
) -> Result<Vec<i64>, RegistryError> {
    let devices: Vec<i64> = moves.iter().map(|session| session.device_id.0).collect();
    let clients: Vec<&str> = moves.iter().map(|session| session.client_id.as_str()).collect();
    let rows = tx
        .query_typed(LOCK_DEVICES, &[(&devices, Type::INT8_ARRAY), (&clients, Type::TEXT_ARRAY)])
        .await
        .map_err(RegistryError::on("the devices of sessions"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn move_sessions(
    tx: &impl GenericClient,
    moves: &[SessionMove],
    devices: &Vec<i64>,
) -> Result<u64, RegistryError> {
    let clients: Vec<&str> = moves.iter().map(|session| session.client_id.as_str()).collect();
    let owners: Vec<i64> = moves.iter().map(|session| session.device_id.0).collect();
    let begun = moves.iter().map(|session| moment(session.connected_at_ms));
    let begun = begun.collect::<Result<Vec<Timestamp>, _>>()?;
    let ended = moves.iter().map(|session| session.ended_at_ms.map(moment).transpose());
    let ended = ended.collect::<Result<Vec<Option<Timestamp>>, _>>()?;
    let inferred: Vec<bool> = moves.iter().map(|session| session.inferred).collect();
    let rows = tx
        .query_typed(
            MOVE,
            &[
                (&clients, Type::TEXT_ARRAY),
                (&owners, Type::INT8_ARRAY),
                (&begun, Type::TIMESTAMPTZ_ARRAY),
                (&ended, Type::TIMESTAMPTZ_ARRAY),
                (&inferred, Type::BOOL_ARRAY),
                (devices, Type::INT8_ARRAY),
            ],
        )
        .await
        .map_err(RegistryError::on("sessions"))?;
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

/// A moment as PostgreSQL takes it.
pub(super) fn moment(ms: i64) -> Result<Timestamp, RegistryError> {
    Timestamp::from_millisecond(ms)
        .map_err(|_| RegistryError::BadData(format!("{ms} ms is no moment")))
}
