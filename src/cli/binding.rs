//! `fleetgate binding`

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::cli::arguments::value_or_none;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{or_dash, table};
use crate::domain::name::{BindingName, DeviceName};
use crate::domain::topic::TopicName;
use crate::fleet::bindings::{self, BindingChange, BindingRow, NewBinding};
use crate::remote;

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
        name: BindingName,
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

/// Give a device the topics of a capability, and the capability with them. Doing it again changes nothing.
///
/// Without topics they are the conventional ones: AREA/FLOOR/DEVICE/NAME/state to report and …/set to be commanded, each where the capability has a schema for it, both where it has none.
#[derive(Args)]
struct AddArguments {
    /// The device.
    device: DeviceName,
    /// A capability, or "main".
    name: BindingName,
    /// The exact topic the device reports on.
    #[arg(long, value_name = "TOPIC")]
    state_topic: Option<TopicName>,
    /// The exact topic the device is commanded on.
    #[arg(long, value_name = "TOPIC")]
    command_topic: Option<TopicName>,
    /// The exact topic the device answers commands on. The convention has none; AREA/FLOOR/DEVICE/NAME/reply goes with it.
    #[arg(long, value_name = "TOPIC")]
    reply_topic: Option<TopicName>,
    /// Its reports hold only what changed: merge each into the last known value (RFC 7396, in the order of the messages' times) instead of replacing it.
    #[arg(long)]
    merge: bool,
}

impl AddArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let binding = NewBinding {
            conventional: self.state_topic.is_none() && self.command_topic.is_none(),
            name: self.name,
            state_topic: self.state_topic,
            command_topic: self.command_topic,
            reply_topic: self.reply_topic,
            merge: self.merge,
        };
        let row = context
            .change(
                async |fleet| Ok(bindings::add(fleet, &self.device, &binding).await?.into_inner()),
                async |api| remote::bindings::add(api, &self.device, &binding).await,
            )
            .await?;
        context
            .output
            .result(&of_device(&self.device, &row), || binding_table(std::slice::from_ref(&row)))
    }
}

/// Change a binding: its topics, or what its reports do to its last known value. A topic that the device loses ends its sessions.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
struct SetArguments {
    /// The device.
    device: DeviceName,
    /// A capability, or "main".
    name: BindingName,
    /// The exact topic the device reports on.
    #[arg(long, value_name = "TOPIC", group = "change")]
    state_topic: Option<TopicName>,
    /// Let the device report nothing.
    #[arg(long, group = "change", conflicts_with = "state_topic")]
    no_state_topic: bool,
    /// The exact topic the device is commanded on.
    #[arg(long, value_name = "TOPIC", group = "change")]
    command_topic: Option<TopicName>,
    /// Let the device be commanded nothing.
    #[arg(long, group = "change", conflicts_with = "command_topic")]
    no_command_topic: bool,
    /// The exact topic the device answers commands on.
    #[arg(long, value_name = "TOPIC", group = "change")]
    reply_topic: Option<TopicName>,
    /// Let the device answer nothing.
    #[arg(long, group = "change", conflicts_with = "reply_topic")]
    no_reply_topic: bool,
    /// Take the conventional topics, as the device is called and where it is now.
    #[arg(long, group = "change",
        conflicts_with_all = ["state_topic", "no_state_topic", "command_topic", "no_command_topic"])]
    conventional: bool,
    /// Its reports hold only what changed: merge each into it (RFC 7396, in the order of the messages' times).
    #[arg(long, group = "change")]
    merge: bool,
    /// Its reports hold everything: each replaces it.
    #[arg(long, group = "change", conflicts_with = "merge")]
    replace: bool,
}

impl SetArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let change = BindingChange {
            conventional: self.conventional,
            state_topic: value_or_none(self.state_topic, self.no_state_topic),
            command_topic: value_or_none(self.command_topic, self.no_command_topic),
            reply_topic: value_or_none(self.reply_topic, self.no_reply_topic),
            merge: (self.merge || self.replace).then_some(self.merge),
        };
        let row = context
            .change(
                async |fleet| bindings::set(fleet, &self.device, &self.name, &change).await,
                async |api| remote::bindings::set(api, &self.device, &self.name, &change).await,
            )
            .await?;
        context
            .output
            .result(&of_device(&self.device, &row), || binding_table(std::slice::from_ref(&row)))
    }
}

/// A binding with its device, for programs.
#[derive(Serialize)]
struct OfDevice<'a> {
    device: &'a str,
    #[serde(flatten)]
    binding: &'a BindingRow,
}

fn of_device<'a>(device: &'a DeviceName, binding: &'a BindingRow) -> OfDevice<'a> {
    OfDevice { device: device.as_str(), binding }
}

async fn list(context: &Context, device: &DeviceName) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| bindings::list(client, device).await,
            async |api| remote::bindings::list(api, device).await,
        )
        .await?;
    context.output.result(&found, || binding_table(&found))
}

async fn remove(
    context: &Context,
    device: &DeviceName,
    name: &BindingName,
) -> Result<(), CliError> {
    context
        .change(
            async |fleet| bindings::remove(fleet, device, name).await,
            async |api| remote::bindings::remove(api, device, name).await,
        )
        .await?;
    let result = json!({"device": device.as_str(), "name": name.as_str(), "removed": true});
    context
        .output
        .result(&result, || format!("Binding \"{name}\" of device \"{device}\" is removed."))
}

/// What a report does to the last known value.
fn reports(merge: bool) -> &'static str {
    if merge { "merge" } else { "replace" }
}

/// Bindings, for people.
pub(super) fn binding_table(bindings: &[BindingRow]) -> String {
    let rows = bindings.iter().map(|binding| {
        [
            binding.name.clone(),
            or_dash(binding.state_topic.as_deref()),
            or_dash(binding.command_topic.as_deref()),
            or_dash(binding.reply_topic.as_deref()),
            or_dash(binding.state_topic.as_ref().map(|_| reports(binding.merge))),
        ]
    });
    table(["NAME", "STATE TOPIC", "COMMAND TOPIC", "REPLY TOPIC", "REPORTS"], rows)
}
