//! Tokens of the HTTP API (`api_tokens`): who may use it, for how long, for what.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::api_token::{self, PresentedToken, Scope, Scopes};
use crate::domain::name::ApiTokenName;
use crate::domain::selector::Selector;
use crate::fleet::Part;
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::one_thing::row_of;
use crate::registry::error::RegistryError;
use crate::secret::Secret;

/// A token to be made.
pub struct NewApiToken {
    /// What it is called, for ever.
    pub name: ApiTokenName,
    /// What it may do; at least one.
    pub scopes: Scopes,
    /// Which devices it sees and changes; `None`: all. Not with the scope admin.
    pub selector: Option<Selector>,
    /// When it expires; `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// A token as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiTokenRow {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Which devices it sees and changes, services never; `null`: all, and everything else.
    #[schema(value_type = Option<Object>)]
    pub selector: Option<Value>,
    /// Whether it is valid now, by the database's clock.
    pub valid: bool,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A valid token whose secret was presented.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// Its row.
    pub id: i64,
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Its selector, as JSON.
    pub selector: Option<Value>,
    /// The part of the fleet that it sees and changes.
    pub part: Part,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

const COLUMNS: &str = "name, scopes, selector, expires_at, revoked_at, created_at,
    revoked_at IS NULL AND coalesce(now() < expires_at, true) AS valid";

fn token_row(row: &Row) -> ApiTokenRow {
    ApiTokenRow {
        name: row.get("name"),
        scopes: row.get("scopes"),
        selector: row.get("selector"),
        valid: row.get("valid"),
        expires_at: row.get("expires_at"),
        revoked_at: row.get("revoked_at"),
        created_at: row.get("created_at"),
    }
}

/// Makes a token. It is stored nowhere.
///
/// # Errors
/// Another token has, or had, the name; a selector that tests what changes by use, or with the scope admin.
pub async fn add(
    client: &impl GenericClient,
    new: &NewApiToken,
) -> Result<(Secret, ApiTokenRow), FleetError> {
    let thing = Thing::ApiToken(new.name.clone());
    let statement = format!("{INSERT} RETURNING id, {COLUMNS}");
    let secret = Secret::generate();
    let hash = api_token::digest(secret.expose());
    let (hash, scopes) = (hash.as_slice(), new.scopes.words());
    let selector = new.selector.as_ref().map(Selector::to_json);
    let row = client
        .query_one(&statement, &[&new.name.as_str(), &hash, &scopes, &new.expires_at, &selector])
        .await
        .map_err(FleetError::on(&thing))?;
    Ok((Secret::new(api_token::token(row.get("id"), secret.expose())), token_row(&row)))
}

/// What the first token is called.
pub const FIRST: &str = "first";

/// Makes the first token, which may do everything and never expires, if none called [`FIRST`] was ever made; otherwise
/// `None`. Who else does this at the same time waits until the caller's transaction ends.
///
/// # Errors
/// A database that is away.
pub async fn add_first(client: &impl GenericClient) -> Result<Option<Secret>, FleetError> {
    let statement = format!("{INSERT} ON CONFLICT (name) DO NOTHING RETURNING id");
    let secret = Secret::generate();
    let hash = api_token::digest(secret.expose());
    let (hash, scopes) = (hash.as_slice(), vec![Scope::Admin.word()]);
    let none = (None::<Timestamp>, None::<Value>);
    let row = client.query_opt(&statement, &[&FIRST, &hash, &scopes, &none.0, &none.1]).await;
    let row = row.map_err(RegistryError::on("the first API token"))?;
    Ok(row.map(|row| Secret::new(api_token::token(row.get("id"), secret.expose()))))
}

const INSERT: &str =
    "INSERT INTO api_tokens (name, hash, scopes, expires_at, selector) VALUES ($1, $2, $3, $4, $5)";

/// Lists all tokens by name, revoked and expired ones included.
///
/// # Errors
/// A database that is away.
pub async fn list(client: &impl GenericClient) -> Result<Vec<ApiTokenRow>, FleetError> {
    let statement = format!("SELECT {COLUMNS} FROM api_tokens ORDER BY name");
    let rows = client.query(&statement, &[]).await;
    Ok(rows.map_err(RegistryError::on("the list of API tokens"))?.iter().map(token_row).collect())
}

/// Revokes a token for ever; doing it again changes nothing.
///
/// # Errors
/// There is no such token.
pub async fn revoke(
    client: &impl GenericClient,
    name: &ApiTokenName,
) -> Result<ApiTokenRow, FleetError> {
    let thing = Thing::ApiToken(name.clone());
    let statement = format!(
        "UPDATE api_tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE name = $1
         RETURNING {COLUMNS}"
    );
    Ok(token_row(&row_of(client, &thing, &statement, &[&name.as_str()]).await?))
}

/// Those of these tokens, by their rows, that are valid still, as they are now.
///
/// # Errors
/// A database that is away; a selector that cannot be used.
pub async fn still_valid(
    client: &impl GenericClient,
    tokens: &[i64],
) -> Result<Vec<ApiToken>, RegistryError> {
    let statement = format!(
        "SELECT * FROM (SELECT id, {COLUMNS} FROM api_tokens WHERE id = ANY ($1)) AS asked WHERE valid"
    );
    let rows = client.query(&statement, &[&tokens]).await;
    let rows = rows.map_err(RegistryError::on("API tokens"))?;
    rows.iter().map(|row| token(row.get(0), row)).collect()
}

/// The valid token that was presented; `None`: there is none with this secret. How long this takes tells nothing of a
/// secret.
///
/// # Errors
/// A database that is away; a selector that cannot be used.
pub async fn find(
    client: &impl GenericClient,
    presented: &PresentedToken,
) -> Result<Option<ApiToken>, RegistryError> {
    let statement = format!("SELECT hash, {COLUMNS} FROM api_tokens WHERE id = $1");
    let row = client.query_opt(&statement, &[&presented.id]).await;
    let row = row.map_err(RegistryError::on("an API token"))?;
    let found = row.filter(|row| presented.matches(row.get("hash")) && row.get("valid"));
    found.map(|row| token(presented.id, &row)).transpose()
}

fn token(id: i64, row: &Row) -> Result<ApiToken, RegistryError> {
    let name: String = row.get("name");
    let words: Vec<String> = row.get("scopes");
    let selector: Option<Value> = row.get("selector");
    let part = match selector.as_ref().map(Selector::from_json) {
        None => Part::whole(),
        Some(Ok(means)) => Part::of(means),
        // The database has checked it.
        Some(Err(why)) => {
            let message = format!("the selector of API token {name:?} cannot be used: {why}");
            return Err(RegistryError::BadData(message));
        }
    };
    let scopes = Scopes::new(words.iter().filter_map(|word| Scope::of_word(word)));
    Ok(ApiToken { id, name, scopes, selector, part, expires_at: row.get("expires_at") })
}
