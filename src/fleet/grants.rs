//! Grants: rights beyond the bindings (`topic_grants`).

use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::domain::acl::Action;
use crate::domain::device::DeviceId;
use crate::domain::name::DeviceName;
use crate::domain::topic::TopicFilter;
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::one_thing;
use crate::fleet::{Added, devices};
use crate::registry::error::RegistryError;

/// A grant as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantRow {
    /// Its row, by which it is removed.
    pub id: i64,
    /// `publish` or `subscribe`.
    pub action: String,
    /// On which topics.
    pub topic_filter: String,
}

fn about(device: &DeviceName, action: Action, filter: &TopicFilter) -> Thing {
    Thing::Grant { device: device.clone(), action, filter: filter.clone() }
}

/// Adds a grant and tells its row. Adding the same again changes nothing.
///
/// # Errors
/// There is no such device; the rules of `sql/`.
pub async fn add(
    client: &impl GenericClient,
    device: &DeviceName,
    action: Action,
    filter: &TopicFilter,
) -> Result<Added<i64>, FleetError> {
    let thing = about(device, action, filter);
    let id = devices::find(client, device).await?;
    let statement = "WITH added AS (
             INSERT INTO topic_grants (device_id, action, topic_filter) VALUES ($1, $2, $3)
             ON CONFLICT ON CONSTRAINT topic_grants_unique DO NOTHING
             RETURNING id)
         SELECT id, true FROM added
         UNION ALL
         SELECT id, false FROM topic_grants WHERE device_id = $1 AND action = $2 AND topic_filter = $3";
    loop {
        let row = client
            .query_opt(statement, &[&id.0, &action.word(), &filter.as_str()])
            .await
            .map_err(FleetError::on_part_of(device, &thing))?;
        // None: another transaction has added or removed the same since this statement began.
        match row.map(|row| (row.get(0), row.get(1))) {
            Some((id, true)) => return Ok(Added::New(id)),
            Some((id, false)) => return Ok(Added::Same(id)),
            None => {}
        }
    }
}

/// Lists a device's grants by action and filter.
///
/// # Errors
/// There is no such device.
pub async fn list(
    client: &impl GenericClient,
    device: &DeviceName,
) -> Result<Vec<GrantRow>, FleetError> {
    list_of(client, devices::find(client, device).await?).await
}

pub(super) async fn list_of(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<GrantRow>, FleetError> {
    let rows = client
        .query(
            "SELECT id, action, topic_filter FROM topic_grants
             WHERE device_id = $1 ORDER BY action, topic_filter",
            &[&device.0],
        )
        .await
        .map_err(RegistryError::on("the list of grants"))?;
    Ok(rows
        .iter()
        .map(|row| GrantRow {
            id: row.get("id"),
            action: row.get("action"),
            topic_filter: row.get("topic_filter"),
        })
        .collect())
}

/// Removes a grant by its row. The device's sessions end, by trigger.
///
/// # Errors
/// There is no such grant.
pub async fn remove(client: &impl GenericClient, id: i64) -> Result<(), FleetError> {
    let thing = Thing::GrantId(id);
    one_thing::change(client, &thing, "DELETE FROM topic_grants WHERE id = $1", &[&id]).await
}

/// Removes a device's grant by what it says. Its sessions end, by trigger.
///
/// # Errors
/// There is no such device or grant.
pub async fn remove_of(
    client: &impl GenericClient,
    device: &DeviceName,
    action: Action,
    filter: &TopicFilter,
) -> Result<(), FleetError> {
    let thing = about(device, action, filter);
    let statement = "DELETE FROM topic_grants USING devices
         WHERE devices.id = device_id AND name = $1 AND action = $2 AND topic_filter = $3";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&device.as_str(), &action.word(), &filter.as_str()];
    match client.execute(statement, &values).await.map_err(FleetError::on(&thing))? {
        0 => {
            devices::find(client, device).await?;
            Err(FleetError::NotFound(thing))
        }
        _ => Ok(()),
    }
}
