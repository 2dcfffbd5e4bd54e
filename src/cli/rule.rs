//! `fleetgate rule`

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::arguments::{number, parse_selector};
use crate::cli::command::bounds;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{table, yes_no};
use crate::domain::name::{CapabilityName, RuleName};
use crate::domain::routing::Strategy;
use crate::domain::selector::Selector;
use crate::fleet::routing::{Choice, SharedTopic};
use crate::fleet::rules::{self, NewRule, PRIORITY, RuleChange, RuleRow, Trial};
use crate::remote;

/// Routing rules, which say which devices get a capability's commands: add, set, list, show, test, enable, disable, remove.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(AddArguments),
    Set(SetArguments),
    /// List rules in the order in which they are asked.
    List {
        /// Only those of this capability.
        #[arg(long)]
        capability: Option<CapabilityName>,
    },
    /// Show a rule.
    Show {
        /// Its name.
        name: RuleName,
    },
    /// Tell who would get a command by a rule now, and whether another rule decides before it. Sends nothing.
    Test {
        /// Its name.
        name: RuleName,
    },
    /// Ask a rule again.
    Enable {
        /// Its name.
        name: RuleName,
    },
    /// Pass a rule over.
    Disable {
        /// Its name.
        name: RuleName,
    },
    /// Remove a rule. Commands that it has routed go on.
    Remove {
        /// Its name.
        name: RuleName,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Add(arguments) => arguments.run(context).await,
            Action::Set(arguments) => arguments.run(context).await,
            Action::List { capability } => {
                let capability = capability.as_ref();
                let found = context
                    .look(
                        async |client| rules::list(client, capability).await,
                        async |api| remote::rules::list(api, capability).await,
                    )
                    .await?;
                context.output.result(&found, || rule_table(&found))
            }
            Action::Show { name } => {
                let rule = context
                    .look(
                        async |client| rules::show(client, &name).await,
                        async |api| remote::rules::show(api, &name).await,
                    )
                    .await?;
                context.output.result(&rule, || rule_table(std::slice::from_ref(&rule)))
            }
            Action::Test { name } => test(context, &name).await,
            Action::Enable { name } => set_enabled(context, &name, true).await,
            Action::Disable { name } => set_enabled(context, &name, false).await,
            Action::Remove { name } => {
                context
                    .change(
                        async |fleet| rules::remove(fleet, &name).await,
                        async |api| remote::rules::remove(api, &name).await,
                    )
                    .await?;
                let result = json!({"name": name.as_str(), "removed": true});
                context.output.result(&result, || format!("Rule \"{name}\" is removed."))
            }
        }
    }
}

/// Add a rule. Of a capability's rules, the highest priority first, the first that yields a device decides.
#[derive(Args)]
struct AddArguments {
    /// Its name.
    name: RuleName,
    /// Whose commands it routes.
    #[arg(long)]
    capability: CapabilityName,
    /// Which devices: area=lab,kind in (relay,plug),online, or JSON; docs/SELECTORS.md has it all. Without this option every device that has the capability.
    #[arg(long, value_parser = parse_selector)]
    selector: Option<Selector>,
    /// Which of them.
    #[arg(long, value_enum, default_value = "all")]
    strategy: Strategy,
    /// The higher is asked first.
    #[arg(long, default_value_t = 0, value_parser = number(PRIORITY.0..=PRIORITY.1), allow_negative_numbers = true)]
    priority: i32,
}

impl AddArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let rule = NewRule {
            name: self.name,
            capability: self.capability,
            selector: self.selector.unwrap_or_default(),
            strategy: self.strategy,
            priority: self.priority,
        };
        let row = context
            .change(
                async |fleet| rules::add(fleet, &rule).await,
                async |api| remote::rules::add(api, &rule).await,
            )
            .await?;
        context.output.result(&row, || {
            let name = &row.name;
            format!("Rule \"{name}\" is added. To see whom it chooses: fleetgate rule test {name}")
        })
    }
}

