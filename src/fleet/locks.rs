//! Locks after wrong passwords, as whoever administers the fleet sees them. Written by `authn`; the statements
//! are in [`crate::registry::locks`].

use tokio_postgres::GenericClient;

use crate::fleet::error::FleetError;
use crate::registry::locks;

pub use crate::registry::locks::{LockRow, LockScope};

/// Most locks that are listed.
pub const MAX_LIST: usize = 10_000;

/// Lists the locks of a scope that are remembered, expired ones too, those that last longest first; at most
/// [`MAX_LIST`].
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    scope: &LockScope,
) -> Result<Vec<LockRow>, FleetError> {
    Ok(locks::list(client, scope, i64::try_from(MAX_LIST).unwrap_or(i64::MAX)).await?)
}

/// Ends the locks of a scope at once, on every replica, and tells how many held.
///
/// # Errors
/// A database that is away.
pub async fn clear(client: &impl GenericClient, scope: &LockScope) -> Result<u64, FleetError> {
    Ok(locks::clear(client, scope).await?)
}
