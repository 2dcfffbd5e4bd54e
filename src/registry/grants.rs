//! Grants: rights beyond the bindings (`topic_grants`).

use serde::Serialize;
use tokio_postgres::GenericClient;

use crate::domain::acl::Action;
use crate::domain::device::DeviceId;
use crate::domain::topic::TopicFilter;
use crate::registry::error::RegistryError;

/// A grant as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct GrantRow {
    /// Its row, by which it is removed.
    pub id: i64,
    /// `publish` or `subscribe`.
    pub action: String,
    /// On which topics.
    pub topic_filter: String,
}

/// An action as the table writes it.
#[must_use]
pub fn action_text(action: Action) -> &'static str {
    match action {
        Action::Publish => "publish",
        Action::Subscribe => "subscribe",
    }
}

fn about(action: Action, filter: &TopicFilter) -> String {
    format!("grant to {} {filter:?}", action_text(action), filter = filter.as_str())
}

/// Adds a grant and tells its row.
///
/// # Errors
/// [`RegistryError::Refused`] when the device has this grant already.
pub async fn add(
    client: &impl GenericClient,
    device: DeviceId,
    action: Action,
    filter: &TopicFilter,
) -> Result<i64, RegistryError> {
    let row = client
        .query_one(
            "INSERT INTO topic_grants (device_id, action, topic_filter) VALUES ($1, $2, $3)
             RETURNING id",
            &[&device.0, &action_text(action), &filter.as_str()],
        )
        .await
        .map_err(RegistryError::on(about(action, filter)))?;
    Ok(row.get(0))
}

/// Lists a device's grants by action and filter.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<GrantRow>, RegistryError> {
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

/// Removes a grant by its row; `false` when there is none.
///
/// # Errors
/// A database that is away.
pub async fn remove(client: &impl GenericClient, id: i64) -> Result<bool, RegistryError> {
    let removed = client
        .execute("DELETE FROM topic_grants WHERE id = $1", &[&id])
        .await
        .map_err(RegistryError::on(format!("grant {id}")))?;
    Ok(removed == 1)
}

/// Removes a device's grant by what it says; `false` when there is none.
///
/// # Errors
/// A database that is away.
pub async fn remove_of(
    client: &impl GenericClient,
    device: DeviceId,
    action: Action,
    filter: &TopicFilter,
) -> Result<bool, RegistryError> {
    let removed = client
        .execute(
            "DELETE FROM topic_grants WHERE device_id = $1 AND action = $2 AND topic_filter = $3",
            &[&device.0, &action_text(action), &filter.as_str()],
        )
        .await
        .map_err(RegistryError::on(about(action, filter)))?;
    Ok(removed == 1)
}
