//! Credentials.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Page, Remote, RemoteError};
use crate::domain::credential::CredentialId;
use crate::domain::cursor::cursor;
use crate::domain::name::DeviceName;
use crate::fleet::credentials::{
    CredentialRow, ForeignCredential, MAX_FOREIGN, Revocation, Terms, Wanted,
};
use crate::secret::Secret;

/// Most credentials of a page.
const MAX_PAGE: u16 = 1000;

/// Gives a device a credential, and tells its row and the secret where one was generated.
///
/// # Errors
/// As [`crate::fleet::credentials::add`]; a password that is not good enough.
pub async fn add(
    api: &Remote,
    device: &DeviceName,
    wanted: &Wanted,
    terms: &Terms,
) -> Result<(CredentialId, Option<Secret>), RemoteError> {
    #[derive(Deserialize)]
    struct Added {
        id: CredentialId,
        secret: Option<String>,
    }
    let mut body = json!({
        "kind": wanted.kind(),
        "label": terms.label,
        "not_before": terms.not_before,
        "expires_at": terms.expires_at,
    });
    let mut put = |name: &str, value: Value| {
        if let Some(members) = body.as_object_mut() {
            members.insert(name.to_owned(), value);
        }
    };
    match wanted {
        Wanted::Secret => {}
        Wanted::Password { password, weak_is_fine } => {
            put("password", password.expose().into());
            put("allow_weak", (*weak_is_fine).into());
        }
        Wanted::Certificate { common_name, required } => {
            put("common_name", common_name.as_str().into());
            put("required", (*required).into());
        }
    }
    let call = api.post(&["devices", device.as_str(), "credentials"]).json(&body);
    let Added { id, secret } = call.read().await?;
    Ok((id, secret.map(Secret::new)))
}

/// Lists a device's credentials, revoked and expired ones included, oldest first.
///
/// # Errors
/// There is no such device.
pub async fn list(api: &Remote, device: &DeviceName) -> Result<Vec<CredentialRow>, RemoteError> {
    api.get(&["devices", device.as_str(), "credentials"]).read().await
}

/// Lists credentials with hashes of other brokers, oldest first: the first [`MAX_FOREIGN`].
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn foreign(api: &Remote) -> Result<Vec<ForeignCredential>, RemoteError> {
    let mut found: Vec<ForeignCredential> = Vec::new();
    while found.len() < usize::from(MAX_FOREIGN) {
        let after = found.last().map(|last| cursor(&last.id.to_string()));
        let call = api.get(&["credentials", "foreign"]).with("limit", Some(MAX_PAGE));
        let page: Page<ForeignCredential> = call.with("after", after).read().await?;
        let is_last = page.items.len() < usize::from(MAX_PAGE);
        found.extend(page.items);
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// Revokes a credential for ever.
///
/// # Errors
/// There is no such credential.
pub async fn revoke(api: &Remote, id: CredentialId) -> Result<Revocation, RemoteError> {
    #[derive(Deserialize)]
    struct Revoked {
        outcome: Revocation,
    }
    let revoked: Revoked = api.delete(&["credentials", &id.0.to_string()]).read().await?;
    Ok(revoked.outcome)
}
