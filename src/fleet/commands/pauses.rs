//! Pauses: capabilities whose commands are not sent for now (`command_pauses`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::domain::name::CapabilityName;
use crate::fleet::error::{FleetError, Thing};
use crate::registry::error::RegistryError;

/// Commands that are not sent for now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// Whose; `null`: those of all capabilities.
    pub capability: Option<String>,
    /// Since when.
    pub paused_at: Timestamp,
    /// Who paused them.
    pub paused_by: String,
}

/// What there was to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resumed {
    /// Whether these had been paused themselves.
    pub was_paused: bool,
    /// Whether a pause of all commands still holds them back.
    pub all_are_paused: bool,
}

/// Keeps the commands of a capability, or all, from being sent until [`resume`]. They expire all the same, and
/// what is on its way goes on.
///
/// # Errors
/// There is no such capability.
pub async fn pause(
    client: &impl GenericClient,
    capability: Option<&CapabilityName>,
    by: &str,
) -> Result<(), FleetError> {
    let statement = "WITH known AS (SELECT FROM capabilities WHERE name = $1 FOR KEY SHARE),
         paused AS (
             INSERT INTO command_pauses (capability, paused_by)
             SELECT $1, $2 WHERE $1 = '' OR EXISTS (SELECT FROM known) ON CONFLICT DO NOTHING)
         SELECT $1 = '' OR EXISTS (SELECT FROM known)";
    let name = capability.map_or("", CapabilityName::as_str);
    let row = client.query_one(statement, &[&name, &by]).await;
    match (row.map_err(RegistryError::on("the pause of commands"))?.get(0), capability) {
        (false, Some(name)) => Err(FleetError::NotFound(Thing::Capability(name.clone()))),
        _ => Ok(()),
    }
}

/// Ends the pause of a capability's commands, or that of all, and wakes them. A pause of all holds those of a capability
/// back whatever becomes of its own, and the other way round.
///
/// # Errors
/// There is neither such a capability nor a pause that one of this name left behind.
pub async fn resume(
    client: &impl GenericClient,
    capability: Option<&CapabilityName>,
) -> Result<Resumed, FleetError> {
    // What a statement deletes it still sees; so the pause of all is only looked for beside that of a capability.
    let statement =
        "WITH resumed AS (DELETE FROM command_pauses WHERE capability = $1 RETURNING 1),
         woken AS (
             SELECT fleetgate_queue_work('command', array_agg(key), array_agg(payload))
             FROM work_queue WHERE kind = 'command' AND EXISTS (SELECT FROM resumed) HAVING count(*) > 0)
         SELECT EXISTS (SELECT FROM resumed), $1 <> '' AND EXISTS (SELECT FROM command_pauses WHERE capability = ''),
             $1 = '' OR EXISTS (SELECT FROM capabilities WHERE name = $1), (SELECT count(*) FROM woken)";
    let name = capability.map_or("", CapabilityName::as_str);
    let row = client.query_one(statement, &[&name]).await;
    let row = row.map_err(RegistryError::on("the pause of commands"))?;
    let resumed = Resumed { was_paused: row.get(0), all_are_paused: row.get(1) };
    match (resumed.was_paused || row.get(2), capability) {
        (false, Some(name)) => Err(FleetError::NotFound(Thing::Capability(name.clone()))),
        _ => Ok(resumed),
    }
}

/// Lists the pauses; that of all commands first.
///
/// # Errors
/// A database that is away.
pub async fn pauses(client: &impl GenericClient) -> Result<Vec<Pause>, RegistryError> {
    let statement = "SELECT nullif(capability, '') AS capability, paused_at, paused_by
         FROM command_pauses ORDER BY command_pauses.capability";
    let rows = client.query(statement, &[]).await;
    let rows = rows.map_err(RegistryError::on("the pauses of commands"))?;
    Ok(rows
        .iter()
        .map(|row| Pause {
            capability: row.get("capability"),
            paused_at: row.get("paused_at"),
            paused_by: row.get("paused_by"),
        })
        .collect())
}
