//! The demo fleet: a lab with a dozen devices on two floors.

use serde_json::{Value, json};

use super::DevError;
use crate::cli::convention::Place;
use crate::domain::name::DeviceName;
use crate::registry::bindings::NewBinding;
use crate::registry::capabilities::NewCapability;
use crate::registry::devices::NewDevice;

const AREA: &str = "lab";
/// The service that may listen to everything and command everything.
pub(super) const DASHBOARD: &str = "dashboard";
/// What the dashboard may subscribe to, and what publish to.
pub(super) const DASHBOARD_LISTENS: &str = "lab/#";
pub(super) const DASHBOARD_COMMANDS: &str = "lab/+/+/+/set";
/// The device that logs in with a password, as a person would choose one, instead of a generated
/// secret.
pub(super) const WITH_PASSWORD: &str = "door-1";

/// A capability: name, description, schemas of state and command.
type Capability = (&'static str, &'static str, Option<Value>, Option<Value>);

/// A device: name, floor, kind, capabilities.
struct Device(&'static str, Option<&'static str>, &'static str, &'static [&'static str]);

const DEVICES: [Device; 12] = [
    Device("co2-1", Some("1"), "sensor", &["co2", "temperature"]),
    Device(WITH_PASSWORD, Some("1"), "lock", &["lock"]),
    Device("lamp-1", Some("1"), "light", &["brightness", "switch"]),
    Device("motion-1", Some("1"), "sensor", &["motion"]),
    Device("relay-1", Some("1"), "relay", &["switch"]),
    Device("thermo-1", Some("1"), "sensor", &["humidity", "temperature"]),
    Device("co2-2", Some("2"), "sensor", &["co2", "temperature"]),
    Device("motion-2", Some("2"), "sensor", &["motion"]),
    Device("relay-2", Some("2"), "relay", &["switch"]),
    Device("thermo-2", Some("2"), "sensor", &["humidity", "temperature"]),
    Device("window-2", Some("2"), "sensor", &["contact"]),
    Device(DASHBOARD, None, "service", &[]),
];

fn descriptions() -> [Capability; 8] {
    let switch = || Some(json!({"enum": ["on", "off"]}));
    let percent = |step: &str| Some(json!({"type": step, "minimum": 0, "maximum": 100}));
    let celsius = json!({"type": "number", "minimum": -40, "maximum": 125});
    [
        ("brightness", "Sets the brightness in percent", percent("integer"), percent("integer")),
        ("co2", "Measures CO2 in ppm", Some(json!({"type": "integer", "minimum": 0})), None),
        ("contact", "Reports open and closed", Some(json!({"enum": ["open", "closed"]})), None),
        ("humidity", "Measures the humidity in percent", percent("number"), None),
        (
            "lock",
            "Locks and unlocks a door",
            Some(json!({"enum": ["locked", "unlocked"]})),
            Some(json!({"enum": ["lock", "unlock"]})),
        ),
        ("motion", "Reports whether something moves", Some(json!({"type": "boolean"})), None),
        ("switch", "Switches on and off", switch(), switch()),
        ("temperature", "Measures the temperature in degrees Celsius", Some(celsius), None),
    ]
}

/// The capabilities of the fleet.
pub(super) fn capabilities() -> Result<Vec<NewCapability>, DevError> {
    let capability = |(name, description, state_schema, command_schema): Capability| {
        let description = description.to_owned();
        Ok(NewCapability { name: parsed(name)?, description, state_schema, command_schema })
    };
    descriptions().into_iter().map(capability).collect()
}

/// The devices of the fleet.
pub(super) fn devices() -> Result<Vec<NewDevice>, DevError> {
    DEVICES.iter().map(device).collect()
}

fn device(Device(name, floor, kind, capabilities): &Device) -> Result<NewDevice, DevError> {
    let name = parsed(name)?;
    let place = Place { device: &name, area: Some(AREA), floor: *floor };
    let bindings = capabilities.iter().map(|capability| binding(place, capability));
    let bindings = bindings.collect::<Result<_, _>>()?;
    Ok(NewDevice {
        name,
        client_id: None,
        area: Some(AREA.to_owned()),
        floor: floor.map(str::to_owned),
        kind: parsed(kind)?,
        enabled: true,
        meta: json!({"demo": true}),
        capabilities: Vec::new(),
        bindings,
    })
}

/// Topics by the convention; a capability without commands gets no command topic.
fn binding(place: Place<'_>, capability: &str) -> Result<NewBinding, DevError> {
    let homeless = || DevError::Demo(format!("{} has bindings but no floor", place.device));
    let stem = place.stem(capability).ok_or_else(homeless)?;
    let mut described = descriptions().into_iter();
    let commanded = described.any(|(name, .., command)| name == capability && command.is_some());
    let command_topic = commanded.then(|| parsed(&format!("{stem}/set"))).transpose()?;
    let state_topic = Some(parsed(&format!("{stem}/state"))?);
    Ok(NewBinding { name: parsed(capability)?, state_topic, command_topic, merge: false })
}

/// Whether a device has the chosen password.
pub(super) fn has_password(name: &DeviceName) -> bool {
    name.as_str() == WITH_PASSWORD
}

pub(super) fn parsed<T>(text: &str) -> Result<T, DevError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error| DevError::Demo(format!("{text:?} {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_follows_the_convention() {
        let devices = devices().unwrap();
        assert_eq!(devices.len(), 12);
        let relay = devices.iter().find(|device| device.name.as_str() == "relay-2").unwrap();
        let binding = &relay.bindings[0];
        assert_eq!(binding.state_topic.as_ref().unwrap().as_str(), "lab/2/relay-2/switch/state");
        assert_eq!(binding.command_topic.as_ref().unwrap().as_str(), "lab/2/relay-2/switch/set");
        let window = devices.iter().find(|device| device.name.as_str() == "window-2").unwrap();
        assert!(window.bindings[0].command_topic.is_none());
    }

    #[test]
    fn every_capability_is_described_and_used() {
        let described: Vec<_> = capabilities().unwrap();
        let used: Vec<_> = devices().unwrap().into_iter().flat_map(|d| d.bindings).collect();
        for capability in &described {
            assert!(used.iter().any(|binding| binding.name == capability.name));
        }
        for binding in &used {
            assert!(described.iter().any(|capability| binding.name == capability.name));
        }
    }
}
