//! `fleetgate emqx …`

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::visible;
use crate::config;
use crate::emqx::EmqxApi;
use crate::emqx::setup::{
    Change, Difference, Kind, Outcome, Setup, SetupError, Target, USUAL_URL, fleetgate_url, shown,
};
use crate::metrics::Metrics;
use crate::secret::Secret;

const UNCHECKED: &str = "Sessions that were open before have never been checked by Fleetgate and stay \
    open: end them in EMQX's dashboard, or restart EMQX.";

/// Configure a running EMQX over its REST API.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Apply(ApplyArgs),
}

/// Bring EMQX to the state that Fleetgate needs: authenticator, authorization, events.
///
/// Changes only what differs, and can be run again at any time.
#[derive(Args)]
struct ApplyArgs {
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Where EMQX reaches Fleetgate. Left out: where EMQX's authenticator (or else its source or connector) asks
    /// Fleetgate now; in an EMQX that has none of these, http://fleetgate:8080.
    #[arg(long, value_name = "URL", value_parser = plain_url)]
    fleetgate_url: Option<String>,
    /// Send the webhook token even where EMQX has one: EMQX does not show whether it is the right one.
    #[arg(long)]
    rotate_token: bool,
    /// Replace an HTTP authenticator or HTTP source that asks another service than Fleetgate. Without this nothing is
    /// changed where there is one.
    #[arg(long)]
    replace_others: bool,
}

#[derive(Serialize)]
struct Applied<'a> {
    dry_run: bool,
    changes: &'a [Change],
    /// What others have set up and is left alone.
    left_alone: &'a [String],
    /// Settings by which a stranger keeps devices out.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    hazards: &'a [String],
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let Command::Apply(arguments) = self.command;
        arguments.run(context).await
    }
}

impl ApplyArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let (api, token) = ends(context)?;
        let (url, is_told) = match &self.fleetgate_url {
            Some(url) => (url.clone(), true),
            None => (present_url(&api).await?, false),
        };
        let target = Target::new(&url, token);
        let setup = Setup::new(&api, &target, self.rotate_token);
        let setup = setup.replacing_others(self.replace_others);
        let changes = if self.dry_run {
            setup.changes().await.map_err(|error| failure(&error, &[]))?
        } else {
            let Outcome { done, failed } = setup.apply().await;
            failed.map_or(Ok(()), |error| Err(failure(&error, &done)))?;
            done
        };
        let done = if self.dry_run { &[] } else { changes.as_slice() };
        let left_alone = setup.set_up_by_others().await.map_err(|error| failure(&error, done))?;
        let hazards = setup.hazards().await.map_err(|error| failure(&error, done))?.into_iter();
        let hazards: Vec<_> =
            hazards.map(|hazard| format!("{}. {}.", hazard.found, hazard.remedy)).collect();
        let result = Applied {
            dry_run: self.dry_run,
            changes: &changes,
            left_alone: &left_alone,
            hazards: &hazards,
        };
        context.output.result(&result, || result.in_words())?;
        let place =
            format!("EMQX reaches Fleetgate at {}; --fleetgate-url says otherwise.", visible(&url));
        context.output.hint(&self.remarks(&result, (!is_told).then_some(place)));
        Ok(())
    }

    fn remarks(&self, result: &Applied<'_>, place: Option<String>) -> String {
        let mut remarks: Vec<String> = place.into_iter().collect();
        for other in result.left_alone {
            remarks.push(format!(
                "{other} was set up by somebody else and is left alone: it decides whenever \
                 Fleetgate does not. Take it out if nobody needs it."
            ));
        }
        remarks.extend(result.hazards.iter().map(|hazard| visible(hazard)));
        let opens = |change: &&Change| change.name == "authenticator" && change.kind != Kind::Move;
        if result.changes.iter().any(|change| opens(&change)) && !self.dry_run {
            remarks.push(UNCHECKED.to_owned());
        }
        if !self.dry_run {
            remarks.push("`fleetgate doctor` tells whether EMQX reaches Fleetgate.".to_owned());
        }
        remarks.join("\n")
    }
}

fn ends(context: &Context) -> Result<(EmqxApi, Secret), CliError> {
    let settings = context.settings()?;
    let api = settings.emqx_api()?.ok_or_else(|| {
        CliError::Usage(
            "EMQX's REST API is not configured; set emqx.api_url, emqx.api_key and \
             emqx.api_secret"
                .to_owned(),
        )
    })?;
    let token = settings.emqx()?.webhook_token;
    Ok((open(&api)?, token))
}

