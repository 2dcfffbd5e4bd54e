//! Capabilities.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Remote, RemoteError, member};
use crate::domain::delivery::Confirmation;
use crate::domain::name::CapabilityName;
use crate::domain::schema::UsableSchema;
use crate::fleet::capabilities::{CapabilityChange, CapabilityRow, NewCapability};

/// Whole seconds, as the API takes them.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// Adds a capability.
///
/// # Errors
/// As [`crate::fleet::capabilities::add`].
pub async fn add(api: &Remote, new: &NewCapability) -> Result<CapabilityRow, RemoteError> {
    let NewCapability { name, description, state_schema, command_schema, commands } = new;
    let body = json!({
        "description": description,
        "state_schema": state_schema.as_ref().map(UsableSchema::as_value),
        "command_schema": command_schema.as_ref().map(UsableSchema::as_value),
        "confirm": commands.confirm.word(),
        "command_expiry": seconds(commands.expiry),
        "ack_timeout": seconds(commands.ack_timeout),
        "answer_in": seconds(commands.answer_in),
        "envelope": commands.envelope,
        "only_latest": commands.only_latest,
    });
    api.put(&["capabilities", name.as_str()]).only_new().json(&body).read().await
}

/// Shows a capability.
///
/// # Errors
/// There is no such capability.
pub async fn show(api: &Remote, name: &CapabilityName) -> Result<CapabilityRow, RemoteError> {
    api.get(&["capabilities", name.as_str()]).read().await
}

/// Lists all capabilities by name.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn list(api: &Remote) -> Result<Vec<CapabilityRow>, RemoteError> {
    api.get(&["capabilities"]).read().await
}

/// Changes a capability.
///
/// # Errors
/// As [`crate::fleet::capabilities::set`].
pub async fn set(
    api: &Remote,
    name: &CapabilityName,
    change: &CapabilityChange,
) -> Result<CapabilityRow, RemoteError> {
    let mut members = Map::new();
    member(&mut members, "description", change.description.as_ref());
    let schema =
        |schema: &Option<UsableSchema>| schema.as_ref().map(|schema| schema.as_value().clone());
    member(&mut members, "state_schema", change.state_schema.as_ref().map(schema));
    member(&mut members, "command_schema", change.command_schema.as_ref().map(schema));
    member(&mut members, "confirm", change.commands.confirm.map(Confirmation::word));
    member(&mut members, "command_expiry", change.commands.expiry.map(seconds));
    member(&mut members, "ack_timeout", change.commands.ack_timeout.map(seconds));
    member(&mut members, "answer_in", change.commands.answer_in.map(seconds));
    member(&mut members, "envelope", change.commands.envelope);
    member(&mut members, "only_latest", change.commands.only_latest);
    api.patch(&["capabilities", name.as_str()]).json(&Value::Object(members)).read().await
}

/// Removes a capability.
///
/// # Errors
/// There is no such capability; devices have it, or routing rules name it.
pub async fn remove(api: &Remote, name: &CapabilityName) -> Result<(), RemoteError> {
    api.delete(&["capabilities", name.as_str()]).done().await
}
