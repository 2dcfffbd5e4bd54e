//! Why a command failed, and with which exit code.

use std::fmt::Display;
use std::process::ExitCode;

use thiserror::Error;

use crate::app::AppError;
use crate::cli::wording;
use crate::config::Problems;
use crate::fleet::FleetError;
use crate::fleet::error::{ErrorKind, Field};
use crate::registry::error::RegistryError;
use crate::remote::RemoteError;

/// Why a command failed. Every text names the thing and the remedy.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong; the text lists every problem.
    #[error("the configuration is wrong:\n{0}")]
    Configuration(#[from] Problems),
    /// The service failed.
    #[error(transparent)]
    Service(#[from] AppError),
    /// What was asked for was not done to the fleet.
    #[error("{}", wording::in_words(.0))]
    Fleet(#[from] FleetError),
    /// The registry could not be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It was not done over the API.
    #[error("{}", wording::of_remote(.0))]
    Remote(RemoteError),
}

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Fleet(error) => Self::Fleet(error),
            other => Self::Remote(other),
        }
    }
}

impl CliError {
    /// What could not be done, told by an error of a layer below that says all there is to say.
    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(super) fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// One word for programs, the field `kind` of a JSON error.
    pub(super) fn kind(&self) -> &str {
        match self {
            Self::Failed(_) => "failed",
            Self::Configuration(_) => "configuration",
            Self::Service(_) => "service",
            Self::Usage(_) => "usage",
            Self::Fleet(error) => wording::kind(error),
            Self::Registry(RegistryError::Refused(_)) => ErrorKind::Refused.word(),
            Self::Registry(error) if error.may_pass() => ErrorKind::Unavailable.word(),
            Self::Registry(_) => ErrorKind::Failed.word(),
            Self::Remote(error) => match error {
                RemoteError::Fleet(error) => wording::kind(error),
                RemoteError::Refused { status: 503, .. } | RemoteError::Unreachable(_) => {
                    ErrorKind::Unavailable.word()
                }
                RemoteError::Refused { word, .. } => word,
                RemoteError::NotUnderstood(_) => "not_understood",
                RemoteError::Unusable(_) => "usage",
            },
        }
    }

    /// The exit codes that `--help` lists.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Configuration(_) => 2,
            Self::Fleet(error) | Self::Remote(RemoteError::Fleet(error)) => match error.kind() {
                ErrorKind::NotFound => 3,
                ErrorKind::Unavailable => 4,
                ErrorKind::Invalid => 2,
                ErrorKind::Conflict
                | ErrorKind::Refused
                | ErrorKind::Forbidden
                | ErrorKind::Failed => 1,
            },
            Self::Remote(RemoteError::Unreachable(_)) => 4,
            Self::Remote(RemoteError::Unusable(_)) => 2,
            Self::Remote(RemoteError::NotUnderstood(_)) => 1,
            Self::Remote(RemoteError::Refused { status, .. }) => match status {
                400 | 413 | 415 | 422 => 2,
                404 => 3,
                503 => 4,
                _ => 1,
            },
            Self::Registry(error) if error.may_pass() => 4,
            Self::Failed(_) | Self::Service(_) | Self::Registry(_) => 1,
        })
    }

    /// The field of what was asked for that is wrong, for programs.
    pub(super) fn field(&self) -> Option<String> {
        match self {
            Self::Fleet(error) => error.field().map(Field::name),
            Self::Remote(RemoteError::Refused { field, .. }) => field.clone(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_asked_postgresql_the_exit_code_is_the_same() {
        type Kind = fn(String) -> RegistryError;
        let kinds: [(Kind, u8); 4] = [
            (RegistryError::Interrupted, 4),
            (RegistryError::Unreachable, 4),
            (RegistryError::TookTooLong, 4),
            (RegistryError::Unusable, 1),
        ];
        for (kind, code) in kinds {
            let plain = CliError::Registry(kind("x".to_owned()));
            let of_fleet = CliError::Fleet(FleetError::Registry(kind("x".to_owned())));
            for error in [&plain, &of_fleet] {
                assert_eq!(error.exit_code(), ExitCode::from(code), "{error:?}");
            }
            assert_eq!(plain.kind(), of_fleet.kind());
        }
    }
}
