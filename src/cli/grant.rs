//! `fleetgate grant`

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{remark, table};
use crate::domain::acl::Action;
use crate::domain::name::DeviceName;
use crate::domain::request::{RESULTS, hears_results_of_others};
use crate::domain::topic::TopicFilter;
use crate::fleet::Added;
use crate::fleet::grants::{self, GrantRow};
use crate::remote;

/// Grants, a device's rights beyond its bindings: add, list, remove.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Let a device publish to, or subscribe within, a topic filter. Doing it again changes nothing.
    Add {
        /// The device.
        device: DeviceName,
        /// What it may do.
        action: Action,
        /// On which topics; + and # are wildcards.
        filter: TopicFilter,
    },
    /// List a device's grants.
    List {
        /// The device.
        device: DeviceName,
    },
    /// Take a grant away: by its number, or by DEVICE ACTION FILTER.
    Remove {
        /// The number of the grant, as the list shows it, or the device.
        #[arg(value_name = "ID|DEVICE")]
        grant: String,
        /// What the device may do.
        #[arg(requires = "filter")]
        action: Option<Action>,
        /// On which topics.
        filter: Option<TopicFilter>,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Command::Add { device, action, filter } => add(context, &device, action, &filter).await,
            Command::List { device } => list(context, &device).await,
            Command::Remove { grant, action: Some(action), filter: Some(filter) } => {
                remove_of(context, &grant, action, &filter).await
            }
            Command::Remove { grant, .. } => remove(context, &grant).await,
        }
    }
}

async fn add(
    context: &Context,
    device: &DeviceName,
    action: Action,
    filter: &TopicFilter,
) -> Result<(), CliError> {
    if matches!(action, Action::Subscribe)
        && hears_results_of_others(device.as_str(), filter.as_str())
    {
        remark(&format!(
            "{filter} includes topics below {RESULTS}: the device hears what becomes of the commands that every service there asks for"
        ));
    }
    let added = context
        .change(
            async |fleet| grants::add(fleet, device, action, filter).await,
            async |api| remote::grants::add(api, device, action, filter).await,
        )
        .await?;
    let action = action.word();
    let (id, when) = match added {
        Added::New(id) => (id, "now"),
        Added::Same(id) => (id, "already"),
    };
    let result = json!({"id": id, "device": device.as_str(), "action": action, "topic_filter": filter.as_str()});
    context.output.result(&result, || {
        format!("Device \"{device}\" may {when} {action} {filter} (grant {id}).")
    })
}

async fn list(context: &Context, device: &DeviceName) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| grants::list(client, device).await,
            async |api| remote::grants::list(api, device).await,
        )
        .await?;
    context.output.result(&found, || grant_table(&found))
}

async fn remove(context: &Context, id: &str) -> Result<(), CliError> {
    let id: i64 = id.parse().map_err(|_| {
        CliError::Usage(format!(
            "{id:?} is not a valid number of a grant; write its number, or DEVICE publish|subscribe FILTER"
        ))
    })?;
    context
        .change(
            async |fleet| grants::remove(fleet, id).await,
            async |api| remote::grants::remove(api, id).await,
        )
        .await?;
    context.output.result(&json!({"id": id, "removed": true}), || format!("Grant {id} is removed."))
}

async fn remove_of(
    context: &Context,
    device: &str,
    action: Action,
    filter: &TopicFilter,
) -> Result<(), CliError> {
    let device: DeviceName =
        device.parse().map_err(|error| CliError::Usage(format!("device {device:?} {error}")))?;
    context
        .change(
            async |fleet| grants::remove_of(fleet, &device, action, filter).await,
            async |api| remote::grants::remove_of(api, &device, action, filter).await,
        )
        .await?;
    let action = action.word();
    let result = json!({"device": device.as_str(), "action": action, "topic_filter": filter.as_str(), "removed": true});
    context.output.result(&result, || {
        format!("The grant of device \"{device}\" to {action} {filter} is removed.")
    })
}

/// Grants, for people.
pub(super) fn grant_table(grants: &[GrantRow]) -> String {
    let rows = grants
        .iter()
        .map(|grant| [grant.id.to_string(), grant.action.clone(), grant.topic_filter.clone()]);
    table(["ID", "ACTION", "TOPIC FILTER"], rows)
}
