//! `fleetgate completions`

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::print;

/// Print completions for a shell, such as: fleetgate completions bash > /etc/bash_completion.d/fleetgate
#[derive(Args)]
pub(super) struct Arguments {
    /// Which shell.
    shell: CompletedShell,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompletedShell {
    Bash,
    Zsh,
    Fish,
}

impl Arguments {
    pub(super) fn run<C: CommandFactory>(self, _context: &Context) -> Result<(), CliError> {
        let shell = match self.shell {
            CompletedShell::Bash => Shell::Bash,
            CompletedShell::Zsh => Shell::Zsh,
            CompletedShell::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut C::command(), "fleetgate", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
