//! Tokens of the HTTP API.

use serde_json::json;

use super::{Remote, RemoteError};
use crate::domain::name::ApiTokenName;
use crate::domain::selector::Selector;
use crate::fleet::api_tokens::{ApiTokenRow, NewApiToken};
use crate::secret::Secret;

/// Makes a token.
///
/// # Errors
/// Another token has, or had, the name.
pub async fn add(api: &Remote, new: &NewApiToken) -> Result<(Secret, ApiTokenRow), RemoteError> {
    let body = json!({
        "name": new.name, "scopes": new.scopes.words(), "expires_at": new.expires_at,
        "selector": new.selector.as_ref().map(Selector::to_json),
    });
    let mut made = api.post(&["tokens"]).json(&body).send().await?;
    Ok((Secret::new(made.take(api, "token")?), made.read(api)?))
}

/// Lists all tokens by name, revoked and expired ones included.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn list(api: &Remote) -> Result<Vec<ApiTokenRow>, RemoteError> {
    api.get(&["tokens"]).read().await
}

/// Revokes a token for ever.
///
/// # Errors
/// There is no such token.
pub async fn revoke(api: &Remote, name: &ApiTokenName) -> Result<ApiTokenRow, RemoteError> {
    api.delete(&["tokens", name.as_str()]).read().await
}
