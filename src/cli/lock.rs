//! `fleetgate lock`

use clap::{ArgGroup, Args, Subcommand};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::table;
use crate::domain::address::AddressRange;
use crate::domain::name::DeviceName;
use crate::fleet::locks::{self, Lock, LockScope, MAX_LIST};
use crate::remote;

/// Locks after wrong passwords (docs/LIMITS.md): list, clear.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List who has to wait after wrong passwords, and what is still remembered of earlier waits.
    List {
        /// Only those of this name, whether a device has it or not.
        #[arg(long)]
        name: Option<DeviceName>,
        /// Only those of this address or network.
        #[arg(long)]
        address: Option<AddressRange>,
    },
    /// End waits at once, on every replica. Generated secrets, tokens and certificates never wait.
    #[command(group = ArgGroup::new("which").required(true).multiple(true).args(["name", "address", "all"]))]
    Clear {
        /// Those of this name, from everywhere.
        #[arg(long)]
        name: Option<DeviceName>,
        /// Those of this address or network; with --name, of that name there.
        #[arg(long)]
        address: Option<AddressRange>,
        /// All of them.
        #[arg(long, conflicts_with_all = ["name", "address"])]
        all: bool,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Command::List { name, address } => list(context, &scope(name, address)).await,
            Command::Clear { name, address, .. } => clear(context, &scope(name, address)).await,
        }
    }
}

fn scope(name: Option<DeviceName>, address: Option<AddressRange>) -> LockScope {
    LockScope { name, address: address.map(|range| range.0) }
}

async fn list(context: &Context, scope: &LockScope) -> Result<(), CliError> {
    let rows = context
        .look(
            async |client| locks::list(client, scope).await,
            async |api| remote::locks::list(api, scope).await,
        )
        .await?;
    context.output.result(&rows, || lock_table(&rows))?;
    if rows.len() >= MAX_LIST {
        context.output.hint("There are more; narrow them down with --name or --address.");
    }
    Ok(())
}

fn lock_table(locks: &[Lock]) -> String {
    let waits = |lock: &Lock| match lock.locked {
        true => format!("{} s", lock.seconds_left),
        false => "expired".to_owned(),
    };
    let rows = locks.iter().map(|lock| {
        let name = lock.name.clone().unwrap_or_else(|| "(all names)".to_owned());
        [name, lock.address.clone(), lock.failures.to_string(), waits(lock)]
    });
    table(["NAME", "ADDRESS", "WRONG PASSWORDS", "LOCKED FOR"], rows)
}

async fn clear(context: &Context, scope: &LockScope) -> Result<(), CliError> {
    let cleared = context
        .change(
            async |fleet| locks::clear(fleet, scope).await,
            async |api| remote::locks::clear(api, scope).await,
        )
        .await?;
    context.output.result(&serde_json::json!({ "cleared": cleared }), || match cleared {
        0 => "No lock was held; every replica has been told to forget wrong passwords.".to_owned(),
        1 => "1 lock is cleared.".to_owned(),
        many => format!("{many} locks are cleared."),
    })
}
