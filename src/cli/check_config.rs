//! `fleetgate check-config`: is the configuration good for `serve`, and where does it come from?

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::config::{GivenSetting, Problems, Settings, Sources, Warning};

/// Check the configuration as `serve` would, and tell where each setting comes from.
#[derive(Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let report = check_config(&context.sources())?;
        context.output.result(&report, || report.to_string().trim_end().to_owned())
    }
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
