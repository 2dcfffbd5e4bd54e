//! `fleetgate command`

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::Transaction;

use crate::cli::arguments::{duration, number, parse_selector};
use crate::cli::context::{Context, actor};
use crate::cli::error::CliError;
use crate::cli::output::{self, or_dash, print, shortened, table, timestamp};
use crate::cli::rule::{devices_in_words, shared_in_words};
use crate::config;
use crate::domain::command::CommandPayload;
use crate::domain::delivery::Confirmation;
use crate::domain::name::{CapabilityName, DeviceName, RuleName};
use crate::domain::selector::Selector;
use crate::fleet::commands::{
    self, CommandDetails, CommandRow, DeliveryRow, MAX_PAGE, NewCommand, Pause, Resumed, Retried,
};
use crate::fleet::routing::{Bounds, To};
use crate::fleet::{FleetError, Part, act};
use crate::registry::commands::ENDED_CHANNEL;
use crate::registry::connection::Target;
use crate::registry::inspection;
use crate::remote::{self, Remote, RemoteError};

/// Who asks, as commands note it.
const ASKED_BY: &str = "the command line";
/// Longest time between two looks while a command is waited for: a notice may be lost.
const LOOK: Duration = Duration::from_secs(2);
/// How long an API may be away while a command is waited for.
const LONGEST_ABSENCE: Duration = Duration::from_secs(60);
/// Time between two looks over the API, which gives no notice.
const POLL: Duration = Duration::from_millis(500);

/// Commands, what devices are told to do: send, list, show, cancel, retry, pause, resume.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Send(SendArguments),
    /// List commands, the newest first, a page at a time.
    List {
        /// Only those that went to this device.
        #[arg(long)]
        device: Option<DeviceName>,
        /// Begin after this command.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = number(1..=MAX_PAGE))]
        limit: u16,
    },
    /// Show a command, and what became of it at each device.
    Show {
        /// Its id.
        id: String,
    },
    /// Cancel what of a command has not ended. What is on its way may still arrive.
    Cancel {
        /// Its id.
        id: String,
    },
    /// Send a command again to the devices where it failed, as a command of its own.
    Retry {
        /// Its id.
        id: String,
        /// Wait until it has ended at every device. The exit code is 1 if it failed at any.
        #[arg(long)]
        wait: bool,
    },
    /// Send no commands until `resume`; they expire all the same.
    Pause {
        /// Only those of this capability.
        #[arg(long)]
        capability: Option<CapabilityName>,
    },
    /// List what is paused.
    Pauses,
    /// Send commands again after `pause`.
    Resume {
        /// The capability that was paused by itself.
        #[arg(long)]
        capability: Option<CapabilityName>,
    },
}

/// Send a command to devices, down the command topic of each: those that are named, that a selector means or that a routing rule chooses. It waits for devices that are offline until it expires.
#[derive(Args)]
struct SendArguments {
    /// What to do: a capability of the devices.
    capability: CapabilityName,
    /// How: JSON, such as '"on"', 21.5 or '{"level": 3}'.
    payload: CommandPayload,
    /// A device. May be repeated. Without this option, --selector and --rule, the capability's routing rules choose.
    #[arg(long = "device", value_name = "NAME", group = "to")]
    devices: Vec<DeviceName>,
    /// Every device that can get it and that this selector means: area=lab,online, or JSON; docs/SELECTORS.md has it all.
    #[arg(long, group = "to", value_parser = parse_selector)]
    selector: Option<Selector>,
    /// Whom this routing rule chooses.
    #[arg(long, value_name = "NAME", group = "to")]
    rule: Option<RuleName>,
    /// When it expires: 30s, 5m, 2h. Without this option, as the capability says (60 s).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<Duration>,
    /// What makes it succeed. Without this option, as the capability says (delivered).
    #[arg(long, value_enum)]
    confirm: Option<Confirmation>,
    /// Check everything and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait until it has ended at every device. The exit code is 1 if it failed at any.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Send(arguments) => arguments.run(context).await,
            Action::List { device, after, limit } => {
                list(context, device.as_ref(), after.as_deref(), limit).await
            }
            Action::Show { id } => {
                let details = context
                    .look(
                        async |client| commands::show(client, &Part::whole(), &id).await,
                        async |api| remote::commands::show(api, &id).await,
                    )
                    .await?;
                context.output.result(&details, || text(&details))
            }
            Action::Cancel { id } => cancel(context, &id).await,
            Action::Retry { id, wait } => {
                let bounds = bounds(context)?;
                let here = async |fleet: &mut Transaction<'_>| {
                    Ok(who_is_left(
                        commands::retry(fleet, &Part::whole(), &id, ASKED_BY.into(), bounds)
                            .await?,
                    ))
                };
                let there =
                    async |api: &Remote| Ok(who_is_left(remote::commands::retry(api, &id).await?));
                ask(context, wait, here, there).await
            }
            Action::Pause { capability } => pause(context, capability.as_ref()).await,
            Action::Pauses => {
                let pauses = context
                    .look(
                        async |client| Ok(commands::pauses(client).await?),
                        async |api| remote::commands::pauses(api).await,
                    )
                    .await?;
                context.output.result(&pauses, || pause_table(&pauses))
            }
            Action::Resume { capability } => resume(context, capability.as_ref()).await,
        }
    }
}

