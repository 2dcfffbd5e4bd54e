//! `fleetgate binding`

use clap::{Args, Subcommand};
use serde_json::json;
use tokio_postgres::Client;

use crate::cli::context::Context;
use crate::cli::convention::{Place, conventional_binding, require_capability};
use crate::cli::error::CliError;
use crate::cli::output::{or_dash, table};
use crate::domain::name::{CapabilityName, DeviceName};
use crate::domain::topic::TopicName;
use crate::registry::bindings::{self, BindingRow, NewBinding};
use crate::registry::devices;

/// Bindings, a device's exact topics: add, list, remove.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(AddArguments),
    /// List a device's bindings.
    List {
        /// The device.
        device: DeviceName,
    },
    /// Remove a binding, and with it the capability from the device.
    Remove {
        /// The device.
        device: DeviceName,
        /// A capability, or "main".
        name: CapabilityName,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Add(arguments) => arguments.run(context).await,
            Action::List { device } => list(context, &device).await,
            Action::Remove { device, name } => remove(context, &device, &name).await,
        }
    }
}

/// Give a device the topics of a capability, and the capability with them.
///
/// Without topics they are the conventional ones: AREA/FLOOR/DEVICE/NAME/state to report and …/set to be commanded, each where the capability has a schema for it, both where it has none.
#[derive(Args)]
struct AddArguments {
    /// The device.
    device: DeviceName,
    /// A capability, or "main".
    name: CapabilityName,
    /// The exact topic the device reports on.
    #[arg(long, value_name = "TOPIC")]
    state_topic: Option<TopicName>,
    /// The exact topic the device is commanded on.
    #[arg(long, value_name = "TOPIC")]
    command_topic: Option<TopicName>,
}

impl AddArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut client = context.connect().await?;
        let binding = self.binding(&client).await?;
        if !bindings::add(&mut client, &self.device, &binding).await? {
            return Err(CliError::no_device(self.device.as_str()));
        }
        let row = BindingRow {
            name: binding.name.to_string(),
            state_topic: binding.state_topic.as_ref().map(ToString::to_string),
            command_topic: binding.command_topic.as_ref().map(ToString::to_string),
        };
        context.output.result(&row, || binding_table(std::slice::from_ref(&row)))
    }

    async fn binding(&self, client: &Client) -> Result<NewBinding, CliError> {
        let device = self.device.as_str();
        let found = devices::find(client, device).await?;
        let found = found.ok_or_else(|| CliError::no_device(device))?.device;
        if self.state_topic.is_none() && self.command_topic.is_none() {
            let (area, floor) = (found.area.as_deref(), found.floor.as_deref());
            let place = Place { device: &self.device, area, floor };
            return conventional_binding(client, place, &self.name).await;
        }
        require_capability(client, &self.name).await?;
        let (state_topic, command_topic) = (self.state_topic.clone(), self.command_topic.clone());
        Ok(NewBinding { name: self.name.clone(), state_topic, command_topic })
    }
}

async fn list(context: &Context, device: &DeviceName) -> Result<(), CliError> {
    let client = context.connect().await?;
    let id = devices::find_id(&client, device.as_str()).await?;
    let id = id.ok_or_else(|| CliError::no_device(device.as_str()))?;
    let found = bindings::list(&client, id).await?;
    context.output.result(&found, || binding_table(&found))
}

async fn remove(
    context: &Context,
    device: &DeviceName,
    name: &CapabilityName,
) -> Result<(), CliError> {
    let client = context.connect().await?;
    let id = devices::find_id(&client, device.as_str()).await?;
    let id = id.ok_or_else(|| CliError::no_device(device.as_str()))?;
    if !bindings::remove(&client, id, name.as_str()).await? {
        return Err(CliError::NotFound(format!(
            "device \"{device}\" has no binding \"{name}\"; see `fleetgate binding list`"
        )));
    }
    let result = json!({"device": device.as_str(), "name": name.as_str(), "removed": true});
    context
        .output
        .result(&result, || format!("Binding \"{name}\" of device \"{device}\" is removed."))
}

/// Bindings, for people.
pub(super) fn binding_table(bindings: &[BindingRow]) -> String {
    let rows = bindings.iter().map(|binding| {
        [
            binding.name.clone(),
            or_dash(binding.state_topic.as_deref()),
            or_dash(binding.command_topic.as_deref()),
        ]
    });
    table(["NAME", "STATE TOPIC", "COMMAND TOPIC"], rows)
}
