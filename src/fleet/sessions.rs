//! Sessions: the newest one of each client id (`client_sessions`). Written by presence.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::domain::device::DeviceId;
use crate::fleet::error::FleetError;
use crate::registry::error::RegistryError;

/// The newest session of a client id.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionRow {
    /// The client id.
    pub client_id: String,
    /// When it began.
    pub connected_at: Timestamp,
    /// Whether it is still open.
    pub open: bool,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Most sessions that are listed of a device: a service may have had very many.
const MOST: i64 = 1000;

/// Lists the sessions of a device by client id: open ones and those noted last, [`MOST`] at most. No time
/// is later than it was noted, whatever a broker's clock said.
///
/// # Errors
/// A database that is away.
pub(super) async fn list_of(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<SessionRow>, FleetError> {
    let rows = client
        .query(
            "SELECT client_id, least(connected_at, noted_at) AS connected_at, open,
                    CASE WHEN NOT open THEN least(ended_at, noted_at) END AS ended_at
             FROM (SELECT * FROM client_sessions WHERE device_id = $1
                   ORDER BY open DESC, noted_at DESC LIMIT $2) AS latest
             ORDER BY client_id",
            &[&device.0, &MOST],
        )
        .await
        .map_err(RegistryError::on("the list of sessions"))?;
    Ok(rows
        .iter()
        .map(|row| SessionRow {
            client_id: row.get("client_id"),
            connected_at: row.get("connected_at"),
            open: row.get("open"),
            ended_at: row.get("ended_at"),
        })
        .collect())
}
