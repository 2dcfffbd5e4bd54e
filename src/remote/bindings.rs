//! Bindings.

use serde_json::{Map, Value, json};

use super::{Remote, RemoteError, member};
use crate::domain::name::{BindingName, DeviceName};
use crate::fleet::bindings::{BindingChange, BindingRow, NewBinding};

/// Adds a binding; adding the same again changes nothing.
///
/// # Errors
/// As [`crate::fleet::bindings::add`].
pub async fn add(
    api: &Remote,
    device: &DeviceName,
    new: &NewBinding,
) -> Result<BindingRow, RemoteError> {
    let body = json!({
        "conventional": new.conventional,
        "state_topic": new.state_topic,
        "command_topic": new.command_topic,
        "reply_topic": new.reply_topic,
        "merge": new.merge,
    });
    let path = ["devices", device.as_str(), "bindings", new.name.as_str()];
    api.put(&path).only_new().json(&body).read().await
}

/// Lists a device's bindings by name.
///
/// # Errors
/// There is no such device.
pub async fn list(api: &Remote, device: &DeviceName) -> Result<Vec<BindingRow>, RemoteError> {
    api.get(&["devices", device.as_str(), "bindings"]).read().await
}

/// Changes a binding.
///
/// # Errors
/// As [`crate::fleet::bindings::set`].
pub async fn set(
    api: &Remote,
    device: &DeviceName,
    name: &BindingName,
    change: &BindingChange,
) -> Result<BindingRow, RemoteError> {
    let mut members = Map::new();
    member(&mut members, "state_topic", change.state_topic.as_ref());
    member(&mut members, "command_topic", change.command_topic.as_ref());
    member(&mut members, "reply_topic", change.reply_topic.as_ref());
    member(&mut members, "merge", change.merge);
    if change.conventional {
        member(&mut members, "conventional", Some(true));
        member(&mut members, "state_topic", Some(Value::Null));
        member(&mut members, "command_topic", Some(Value::Null));
    }
    let path = ["devices", device.as_str(), "bindings", name.as_str()];
    api.patch(&path).json(&Value::Object(members)).read().await
}

/// Removes a binding together with the device's capability that it carries.
///
/// # Errors
/// There is no such device, or it has neither.
pub async fn remove(
    api: &Remote,
    device: &DeviceName,
    name: &BindingName,
) -> Result<(), RemoteError> {
    api.delete(&["devices", device.as_str(), "bindings", name.as_str()]).done().await
}
