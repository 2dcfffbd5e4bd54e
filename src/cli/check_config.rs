//! `fleetgate check-config`: is the configuration good for `serve`, and where does it come from?

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::authn::token::TokenKeys;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::config::{Config, GivenSetting, Problems, Settings, Sources, Warning};
use crate::registry::connection::Target;
use crate::tls::{self, Identity};

/// Check the configuration as `serve` would, and tell where each setting comes from.
#[derive(Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let report = check_config(&context.sources())?;
        let unusable = unusable_files(&context.settings()?.config()?);
        if !unusable.is_empty() {
            return Err(CliError::Usage(unusable.join("\n")));
        }
        context.output.result(&report, || report.to_string().trim_end().to_owned())
    }
}

/// What `serve` would say of files that the settings name.
fn unusable_files(config: &Config) -> Vec<String> {
    let Config { tokens, api, emqx, database, .. } = config;
    let keys = TokenKeys::load(&tokens.audience, &tokens.verification_keys);
    let identity = api.listen.and(api.tls_certificate.clone().zip(api.tls_key.clone()));
    let identity = identity.map(|(certificate, key)| Identity { certificate, key });
    let of_api = identity.map_or(Ok(()), |identity| tls::server(&identity, |_| {}).map(drop));
    let emqx = emqx.api.as_ref().and_then(|api| api.ca_file.as_deref());
    let of_emqx = emqx.map_or(Ok(()), |file| tls::trusting(Some(file)).map(drop));
    let files = [
        ("tokens.verification_keys", keys.map(drop).map_err(|error| error.to_string())),
        ("api.tls_certificate and api.tls_key", of_api),
        ("emqx.api_ca_file", of_emqx),
        ("database", Target::new(database).map(drop).map_err(|error| error.to_string())),
    ];
    let wrong = files.into_iter().filter_map(|(setting, read)| Some((setting, read.err()?)));
    wrong.map(|(setting, why)| format!("{setting}: {why}")).collect()
}

/// What `check-config` has to say of a valid configuration: displays as text for people, serializes
/// for `--json`. Holds no secret.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigReport {
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// The settings that are given, and where; all others have their defaults.
    pub given: Vec<GivenSetting>,
    /// What works and should still be changed.
    pub warnings: Vec<Warning>,
}

/// Checks the configuration as `serve` would.
///
/// # Errors
/// Everything that is wrong with what is given; if nothing is, the settings `serve` misses.
pub fn check_config(sources: &Sources) -> Result<ConfigReport, Problems> {
    let settings = Settings::load(sources)?;
    settings.config()?;
    Ok(ConfigReport {
        file: sources.file.clone(),
        given: settings.given,
        warnings: settings.warnings,
    })
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration is valid\n")?;
        match &self.file {
            Some(file) => writeln!(f, "file: {}", file.display())?,
            None => f.write_str("file: none\n")?,
        }
        for GivenSetting { setting, value, at, .. } in &self.given {
            writeln!(f, "  {setting} = {value}  ({at})")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