impl SendArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let (dry_run, wait) = (self.dry_run, self.wait);
        let command = self.request(bounds(context)?);
        if dry_run {
            let choice = context
                .look(
                    async |client| commands::check_only(client, &command).await,
                    async |api| remote::commands::check_only(api, &command).await,
                )
                .await?;
            return context.output.result(&choice, || {
                let by = choice.rule.as_ref().map(|rule| format!(", by rule \"{rule}\""));
                let (devices, by) = (devices_in_words(&choice), by.unwrap_or_default());
                let shared = shared_in_words(&choice);
                format!("It would go to {devices}{by}. Nothing was sent.{shared}")
            });
        }
        let here = async |fleet: &mut Transaction<'_>| commands::send(fleet, &command).await;
        let there = async |api: &Remote| remote::commands::send(api, &command).await;
        ask(context, wait, here, there).await
    }

    fn request(self, bounds: Bounds) -> NewCommand {
        let devices = self.devices;
        let to = match (self.selector, self.rule) {
            (Some(selector), _) => To::Selector(selector),
            (None, Some(rule)) => To::Rule(rule),
            (None, None) if devices.is_empty() => To::Rules,
            (None, None) => To::Devices(devices),
        };
        NewCommand {
            capability: self.capability,
            payload: self.payload,
            to,
            expires_in: self.expires,
            confirm: self.confirm,
            asked_by: ASKED_BY.into(),
            requested: None,
            bounds,
            part: Part::whole(),
        }
    }
}

/// What bounds commands, as the settings here say. Over the API those of the service there do.
pub(super) fn bounds(context: &Context) -> Result<Bounds, CliError> {
    if context.api.is_given() {
        let (max_payload, max_devices) = (usize::MAX, usize::MAX);
        return Ok(Bounds { max_payload, max_devices, has_broker: true });
    }
    let settings = context.settings()?;
    let config::Commands { max_payload, max_devices, .. } = settings.commands;
    Ok(Bounds { max_payload, max_devices, has_broker: settings.emqx_api()?.is_some() })
}

/// Asks for a command, and waits for its end if that is wanted. Listens before it asks, so that no end is missed.
async fn ask(
    context: &Context,
    wait: bool,
    here: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<CommandDetails, FleetError>,
    there: impl AsyncFnOnce(&Remote) -> Result<CommandDetails, RemoteError>,
) -> Result<(), CliError> {
    if !wait {
        let details = context.change(here, there).await?;
        let id = &details.command.id;
        return context.output.result(&details, || {
            format!(
                "Command {id} is on its way. To see what becomes of it: fleetgate command show {id}"
            )
        });
    }
    if let Some(api) = context.api.remote()? {
        let asked = there(&api).await?;
        let ended = wait_over_the_api(context, &api, &asked.command).await;
        return conclude(context, &asked, ended);
    }
    let target = Target::new(&context.settings()?.database()?)?;
    let (listener, mut notices) = target.open_listener().await?;
    inspection::listen(&listener, ENDED_CHANNEL).await?;
    let mut client = context.connect().await?;
    let asked = act(&mut client, &actor(), here).await?;
    let ended = async {
        let mut told = BTreeSet::new();
        loop {
            let details = commands::show(&client, &Part::whole(), &asked.command.id).await?;
            if has_ended(context, &details, &mut told)? {
                return Ok(details);
            }
            until_next_look(&mut notices).await;
        }
    };
    conclude(context, &asked, ended.await)
}

