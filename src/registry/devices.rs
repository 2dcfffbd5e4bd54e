//! Devices: the table `devices`, and what `device show` gathers around one.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};

use crate::domain::device::DeviceId;
use crate::domain::name::{CapabilityName, ClientId, DeviceKind, DeviceName};
use crate::registry::bindings::{self, BindingRow, NewBinding};
use crate::registry::credentials::{self, CredentialRow};
use crate::registry::document::document;
use crate::registry::error::RegistryError;
use crate::registry::grants::{self, GrantRow};
use crate::registry::sessions::{self, SessionRow};

/// Most devices that one page of a list holds.
pub const MAX_PAGE: u16 = 1000;

/// A device to be made.
pub struct NewDevice {
    /// Its name and MQTT user name.
    pub name: DeviceName,
    /// Its client id, where that is not its name.
    pub client_id: Option<ClientId>,
    /// Where it is.
    pub area: Option<String>,
    /// Where it is.
    pub floor: Option<String>,
    /// What it is.
    pub kind: DeviceKind,
    /// Whether it may use the bus.
    pub enabled: bool,
    /// A free-form JSON object.
    pub meta: Value,
    /// What it can do; those of its bindings are added to them.
    pub capabilities: Vec<CapabilityName>,
    /// Its topics.
    pub bindings: Vec<NewBinding>,
}

/// A device as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceRow {
    /// Its row.
    #[serde(skip)]
    pub id: DeviceId,
    /// Its name and MQTT user name.
    pub name: String,
    /// The client id that it connects with.
    pub client_id: String,
    /// Where it is.
    pub area: Option<String>,
    /// Where it is.
    pub floor: Option<String>,
    /// What it is.
    pub kind: String,
    /// Whether one of its sessions is open.
    pub online: bool,
    /// Whether it may use the bus.
    pub enabled: bool,
    /// A free-form JSON object.
    pub meta: Value,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When an administrator last changed it.
    pub updated_at: Timestamp,
}

/// A device with everything that the registry knows of it. Hashes stay in the database.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceDetails {
    /// Its row.
    #[serde(flatten)]
    pub device: DeviceRow,
    /// Last known values by binding name, each with `at` (ms since 1970), the message's `id` and,
    /// unless it was cleared, its `value`.
    pub state: Value,
    /// The newest report that broke its capability's schema: `at`, `binding`, `pointer`, `message`.
    pub last_violation: Option<Value>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Its topics.
    pub bindings: Vec<BindingRow>,
    /// Its further rights.
    pub grants: Vec<GrantRow>,
    /// What it may log in with, revoked and expired ones included.
    pub credentials: Vec<CredentialRow>,
    /// The newest session of each of its client ids.
    pub sessions: Vec<SessionRow>,
}

/// Which devices to list, and which page of them.
#[derive(Debug, Clone, Default)]
pub struct DeviceFilter {
    /// Only of this area.
    pub area: Option<String>,
    /// Only of this floor.
    pub floor: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only those online, or only those not.
    pub online: Option<bool>,
    /// Only those enabled, or only those not.
    pub enabled: Option<bool>,
    /// Only those whose name comes after this one in the order of bytes.
    pub after: Option<String>,
}

/// `device "name"`, as errors begin.
pub(super) fn about(name: &str) -> String {
    format!("device {name:?}")
}

/// Adds a device with its capabilities and bindings, all or nothing.
///
/// # Errors
/// [`RegistryError::Refused`] when a name is taken, a client id belongs to another device, a
/// capability does not exist, or a value breaks a rule.
pub async fn insert(
    client: &mut impl GenericClient,
    device: &NewDevice,
) -> Result<DeviceId, RegistryError> {
    let name = device.name.as_str();
    let transaction = client.transaction().await.map_err(RegistryError::on(about(name)))?;
    let id = insert_row(&transaction, device).await?;
    for capability in &device.capabilities {
        bindings::assign_capability(&transaction, id, capability.as_str()).await?;
    }
    for binding in &device.bindings {
        bindings::insert(&transaction, id, binding).await?;
    }
    transaction.commit().await.map_err(RegistryError::on(about(name)))?;
    Ok(id)
}

async fn insert_row(
    client: &impl GenericClient,
    device: &NewDevice,
) -> Result<DeviceId, RegistryError> {
    let row = client
        .query_one(
            "INSERT INTO devices (name, client_id, area, floor, kind, enabled, meta)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             RETURNING id",
            &[
                &device.name.as_str(),
                &device.client_id.as_ref().map(ClientId::as_str),
                &device.area,
                &device.floor,
                &device.kind.as_str(),
                &device.enabled,
                &device.meta,
            ],
        )
        .await
        .map_err(RegistryError::on(about(device.name.as_str())))?;
    Ok(DeviceId(row.get(0)))
}

