//! Locks after wrong passwords, as whoever administers the fleet sees them. Written by `authn`; the statements
//! are in [`crate::registry::locks`].

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::fleet::error::FleetError;
use crate::registry::locks::{self, LockRow};

pub use crate::registry::locks::LockScope;

/// A lock.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Lock {
    /// The name; `null`: all names.
    pub name: Option<String>,
    /// From where.
    pub address: String,
    /// Wrong passwords so far.
    pub failures: u32,
    /// Whether it holds now.
    pub locked: bool,
    /// Seconds until it ends; 0: it has.
    pub seconds_left: i64,
}

impl From<LockRow> for Lock {
    fn from(row: LockRow) -> Self {
        let left = row.left.max(SignedDuration::ZERO);
        Self {
            name: row.key.name.map(|name| name.to_string()),
            address: row.key.address.to_string(),
            failures: row.failures,
            locked: row.left.is_positive(),
            // Rounded up: what is left of a second is waited for.
            seconds_left: left.as_secs() + i64::from(left.subsec_nanos() > 0),
        }
    }
}

/// Most locks that are listed.
pub const MAX_LIST: usize = 10_000;

/// Lists the locks of a scope that are remembered, expired ones too, those that last longest first; at most
/// [`MAX_LIST`].
///
/// # Errors
/// A database that is away.
pub async fn list(client: &impl GenericClient, scope: &LockScope) -> Result<Vec<Lock>, FleetError> {
    let rows = locks::list(client, scope, i64::try_from(MAX_LIST).unwrap_or(i64::MAX)).await?;
    Ok(rows.into_iter().map(Lock::from).collect())
}

/// Ends the locks of a scope at once, on every replica, and tells how many held.
///
/// # Errors
/// A database that is away.
pub async fn clear(client: &impl GenericClient, scope: &LockScope) -> Result<u64, FleetError> {
    Ok(locks::clear(client, scope).await?)
}
