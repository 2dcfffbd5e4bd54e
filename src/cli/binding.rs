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

/// Bindings, a device's exact topics: add, list, set, remove.
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
    Set(SetArguments),
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
            Action::Set(arguments) => arguments.run(context).await,
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
    /// Its reports hold only what changed: merge each into the last known value (RFC 7396, in the order of the messages' times) instead of replacing it.
    #[arg(long)]
    merge: bool,
}

/// Change what the reports of a binding do to its last known value.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("reports").required(true))]
struct SetArguments {
    /// The device.
    device: DeviceName,
    /// A capability, or "main".
    name: CapabilityName,
    /// They hold only what changed: merge each into it (RFC 7396, in the order of the messages' times).
    #[arg(long, group = "reports")]
    merge: bool,
    /// They hold everything: each replaces it.
    #[arg(long, group = "reports")]
    replace: bool,
}

impl SetArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let client = context.connect().await?;
        let (device, name) = (self.device.as_str(), self.name.as_str());
        let id = devices::find_id(&client, device).await?;
        let id = id.ok_or_else(|| CliError::no_device(device))?;
        if !bindings::set_merge(&client, id, name, self.merge).await? {
            return Err(no_binding(device, name));
        }
        let result = json!({"device": device, "name": name, "merge": self.merge});
        let what = reports(self.merge);
        context.output.result(&result, || {
            format!("Reports of binding \"{name}\" of device \"{device}\": {what}.")
        })
    }
}

/// What a report does to the last known value.
fn reports(merge: bool) -> &'static str {
    if merge { "merge" } else { "replace" }
}

fn no_binding(device: &str, name: &str) -> CliError {
    CliError::NotFound(format!(
        "device \"{device}\" has no binding \"{name}\"; see `fleetgate binding list`"
    ))
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
            merge: binding.merge,
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
            let binding = conventional_binding(client, place, &self.name).await?;
            return self.merging(binding);
        }
        require_capability(client, &self.name).await?;
        let (state_topic, command_topic) = (self.state_topic.clone(), self.command_topic.clone());
        let name = self.name.clone();
        self.merging(NewBinding { name, state_topic, command_topic, merge: false })
    }

    fn merging(&self, mut binding: NewBinding) -> Result<NewBinding, CliError> {
        if self.merge && binding.state_topic.is_none() {
            return Err(CliError::Usage(
                "--merge: the binding has no state topic, so there are no reports to merge; give --state-topic"
                    .to_owned(),
            ));
        }
        binding.merge = self.merge;
        Ok(binding)
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
        return Err(no_binding(device.as_str(), name.as_str()));
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
            or_dash(binding.state_topic.as_ref().map(|_| reports(binding.merge))),
        ]
    });
    table(["NAME", "STATE TOPIC", "COMMAND TOPIC", "REPORTS"], rows)
}