/// Change a rule.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
struct SetArguments {
    /// Its name.
    name: RuleName,
    /// Which devices.
    #[arg(long, group = "change", value_parser = parse_selector)]
    selector: Option<Selector>,
    /// Which of them.
    #[arg(long, value_enum, group = "change")]
    strategy: Option<Strategy>,
    /// The higher is asked first.
    #[arg(long, value_parser = number(PRIORITY.0..=PRIORITY.1), allow_negative_numbers = true, group = "change")]
    priority: Option<i32>,
}

impl SetArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let change = RuleChange {
            selector: self.selector,
            strategy: self.strategy,
            priority: self.priority,
            enabled: None,
        };
        let row = set(context, &self.name, &change).await?;
        context.output.result(&row, || rule_table(std::slice::from_ref(&row)))
    }
}

async fn set(context: &Context, name: &RuleName, change: &RuleChange) -> Result<RuleRow, CliError> {
    context
        .change(
            async |fleet| rules::set(fleet, name, change).await,
            async |api| remote::rules::set(api, name, change).await,
        )
        .await
}

async fn set_enabled(context: &Context, name: &RuleName, enabled: bool) -> Result<(), CliError> {
    let change = RuleChange { enabled: Some(enabled), ..RuleChange::default() };
    let row = set(context, name, &change).await?;
    context.output.result(&row, || {
        format!("Rule \"{name}\" is {}.", if enabled { "enabled" } else { "disabled" })
    })
}

async fn test(context: &Context, name: &RuleName) -> Result<(), CliError> {
    let bounds = bounds(context)?;
    let Trial { rule, choice, preceded_by } = context
        .look(
            async |client| rules::test(client, name, bounds).await,
            async |api| remote::rules::test(api, name).await,
        )
        .await?;
    let result = json!({"rule": rule, "devices": choice.devices, "shared_topics": choice.shared_topics, "preceded_by": preceded_by});
    context.output.result(&result, || {
        let mut text = match choice.devices.len() {
            0 => "It yields no device.".to_owned(),
            _ => format!("It yields {}.", devices_in_words(&choice)),
        };
        if !rule.enabled {
            text.push_str(" It is disabled, and passed over.");
        } else if let Some(other) = preceded_by {
            text.push_str(&format!(
                " It is not asked: rule \"{other}\" comes before it and yields devices."
            ));
        }
        text + &shared_in_words(&choice)
    })
}

/// Most devices that a sentence names.
const NAMED: usize = 20;

/// Devices in a sentence, the first of them by name.
pub(super) fn devices_in_words(choice: &Choice) -> String {
    let named = choice.devices.iter().take(NAMED).map(|device| match device.online {
        true => device.name.clone(),
        false => format!("{} (offline)", device.name),
    });
    let names = named.collect::<Vec<_>>().join(", ");
    match choice.devices.len() {
        1 => format!("1 device: {names}"),
        count if count <= NAMED => format!("{count} devices: {names}"),
        count => format!("{count} devices: {names} and {} more", count - NAMED),
    }
}

/// Topics that others hear too, a line each.
pub(super) fn shared_in_words(choice: &Choice) -> String {
    let line = |shared: &SharedTopic| {
        let (first, more) = shared.devices.split_at(shared.devices.len().min(NAMED));
        let more = match more.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        format!("\nAll on the topic {} get it: {}{more}.", shared.topic, first.join(", "))
    };
    let lines: String = choice.shared_topics.iter().take(NAMED).map(line).collect();
    match choice.shared_topics.len().saturating_sub(NAMED) {
        0 => lines,
        more => format!("{lines}\n{more} more topics are shared."),
    }
}

fn rule_table(rules: &[RuleRow]) -> String {
    let rows = rules.iter().map(|rule| {
        let selector = rule.parsed_selector().map(|selector| selector.to_string());
        [
            rule.name.clone(),
            rule.capability.clone(),
            rule.priority.to_string(),
            yes_no(rule.enabled),
            rule.strategy.clone(),
            selector.unwrap_or_else(|_| rule.selector.to_string()),
        ]
    });
    table(["NAME", "CAPABILITY", "PRIORITY", "ENABLED", "STRATEGY", "SELECTOR"], rows)
}
