//! Device tokens: the row that a device's tokens are issued upon (`device_credentials`, kind `token`).

use jiff::Timestamp;
use tokio_postgres::GenericClient;

use crate::domain::credential::CredentialId;
use crate::domain::name::DeviceName;
use crate::fleet::devices;
use crate::fleet::error::{FleetError, Thing};

/// What a device token is issued upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBasis {
    /// The token row; revoking it revokes the token.
    pub credential: CredentialId,
    /// Tokens issued earlier are refused. A whole second.
    pub not_before: Timestamp,
    /// The `iat` that the token must carry: now by the database's clock, in whole seconds, and never
    /// before `not_before` (so up to a second ahead just after a revocation).
    pub issued_at: Timestamp,
}

/// Makes sure that a device accepts tokens, and tells from when on.
///
/// A device with a token row that is neither revoked nor expired keeps it. Otherwise it gets a new
/// one, which begins after every `iat` that an earlier row could have accepted: a token's `iat` is in
/// whole seconds, so the row begins in the second after the last one ended, or later. Tokens must
/// therefore carry [`TokenBasis::issued_at`], not the issuer's own clock.
///
/// # Errors
/// There is no such device.
pub async fn accept(
    client: &mut impl GenericClient,
    device: &DeviceName,
) -> Result<TokenBasis, FleetError> {
    let thing = Thing::Device(device.clone());
    let on_device = || FleetError::on(&thing);
    let transaction = client.transaction().await.map_err(on_device())?;
    // One issuer at a time a device: two would make two rows.
    let id = devices::lock(&transaction, device).await?.id.0;
    let row = match transaction.query_opt(LIVE_TOKEN_ROW, &[&id]).await.map_err(on_device())? {
        Some(row) => row,
        None => transaction.query_one(NEW_TOKEN_ROW, &[&id]).await.map_err(on_device())?,
    };
    transaction.commit().await.map_err(on_device())?;
    Ok(TokenBasis {
        credential: CredentialId(row.get("id")),
        not_before: row.get("not_before"),
        issued_at: row.get("issued_at"),
    })
}

/// The lock makes a revocation wait until the token's `iat` is settled, and so come later.
const LIVE_TOKEN_ROW: &str = "
    SELECT id, not_before, greatest(not_before, date_trunc('second', clock_timestamp())) AS issued_at
    FROM (
        SELECT id, date_trunc('second', not_before + interval '999999 microseconds') AS not_before
        FROM device_credentials
        WHERE device_id = $1 AND kind = 'token' AND revoked_at IS NULL
          AND coalesce(expires_at > clock_timestamp(), true)
        ORDER BY not_before, id
        LIMIT 1
        FOR UPDATE
    ) AS live";

const NEW_TOKEN_ROW: &str = "
    INSERT INTO device_credentials (device_id, kind, not_before)
    SELECT $1, 'token', greatest(
        date_trunc('second', clock_timestamp()),
        max(date_trunc('second', greatest(not_before, coalesce(revoked_at, expires_at)))) + interval '1 second')
    FROM device_credentials WHERE device_id = $1 AND kind = 'token'
    RETURNING id, not_before, not_before AS issued_at";
