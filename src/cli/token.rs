//! `fleetgate token`: signing keys, and the device tokens signed with them.
//!
//! A device token is shown as the MQTT password (see [`crate::authn::token`]). Whoever holds the
//! signing key can make tokens for every device that accepts them, so only the machine that issues
//! tokens should have it; `serve` needs the public half alone.

mod issue;
mod keys;

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use thiserror::Error;

use crate::authn::token::KeyFileError;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::cli::wording;
use crate::config::{Problems, Sources};
use crate::fleet::FleetError;
use crate::registry::error::RegistryError;

pub(super) use issue::IssueArgs;
pub(super) use keys::{GenerateArgs, ShowArgs, generate_key};

/// Device tokens and the keys that sign them.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Issue a token that a device shows as its MQTT password.
    Issue(IssueArgs),
    /// Keys that sign and verify device tokens.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a signing key and its public half.
    Generate(GenerateArgs),
    /// Show the key id and the public half of keys.
    Show(ShowArgs),
}

/// Why a `token` command failed. Shows nothing of a key or token.
#[derive(Debug, Error)]
pub(super) enum TokenCommandError {
    /// The configuration is wrong.
    #[error("{0}")]
    Configuration(#[from] Problems),
    /// There is no key to sign with.
    #[error(
        "tokens.signing_key is not set; make a key with `fleetgate token key generate --out FILE` and \
         set tokens.signing_key to that file"
    )]
    NoSigningKey,
    /// A key file is of no use.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A key file is there already.
    #[error("{} exists and is not overwritten; choose another --out, or move it away", .0.display())]
    Exists(PathBuf),
    /// A key file could not be written.
    #[error("cannot write {}: {source}; choose another --out", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The token would end after the year 9999.
    #[error("the token would end after the year 9999; choose a shorter --expires")]
    TooLong,
    /// The device's tokens could not be accepted: there is no such device, for one.
    #[error("{}", wording::in_words(.0))]
    Fleet(#[from] FleetError),
    /// The registry could not be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The signing key could not be encoded.
    #[error("the signing key cannot be encoded: {0}")]
    Key(#[from] ed25519_dalek::pkcs8::Error),
    /// There is no runtime to ask the database on.
    #[error("the async runtime did not start: {0}")]
    Runtime(#[from] io::Error),
    /// The result could not be printed.
    #[error("{0}")]
    Output(String),
}

impl From<TokenCommandError> for CliError {
    fn from(error: TokenCommandError) -> Self {
        match error {
            TokenCommandError::Configuration(problems) => Self::Configuration(problems),
            TokenCommandError::Fleet(error) => Self::Fleet(error),
            TokenCommandError::Registry(error) => Self::Registry(error),
            TokenCommandError::NoSigningKey | TokenCommandError::TooLong => {
                Self::Usage(error.to_string())
            }
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Runs a `token` command; results go to standard output, as JSON if `json`.
///
/// # Errors
/// See [`TokenCommandError`].
pub(super) fn run(
    args: &TokenArgs,
    sources: &Sources,
    json: bool,
) -> Result<(), TokenCommandError> {
    let output = Output { json };
    match &args.command {
        TokenCommand::Issue(args) => issue::run(args, sources, output),
        TokenCommand::Key(KeyCommand::Generate(args)) => keys::generate(args, output),
        TokenCommand::Key(KeyCommand::Show(args)) => keys::show(args, output),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn unprinted(error: CliError) -> TokenCommandError {
    TokenCommandError::Output(error.to_string())
}