/// Waits for a notice, any of which may be ours; a lost one costs the time to the next look. Once the connection that
/// listens has ended, there are looks alone.
async fn until_next_look<T>(notices: &mut mpsc::Receiver<T>) {
    let notice = async {
        if notices.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout(LOOK, notice).await;
}

/// Looks until a command has ended, also where the API is away for a while.
async fn wait_over_the_api(
    context: &Context,
    api: &Remote,
    command: &CommandRow,
) -> Result<CommandDetails, CliError> {
    let (mut told, mut seen) = (BTreeSet::new(), Instant::now());
    loop {
        match remote::commands::show(api, &command.id).await {
            Ok(details) if has_ended(context, &details, &mut told)? => return Ok(details),
            Ok(_) => seen = Instant::now(),
            Err(error) if !error.may_pass() || seen.elapsed() > LONGEST_ABSENCE => {
                return Err(error.into());
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await; // why: the API gives no notice
    }
}

/// Tells what of a command has ended since the last look, and whether all of it has.
fn has_ended(
    context: &Context,
    details: &CommandDetails,
    told: &mut BTreeSet<String>,
) -> Result<bool, CliError> {
    if !context.output.json {
        tell(details, told)?;
    }
    Ok(details.deliveries.iter().all(|delivery| delivery.ended))
}

/// The new command of a retry; says which devices it does not go to.
fn who_is_left(retried: Retried) -> CommandDetails {
    if !retried.passed_over.is_empty() {
        let devices = retried.passed_over.join(", ");
        output::remark(&format!("passed over, because they can be sent nothing now: {devices}"));
    }
    retried.details
}

/// Prints each delivery that has ended since the last look.
fn tell(details: &CommandDetails, told: &mut BTreeSet<String>) -> Result<(), CliError> {
    for delivery in details.deliveries.iter().filter(|delivery| delivery.ended) {
        if told.insert(delivery.id.clone()) {
            let reason = delivery.reason.as_ref().map(|why| format!(" ({why})"));
            print(&format!(
                "{}: {}{}",
                delivery.device,
                delivery.state,
                reason.unwrap_or_default()
            ))?;
        }
    }
    Ok(())
}

/// Tells how a command that was `asked` for has ended; where that could not be seen, which command it is.
fn conclude(
    context: &Context,
    asked: &CommandDetails,
    ended: Result<CommandDetails, CliError>,
) -> Result<(), CliError> {
    if context.output.json {
        context.output.result(ended.as_ref().unwrap_or(asked), String::new)?;
    } else if ended.is_err() {
        let id = &asked.command.id;
        output::remark(&format!("command {id} is on its way; see `fleetgate command show {id}`"));
    }
    let details = ended?;
    match details.deliveries.iter().filter(|delivery| !delivery.succeeded).count() {
        0 => Ok(()),
        failed => Err(CliError::Failed(format!(
            "the command failed at {failed} of {} devices; see `fleetgate command show {}`",
            details.deliveries.len(),
            details.command.id
        ))),
    }
}

async fn list(
    context: &Context,
    device: Option<&DeviceName>,
    after: Option<&str>,
    limit: u16,
) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| {
                let after = match after {
                    Some(id) => Some(commands::place(client, id).await?),
                    None => None,
                };
                commands::list(client, &Part::whole(), device, after.as_ref(), limit).await
            },
            async |api| remote::commands::list(api, device, after, limit).await,
        )
        .await?;
    let full = found.len() == usize::from(limit);
    let next = found.last().filter(|_| full).map(|command| command.id.clone());
    context.output.result(&found, || command_table(&found))?;
    if let Some(next) = next {
        context.output.hint(&format!("There may be more: add --after {next}"));
    }
    Ok(())
}

async fn cancel(context: &Context, id: &str) -> Result<(), CliError> {
    let cancelled = context
        .change(
            async |fleet| commands::cancel(fleet, &Part::whole(), id, ASKED_BY).await,
            async |api| remote::commands::cancel(api, id).await,
        )
        .await?;
    context.output.result(&json!({"id": id, "cancelled": cancelled}), || match cancelled {
        0 => format!("Command {id} had ended everywhere."),
        1 => format!("Command {id} is cancelled at 1 device."),
        many => format!("Command {id} is cancelled at {many} devices."),
    })
}

async fn pause(context: &Context, capability: Option<&CapabilityName>) -> Result<(), CliError> {
    context
        .change(
            async |fleet| commands::pause(fleet, capability, ASKED_BY).await,
            async |api| remote::commands::pause(api, capability).await,
        )
        .await?;
    let name = capability.map(CapabilityName::as_str);
    context.output.result(&json!({"paused": true, "capability": name}), || match name {
        None => "No commands are sent until `fleetgate command resume`.".to_owned(),
        Some(name) => format!(
            "No commands of \"{name}\" are sent until `fleetgate command resume --capability {name}`."
        ),
    })
}

async fn resume(context: &Context, capability: Option<&CapabilityName>) -> Result<(), CliError> {
    let Resumed { was_paused, all_are_paused } = context
        .change(
            async |fleet| commands::resume(fleet, capability).await,
            async |api| remote::commands::resume(api, capability).await,
        )
        .await?;
    let name = capability.map(CapabilityName::as_str);
    let result = json!({
        "capability": name,
        "was_paused": was_paused,
        "all_are_paused": all_are_paused,
    });
    context.output.result(&result, || {
        let whose = name.map_or("Commands".to_owned(), |name| format!("Commands of \"{name}\""));
        match (was_paused, all_are_paused) {
            (true, false) => format!("{whose} are sent again."),
            (false, false) => format!("{whose} were not paused."),
            (_, true) => format!(
                "{whose} wait because all commands are paused: `fleetgate command resume` ends that."
            ),
        }
    })
}

fn pause_table(pauses: &[Pause]) -> String {
    let rows = pauses.iter().map(|pause| {
        [
            pause.capability.clone().unwrap_or_else(|| "(all)".to_owned()),
            timestamp(Some(pause.paused_at)),
            pause.paused_by.clone(),
        ]
    });
    table(["CAPABILITY", "PAUSED", "BY"], rows)
}

fn command_table(commands: &[CommandRow]) -> String {
    let header =
        ["ID", "CAPABILITY", "PAYLOAD", "ASKED", "EXPIRES", "DEVICES", "OPEN", "SUCCEEDED"];
    let rows = commands.iter().map(|command| {
        [
            command.id.clone(),
            command.capability.clone(),
            shortened(&command.payload, MOST_SHOWN),
            timestamp(Some(command.asked_at)),
            timestamp(Some(command.expires_at)),
            command.devices.to_string(),
            command.open.to_string(),
            command.succeeded.to_string(),
        ]
    });
    table(header, rows)
}

/// Longest payload that a table shows, in characters.
const MOST_SHOWN: usize = 40;

fn text(details: &CommandDetails) -> String {
    let CommandRow {
        capability,
        payload,
        asked_by,
        asked_at,
        expires_at,
        confirm,
        rule,
        selector,
        ..
    } = &details.command;
    let rows = details.deliveries.iter().map(|delivery| {
        [
            delivery.device.clone(),
            delivery.state.clone(),
            delivery.attempts.to_string(),
            timestamp(delivery.published_at),
            timestamp(delivery.acked_at),
            timestamp(delivery.answered_at),
            timestamp(delivery.ended_at),
            or_dash(remark(delivery).as_deref()),
        ]
    });
    let header =
        ["DEVICE", "STATE", "ATTEMPTS", "SENT", "ACKNOWLEDGED", "ANSWERED", "ENDED", "REMARK"];
    let chosen = match (rule, selector) {
        (Some(rule), _) => format!("Its devices were chosen by rule \"{rule}\".\n"),
        (None, Some(selector)) => format!("Its devices were chosen by the selector {selector}.\n"),
        (None, None) => String::new(),
    };
    format!(
        "{capability} {}\nAsked by {asked_by} at {}, expires at {}, confirmed by: {confirm}.\n{chosen}\n{}",
        shortened(payload, MOST_SHOWN),
        timestamp(Some(*asked_at)),
        timestamp(Some(*expires_at)),
        table(header, rows)
    )
}

/// What there is to know besides: why it ended so, or that the device got it after the end.
fn remark(delivery: &DeliveryRow) -> Option<String> {
    if let (false, Some(acked), Some(ended)) =
        (delivery.succeeded, delivery.acked_at, delivery.ended_at)
    {
        let seconds = acked.duration_since(ended).as_secs();
        return Some(format!("acknowledged {seconds} s after its end"));
    }
    if let Some(answer) = &delivery.answer {
        let late = if delivery.late { "late: " } else { "" };
        return Some(format!("{late}{}", shortened(answer, MOST_SHOWN)));
    }
    match delivery.state.as_str() {
        "timed_out" => Some("it was received, and not answered in time".to_owned()),
        "sent"
            if delivery.ended && delivery.acked_at.is_none() && delivery.written_at.is_some() =>
        {
            Some("the device subscribes with QoS 0: no receipt".to_owned())
        }
        _ => delivery.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_are_apart_also_when_the_listening_connection_has_ended() {
        let (sender, mut notices) = mpsc::channel(1);
        sender.send(()).await.unwrap();
        let began = tokio::time::Instant::now();
        until_next_look(&mut notices).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        until_next_look(&mut notices).await;
        assert_eq!(began.elapsed(), LOOK);
        drop(sender);
        until_next_look(&mut notices).await;
        assert_eq!(began.elapsed(), 2 * LOOK);
    }
}
