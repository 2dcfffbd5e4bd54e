//! `fleetgate serve`

use clap::Args;

use crate::app::{self, App, AppError};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::clock::Clock;
use crate::config::{Config, Settings};
use crate::lifecycle;
use crate::logging;

/// Serve EMQX until SIGTERM or SIGINT. Brings the database's schema up to date first.
#[derive(Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let (settings, config) = Settings::complete(&context.sources(), |_| Vec::new())?;
        logging::start_logging(&config.log);
        lifecycle::raise_open_files();
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(serve(&config)?)
    }
}

fn serve(config: &Config) -> Result<(), AppError> {
    let refused =
        |error: std::io::Error| AppError::SetUp { what: "a runtime", why: error.to_string() };
    app::system().map_err(refused)?.block_on(async {
        let stop = lifecycle::stop_on_signals()
            .map_err(|error| AppError::SetUp { what: "signals", why: error.to_string() })?;
        let app = App::build(config, Clock::System, stop)?;
        tracing::info!(address = %app.address(), "listening; serving begins when the database is accepted");
        app.run().await?;
        tracing::info!("stopped");
        Ok(())
    })
}
