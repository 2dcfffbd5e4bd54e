//! Capabilities: what devices can do (`capabilities`).

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};

use crate::domain::name::CapabilityName;
use crate::registry::document::document;
use crate::registry::error::RegistryError;

/// A capability to be made.
pub struct NewCapability {
    /// Its name.
    pub name: CapabilityName,
    /// What it is, for people.
    pub description: String,
    /// JSON Schema of its state payload.
    pub state_schema: Option<Value>,
    /// JSON Schema of its command payload.
    pub command_schema: Option<Value>,
}

/// A capability as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct CapabilityRow {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// JSON Schema of its state payload.
    pub state_schema: Option<Value>,
    /// JSON Schema of its command payload.
    pub command_schema: Option<Value>,
    /// How many devices have it.
    pub devices: i64,
}

fn about(name: &str) -> String {
    format!("capability {name:?}")
}

/// Adds a capability.
///
/// # Errors
/// [`RegistryError::Refused`] when the name is taken or reserved, or a schema is neither a JSON
/// object nor a boolean.
pub async fn add(
    client: &impl GenericClient,
    capability: &NewCapability,
) -> Result<(), RegistryError> {
    client
        .execute(
            "INSERT INTO capabilities (name, description, state_schema, command_schema)
             VALUES ($1, $2, $3, $4)",
            &[
                &capability.name.as_str(),
                &capability.description,
                &capability.state_schema,
                &capability.command_schema,
            ],
        )
        .await
        .map_err(RegistryError::on(about(capability.name.as_str())))?;
    Ok(())
}

const SELECT: &str = "SELECT name, description, state_schema, command_schema,
        (SELECT count(*) FROM device_capabilities WHERE capability = capabilities.name) AS devices
    FROM capabilities";

/// Lists all capabilities by name.
///
/// # Errors
/// A database that is away.
pub async fn list(client: &impl GenericClient) -> Result<Vec<CapabilityRow>, RegistryError> {
    let rows = client
        .query(&format!("{SELECT} ORDER BY name"), &[])
        .await
        .map_err(RegistryError::on("the list of capabilities"))?;
    rows.iter().map(capability_row).collect()
}

/// Finds a capability.
///
/// # Errors
/// A database that is away.
pub async fn find(
    client: &impl GenericClient,
    name: &str,
) -> Result<Option<CapabilityRow>, RegistryError> {
    let row = client
        .query_opt(&format!("{SELECT} WHERE name = $1"), &[&name])
        .await
        .map_err(RegistryError::on(about(name)))?;
    row.as_ref().map(capability_row).transpose()
}

fn capability_row(row: &Row) -> Result<CapabilityRow, RegistryError> {
    let name: String = row.get("name");
    let thing = about(&name);
    Ok(CapabilityRow {
        description: row.get("description"),
        state_schema: document(row, &thing, "state_schema")?,
        command_schema: document(row, &thing, "command_schema")?,
        devices: row.get("devices"),
        name,
    })
}

/// What of a capability is to change; `None` leaves it, `Some(None)` takes it away.
#[derive(Debug, Clone, Default)]
pub struct CapabilityChange {
    /// What it is, for people.
    pub description: Option<String>,
    /// JSON Schema of its state payload.
    pub state_schema: Option<Option<Value>>,
    /// JSON Schema of its command payload.
    pub command_schema: Option<Option<Value>>,
}

/// Changes a capability, also one that devices have; `None` when there is none of this name.
///
/// # Errors
/// [`RegistryError::Refused`] when a schema is neither a JSON object nor a boolean.
pub async fn set(
    client: &impl GenericClient,
    name: &str,
    change: &CapabilityChange,
) -> Result<Option<CapabilityRow>, RegistryError> {
    client
        .execute(
            "UPDATE capabilities SET description = coalesce($2, description),
                 state_schema = CASE WHEN $3 THEN $4 ELSE state_schema END,
                 command_schema = CASE WHEN $5 THEN $6 ELSE command_schema END
             WHERE name = $1",
            &[
                &name,
                &change.description,
                &change.state_schema.is_some(),
                &change.state_schema.clone().flatten(),
                &change.command_schema.is_some(),
                &change.command_schema.clone().flatten(),
            ],
        )
        .await
        .map_err(RegistryError::on(about(name)))?;
    find(client, name).await
}

/// Removes a capability; `false` when there is none of this name.
///
/// # Errors
/// [`RegistryError::Refused`] while devices have it or routing rules name it.
pub async fn remove(client: &impl GenericClient, name: &str) -> Result<bool, RegistryError> {
    let row = client
        .query_one(
            "WITH removed AS (
                 DELETE FROM capabilities WHERE name = $1
                     AND NOT EXISTS (SELECT FROM device_capabilities WHERE capability = $1)
                 RETURNING name)
             SELECT (SELECT count(*) FROM removed),
                 (SELECT count(*) FROM device_capabilities WHERE capability = $1)",
            &[&name],
        )
        .await
        .map_err(RegistryError::on(about(name)))?;
    match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
        (0, 0) => Ok(false),
        (0, devices) => Err(RegistryError::Refused(format!(
            "{}: devices still have it: {devices}; see `fleetgate device list`",
            about(name)
        ))),
        _ => Ok(true),
    }
}
