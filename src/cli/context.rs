//! What every command is given.

use std::cell::OnceCell;
use std::path::PathBuf;

use tokio_postgres::{Client, Transaction};

use crate::cli::api::ApiOptions;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::config::{Settings, Sources};
use crate::fleet::{self, Actor, FleetError};
use crate::registry::connection::connect;
use crate::remote::{Remote, RemoteError};

/// What every command is given.
pub(super) struct Context {
    /// `--config`.
    pub(super) config: Option<PathBuf>,
    /// `--api`, and what belongs to it.
    pub(super) api: ApiOptions,
    /// Where results go.
    pub(super) output: Output,
    settings: OnceCell<Settings>,
}

impl Context {
    /// Reads no configuration yet: many commands need none.
    pub(super) fn new(config: Option<PathBuf>, api: ApiOptions, output: Output) -> Self {
        Self { config, api, output, settings: OnceCell::new() }
    }

    /// Runs a command that waits for the database.
    pub(super) fn block_on<T>(
        &self,
        command: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::Failed(format!("the async runtime did not start: {error}")))?
            .block_on(command)
    }

    /// Connects to the registry.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        // Whoever asks for a fleet over the API means no other one.
        self.api.refuse("this works on the database only")?;
        Ok(connect(&self.settings()?.database()?).await?)
    }

    /// Connects to the registry, and does one operation or several there in the name of whoever runs this command, all or none.
    pub(super) async fn act<T, E: From<FleetError>>(
        &self,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, CliError>
    where
        CliError: From<E>,
    {
        Ok(fleet::act(&mut self.connect().await?, &actor(), work).await?)
    }

    /// Changes the fleet: in the registry, all or nothing and in the name of whoever runs this command, or over the API, in the
    /// name of the token.
    pub(super) async fn change<T>(
        &self,
        here: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, FleetError>,
        there: impl AsyncFnOnce(&Remote) -> Result<T, RemoteError>,
    ) -> Result<T, CliError> {
        match self.api.remote()? {
            None => self.act(here).await,
            Some(api) => Ok(there(&api).await?),
        }
    }

    /// Looks at the fleet, in the registry or over the API.
    pub(super) async fn look<T>(
        &self,
        here: impl AsyncFnOnce(&mut Client) -> Result<T, FleetError>,
        there: impl AsyncFnOnce(&Remote) -> Result<T, RemoteError>,
    ) -> Result<T, CliError> {
        match self.api.remote()? {
            None => Ok(here(&mut self.connect().await?).await?),
            Some(api) => Ok(there(&api).await?),
        }
    }

    /// Where this process's configuration comes from.
    pub(super) fn sources(&self) -> Sources {
        Sources::from_process(self.config.clone())
    }

    /// This process's configuration. It is read once, however often a command asks for it: a pipe, such as a shell's
    /// `<(…)`, holds it no longer.
    pub(super) fn settings(&self) -> Result<&Settings, CliError> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::load(&self.sources())?;
        Ok(self.settings.get_or_init(|| settings))
    }
}

/// Whoever runs this command.
pub(super) fn actor() -> Actor {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Actor::CommandLine(user_name(&users, uid).unwrap_or_else(|| uid.to_string()))
}

/// The name of a user, in the text of `/etc/passwd`.
fn user_name(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_where_the_system_knows_them() {
        let users = "root:x:0:0::/root:/bin/sh\n#\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
        assert_eq!(user_name(users, 1000).as_deref(), Some("alice"));
        assert_eq!(user_name(users, 0).as_deref(), Some("root"));
        assert_eq!(user_name(users, 7), None);
    }
}
