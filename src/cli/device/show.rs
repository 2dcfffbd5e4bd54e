//! `fleetgate device show`

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{or_dash, table, timestamp, visible, yes_no};
use crate::cli::{binding, credential, grant};
use crate::clock::Clock;
use crate::domain::name::DeviceName;
use crate::fleet::devices::{self, DeviceDetails};
use crate::fleet::sessions::SessionRow;
use crate::remote;

/// Show all that the registry knows of a device, except its secrets, which nobody knows.
#[derive(Args)]
pub(super) struct Arguments {
    /// Its name.
    name: DeviceName,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let details = context
            .look(
                async |client| devices::show(client, &self.name).await,
                async |api| remote::devices::show(api, &self.name).await,
            )
            .await?;
        context.output.result(&details, || text(&details))
    }
}

/// A device in full, for people.
pub(super) fn text(details: &DeviceDetails) -> String {
    let now = Clock::System.now();
    let mut text = facts(details, now);
    let states = details.state.as_object().into_iter().flatten();
    let states = states.map(|(binding, entry)| state_row(binding, entry, now));
    let states = states.collect::<Vec<_>>();
    let sections = [
        ("State", states.is_empty(), table(["BINDING", "VALUE", "AGE"], states)),
        (
            "Devices behind it",
            details.children.is_empty(),
            details.children.iter().map(|name| visible(name)).collect::<Vec<_>>().join("\n"),
        ),
        ("Bindings", details.bindings.is_empty(), binding::binding_table(&details.bindings)),
        ("Grants", details.grants.is_empty(), grant::grant_table(&details.grants)),
        (
            "Credentials",
            details.credentials.is_empty(),
            credential::credential_table(&details.credentials),
        ),
        ("Sessions", details.sessions.is_empty(), session_table(&details.sessions)),
    ];
    for (title, empty, table) in sections {
        let body = if empty { "none" } else { table.as_str() };
        text.push_str(&format!("\n\n{title}:\n{body}"));
    }
    text
}

fn facts(details: &DeviceDetails, now: Timestamp) -> String {
    let device = &details.device;
    let facts = [
        ("Name", device.name.clone()),
        ("Client id", device.client_id.clone()),
        ("Kind", device.kind.clone()),
        ("Area", or_dash(device.area.as_deref())),
        ("Floor", or_dash(device.floor.as_deref())),
        ("Gateway", or_dash(device.gateway.as_deref())),
        ("Enabled", yes_no(device.enabled)),
        ("Online", yes_no(device.online)),
        ("Availability", availability(details, now)),
        ("Last seen", timestamp(device.last_seen)),
        (
            "Capabilities",
            or_dash(Some(details.capabilities.join(", ").as_str()).filter(|s| !s.is_empty())),
        ),
        ("Meta", device.meta.to_string()),
        ("Violation", details.last_violation.as_ref().map_or_else(dash, |v| violation(v, now))),
        ("Added", timestamp(Some(device.created_at))),
        ("Changed", timestamp(Some(device.updated_at))),
    ];
    facts.map(|(title, value)| format!("{title:<13} {}", visible(&value))).join("\n")
}

/// `zigbee/lamp/availability: offline, 5m ago`
fn availability(details: &DeviceDetails, now: Timestamp) -> String {
    let Some(topic) = &details.device.availability_topic else { return dash() };
    let said = details.availability.as_ref().and_then(|entry| {
        let value = entry.get("value")?;
        let state = value.get("state").and_then(Value::as_str)?;
        let is_its = value.get("topic").and_then(Value::as_str) == Some(topic);
        is_its.then(|| format!("{state}, {} ago", age(entry, now)))
    });
    format!("{topic}: {}", said.as_deref().unwrap_or("nothing said"))
}

fn dash() -> String {
    or_dash(None)
}

fn state_row(binding: &str, entry: &Value, now: Timestamp) -> [String; 3] {
    let mut value = entry.get("value").map_or_else(dash, Value::to_string);
    if let Some(why) = entry.get("kept_as_text").and_then(Value::as_str) {
        value = format!("{value} (JSON kept as text: {why})");
    }
    [binding.to_owned(), value, age(entry, now)]
}

/// `temperature at /celsius breaks "minimum" of the schema, 5m ago`
fn violation(violation: &Value, now: Timestamp) -> String {
    let text = |key| violation.get(key).and_then(Value::as_str).unwrap_or("?");
    let place = match text("pointer") {
        "" => String::new(),
        pointer => format!(" at {pointer}"),
    };
    format!("{}{place} {}, {} ago", text("binding"), text("message"), age(violation, now))
}

/// How long ago something was reported, in its largest unit. The broker's clock may run ahead.
fn age(entry: &Value, now: Timestamp) -> String {
    let Some(at) = entry.get("at").and_then(Value::as_i64) else { return dash() };
    let seconds = now.as_millisecond().saturating_sub(at).max(0) / 1000;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.iter().find(|(size, _)| seconds >= *size);
    unit.map_or_else(|| format!("{seconds}s"), |(size, unit)| format!("{}{unit}", seconds / size))
}

fn session_table(sessions: &[SessionRow]) -> String {
    let rows = sessions.iter().map(|session| {
        [
            session.client_id.clone(),
            timestamp(Some(session.connected_at)),
            yes_no(session.open),
            timestamp(session.ended_at),
        ]
    });
    table(["CLIENT ID", "CONNECTED", "OPEN", "ENDED"], rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn values_are_shown_with_their_age() {
        let row = |entry: Value| state_row("main", &entry, at(100_000_000));
        assert_eq!(row(json!({"value": {"c": 1}, "at": 99_940_000})), ["main", r#"{"c":1}"#, "1m"]);
        assert_eq!(row(json!({"at": 3_000_000})), ["main", "-", "1d"]);
        assert_eq!(row(json!({"value": "x", "at": 100_000_500}))[2], "0s");
        let text = row(json!({"value": "1e200000", "kept_as_text": "why", "at": 0}));
        assert_eq!(text[1], "\"1e200000\" (JSON kept as text: why)");
    }

    #[test]
    fn a_violation_is_one_line() {
        let broken = json!({"at": 0, "binding": "t", "pointer": "/c", "message": "breaks it"});
        assert_eq!(violation(&broken, at(7_200_000)), "t at /c breaks it, 2h ago");
    }
}
