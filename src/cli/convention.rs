//! The convention of topics: `<area>/<floor>/<device>/<binding>/state` and `…/set`.

use crate::cli::error::CliError;
use crate::domain::name::{CapabilityName, DeviceName};
use crate::domain::topic::TopicName;
use crate::registry::bindings::{MAIN, NewBinding};
use crate::registry::capabilities::{self, CapabilityRow};

/// Where a device is, as its conventional topics need it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its name.
    pub(super) device: &'a DeviceName,
    /// First level.
    pub(super) area: Option<&'a str>,
    /// Second level.
    pub(super) floor: Option<&'a str>,
}

impl Place<'_> {
    /// What the topics of a binding begin with, where the device has an area and a floor.
    pub(super) fn stem(self, binding: &str) -> Option<String> {
        let (area, floor) = (self.area?, self.floor?);
        Some(format!("{area}/{floor}/{}/{binding}", self.device))
    }
}

/// Which of its topics a binding gets: a state topic where the capability says what its state is, a
/// command topic where it says what its commands are, both where it says nothing.
fn directions(capability: Option<&CapabilityRow>) -> (bool, bool) {
    let says = capability.map_or((false, false), |capability| {
        (capability.state_schema.is_some(), capability.command_schema.is_some())
    });
    if says == (false, false) { (true, true) } else { says }
}

/// The conventional binding of a capability, or of `main`.
pub(super) async fn conventional_binding(
    client: &tokio_postgres::Client,
    place: Place<'_>,
    name: &CapabilityName,
) -> Result<NewBinding, CliError> {
    let capability = require_capability(client, name).await?;
    let stem = place.stem(name.as_str()).ok_or_else(|| no_place(place.device, name))?;
    let (state, command) = directions(capability.as_ref());
    Ok(NewBinding {
        name: name.clone(),
        state_topic: state.then(|| topic(&format!("{stem}/state"))).transpose()?,
        command_topic: command.then(|| topic(&format!("{stem}/set"))).transpose()?,
        merge: false,
    })
}

/// The capability that a binding names, which must exist; `None` for `main`.
pub(super) async fn require_capability(
    client: &tokio_postgres::Client,
    name: &CapabilityName,
) -> Result<Option<CapabilityRow>, CliError> {
    if name.as_str() == MAIN {
        return Ok(None);
    }
    let found = capabilities::find(client, name.as_str()).await?;
    found.map(Some).ok_or_else(|| CliError::no_capability(name.as_str()))
}

fn no_place(device: &DeviceName, binding: &CapabilityName) -> CliError {
    CliError::Usage(format!(
        "the conventional topics of binding \"{binding}\" are <area>/<floor>/{device}/{binding}/state and …/set, but device \"{device}\" has no area or no floor; give both (--area, --floor), or the topics themselves (--state-topic, --command-topic)"
    ))
}

/// A topic for a binding, checked.
fn topic(text: &str) -> Result<TopicName, CliError> {
    text.parse().map_err(|error| {
        CliError::Usage(format!("topic {text:?} {error}; give the topics themselves"))
    })
}
