//! `fleetgate audit`

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::arguments::number;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{print_on, shortened, table, timestamp, visible};
use crate::cli::timestamp::parse_past_timestamp;
use crate::domain::name::DeviceName;
use crate::fleet::Part;
use crate::fleet::audit::{self, AuditFilter, AuditRow, CHANNEL, Follower, MAX_PAGE};
use crate::fleet::document::Document;
use crate::registry::connection::Target;
use crate::registry::error::RegistryError;
use crate::registry::inspection;
use crate::remote;

/// Longest time between two looks while the log is followed: a notice may be lost.
const LOOK: Duration = Duration::from_secs(2);
/// Longest text of a change in a table, in characters.
const MOST_SHOWN: usize = 100;

/// The audit log, who changed what: list, follow.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List entries, the newest first, a page at a time.
    List {
        #[command(flatten)]
        which: Which,
        /// Only since then: 24h (ago), 2027-01-01 or 2027-01-01T00:00:00Z.
        #[arg(long, value_name = "WHEN", value_parser = parse_past_timestamp)]
        since: Option<Timestamp>,
        /// Begin after this entry, by its number.
        #[arg(long, value_name = "ID")]
        after: Option<i64>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = number(1..=MAX_PAGE))]
        limit: u16,
    },
    /// Print entries as they come, until it is interrupted; with --json a line each.
    Follow {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Args)]
struct Which {
    /// Only of this device and what it has or had, whatever it was called before, and also if it is gone.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
    /// Only by this actor: command-line, command-line:alice, token:7, service:dashboard, system, or a role of PostgreSQL.
    #[arg(long)]
    actor: Option<String>,
}

impl Which {
    fn filter(self, since: Option<Timestamp>) -> AuditFilter {
        AuditFilter { device: self.device, actor: self.actor, since, part: Part::whole() }
    }
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::List { which, since, after, limit } => {
                let filter = which.filter(since);
                let found = context
                    .look(
                        async |client| audit::list(client, &filter, after, limit).await,
                        async |api| remote::audit::list(api, &filter, after, limit).await,
                    )
                    .await?;
                let full = found.len() == usize::from(limit);
                let next = found.last().filter(|_| full).map(|entry| entry.id);
                let result = json!({"entries": found, "next": next});
                context.output.result(&result, || audit_table(&found))?;
                if let Some(next) = next {
                    context.output.hint(&format!("There may be more: add --after {next}"));
                }
                Ok(())
            }
            Action::Follow { which } => follow(context, which.filter(None)).await,
        }
    }
}

async fn follow(context: &Context, filter: AuditFilter) -> Result<(), CliError> {
    if let Some(api) = context.api.remote()? {
        let mut follower = remote::audit::Follower::from_now(&api, filter).await?;
        context.output.hint(FOLLOWING);
        loop {
            if !tell(context, &follower.next(&api).await?)? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let target = Target::new(&context.settings()?.database()?)?;
    let (listener, mut notices) = target.open_listener().await?;
    inspection::listen(&listener, CHANNEL).await?;
    let client = context.connect().await?;
    let mut follower = Follower::from_now(&client, filter).await?;
    context.output.hint(FOLLOWING);
    loop {
        let entries = follower.next(&client).await?;
        if !tell(context, &entries)? {
            return Ok(());
        }
        if entries.len() == usize::from(MAX_PAGE) {
            continue;
        }
        if let Ok(None) = tokio::time::timeout(LOOK, notices.recv()).await {
            return Err(CliError::Registry(RegistryError::Unreachable(
                "the connection to the database was lost; follow again, and see `fleetgate audit list` for what came meanwhile"
                    .to_owned(),
            )));
        }
    }
}

const FOLLOWING: &str = "Following the audit log.";

/// `false`: whoever read it has seen enough.
fn tell(context: &Context, entries: &[AuditRow]) -> Result<bool, CliError> {
    for entry in entries {
        let is_read = match context.output.json {
            true => print_on(&json!(entry).to_string())?,
            false => print_on(&visible(&line(entry).join("  ")))?,
        };
        if !is_read {
            return Ok(false);
        }
    }
    Ok(true)
}

fn audit_table(entries: &[AuditRow]) -> String {
    table(["ID", "AT", "BY", "WHAT", "CHANGE"], entries.iter().map(line))
}

/// An entry, for people.
fn line(entry: &AuditRow) -> [String; 5] {
    [
        entry.id.to_string(),
        timestamp(Some(entry.at)),
        entry.actor.clone().unwrap_or_else(|| format!("role {}", entry.role)),
        what(entry),
        shortened(&change(entry), MOST_SHOWN),
    ]
}

fn what(entry: &AuditRow) -> String {
    let AuditRow { subject, action, device, name, .. } = entry;
    let thing = match (subject.as_str(), device, name) {
        ("device", Some(device), _) => format!("device {device}"),
        ("device_capability", Some(device), Some(name)) => format!("capability {name} of {device}"),
        (subject, Some(device), Some(name)) => format!("{subject} {name} of {device}"),
        ("pause", None, Some(name)) if name.is_empty() => "pause of all commands".to_owned(),
        (subject, _, Some(name)) => format!("{subject} {name}"),
        (subject, _, None) => format!("every {subject}"),
    };
    format!("{thing} {action}")
}

fn change(entry: &AuditRow) -> String {
    let members = |document: &Option<Document>| match document.as_ref().map(Document::value) {
        Some(Value::Object(members)) => members,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (members(&entry.before), members(&entry.after));
    let shown: Vec<String> = match entry.action.as_str() {
        "changed" => {
            let shown = |(name, value): (&String, &Value)| match before.get(name) {
                Some(was) => format!("{name}: {was} → {value}"),
                None => format!("{name}: {}", value.as_str().unwrap_or("changed")),
            };
            after.iter().map(shown).collect()
        }
        _ => {
            let members = before.iter().chain(&after).filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| format!("{name}: {value}")).collect()
        }
    };
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(subject: &str, action: &str, before: Value, after: Value) -> AuditRow {
        let some = |value: Value| (!value.is_null()).then(|| Document::from(&value));
        AuditRow {
            id: 1,
            at: Timestamp::UNIX_EPOCH,
            actor: None,
            role: "alice".to_owned(),
            subject: subject.to_owned(),
            action: action.to_owned(),
            device: Some("lamp".to_owned()),
            name: Some("17".to_owned()),
            before: some(before),
            after: some(after),
        }
    }

    #[test]
    fn entries_read_like_sentences() {
        let renamed = json!({"name": "desk", "area": null});
        let renamed = entry("device", "changed", json!({"name": "lamp", "area": "lab"}), renamed);
        assert_eq!(line(&renamed)[2..4], ["role alice", "device lamp changed"]);
        assert_eq!(change(&renamed), r#"area: "lab" → null, name: "lamp" → "desk""#);
        let replaced = entry("credential", "changed", json!({}), json!({"hash": "replaced"}));
        assert_eq!(what(&replaced), "credential 17 of lamp changed");
        assert_eq!(change(&replaced), "hash: replaced");
        let added = json!({"kind": "secret", "label": null});
        let added = entry("credential", "added", Value::Null, added);
        assert_eq!(change(&added), r#"kind: "secret""#);
    }
}
