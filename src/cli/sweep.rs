//! `fleetgate sweep`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::emqx;
use crate::cli::error::CliError;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::registry::connection::Target;
use crate::sweep::{Keep, Report, SweepError, Sweeper};

/// Compare presence with EMQX's list of clients and repair it, as `serve` does by itself at intervals.
#[derive(Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let report = sweeper(context)?.sweep().await.map_err(|error| match error {
            SweepError::Registry(error) => CliError::Registry(error),
            SweepError::NotConfigured => CliError::Usage(error.to_string()),
            SweepError::Busy | SweepError::RecentlyDone => {
                CliError::Failed(format!("{error}; try again in a moment"))
            }
            SweepError::Emqx(_) => CliError::Failed(format!("{error}. Nothing was repaired.")),
        })?;
        context.output.result(&report, || in_words(&report))
    }
}

fn sweeper(context: &Context) -> Result<Sweeper, CliError> {
    let settings = context.settings()?;
    let target = Target::new(&settings.database()?)?;
    let api = settings.emqx_api()?.map(|api| emqx::open(&api)).transpose()?.map(Arc::new);
    let metrics = Metrics::new().map_err(CliError::failed)?;
    let keep = Keep { sessions: settings.ingest.keep_sessions, audit: settings.audit.keep };
    Ok(Sweeper::new(target, api, Duration::ZERO, keep, Clock::System, metrics.sweep))
}

fn in_words(report: &Report) -> String {
    let Report { clients, repaired_online, repaired_offline, kicked_out } = report;
    format!(
        "EMQX lists {clients} connected clients. Sessions repaired: {repaired_online} to online, \
         {repaired_offline} to offline. Kicked out, because they have no right to be connected: {kicked_out}."
    )
}
