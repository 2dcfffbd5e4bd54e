//! `fleetgate token`: signing keys, and the device tokens signed with them.
//!
//! A device token is shown as the MQTT password (see [`crate::authn::token`]). Whoever holds the
//! signing key can make tokens for every device that accepts them, so only the machine that issues
//! tokens should have it; `serve` needs the public half alone.

mod issue;
mod keys;

use clap::{Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::error::CliError;

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

impl TokenArgs {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        match &self.command {
            TokenCommand::Issue(args) => issue::run(args, context),
            TokenCommand::Key(KeyCommand::Generate(args)) => keys::generate(args, context.output),
            TokenCommand::Key(KeyCommand::Show(args)) => keys::show(args, context.output),
        }
    }
}
