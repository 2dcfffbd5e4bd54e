//! Sessions and the online flag that follows them (`client_sessions`, `devices.online`).
//!
//! The order of sessions and the races are told in [`crate`]'s `presence`. What needs PostgreSQL is in
//! `fleetgate_move_sessions` of `sql/V6__event_batches.sql`: locks in one order (devices by id, then
//! sessions by client id), and the flag computed *after* the devices are locked, so that two replicas
//! which each close one of a service's two sessions cannot each see the other's as open.

use std::borrow::Borrow;

use jiff::Timestamp;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

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

const MOVE_SESSIONS: &str = "SELECT fleetgate_move_sessions($1, $2, $3, $4, $5)";

/// Moves sessions and lets the devices' flags follow. At most one move a client id; within a
/// transaction, before anything else of it locks `client_sessions` or `device_state`.
///
/// # Errors
/// A client id that is no name, moments beyond the year 9998, a database that is away.
pub async fn apply_sessions(
    tx: &impl GenericClient,
    moves: &[SessionMove],
) -> Result<Applied, RegistryError> {
    let columns = MoveColumns::new(moves)?;
    let row = tx
        .query_typed_one(MOVE_SESSIONS, &columns.typed())
        .await
        .map_err(RegistryError::on("sessions"))?;
    Ok(Applied::of(moves.len(), row.get(0)))
}

impl Applied {
    /// What `moves` came to of which so many were written.
    pub(super) fn of(moves: usize, moved: i64) -> Self {
        let moved = u64::try_from(moved).unwrap_or(0);
        let ignored = u64::try_from(moves).unwrap_or(u64::MAX).saturating_sub(moved);
        Self { moved, ignored }
    }
}

/// Moves as `fleetgate_move_sessions` takes them: one array a column.
pub(super) struct MoveColumns<'a> {
    pub(super) client_ids: Vec<&'a str>,
    pub(super) device_ids: Vec<i64>,
    pub(super) began: Vec<Timestamp>,
    pub(super) ended: Vec<Option<Timestamp>>,
    pub(super) inferences: Vec<bool>,
}

impl<'a> MoveColumns<'a> {
    /// # Errors
    /// Moments that are none.
    pub(super) fn new<M: Borrow<SessionMove>>(moves: &'a [M]) -> Result<Self, RegistryError> {
        let moves = || moves.iter().map(Borrow::borrow);
        let began = moves().map(|session| moment(session.connected_at_ms));
        let ended = moves().map(|session| session.ended_at_ms.map(moment).transpose());
        Ok(Self {
            client_ids: moves().map(|session| session.client_id.as_str()).collect(),
            device_ids: moves().map(|session| session.device_id.0).collect(),
            began: began.collect::<Result<_, _>>()?,
            ended: ended.collect::<Result<_, _>>()?,
            inferences: moves().map(|session| session.inferred).collect(),
        })
    }

    fn typed(&self) -> [(&(dyn ToSql + Sync), Type); 5] {
        [
            (&self.client_ids, Type::TEXT_ARRAY),
            (&self.device_ids, Type::INT8_ARRAY),
            (&self.began, Type::TIMESTAMPTZ_ARRAY),
            (&self.ended, Type::TIMESTAMPTZ_ARRAY),
            (&self.inferences, Type::BOOL_ARRAY),
        ]
    }
}

/// A moment as PostgreSQL takes it.
pub(super) fn moment(ms: i64) -> Result<Timestamp, RegistryError> {
    Timestamp::from_millisecond(ms)
        .map_err(|_| RegistryError::BadData(format!("{ms} ms is no moment")))
}
