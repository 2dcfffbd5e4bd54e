//! Grants.

use reqwest::StatusCode;
use serde_json::json;

use super::{Remote, RemoteError};
use crate::domain::acl::Action;
use crate::domain::name::DeviceName;
use crate::domain::topic::TopicFilter;
use crate::fleet::Added;
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::grants::GrantRow;

/// Adds a grant and tells its row; adding the same again changes nothing.
///
/// # Errors
/// As [`crate::fleet::grants::add`].
pub async fn add(
    api: &Remote,
    device: &DeviceName,
    action: Action,
    filter: &TopicFilter,
) -> Result<Added<i64>, RemoteError> {
    let body = json!({"action": action, "topic_filter": filter});
    let answer = api.post(&["devices", device.as_str(), "grants"]).json(&body).send().await?;
    let is_new = answer.status == StatusCode::CREATED;
    let GrantRow { id, .. } = answer.read(api)?;
    Ok(if is_new { Added::New(id) } else { Added::Same(id) })
}

/// Lists a device's grants by action and filter.
///
/// # Errors
/// There is no such device.
pub async fn list(api: &Remote, device: &DeviceName) -> Result<Vec<GrantRow>, RemoteError> {
    api.get(&["devices", device.as_str(), "grants"]).read().await
}

/// Removes a grant by its row.
///
/// # Errors
/// There is no such grant.
pub async fn remove(api: &Remote, id: i64) -> Result<(), RemoteError> {
    api.delete(&["grants", &id.to_string()]).done().await
}

/// Removes a device's grant by what it says.
///
/// # Errors
/// There is no such device or grant.
pub async fn remove_of(
    api: &Remote,
    device: &DeviceName,
    action: Action,
    filter: &TopicFilter,
) -> Result<(), RemoteError> {
    let grants = list(api, device).await?;
    let is_meant =
        |grant: &&GrantRow| grant.action == action.word() && grant.topic_filter == filter.as_str();
    let Some(grant) = grants.iter().find(is_meant) else {
        let (device, filter) = (device.clone(), filter.clone());
        return Err(FleetError::NotFound(Thing::Grant { device, action, filter }).into());
    };
    remove(api, grant.id).await
}