/// Lists devices by name, at most `limit` and at most [`MAX_PAGE`] of them. The next page begins
/// after the last name of this one.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    filter: &DeviceFilter,
    limit: u16,
) -> Result<Vec<DeviceRow>, RegistryError> {
    let rows = client
        .query(
            "SELECT devices.*, last_seen
             FROM devices LEFT JOIN device_state ON device_state.device_id = devices.id
             WHERE ($1::text IS NULL OR area = $1)
               AND ($2::text IS NULL OR floor = $2)
               AND ($3::text IS NULL OR kind = $3)
               AND ($4::boolean IS NULL OR online = $4)
               AND ($5::boolean IS NULL OR enabled = $5)
               AND ($6::text IS NULL OR name > $6)
             ORDER BY name
             LIMIT $7",
            &[
                &filter.area,
                &filter.floor,
                &filter.kind,
                &filter.online,
                &filter.enabled,
                &filter.after,
                &i64::from(limit.min(MAX_PAGE)),
            ],
        )
        .await
        .map_err(RegistryError::on("the list of devices"))?;
    rows.iter().map(device_row).collect()
}

fn device_row(row: &Row) -> Result<DeviceRow, RegistryError> {
    let name: String = row.get("name");
    Ok(DeviceRow {
        id: DeviceId(row.get("id")),
        meta: document(row, &about(&name), "meta")?.unwrap_or_default(),
        name,
        client_id: row.get("effective_client_id"),
        area: row.get("area"),
        floor: row.get("floor"),
        kind: row.get("kind"),
        online: row.get("online"),
        enabled: row.get("enabled"),
        last_seen: row.get("last_seen"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}

/// Finds a device with everything around it.
///
/// # Errors
/// A database that is away.
pub async fn find(
    client: &impl GenericClient,
    name: &str,
) -> Result<Option<DeviceDetails>, RegistryError> {
    let row = client
        .query_opt(
            "SELECT devices.*, last_seen, coalesce(state, '{}') AS state, last_violation,
                    ARRAY(SELECT capability FROM device_capabilities
                          WHERE device_id = devices.id ORDER BY capability) AS capabilities
             FROM devices LEFT JOIN device_state ON device_state.device_id = devices.id
             WHERE name = $1",
            &[&name],
        )
        .await
        .map_err(RegistryError::on(about(name)))?;
    let Some(row) = row else { return Ok(None) };
    let device = device_row(&row)?;
    let id = device.id;
    Ok(Some(DeviceDetails {
        device,
        state: document(&row, &about(name), "state")?.unwrap_or_default(),
        last_violation: document(&row, &about(name), "last_violation")?,
        capabilities: row.get("capabilities"),
        bindings: bindings::list(client, id).await?,
        grants: grants::list(client, id).await?,
        credentials: credentials::list(client, id).await?,
        sessions: sessions::list(client, id).await?,
    }))
}

/// Finds a device's row id.
///
/// # Errors
/// A database that is away.
pub async fn find_id(
    client: &impl GenericClient,
    name: &str,
) -> Result<Option<DeviceId>, RegistryError> {
    let row = client
        .query_opt("SELECT id FROM devices WHERE name = $1", &[&name])
        .await
        .map_err(RegistryError::on(about(name)))?;
    Ok(row.map(|row| DeviceId(row.get(0))))
}

/// Enables or disables a device; `false` when there is none of this name.
///
/// # Errors
/// A database that is away.
pub async fn set_enabled(
    client: &impl GenericClient,
    name: &str,
    enabled: bool,
) -> Result<bool, RegistryError> {
    let changed = client
        .execute("UPDATE devices SET enabled = $2 WHERE name = $1", &[&name, &enabled])
        .await
        .map_err(RegistryError::on(about(name)))?;
    Ok(changed == 1)
}

/// Removes a device with all that belongs to it; `false` when there is none of this name.
///
/// # Errors
/// A database that is away.
pub async fn remove(client: &impl GenericClient, name: &str) -> Result<bool, RegistryError> {
    let removed = client
        .execute("DELETE FROM devices WHERE name = $1", &[&name])
        .await
        .map_err(RegistryError::on(about(name)))?;
    Ok(removed == 1)
}
