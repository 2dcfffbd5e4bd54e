//! What every command is given.

use std::path::PathBuf;

use tokio_postgres::Client;

use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::config::{Settings, Sources};
use crate::registry::connection::connect;

/// What every command is given.
pub(super) struct Context {
    /// `--config`.
    pub(super) config: Option<PathBuf>,
    /// Where results go.
    pub(super) output: Output,
}

impl Context {
    /// Runs a command that waits for the database.
    pub(super) fn block_on(
        &self,
        command: impl Future<Output = Result<(), CliError>>,
    ) -> Result<(), CliError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::Failed(format!("the async runtime did not start: {error}")))?
            .block_on(command)
    }

    /// Connects to the registry.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        Ok(connect(&self.settings()?.database()?).await?)
    }

    /// Where this process's configuration comes from.
    pub(super) fn sources(&self) -> Sources {
        Sources::from_process(self.config.clone())
    }

    /// This process's configuration.
    pub(super) fn settings(&self) -> Result<Settings, CliError> {
        Ok(Settings::load(&self.sources())?)
    }
}
