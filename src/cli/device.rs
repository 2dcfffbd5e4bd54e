//! `fleetgate device`

mod add;
mod set;
mod show;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::arguments::{number, parse_selector};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{or_dash, remark, shell_word, table, timestamp, yes_no};
use crate::cli::questions::confirm;
use crate::config::suggestion::nearest;
use crate::domain::name::{DeviceKind, DeviceName};
use crate::domain::selector::Selector;
use crate::fleet::Part;
use crate::fleet::devices::{self, DeviceFilter, DeviceRow, MAX_PAGE};
use crate::remote;

/// Devices: add, set, list, show, enable, disable, remove.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(Box<add::Arguments>),
    Set(Box<set::Arguments>),
    List(Box<ListArguments>),
    Show(show::Arguments),
    /// Let a device use the bus again.
    Enable {
        /// Its name.
        name: DeviceName,
    },
    /// Refuse a device's logins and all of its rights.
    Disable {
        /// Its name.
        name: DeviceName,
    },
    /// Remove a device with its credentials, bindings, grants and state.
    Remove {
        /// Its name.
        name: DeviceName,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Add(arguments) => arguments.run(context).await,
            Action::Set(arguments) => arguments.run(context).await,
            Action::List(arguments) => arguments.run(context).await,
            Action::Show(arguments) => arguments.run(context).await,
            Action::Enable { name } => set_enabled(context, &name, true).await,
            Action::Disable { name } => set_enabled(context, &name, false).await,
            Action::Remove { name, yes } => remove(context, &name, yes).await,
        }
    }
}

async fn set_enabled(context: &Context, name: &DeviceName, enabled: bool) -> Result<(), CliError> {
    context
        .change(
            async |fleet| devices::set_enabled(fleet, name, enabled).await,
            async |api| remote::devices::set_enabled(api, name, enabled).await,
        )
        .await?;
    context.output.result(&json!({"name": name.as_str(), "enabled": enabled}), || {
        format!("Device \"{name}\" is {}.", if enabled { "enabled" } else { "disabled" })
    })
}

async fn remove(context: &Context, name: &DeviceName, yes: bool) -> Result<(), CliError> {
    let question =
        format!("Remove device \"{name}\" with its credentials, bindings, grants and state?");
    confirm(&question, yes)?;
    context
        .change(
            async |fleet| devices::remove(fleet, name).await,
            async |api| remote::devices::remove(api, name).await,
        )
        .await?;
    context.output.result(&json!({"name": name.as_str(), "removed": true}), || {
        format!("Device \"{name}\" is removed.")
    })
}

/// Any kind is allowed, and only that of services has a meaning: says so of one that looks misspelt.
fn warn_of_misspelt_service(kind: &DeviceKind) {
    if is_nearly_service(kind) {
        remark(&format!(
            "warning: the kind is {:?}, which makes the device no service; if you meant \"service\", \
             change it with `fleetgate device set NAME --kind service`",
            kind.as_str()
        ));
    }
}

fn is_nearly_service(kind: &DeviceKind) -> bool {
    // "device" is a kind that people mean, and two letters away.
    let known = [DeviceKind::SERVICE, "device"];
    let near = nearest(&kind.as_str().to_lowercase(), known.into_iter());
    !kind.is_service() && near == Some(DeviceKind::SERVICE)
}

/// List devices by name, a page at a time.
#[derive(Args)]
struct ListArguments {
    /// Only of this area.
    #[arg(long)]
    area: Option<String>,
    /// Only of this floor.
    #[arg(long)]
    floor: Option<String>,
    /// Only of this kind.
    #[arg(long)]
    kind: Option<String>,
    /// Only those online.
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Only those not online.
    #[arg(long)]
    offline: bool,
    /// Only those enabled.
    #[arg(long, conflicts_with = "disabled")]
    enabled: bool,
    /// Only those disabled.
    #[arg(long)]
    disabled: bool,
    /// Only those that this selector means: area=lab,kind in (relay,plug),!floor,state/temperature>25, or JSON; docs/SELECTORS.md has it all.
    #[arg(long, value_parser = parse_selector)]
    selector: Option<Selector>,
    /// Begin after this name.
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = number(1..=MAX_PAGE))]
    limit: u16,
}

impl ListArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let limit = self.limit;
        let filter = self.filter();
        let found = context
            .look(
                async |client| devices::list(client, &filter, limit).await,
                async |api| remote::devices::list(api, &filter, limit).await,
            )
            .await?;
        let full = found.len() == usize::from(limit);
        let next = found.last().filter(|_| full).map(|device| device.name.clone());
        context.output.result(&json!({"devices": found, "next": next}), || device_table(&found))?;
        if let Some(next) = next {
            context.output.hint(&format!("There may be more: add --after {}", shell_word(&next)));
        }
        Ok(())
    }

    fn filter(self) -> DeviceFilter {
        DeviceFilter {
            area: self.area,
            floor: self.floor,
            kind: self.kind,
            online: either(self.online, self.offline),
            enabled: either(self.enabled, self.disabled),
            selector: self.selector.unwrap_or_default(),
            after: self.after,
            part: Part::whole(),
        }
    }
}

/// What two flags that exclude each other ask for.
fn either(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

fn device_table(devices: &[DeviceRow]) -> String {
    let header = ["NAME", "KIND", "AREA", "FLOOR", "ENABLED", "ONLINE", "LAST SEEN"];
    let rows = devices.iter().map(|device| {
        [
            device.name.clone(),
            device.kind.clone(),
            or_dash(device.area.as_deref()),
            or_dash(device.floor.as_deref()),
            yes_no(device.enabled),
            yes_no(device.online),
            timestamp(device.last_seen),
        ]
    });
    table(header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_service_is_noticed() {
        let noticed = |kind: &str| is_nearly_service(&kind.parse().unwrap());
        for kind in ["servise", "services", "Service", "SERVICE"] {
            assert!(noticed(kind), "{kind}");
        }
        for kind in ["service", "device", "devices", "sensor", "switch", "relay", "server"] {
            assert!(!noticed(kind), "{kind}");
        }
    }
}
