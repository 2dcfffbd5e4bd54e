//! `fleetgate capability`

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{table, yes_no};
use crate::domain::name::CapabilityName;
use crate::domain::schema::StateSchema;
use crate::registry::capabilities::{self, CapabilityRow, NewCapability};

/// Largest schema file in bytes.
const MAX_SCHEMA_BYTES: u64 = 1024 * 1024;

/// Capabilities, what devices can do: add, list, remove.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(AddArguments),
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
            Action::List => list(context).await,
            Action::Remove { name } => remove(context, &name).await,
        }
    }
}

/// Add a capability.
#[derive(Args)]
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
}

impl AddArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let capability = NewCapability {
            name: self.name,
            description: self.description,
            state_schema: self.state_schema.as_deref().map(read_schema).transpose()?,
            command_schema: self.command_schema.as_deref().map(read_schema).transpose()?,
        };
        let client = context.connect().await?;
        capabilities::add(&client, &capability).await?;
        let name = &capability.name;
        let result = json!({"name": name.as_str(), "description": capability.description,
            "state_schema": capability.state_schema, "command_schema": capability.command_schema});
        context.output.result(&result, || format!("Capability \"{name}\" is added."))
    }
}

fn read_schema(path: &Path) -> Result<Value, CliError> {
    let refuse = |why: String| CliError::Failed(format!("schema file {}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| refuse(format!("cannot be opened: {error}")))?;
    file.take(MAX_SCHEMA_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_SCHEMA_BYTES {
        return Err(refuse(format!(
            "is larger than {MAX_SCHEMA_BYTES} bytes; write a smaller schema"
        )));
    }
    match serde_json::from_str(&text) {
        Ok(schema @ (Value::Object(_) | Value::Bool(_))) => {
            StateSchema::compile(&schema)
                .map_err(|error| refuse(format!("is no usable JSON Schema: {error}")))?;
            Ok(schema)
        }
        Ok(_) => {
            Err(refuse("is no JSON Schema; a schema is a JSON object, true or false".to_owned()))
        }
        Err(error) => Err(refuse(format!("is no JSON: {error}"))),
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let client = context.connect().await?;
    let found = capabilities::list(&client).await?;
    context.output.result(&found, || capability_table(&found))
}

async fn remove(context: &Context, name: &CapabilityName) -> Result<(), CliError> {
    let client = context.connect().await?;
    if !capabilities::remove(&client, name.as_str()).await? {
        return Err(CliError::no_capability(name.as_str()));
    }
    context.output.result(&json!({"name": name.as_str(), "removed": true}), || {
        format!("Capability \"{name}\" is removed.")
    })
}

fn capability_table(capabilities: &[CapabilityRow]) -> String {
    let rows = capabilities.iter().map(|capability| {
        [
            capability.name.clone(),
            yes_no(capability.state_schema.is_some()),
            yes_no(capability.command_schema.is_some()),
            capability.devices.to_string(),
            capability.description.clone(),
        ]
    });
    table(["NAME", "STATE SCHEMA", "COMMAND SCHEMA", "DEVICES", "DESCRIPTION"], rows)
}
