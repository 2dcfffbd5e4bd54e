//! `fleetgate api-token`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::arguments::parse_selector;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{table, timestamp, yes_no};
use crate::cli::timestamp::parse_future_timestamp;
use crate::domain::api_token::{Scope, Scopes};
use crate::domain::name::ApiTokenName;
use crate::domain::selector::Selector;
use crate::fleet::api_tokens::{self, ApiTokenRow, NewApiToken};
use crate::remote;

/// Tokens of the HTTP API: add, list, revoke.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token and print it once.
    Add {
        /// What it is called. A name is used once, also after the token is revoked.
        name: ApiTokenName,
        /// What it may do: read, devices, credentials, commands, or admin, which is everything, other tokens included.
        #[arg(long = "scope", required = true, value_delimiter = ',', value_parser = scope)]
        scopes: Vec<Scope>,
        /// Which devices it sees and changes, such as area=lab; services never. Without this all, and everything else. It
        /// may test name, kind, area, floor, capability and meta. Not with the scope admin.
        #[arg(long, value_parser = parse_selector)]
        selector: Option<Selector>,
        /// When it expires: 90d, 2027-01-01 or 2027-01-01T00:00:00Z. Without this it never does.
        #[arg(long, value_name = "WHEN", value_parser = parse_future_timestamp)]
        expires: Option<Timestamp>,
    },
    /// List tokens, revoked and expired ones too.
    List,
    /// Revoke a token for ever; the next request with it is refused.
    Revoke {
        /// Its name.
        name: ApiTokenName,
    },
}

fn scope(word: &str) -> Result<Scope, String> {
    Scope::of_word(word).ok_or_else(|| {
        let words = Scope::ALL.map(Scope::word);
        format!("is not a scope; write {}", words.join(", "))
    })
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Add { name, scopes, selector, expires } => {
                let scopes = Scopes::new(scopes);
                add(context, &NewApiToken { name, scopes, selector, expires_at: expires }).await
            }
            Action::List => list(context).await,
            Action::Revoke { name } => revoke(context, &name).await,
        }
    }
}

async fn add(context: &Context, new: &NewApiToken) -> Result<(), CliError> {
    let (token, row) = context
        .change(
            async |fleet| api_tokens::add(fleet, new).await,
            async |api| remote::api_tokens::add(api, new).await,
        )
        .await?;
    let result = json!({
        "name": row.name, "scopes": row.scopes, "selector": row.selector, "expires_at": row.expires_at,
        "token": token.expose(),
    });
    context.output.result_with_secret(&result, &token, || {
        format!(
            "API token \"{0}\" may do: {1}{2}. To revoke it: fleetgate api-token revoke {0}",
            row.name,
            row.scopes.join(", "),
            selector(&row).map_or_else(String::new, |means| format!(", where {means}"))
        )
    })
}

async fn list(context: &Context) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| api_tokens::list(client).await,
            async |api| remote::api_tokens::list(api).await,
        )
        .await?;
    context.output.result(&found, || token_table(&found))
}

async fn revoke(context: &Context, name: &ApiTokenName) -> Result<(), CliError> {
    let row = context
        .change(
            async |fleet| api_tokens::revoke(fleet, name).await,
            async |api| remote::api_tokens::revoke(api, name).await,
        )
        .await?;
    context.output.result(&row, || format!("API token \"{name}\" is revoked."))
}

/// The selector of a token, as text where it can be.
fn selector(token: &ApiTokenRow) -> Option<String> {
    let json = token.selector.as_ref()?;
    Some(Selector::from_json(json).map_or_else(|_| json.to_string(), |means| means.to_string()))
}

fn token_table(tokens: &[ApiTokenRow]) -> String {
    let header = ["NAME", "SCOPES", "SELECTOR", "VALID", "CREATED", "EXPIRES", "REVOKED"];
    let rows = tokens.iter().map(|token| {
        [
            token.name.clone(),
            token.scopes.join(","),
            selector(token).unwrap_or_else(|| "-".to_owned()),
            yes_no(token.valid),
            timestamp(Some(token.created_at)),
            timestamp(token.expires_at),
            timestamp(token.revoked_at),
        ]
    });
    table(header, rows)
}
