//! Sessions and the online flag that follows them (`client_sessions`, `devices.online`).
//!
//! The order of sessions and the races are described in [`crate`]'s `presence`. They stand in
//! `fleetgate_write_sessions` of `sql/V4__presence.sql`: locks in one order (devices by
//! id, then sessions by client id), and triggers that count open sessions in the locked devices.

use std::borrow::Borrow;
use std::collections::HashSet;

use jiff::Timestamp;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;

/// What an event or a sweep says of one session. Timestamps are by the broker's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionChange {
    /// Whose session.
    pub client_id: String,
    /// The device that the user name names.
    pub device_id: DeviceId,
    /// When the session began, which names it.
    pub connected_at: Timestamp,
    /// When it ended; `None`: it is open.
    pub ended_at: Option<Timestamp>,
    /// Whether the end was concluded because the broker no longer lists the session.
    pub inferred: bool,
    /// Whether the client id is the device's own. If not, the change may only end the very session that
    /// it names, and only if that is the device's.
    pub owned: bool,
}

/// How many of a batch of changes were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Sessions that were written.
    pub moved: u64,
    /// Client ids whose changes were not new: of an older session than the one known, or the same
    /// again.
    pub ignored: u64,
    /// Changes that are older than sessions are kept.
    pub too_old: u64,
}

const WRITE_SESSIONS: &str = "SELECT fleetgate_write_sessions($1, $2, $3, $4, $5, $6, NULL, $7)";

/// Moves sessions, whatever their age, and lets the devices' flags follow; within a transaction, before
/// anything else of it locks `client_sessions` or `device_state`. `listed_before`: the moves are what
/// the broker lists as connected, and reading its list began then.
///
/// # Errors
/// A client id that is not a valid name, timestamps after the year 9998, a database that is away.
pub async fn apply_sessions(
    tx: &impl GenericClient,
    changes: &[SessionChange],
    listed_before: Option<Timestamp>,
) -> Result<Applied, RegistryError> {
    let columns = SessionColumns::new(changes);
    let mut parameters = columns.typed().to_vec();
    parameters.push((&listed_before, Type::TIMESTAMPTZ));
    let row = tx
        .query_typed_one(WRITE_SESSIONS, &parameters)
        .await
        .map_err(RegistryError::on("sessions"))?;
    Ok(columns.applied(row.get(0)))
}

/// Changes as `fleetgate_write_sessions` takes them: one array a column.
pub(super) struct SessionColumns<'a> {
    pub(super) client_ids: Vec<&'a str>,
    pub(super) device_ids: Vec<i64>,
    pub(super) began: Vec<Timestamp>,
    pub(super) ended: Vec<Option<Timestamp>>,
    pub(super) inferences: Vec<bool>,
    pub(super) owned: Vec<bool>,
}

impl<'a> SessionColumns<'a> {
    pub(super) fn new<C: Borrow<SessionChange>>(changes: &'a [C]) -> Self {
        let changes = || changes.iter().map(Borrow::borrow);
        Self {
            client_ids: changes().map(|session| session.client_id.as_str()).collect(),
            device_ids: changes().map(|session| session.device_id.0).collect(),
            began: changes().map(|session| session.connected_at).collect(),
            ended: changes().map(|session| session.ended_at).collect(),
            inferences: changes().map(|session| session.inferred).collect(),
            owned: changes().map(|session| session.owned).collect(),
        }
    }

    /// What `fleetgate_write_sessions` says of them: how many moved, how many were too old.
    pub(super) fn applied(&self, counts: Vec<i64>) -> Applied {
        let mut counts = counts.into_iter().map(|count| u64::try_from(count).unwrap_or(0));
        let (moved, too_old) = (counts.next().unwrap_or(0), counts.next().unwrap_or(0));
        let client_ids = self.client_ids.iter().collect::<HashSet<_>>().len();
        let client_ids = u64::try_from(client_ids).unwrap_or(u64::MAX);
        Applied { moved, ignored: client_ids.saturating_sub(moved + too_old), too_old }
    }

    fn typed(&self) -> [(&(dyn ToSql + Sync), Type); 6] {
        [
            (&self.client_ids, Type::TEXT_ARRAY),
            (&self.device_ids, Type::INT8_ARRAY),
            (&self.began, Type::TIMESTAMPTZ_ARRAY),
            (&self.ended, Type::TIMESTAMPTZ_ARRAY),
            (&self.inferences, Type::BOOL_ARRAY),
            (&self.owned, Type::BOOL_ARRAY),
        ]
    }
}
