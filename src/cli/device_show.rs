//! `fleetgate device show`

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{moment, or_dash, table, visible, yes_no};
use crate::cli::{binding, credential, grant};
use crate::domain::name::DeviceName;
use crate::registry::devices::{self, DeviceDetails};
use crate::registry::sessions::SessionRow;

/// Show all that the registry knows of a device, except its secrets, which nobody knows.
#[derive(Args)]
pub(super) struct Arguments {
    /// Its name.
    name: DeviceName,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let client = context.connect().await?;
        let found = devices::find(&client, self.name.as_str()).await?;
        let details = found.ok_or_else(|| CliError::no_device(self.name.as_str()))?;
        context.output.result(&details, || text(&details))
    }
}

/// A device in full, for people.
pub(super) fn text(details: &DeviceDetails) -> String {
    let mut text = facts(details);
    let sections = [
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

fn facts(details: &DeviceDetails) -> String {
    let device = &details.device;
    let facts = [
        ("Name", device.name.clone()),
        ("Client id", device.client_id.clone()),
        ("Kind", device.kind.clone()),
        ("Area", or_dash(device.area.as_deref())),
        ("Floor", or_dash(device.floor.as_deref())),
        ("Enabled", yes_no(device.enabled)),
        ("Online", yes_no(device.online)),
        ("Last seen", moment(device.last_seen)),
        (
            "Capabilities",
            or_dash(Some(details.capabilities.join(", ").as_str()).filter(|s| !s.is_empty())),
        ),
        ("Meta", device.meta.to_string()),
        ("State", details.state.to_string()),
        ("Added", moment(Some(device.created_at))),
        ("Changed", moment(Some(device.updated_at))),
    ];
    facts.map(|(title, value)| format!("{title:<13} {}", visible(&value))).join("\n")
}

fn session_table(sessions: &[SessionRow]) -> String {
    let rows = sessions.iter().map(|session| {
        [
            session.client_id.clone(),
            moment(Some(session.connected_at)),
            yes_no(session.open),
            moment(session.ended_at),
        ]
    });
    table(["CLIENT ID", "CONNECTED", "OPEN", "ENDED"], rows)
}
