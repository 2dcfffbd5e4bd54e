//! Commands.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Call, Page, Remote, RemoteError, member};
use crate::domain::cursor::cursor;
use crate::domain::delivery::{Confirmation, is_id};
use crate::domain::name::{CapabilityName, DeviceName};
use crate::fleet::commands::{CommandDetails, CommandRow, NewCommand, Pause, Resumed, Retried};
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::routing::{Choice, To};

fn ask<'a>(api: &'a Remote, path: &[&str], new: &NewCommand) -> Result<Call<'a>, RemoteError> {
    let payload: serde_json::Result<Value> = serde_json::from_str(new.payload.as_str());
    let payload =
        payload.map_err(|error| RemoteError::Unusable(format!("the payload: {error}")))?;
    let mut document = Map::new();
    member(&mut document, "capability", Some(&new.capability));
    member(&mut document, "payload", Some(payload));
    match &new.to {
        To::Devices(devices) => member(&mut document, "devices", Some(devices)),
        To::Selector(selector) => member(&mut document, "selector", Some(selector.to_json())),
        To::Rule(rule) => member(&mut document, "rule", Some(rule)),
        To::Rules => {}
    }
    member(&mut document, "expires_in", new.expires_in.map(seconds));
    member(&mut document, "confirm", new.confirm.map(Confirmation::word));
    Ok(api.post(path).json(&document))
}

/// Whole seconds, as the API takes them: a begun one counts, but less than one is too little there too.
fn seconds(duration: Duration) -> u32 {
    let begun = u64::from(duration.subsec_nanos() > 0 && duration.as_secs() > 0);
    u32::try_from(duration.as_secs() + begun).unwrap_or(u32::MAX)
}

/// The path to a command.
///
/// # Errors
/// There can be none of this id.
fn path(id: &str) -> Result<[&str; 2], RemoteError> {
    match is_id(id) {
        true => Ok(["commands", id]),
        false => Err(FleetError::NotFound(Thing::Command(id.to_owned())).into()),
    }
}

/// Asks for a command. What bounds it, and who asks, is known there.
///
/// # Errors
/// As [`crate::fleet::commands::send`].
pub async fn send(api: &Remote, new: &NewCommand) -> Result<CommandDetails, RemoteError> {
    ask(api, &["commands"], new)?.read().await
}

/// Checks a command without sending it, and tells who would get it.
///
/// # Errors
/// As [`send`].
pub async fn check_only(api: &Remote, new: &NewCommand) -> Result<Choice, RemoteError> {
    ask(api, &["commands", "check"], new)?.read().await
}

/// Asks for a command again, at the devices where it failed.
///
/// # Errors
/// As [`crate::fleet::commands::retry`].
pub async fn retry(api: &Remote, id: &str) -> Result<Retried, RemoteError> {
    let [commands, id] = path(id)?;
    api.post(&[commands, id, "retry"]).read().await
}

/// Lists commands, the newest first, those behind the one of the id `after` if it is given; of one device, if it is named.
///
/// # Errors
/// There is no command of the id `after`.
pub async fn list(
    api: &Remote,
    device: Option<&DeviceName>,
    after: Option<&str>,
    limit: u16,
) -> Result<Vec<CommandRow>, RemoteError> {
    let after = match after {
        Some(id) => Some(cursor(&show(api, id).await?.command.place())),
        None => None,
    };
    let page: Page<CommandRow> = api
        .get(&["commands"])
        .with("device", device)
        .with("limit", Some(limit))
        .with("after", after)
        .read()
        .await?;
    Ok(page.items)
}

/// Shows a command with what became of it.
///
/// # Errors
/// There is no such command.
pub async fn show(api: &Remote, id: &str) -> Result<CommandDetails, RemoteError> {
    api.get(&path(id)?).read().await
}

/// Cancels what of a command has not ended; tells of how many devices.
///
/// # Errors
/// There is no such command.
pub async fn cancel(api: &Remote, id: &str) -> Result<u64, RemoteError> {
    #[derive(Deserialize)]
    struct Cancelled {
        cancelled: u64,
    }
    let [commands, id] = path(id)?;
    let Cancelled { cancelled } = api.post(&[commands, id, "cancel"]).read().await?;
    Ok(cancelled)
}

/// Keeps the commands of a capability, or all, from being sent.
///
/// # Errors
/// There is no such capability.
pub async fn pause(api: &Remote, capability: Option<&CapabilityName>) -> Result<(), RemoteError> {
    api.post(&["commands", "pause"]).json(&json!({"capability": capability})).done().await
}

/// Ends a pause.
///
/// # Errors
/// There is no such capability.
pub async fn resume(
    api: &Remote,
    capability: Option<&CapabilityName>,
) -> Result<Resumed, RemoteError> {
    api.post(&["commands", "resume"]).json(&json!({"capability": capability})).read().await
}

/// Lists the pauses; that of all commands first.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn pauses(api: &Remote) -> Result<Vec<Pause>, RemoteError> {
    api.get(&["commands", "pauses"]).read().await
}
