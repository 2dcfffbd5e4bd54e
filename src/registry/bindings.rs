//! Bindings: the exact topics of a device (`topic_bindings`, `device_capabilities`).

use serde::Serialize;
use tokio_postgres::GenericClient;

use crate::domain::device::DeviceId;
use crate::domain::name::{CapabilityName, DeviceName};
use crate::domain::topic::TopicName;
use crate::registry::devices::{about, find_id};
use crate::registry::error::RegistryError;

/// Name of the binding that carries no capability.
pub const MAIN: &str = "main";

/// A binding to be made. At least one topic must be there.
pub struct NewBinding {
    /// A capability, which the device is given along with the binding, or [`MAIN`].
    pub name: CapabilityName,
    /// Where the device reports.
    pub state_topic: Option<TopicName>,
    /// Where the device listens.
    pub command_topic: Option<TopicName>,
    /// Whether its reports are merged (RFC 7396) into the last known value instead of replacing it.
    pub merge: bool,
}

/// A binding as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct BindingRow {
    /// A capability, or [`MAIN`].
    pub name: String,
    /// Where the device reports.
    pub state_topic: Option<String>,
    /// Where the device listens.
    pub command_topic: Option<String>,
    /// Whether its reports are merged (RFC 7396) into the last known value instead of replacing it.
    pub merge: bool,
}

/// Adds a binding, and its capability to the device; `false` when there is no such device.
///
/// # Errors
/// [`RegistryError::Refused`] when the device has a binding of this name, there is no such
/// capability, or there is no topic.
pub async fn add(
    client: &mut impl GenericClient,
    device: &DeviceName,
    binding: &NewBinding,
) -> Result<bool, RegistryError> {
    let on_device = || RegistryError::on(about(device.as_str()));
    let transaction = client.transaction().await.map_err(on_device())?;
    let Some(id) = find_id(&transaction, device.as_str()).await? else { return Ok(false) };
    insert(&transaction, id, binding).await?;
    transaction.commit().await.map_err(on_device())?;
    Ok(true)
}

/// Inserts both rows; the caller has a transaction open.
pub(super) async fn insert(
    client: &impl GenericClient,
    device: DeviceId,
    binding: &NewBinding,
) -> Result<(), RegistryError> {
    let name = binding.name.as_str();
    if name != MAIN {
        assign_capability(client, device, name).await?;
    }
    client
        .execute(
            "INSERT INTO topic_bindings (device_id, name, state_topic, command_topic, merge)
             VALUES ($1, $2, $3, $4, $5)",
            &[
                &device.0,
                &name,
                &binding.state_topic.as_ref().map(TopicName::as_str),
                &binding.command_topic.as_ref().map(TopicName::as_str),
                &binding.merge,
            ],
        )
        .await
        .map_err(RegistryError::on(format!("binding {name:?}")))?;
    Ok(())
}

/// Notes that a device has a capability; nothing happens when it has it already.
pub(super) async fn assign_capability(
    client: &impl GenericClient,
    device: DeviceId,
    capability: &str,
) -> Result<(), RegistryError> {
    client
        .execute(
            "INSERT INTO device_capabilities (device_id, capability) VALUES ($1, $2)
             ON CONFLICT DO NOTHING",
            &[&device.0, &capability],
        )
        .await
        .map_err(RegistryError::on(format!("capability {capability:?}")))?;
    Ok(())
}

/// Lists a device's bindings by name.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<BindingRow>, RegistryError> {
    let rows = client
        .query(
            "SELECT name, state_topic, command_topic, merge FROM topic_bindings
             WHERE device_id = $1 ORDER BY name",
            &[&device.0],
        )
        .await
        .map_err(RegistryError::on("the list of bindings"))?;
    Ok(rows
        .iter()
        .map(|row| BindingRow {
            name: row.get("name"),
            state_topic: row.get("state_topic"),
            command_topic: row.get("command_topic"),
            merge: row.get("merge"),
        })
        .collect())
}

/// Says whether a binding's reports are merged from now on; `false` when the device has no such
/// binding. The value that is known stays: what is merged next is merged into it.
///
/// # Errors
/// A database that is away.
pub async fn set_merge(
    client: &impl GenericClient,
    device: DeviceId,
    name: &str,
    merge: bool,
) -> Result<bool, RegistryError> {
    let changed = client
        .execute(
            "UPDATE topic_bindings SET merge = $3 WHERE device_id = $1 AND name = $2",
            &[&device.0, &name, &merge],
        )
        .await
        .map_err(RegistryError::on(format!("binding {name:?}")))?;
    Ok(changed == 1)
}

/// Removes a binding together with the device's capability that it carries; `false` when the device
/// has neither.
///
/// # Errors
/// A database that is away.
pub async fn remove(
    client: &impl GenericClient,
    device: DeviceId,
    name: &str,
) -> Result<bool, RegistryError> {
    // The binding of a capability goes with it (ON DELETE CASCADE).
    let sql = if name == MAIN {
        "DELETE FROM topic_bindings WHERE device_id = $1 AND name = $2"
    } else {
        "DELETE FROM device_capabilities WHERE device_id = $1 AND capability = $2"
    };
    let removed = client
        .execute(sql, &[&device.0, &name])
        .await
        .map_err(RegistryError::on(format!("binding {name:?}")))?;
    Ok(removed > 0)
}
