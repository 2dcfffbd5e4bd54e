//! Locks after wrong passwords.

use serde::Deserialize;

use super::{Remote, RemoteError};
use crate::fleet::locks::{Lock, LockScope};

/// Lists the locks of a scope, those that last longest first.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn list(api: &Remote, scope: &LockScope) -> Result<Vec<Lock>, RemoteError> {
    let (name, address) = (scope.name.as_ref(), scope.address);
    api.get(&["locks"]).with("name", name).with("address", address).read().await
}

/// Ends the locks of a scope at once, and tells how many held.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn clear(api: &Remote, scope: &LockScope) -> Result<u64, RemoteError> {
    #[derive(Deserialize)]
    struct Cleared {
        cleared: u64,
    }
    let (name, address) = (scope.name.as_ref(), scope.address);
    let all = (name.is_none() && address.is_none()).then_some(true);
    let call = api.delete(&["locks"]).with("name", name).with("address", address).with("all", all);
    call.read().await.map(|Cleared { cleared }| cleared)
}
