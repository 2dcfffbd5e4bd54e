//! `fleetgate export`

use std::io::{self, BufWriter, Write};

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::remark;
use crate::fleet::exports::{self, Exported};
use crate::remote;

/// Write the registry to standard output, one JSON object a line: capabilities, devices with what belongs to them, routing rules. `import` takes it back.
#[derive(Args)]
pub(super) struct Arguments {
    /// Credentials too, with their hashes: whoever reads the file may try passwords against those of chosen ones. Without this, no device of the copy can log in.
    #[arg(long)]
    with_credentials: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut out = BufWriter::new(io::stdout().lock());
        let exported = match context.api.remote()? {
            None => {
                let mut client = context.connect().await?;
                let write = |line: &str| writeln!(out, "{line}").map_err(|error| unwritten(&error));
                exports::export(&mut client, self.with_credentials, write).await?
            }
            Some(api) => {
                let write = |piece: &[u8]| out.write_all(piece).map_err(|error| unwritten(&error));
                remote::exports::export(&api, self.with_credentials, write).await?
            }
        };
        out.flush().map_err(|error| unwritten(&error))?;
        let Exported { lines, credentials_left_out } = exported;
        match credentials_left_out {
            0 => remark(&format!("{lines} lines.")),
            left_out => remark(&format!(
                "{lines} lines. {left_out} credentials are left out; --with-credentials exports them."
            )),
        }
        Ok(())
    }
}

fn unwritten(error: &io::Error) -> CliError {
    CliError::Failed(format!("standard output cannot be written: {error}"))
}
