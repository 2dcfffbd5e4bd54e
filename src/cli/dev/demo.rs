//! The demo fleet: a lab with a dozen devices on two floors.

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::domain::name::DeviceName;
use crate::domain::schema::UsableSchema;
use crate::fleet::bindings::NewBinding;
use crate::fleet::capabilities::NewCapability;
use crate::fleet::devices::NewDevice;

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
pub(super) fn capabilities() -> Result<Vec<NewCapability>, CliError> {
    let capability = |(name, description, state_schema, command_schema): Capability| {
        let description = description.to_owned();
        let usable = |schema: Option<Value>| {
            let wrong = |error| bug(&format!("a schema of {name:?}: {error}"));
            schema.map(UsableSchema::new).transpose().map_err(wrong)
        };
        Ok(NewCapability {
            description,
            state_schema: usable(state_schema)?,
            command_schema: usable(command_schema)?,
            ..NewCapability::new(parsed(name)?)
        })
    };
    descriptions().into_iter().map(capability).collect()
}

/// The devices of the fleet.
pub(super) fn devices() -> Result<Vec<NewDevice>, CliError> {
    DEVICES.iter().map(device).collect()
}

fn device(Device(name, floor, kind, capabilities): &Device) -> Result<NewDevice, CliError> {
    let conventional = |name: &&str| Ok::<_, CliError>(NewBinding::conventional(parsed(name)?));
    Ok(NewDevice {
        area: Some(parsed(AREA)?),
        floor: floor.map(parsed).transpose()?,
        meta: parsed(r#"{"demo": true}"#)?,
        bindings: capabilities.iter().map(conventional).collect::<Result<_, _>>()?,
        ..NewDevice::new(parsed(name)?, parsed(kind)?)
    })
}

/// Whether a device has the chosen password.
pub(super) fn has_password(name: &DeviceName) -> bool {
    name.as_str() == WITH_PASSWORD
}

pub(super) fn parsed<T>(text: &str) -> Result<T, CliError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error| bug(&format!("{text:?} {error}")))
}

fn bug(why: &str) -> CliError {
    CliError::Failed(format!("the demo fleet is wrong: {why}; this is a bug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_is_described_and_used() {
        let described: Vec<_> = capabilities().unwrap();
        let used: Vec<_> = devices().unwrap().into_iter().flat_map(|d| d.bindings).collect();
        for capability in &described {
            assert!(
                used.iter()
                    .any(|binding| binding.name.capability().as_ref() == Some(&capability.name))
            );
        }
        for binding in &used {
            assert!(
                described
                    .iter()
                    .any(|capability| binding.name.capability().as_ref() == Some(&capability.name))
            );
        }
    }
}
