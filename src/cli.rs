//! The command line: one file a subcommand.
//!
//! A subcommand parses into a typed `Arguments`, so that a bad value is refused before anything is
//! opened, and runs against a [`context::Context`]. Results go to standard output, remarks and errors to
//! standard error; with `--json` results and errors are JSON. To add a subcommand: a `mod` line, a
//! variant of [`Action`], an arm of [`Action::run`].

mod api;
mod api_token;
mod arguments;
mod audit;
mod binding;
mod capability;
mod certificate;
pub mod check_config;
mod command;
mod completions;
mod context;
mod credential;
mod dev;
mod device;
pub mod doctor;
mod emqx;
mod error;
mod export;
mod grant;
mod health;
mod import;
mod lock;
mod migrate;
mod timestamp;

mod output;
mod questions;
mod rule;
mod secrets;
mod serve;
mod sweep;
mod token;
mod wording;
mod words;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::lifecycle;
use api::ApiOptions;
use context::Context;
use error::CliError;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or refused by a rule; nothing was changed that the message does not name
  2  wrong usage: an unknown option, a bad value, a wrong configuration
  3  there is no such device, credential, binding, grant, capability, rule, command or API token
  4  the database, or the API of --api, cannot be reached or takes too long, or another change got in the way: try again later";

/// Device authentication, authorization and presence for EMQX over a PostgreSQL registry.
#[derive(Parser)]
#[command(name = "fleetgate", version, about, after_help = EXIT_CODES)]
struct Cli {
    /// Configuration file. Given twice, the last one is read.
    #[arg(long, global = true, value_name = "PATH", overrides_with = "config")]
    config: Option<PathBuf>,
    /// Print results and errors as JSON.
    #[arg(long, global = true, overrides_with = "json")]
    json: bool,
    #[command(flatten)]
    api: ApiOptions,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    Dev(dev::DevArgs),
    Serve(serve::Arguments),
    Migrate(migrate::Arguments),
    Device(device::Arguments),
    Credential(credential::Arguments),
    Binding(binding::Arguments),
    Grant(grant::Arguments),
    Capability(capability::Arguments),
    Command(command::Arguments),
    Rule(rule::Arguments),
    Lock(lock::Arguments),
    Import(import::Arguments),
    Export(export::Arguments),
    ApiToken(api_token::Arguments),
    Token(token::TokenArgs),
    Audit(audit::Arguments),
    Certificate(certificate::Arguments),
    Secrets(secrets::Arguments),
    Sweep(sweep::Arguments),
    Emqx(emqx::Arguments),
    CheckConfig(check_config::Arguments),
    Doctor(doctor::DoctorArgs),
    Health(health::Arguments),
    Completions(completions::Arguments),
}

impl Action {
    /// Refuses what cannot be done over the API, where it is asked for there.
    fn fits(&self, api: &ApiOptions) -> Result<(), CliError> {
        let why = match self {
            Self::Device(_)
            | Self::Credential(_)
            | Self::Binding(_)
            | Self::Grant(_)
            | Self::Capability(_)
            | Self::Command(_)
            | Self::Rule(_)
            | Self::Lock(_)
            | Self::ApiToken(_)
            | Self::Audit(_)
            | Self::Import(_)
            | Self::Export(_)
            | Self::Completions(_) => return Ok(()),
            Self::Token(_) => "uses the signing key on this machine, and the database",
            Self::Certificate(_) => "uses the authority on this machine, and the database",
            Self::Secrets(_) => "works with files on this machine",
            Self::Dev(_) | Self::Serve(_) => "runs a service on this machine",
            Self::Migrate(_) => "changes the database itself",
            Self::Sweep(_) | Self::Emqx(_) => "asks EMQX itself, as the configuration here says",
            Self::CheckConfig(_) => "checks the configuration of this machine",
            Self::Doctor(_) | Self::Health(_) => "examines the service of this machine",
        };
        api.refuse(&format!("this command {why}"))
    }

    fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Dev(arguments) => arguments.run(&context.sources()),
            Self::Serve(arguments) => arguments.run(context),
            Self::Migrate(arguments) => context.block_on(arguments.run(context)),
            Self::Device(arguments) => context.block_on(arguments.run(context)),
            Self::Credential(arguments) => context.block_on(arguments.run(context)),
            Self::Binding(arguments) => context.block_on(arguments.run(context)),
            Self::Grant(arguments) => context.block_on(arguments.run(context)),
            Self::Capability(arguments) => context.block_on(arguments.run(context)),
            Self::Command(arguments) => context.block_on(arguments.run(context)),
            Self::Rule(arguments) => context.block_on(arguments.run(context)),
            Self::Lock(arguments) => context.block_on(arguments.run(context)),
            Self::Import(arguments) => context.block_on(arguments.run(context)),
            Self::Export(arguments) => context.block_on(arguments.run(context)),
            Self::ApiToken(arguments) => context.block_on(arguments.run(context)),
            Self::Token(arguments) => arguments.run(context),
            Self::Doctor(arguments) => arguments.run(context),
            Self::Audit(arguments) => context.block_on(arguments.run(context)),
            Self::Certificate(arguments) => context.block_on(arguments.run(context)),
            Self::Secrets(arguments) => arguments.run(context),
            Self::Health(arguments) => context.block_on(arguments.run(context)),
            Self::Sweep(arguments) => context.block_on(arguments.run(context)),
            Self::Emqx(arguments) => context.block_on(arguments.run(context)),
            Self::CheckConfig(arguments) => arguments.run(context),
            Self::Completions(arguments) => arguments.run::<Cli>(context),
        }
    }
}

/// Open files that no command can do without. With fewer, libraries panic.
const FEWEST_FILES: usize = 16;

/// Threads that commands need, to look up the names of servers for instance. With fewer, libraries panic too.
const FEWEST_THREADS: usize = 4;

/// What the operating system gives too little of for any command.
fn too_little() -> Option<String> {
    let files = lifecycle::open_files();
    if files < FEWEST_FILES {
        return Some(format!(
            "this process may have {files} files open, which is not enough; raise the limit (`ulimit -n`)"
        ));
    }
    let refused = lifecycle::try_threads(FEWEST_THREADS).err()?;
    Some(format!(
        "this process cannot start {FEWEST_THREADS} threads: {refused}; raise the limit of processes (`ulimit -u`, \
         systemd's TasksMax) or of memory (`ulimit -v`)"
    ))
}

/// Runs the command line of this process and tells its exit code (see `--help`).
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error),
    };
    if let Some(message) = too_little() {
        let error = CliError::Failed(message);
        Output { json: cli.json }.error(&error);
        return error.exit_code();
    }
    let context = Context::new(cli.config, cli.api, Output { json: cli.json });
    match cli.command.fits(&context.api).and_then(|()| cli.command.run(&context)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            context.output.error(&error);
            error.exit_code()
        }
    }
}

/// Prints what clap says, which for `--help` and `--version` is no error; nor is a reader that has seen enough.
fn refuse_usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let message = error.render().to_string();
        let message = message.trim().trim_start_matches("error: ").to_owned();
        Output { json }.error(&CliError::Usage(message));
    } else if let Err(why) = error.print()
        && !error.use_stderr()
        && why.kind() != ErrorKind::BrokenPipe
    {
        let error = CliError::Failed(format!("standard output cannot be written: {why}"));
        Output { json }.error(&error);
        return error.exit_code();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_declaration_is_sound() {
        super::Cli::command().debug_assert();
    }
}
