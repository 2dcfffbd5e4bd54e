//! `fleetgate migrate`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::config::read_database_password;
use crate::registry::migrate::{grant_again, grant_to, migrate};
use crate::registry::roles::require_grantable;

/// Bring the database's schema up to date, as the role that owns the tables. Several may run at once.
#[derive(Args)]
pub(super) struct Arguments {
    /// Let this role serve: grant it what `serve` and the other commands need, now and after each later
    /// migration, and nothing more.
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
    /// Make that role if it is missing, and let it log in with the password in this file.
    #[arg(long, value_name = "FILE", requires = "grant_to")]
    role_password_file: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let password = self.role_password_file.as_deref().map(read_database_password).transpose();
        let password = password
            .map_err(|problem| CliError::Usage(format!("--role-password-file: {problem}")))?;
        let mut client = context.connect().await?;
        if let Some(role) = &self.grant_to {
            require_grantable(&client, role, password.is_some()).await?;
        }
        let done = migrate(&mut client).await?;
        if let Some(role) = &self.grant_to {
            grant_to(&mut client, role, password.as_ref()).await?;
        }
        let granted = grant_again(&mut client).await?;
        let result = json!({"version": done.version, "applied": done.applied, "granted": granted});
        context.output.result(&result, || {
            let schema = match done.applied.as_slice() {
                [] => format!("The schema is up to date (version {}).", done.version),
                applied => format!(
                    "The schema is now at version {}. Applied: {}.",
                    done.version,
                    applied.join(", ")
                ),
            };
            match granted.as_slice() {
                [] => schema,
                roles => {
                    format!("{schema} What serving needs is granted to: {}.", roles.join(", "))
                }
            }
        })
    }
}
