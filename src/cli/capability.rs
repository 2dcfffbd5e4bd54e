//! `fleetgate capability`

mod schema_files;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::arguments::duration;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{table, yes_no};
use crate::domain::delivery::Confirmation;
use crate::domain::name::CapabilityName;
use crate::fleet::capabilities::{
    self, Capability, CapabilityChange, CapabilityRow, NewCapability, TermsChange,
};
use crate::remote;

use schema_files::{read_documents, read_schema};

/// Capabilities, what devices can do: add, set, list, remove.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(AddArguments),
    Set(SetArguments),
    /// List all capabilities.
    List,
    /// Remove a capability that no device has.
    Remove {
        /// Its name.
        name: CapabilityName,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Add(arguments) => arguments.run(context).await,
            Action::Set(arguments) => arguments.run(context).await,
            Action::List => list(context).await,
            Action::Remove { name } => remove(context, &name).await,
        }
    }
}

/// Add a capability.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true))]
struct AddArguments {
    /// Its name.
    name: CapabilityName,
    /// What it is, in a few words.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// File with the JSON Schema of the payload that reports its state.
    #[arg(long, value_name = "FILE")]
    state_schema: Option<PathBuf>,
    /// File with the JSON Schema of the payload that commands it.
    #[arg(long, value_name = "FILE")]
    command_schema: Option<PathBuf>,
    /// A file, or a directory of them, that the schemas refer to with $ref; it becomes part of them. May be repeated.
    #[arg(long = "schema-file", value_name = "FILE")]
    schema_files: Vec<PathBuf>,
    #[command(flatten)]
    commands: CommandOptions,
}

/// How its commands are sent, and what makes them succeed.
#[derive(Args)]
#[group(multiple = true)]
struct CommandOptions {
    /// What makes a command succeed.
    #[arg(long, value_enum, group = "change")]
    confirm: Option<Confirmation>,
    /// When a command expires unless it says otherwise: 30s, 5m, 2h.
    #[arg(long, value_name = "DURATION", value_parser = duration, group = "change")]
    command_expiry: Option<Duration>,
    /// How long a receipt is waited for before a command is sent again.
    #[arg(long, value_name = "DURATION", value_parser = duration, group = "change")]
    ack_timeout: Option<Duration>,
    /// How long after its receipt an answer is waited for, where commands are confirmed by state or reply.
    #[arg(long, value_name = "DURATION", value_parser = duration, group = "change")]
    answer_in: Option<Duration>,
    /// Send commands as {"id", "value"}, for devices that see no Correlation Data (MQTT 3.1.1).
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no, group = "change")]
    envelope: Option<bool>,
    /// Let a command replace those of the same device that have not been sent yet or have no receipt in time, as for a set-point (yes), or let all be sent in their order (no).
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no, group = "change")]
    only_latest: Option<bool>,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

impl CommandOptions {
    fn change(&self) -> TermsChange {
        TermsChange {
            confirm: self.confirm,
            expiry: self.command_expiry,
            ack_timeout: self.ack_timeout,
            answer_in: self.answer_in,
            envelope: self.envelope,
            only_latest: self.only_latest,
        }
    }
}

impl AddArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let documents = read_documents(&self.schema_files)?;
        let schema = |path: &PathBuf| read_schema(path, &documents);
        let capability = NewCapability {
            name: self.name,
            description: self.description,
            state_schema: self.state_schema.as_ref().map(schema).transpose()?,
            command_schema: self.command_schema.as_ref().map(schema).transpose()?,
            commands: self.commands.change().terms(),
        };
        let row = context
            .change(
                async |fleet| capabilities::add(fleet, &capability).await,
                async |api| remote::capabilities::add(api, &capability).await,
            )
            .await?;
        context.output.result(&row, || format!("Capability \"{}\" is added.", row.capability.name))
    }
}

/// Change a capability, also while devices have it. What was stored stays as it is; the next report is judged by the new schema.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
struct SetArguments {
    /// Its name.
    name: CapabilityName,
    /// What it is, in a few words.
    #[arg(long, group = "change")]
    description: Option<String>,
    /// File with the JSON Schema of the payload that reports its state.
    #[arg(long, value_name = "FILE", group = "change")]
    state_schema: Option<PathBuf>,
    /// Let its state be any payload.
    #[arg(long, group = "change", conflicts_with = "state_schema")]
    no_state_schema: bool,
    /// File with the JSON Schema of the payload that commands it.
    #[arg(long, value_name = "FILE", group = "change")]
    command_schema: Option<PathBuf>,
    /// Let its commands be any payload.
    #[arg(long, group = "change", conflicts_with = "command_schema")]
    no_command_schema: bool,
    /// A file, or a directory of them, that the schemas refer to with $ref; it becomes part of them. May be repeated.
    #[arg(long = "schema-file", value_name = "FILE")]
    schema_files: Vec<PathBuf>,
    #[command(flatten)]
    commands: CommandOptions,
}

impl SetArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let documents = read_documents(&self.schema_files)?;
        let schema = |path: &Option<PathBuf>, none: bool| match path {
            Some(path) => read_schema(path, &documents).map(|schema| Some(Some(schema))),
            None => Ok(none.then_some(None)),
        };
        let change = CapabilityChange {
            description: self.description,
            state_schema: schema(&self.state_schema, self.no_state_schema)?,
            command_schema: schema(&self.command_schema, self.no_command_schema)?,
            commands: self.commands.change(),
        };
        let row = context
            .change(
                async |fleet| capabilities::set(fleet, &self.name, &change).await,
                async |api| remote::capabilities::set(api, &self.name, &change).await,
            )
            .await?;
        context.output.result(&row, || {
            let devices = if row.devices == 1 { "device has" } else { "devices have" };
            format!("Capability \"{}\" is changed; {} {devices} it.", self.name, row.devices)
        })
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| capabilities::list(client).await,
            async |api| remote::capabilities::list(api).await,
        )
        .await?;
    context.output.result(&found, || capability_table(&found))
}

async fn remove(context: &Context, name: &CapabilityName) -> Result<(), CliError> {
    context
        .change(
            async |fleet| capabilities::remove(fleet, name).await,
            async |api| remote::capabilities::remove(api, name).await,
        )
        .await?;
    context.output.result(&json!({"name": name.as_str(), "removed": true}), || {
        format!("Capability \"{name}\" is removed.")
    })
}

fn capability_table(capabilities: &[CapabilityRow]) -> String {
    let rows = capabilities.iter().map(|CapabilityRow { capability, devices }| {
        [
            capability.name.clone(),
            yes_no(capability.state_schema.is_some()),
            yes_no(capability.command_schema.is_some()),
            commands(capability),
            devices.to_string(),
            capability.description.clone(),
        ]
    });
    table(["NAME", "STATE SCHEMA", "COMMAND SCHEMA", "COMMANDS", "DEVICES", "DESCRIPTION"], rows)
}

/// How its commands are sent, in a few words.
fn commands(capability: &Capability) -> String {
    let Capability { confirm, command_expiry, only_latest, envelope, .. } = capability;
    let latest = if *only_latest { ", only latest" } else { "" };
    let envelope = if *envelope { ", in an envelope" } else { "" };
    format!("{confirm} in {command_expiry} s{latest}{envelope}")
}
