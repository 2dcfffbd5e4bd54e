//! Devices.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Answer, Page, Remote, RemoteError, member};
use crate::domain::cursor::cursor;
use crate::domain::meta::Meta;
use crate::domain::name::DeviceName;
use crate::fleet::bindings::NewBinding;
use crate::fleet::devices::{
    Changed, DeviceChange, DeviceDetails, DeviceFilter, DeviceRow, NewDevice,
};
use crate::secret::Secret;

/// Most devices of a page.
const MAX_PAGE: u16 = 1000;

/// Adds a device, with a secret that is generated there if that is wanted.
///
/// # Errors
/// As [`crate::fleet::devices::add`].
pub async fn add(
    api: &Remote,
    new: &NewDevice,
    generate: bool,
) -> Result<(DeviceDetails, Option<Secret>), RemoteError> {
    let body = json!({
        "client_id": new.client_id,
        "area": new.area,
        "floor": new.floor,
        "kind": new.kind,
        "gateway": new.gateway,
        "availability_topic": new.availability_topic,
        "enabled": new.enabled,
        "meta": new.meta.as_value(),
        "capabilities": new.capabilities,
        "bindings": new.bindings.iter().map(binding).collect::<Vec<_>>(),
        "credential": generate.then(|| json!({"kind": "secret"})),
    });
    let call = api.put(&["devices", new.name.as_str()]).only_new().json(&body);
    let mut answer = call.send().await?;
    let secret: Option<String> = answer.take(api, "secret")?;
    Ok((details(api, answer)?, secret.map(Secret::new)))
}

/// Reads a device member by member: serde's own way to read one flattened loses digits of large numbers.
fn details(api: &Remote, mut answer: Answer) -> Result<DeviceDetails, RemoteError> {
    Ok(DeviceDetails {
        state: answer.take(api, "state")?,
        availability: answer.take(api, "availability")?,
        children: answer.take(api, "children")?,
        last_violation: answer.take(api, "last_violation")?,
        capabilities: answer.take(api, "capabilities")?,
        bindings: answer.take(api, "bindings")?,
        grants: answer.take(api, "grants")?,
        credentials: answer.take(api, "credentials")?,
        sessions: answer.take(api, "sessions")?,
        device: answer.read(api)?,
    })
}

fn binding(binding: &NewBinding) -> Value {
    json!({
        "name": binding.name,
        "conventional": binding.conventional,
        "state_topic": binding.state_topic,
        "command_topic": binding.command_topic,
        "reply_topic": binding.reply_topic,
        "merge": binding.merge,
    })
}

/// Lists devices by name, as [`crate::fleet::devices::list`] does.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn list(
    api: &Remote,
    filter: &DeviceFilter,
    limit: u16,
) -> Result<Vec<DeviceRow>, RemoteError> {
    let page: Page<DeviceRow> = api
        .get(&["devices"])
        .with("area", filter.area.as_ref())
        .with("floor", filter.floor.as_ref())
        .with("kind", filter.kind.as_ref())
        .with("online", filter.online)
        .with("enabled", filter.enabled)
        .with("selector", Some(filter.selector.to_json()))
        .with("limit", Some(limit))
        .with("after", filter.after.as_deref().map(cursor))
        .read()
        .await?;
    Ok(page.items)
}

/// The names of all devices.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn names(api: &Remote) -> Result<BTreeSet<String>, RemoteError> {
    let mut names = BTreeSet::new();
    let mut filter = DeviceFilter::default();
    loop {
        let page = list(api, &filter, MAX_PAGE).await?;
        let is_last = page.len() < usize::from(MAX_PAGE);
        filter.after = page.last().map(|last| last.name.clone());
        names.extend(page.into_iter().map(|device| device.name));
        if is_last {
            return Ok(names);
        }
    }
}

/// Shows a device with everything around it.
///
/// # Errors
/// There is no such device.
pub async fn show(api: &Remote, name: &DeviceName) -> Result<DeviceDetails, RemoteError> {
    details(api, api.get(&["devices", name.as_str()]).send().await?)
}

/// Changes a device.
///
/// # Errors
/// As [`crate::fleet::devices::set`].
pub async fn set(
    api: &Remote,
    name: &DeviceName,
    change: &DeviceChange,
) -> Result<Changed, RemoteError> {
    let mut members = Map::new();
    member(&mut members, "name", change.name.as_ref());
    member(&mut members, "client_id", change.client_id.as_ref());
    member(&mut members, "area", change.area.as_ref());
    member(&mut members, "floor", change.floor.as_ref());
    member(&mut members, "kind", change.kind.as_ref());
    member(&mut members, "gateway", change.gateway.as_ref());
    if change.gateway == Some(None) {
        // It goes with its gateway.
        member(&mut members, "availability_topic", Some(Value::Null));
    }
    member(&mut members, "availability_topic", change.availability_topic.as_ref());
    member(&mut members, "enabled", change.enabled);
    member(&mut members, "meta", change.meta.as_ref().map(Meta::as_value));
    let call = api.patch(&["devices", name.as_str()]).json(&Value::Object(members));
    let mut answer = call.send().await?;
    let left_behind: Option<_> = answer.take(api, "left_behind")?;
    Ok(Changed { left_behind: left_behind.unwrap_or_default(), details: details(api, answer)? })
}

/// Lets a device use the bus, or refuses its logins and all of its rights.
///
/// # Errors
/// There is no such device.
pub async fn set_enabled(
    api: &Remote,
    name: &DeviceName,
    enabled: bool,
) -> Result<(), RemoteError> {
    api.patch(&["devices", name.as_str()]).json(&json!({"enabled": enabled})).done().await
}

/// Removes a device with all that belongs to it.
///
/// # Errors
/// There is no such device, or others are behind it.
pub async fn remove(api: &Remote, name: &DeviceName) -> Result<(), RemoteError> {
    api.delete(&["devices", name.as_str()]).done().await
}
