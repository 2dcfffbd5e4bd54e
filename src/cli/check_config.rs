//! `fleetgate check-config`: is the configuration good for `serve`, and where does it come from?

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::app::first_token;
use crate::authn::token::read_verification_key;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::config::{Api, GivenSetting, Problem, Problems, Settings, Sources, Warning};
use crate::registry::connection::Target;
use crate::tls::{self, Identity, Presented};

/// Check the configuration as `serve` would, and tell where each setting comes from.
#[derive(Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let report = check_config(&context.sources())?;
        context.output.result(&report, || report.to_string().trim_end().to_owned())
    }
}

/// What is wrong with files that the settings name and that `serve` opens.
fn unusable_files(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut tell = |setting: &str, why: String| {
        let given = settings.given.iter().find(|given| given.setting == setting);
        problems.extend(given.map(|given| given.problem(why)));
    };
    for file in &settings.tokens.verification_keys {
        if let Err(error) = read_verification_key(file) {
            tell("tokens.verification_keys", error.to_string());
        }
    }
    let Api { listen, tls_certificate, tls_key, .. } = &settings.api;
    if let (Some(_), Some(certificate), Some(key)) = (listen, tls_certificate, tls_key) {
        let identity = Identity { certificate: certificate.clone(), key: key.clone() };
        if let Err(why) = tls::check_key(key) {
            tell("api.tls_key", why);
        } else if let Err(why) = Presented::open(&identity, |_| {}) {
            tell("api.tls_certificate", why);
        }
    }
    if let (Some(_), Some(file)) = (listen, &settings.api.first_token_file)
        && let Err(why) = first_token::place(file)
    {
        tell("api.first_token_file", why);
    }
    let emqx = settings.emqx_api().ok().flatten();
    if let Some(Err(why)) = emqx.and_then(|api| api.ca_file).map(|file| tls::trusting(Some(&file)))
    {
        tell("emqx.api_ca_file", why);
    }
    if let Ok(database) = settings.database() {
        let authorities = database.ca_file.as_deref().map(|file| tls::trusting(Some(file)));
        if let Some(Err(why)) = authorities {
            tell("database.ca_file", why);
        } else if let Err(error) = Target::new(&database) {
            tell("database.url", error.to_string());
        }
    }
    problems
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

/// Checks the configuration as `serve` would, and opens the files that `serve` opens.
///
/// # Errors
/// Everything that is wrong with what is given, and what of `serve`'s is missing.
pub fn check_config(sources: &Sources) -> Result<ConfigReport, Problems> {
    let (settings, _) = Settings::complete(sources, unusable_files)?;
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
