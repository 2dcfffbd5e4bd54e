//! Imported password hashes (`sql/V23`): which there are, and their replacement.

use tokio_postgres::{Client, GenericClient};

use crate::domain::credential::CredentialId;
use crate::domain::foreign_hash::ForeignHash;
use crate::registry::error::RegistryError;

/// Most hashes that are looked at.
const MOST_LOOKED_AT: i64 = 20_000;
/// Most kinds of hashes that are told apart: those that most devices have.
const MOST_KINDS: i64 = 16;

/// Imported hashes of one kind and cost.
pub struct SameCost {
    /// One of them.
    pub example: ForeignHash,
    /// How many there are, of those that were looked at.
    pub count: u64,
}

/// What imported hashes there are.
#[derive(Default)]
pub struct ImportedHashes {
    /// By kind and cost.
    pub hashes: Vec<SameCost>,
    /// About how much of the fleet has one, 0 to 1.
    pub share: f64,
}

const KINDS: &str = "
    SELECT min(hash), count(*) FROM (
        SELECT hash FROM device_credentials WHERE kind = 'imported' AND revoked_at IS NULL LIMIT $1) AS looked_at
    GROUP BY CASE
        WHEN hash LIKE '$2%' THEN left(hash, 7)
        WHEN hash LIKE '$argon2id$%' THEN substring(hash FROM '^\\$argon2id\\$v=19\\$[^$]+')
        ELSE substring(hash FROM '^\\$[^$]+\\$[^$]+') || length(hash) END
    ORDER BY count(*) DESC LIMIT $2";

/// PostgreSQL's estimate of the fleet, where it has one: counting a million devices each minute would be worth nothing.
const SHARE: &str = "
    WITH imported AS (SELECT count(*)::float8 AS count FROM device_credentials WHERE kind = 'imported' AND revoked_at IS NULL),
        fleet AS (SELECT CASE WHEN reltuples > 1000 THEN reltuples::float8 ELSE (SELECT count(*) FROM devices)::float8 END AS count
            FROM pg_class WHERE oid = 'devices'::regclass)
    SELECT least(imported.count / greatest(fleet.count, 1), 1) FROM imported, fleet";

/// Which imported hashes there are. One that cannot be read is not among them.
///
/// # Errors
/// A database that is away.
pub async fn hashes(client: &impl GenericClient) -> Result<ImportedHashes, RegistryError> {
    let on_hashes = || RegistryError::on("imported hashes");
    let rows = client.query(KINDS, &[&MOST_LOOKED_AT, &MOST_KINDS]).await.map_err(on_hashes())?;
    let read = |row: &tokio_postgres::Row| {
        let example = ForeignHash::parse(row.get(0)).ok()?;
        Some(SameCost { example, count: row.get::<_, i64>(1).unsigned_abs() })
    };
    let hashes: Vec<_> = rows.iter().filter_map(read).collect();
    if hashes.is_empty() {
        return Ok(ImportedHashes::default());
    }
    let share = client.query_one(SHARE, &[]).await.map_err(on_hashes())?.get(0);
    Ok(ImportedHashes { hashes, share })
}

/// The stored text of an imported hash that is still in use.
///
/// # Errors
/// A database that is away.
pub async fn stored(
    client: &impl GenericClient,
    id: CredentialId,
) -> Result<Option<String>, RegistryError> {
    let statement = "SELECT hash FROM device_credentials WHERE id = $1 AND kind = 'imported' AND revoked_at IS NULL";
    let row = client.query_opt(statement, &[&id.0]).await;
    Ok(row.map_err(RegistryError::on("an imported hash"))?.map(|row| row.get(0)))
}

/// Replaces an imported hash by one of the same password, unless it has changed meanwhile. No kick-out follows. Tells
/// whether it was replaced.
///
/// # Errors
/// A database that is away.
pub async fn replace(
    client: &mut Client,
    id: CredentialId,
    (old, new): (&str, &str),
) -> Result<bool, RegistryError> {
    let on_replacing = || RegistryError::on("an imported hash");
    let transaction = client.transaction().await.map_err(on_replacing())?;
    let note = "SELECT set_config('fleetgate.actor', 'system', true), set_config('fleetgate.rehash', $1, true)";
    transaction.execute(note, &[&id.0.to_string()]).await.map_err(on_replacing())?;
    let statement = "UPDATE device_credentials SET kind = 'password', hash = $3
         WHERE id = $1 AND kind = 'imported' AND hash = $2 AND revoked_at IS NULL";
    let replaced =
        transaction.execute(statement, &[&id.0, &old, &new]).await.map_err(on_replacing())?;
    transaction.commit().await.map_err(on_replacing())?;
    Ok(replaced > 0)
}
