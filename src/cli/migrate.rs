//! `fleetgate migrate`

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::registry::migrate::migrate;

/// Bring the database's schema up to date. Several may run at once.
#[derive(Args)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut client = context.connect().await?;
        let done = migrate(&mut client).await?;
        let result = json!({"version": done.version, "applied": done.applied});
        context.output.result(&result, || match done.applied.as_slice() {
            [] => format!("The schema is up to date (version {}).", done.version),
            applied => format!(
                "The schema is now at version {}. Applied: {}.",
                done.version,
                applied.join(", ")
            ),
        })
    }
}