/// Where EMQX takes Fleetgate to be already. Without this a run for another reason, as for a new token, would lead EMQX away
/// from the Fleetgate that it asks.
async fn present_url(api: &EmqxApi) -> Result<String, CliError> {
    let Some(url) = fleetgate_url(api).await.map_err(|error| failure(&error, &[]))? else {
        return Ok(USUAL_URL.to_owned());
    };
    // It may hold a password, so it is not repeated.
    plain_url(&url).map_err(|_| {
        CliError::Failed(
            "EMQX asks Fleetgate at a URL that is not plain http://HOST:PORT, the only kind that this command sets up. \
             Nothing was changed. Say with --fleetgate-url where EMQX shall reach Fleetgate."
                .to_owned(),
        )
    })
}

impl Applied<'_> {
    fn in_words(&self) -> String {
        if self.changes.is_empty() {
            return "EMQX is configured as it should be; nothing to change.".to_owned();
        }
        let mut lines: Vec<String> =
            self.changes.iter().flat_map(|change| change_in_words(change, self.dry_run)).collect();
        let count = self.changes.len();
        let plural = if count == 1 { "change" } else { "changes" };
        lines.push(match self.dry_run {
            true => format!("{count} {plural} to make; nothing was changed (--dry-run)."),
            false => format!("{count} {plural} made."),
        });
        lines.join("\n")
    }
}

fn change_in_words(change: &Change, to_come: bool) -> Vec<String> {
    let verb = match (change.kind, to_come) {
        (Kind::Create, true) => "would create",
        (Kind::Create, false) => "created",
        (Kind::Replace, true) => "would change",
        (Kind::Replace, false) => "changed",
        (Kind::Move, true) => "would move",
        (Kind::Move, false) => "moved",
        (Kind::Delete, true) => "would delete",
        (Kind::Delete, false) => "deleted",
    };
    let head = format!("{verb} {} ({})", change.name, change.call);
    let fields = change.fields.iter().map(|field| format!("  {}", field_in_words(field)));
    std::iter::once(head).chain(fields).collect()
}

fn field_in_words(Difference { field, is, becomes }: &Difference) -> String {
    let shown = |value: &Value| visible(&shown(value));
    match (is, becomes) {
        (Some(is), Some(becomes)) => format!("{field}: {} → {}", shown(is), shown(becomes)),
        (None, Some(becomes)) => format!("{field}: {}", shown(becomes)),
        (Some(is), None) => format!("{field}: {} → nothing", shown(is)),
        (None, None) => field.clone(),
    }
}

fn failure(error: &SetupError, done: &[Change]) -> CliError {
    let again = match error {
        SetupError::Call { .. } => "Run the command again when that is repaired",
        SetupError::OfOthers { .. } => {
            "If nobody needs it, run the command again with --replace-others (first with --dry-run)"
        }
    };
    let done: Vec<_> = done.iter().map(|change| change.call.as_str()).collect();
    let done = match done.is_empty() {
        true => "Nothing was changed before it".to_owned(),
        false => format!("Done before it: {}", done.join(", ")),
    };
    CliError::Failed(format!("{}. {done}. {again}.", visible(&error.to_string())))
}

/// EMQX would need further settings to trust Fleetgate's certificate, so that only HTTP is taken.
fn plain_url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").unwrap_or_default().trim_end_matches('/');
    let plain = |c: char| c.is_ascii_graphic() && !"/?#@\"\\$".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err("write it as http://fleetgate:8080, without a path".to_owned());
    }
    Ok(format!("http://{host}"))
}

/// EMQX's REST API, as commands use it: nobody reads what is counted.
pub(super) fn open(settings: &config::EmqxApi) -> Result<EmqxApi, CliError> {
    let metrics = Metrics::new().map_err(CliError::failed)?;
    EmqxApi::new(settings, metrics.emqx).map_err(CliError::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleetgate_is_found_at_a_plain_url() {
        assert_eq!(plain_url("http://10.0.0.7:8080/").unwrap(), "http://10.0.0.7:8080");
        assert_eq!(plain_url("http://[::1]:8080").unwrap(), "http://[::1]:8080");
        for wrong in ["", "fleetgate:8080", "http://", "https://f", "http://f/x", "http://u:p@f"] {
            assert!(plain_url(wrong).is_err(), "{wrong}");
        }
    }
}
