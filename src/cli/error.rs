//! Why a command failed, and with which exit code.

use std::process::ExitCode;

use thiserror::Error;

use crate::app::AppError;
use crate::config::Problems;
use crate::registry::error::RegistryError;

/// Why a command failed. Every text names the thing and the remedy.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// What it names is not in the registry.
    #[error("{0}")]
    NotFound(String),
    /// The configuration is wrong; the text lists every problem.
    #[error("the configuration is wrong:\n{0}")]
    Configuration(#[from] Problems),
    /// The service failed.
    #[error(transparent)]
    Service(#[from] AppError),
    /// The registry said no, or could not be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl CliError {
    /// There is no device of this name.
    pub(super) fn no_device(name: &str) -> Self {
        Self::NotFound(format!("there is no device {name:?}; see `fleetgate device list`"))
    }

    /// There is no capability of this name.
    pub(super) fn no_capability(name: &str) -> Self {
        Self::NotFound(format!(
            "there is no capability {name:?}; see `fleetgate capability list`, or add it with `fleetgate capability add`"
        ))
    }

    /// One word for programs, the field `kind` of a JSON error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Configuration(_) => "configuration",
            Self::Service(_) => "service",
            Self::Usage(_) => "usage",
            Self::NotFound(_) => "not_found",
            Self::Registry(RegistryError::Refused(_)) => "refused",
            Self::Registry(error) if error.is_unreachable() => "unreachable",
            Self::Registry(_) => "database",
        }
    }

    /// The exit codes that `--help` lists.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Configuration(_) => 2,
            Self::NotFound(_) => 3,
            Self::Registry(error) if error.is_unreachable() => 4,
            Self::Failed(_) | Self::Service(_) | Self::Registry(_) => 1,
        })
    }
}
