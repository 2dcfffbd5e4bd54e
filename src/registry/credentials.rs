//! Credentials: what a device may log in with (`device_credentials`).

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::{GenericClient, Row};

use crate::domain::credential::{CertificateUse, CredentialId};
use crate::domain::device::DeviceId;
use crate::domain::name::DeviceName;
use crate::registry::devices::about;
use crate::registry::error::RegistryError;

/// A credential to be made. Device tokens have their own way: [`ensure_token_credential`].
pub enum NewCredential {
    /// A generated secret, by its PHC string.
    Secret {
        /// argon2id at the minimum cost.
        hash: String,
    },
    /// A chosen password, by its PHC string.
    Password {
        /// argon2id at the OWASP cost.
        hash: String,
    },
    /// A client certificate.
    Certificate {
        /// The subject's common name.
        common_name: String,
        /// Enough, or needed beside another credential.
        required: CertificateUse,
    },
}

impl NewCredential {
    /// The kind as the table writes it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "secret",
            Self::Password { .. } => "password",
            Self::Certificate { .. } => "certificate",
        }
    }

    fn hash(&self) -> Option<&str> {
        match self {
            Self::Secret { hash } | Self::Password { hash } => Some(hash),
            Self::Certificate { .. } => None,
        }
    }

    fn certificate(&self) -> (Option<&str>, Option<bool>) {
        match self {
            Self::Certificate { common_name, required } => {
                (Some(common_name), Some(*required == CertificateUse::Required))
            }
            Self::Secret { .. } | Self::Password { .. } => (None, None),
        }
    }
}

/// What is noted beside a credential.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// What an administrator calls it.
    pub label: Option<String>,
    /// First moment at which it counts.
    pub not_before: Option<Timestamp>,
    /// First moment at which it no longer counts.
    pub expires_at: Option<Timestamp>,
}

/// A credential as lists show it: without its hash.
#[derive(Debug, Clone, Serialize)]
pub struct CredentialRow {
    /// Its row, by which it is revoked.
    pub id: i64,
    /// `secret`, `password`, `token` or `certificate`.
    pub kind: String,
    /// Whether it counts now, by the database's clock.
    pub valid: bool,
    /// What an administrator calls it.
    pub label: Option<String>,
    /// A certificate's common name.
    pub common_name: Option<String>,
    /// Whether a certificate is needed beside another credential.
    pub certificate_required: Option<bool>,
    /// First moment at which it counts.
    pub not_before: Option<Timestamp>,
    /// First moment at which it no longer counts.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Adds a credential and tells its row.
///
/// # Errors
/// [`RegistryError::Refused`] when a value breaks a rule.
pub async fn add(
    client: &impl GenericClient,
    device: DeviceId,
    credential: &NewCredential,
    terms: &Terms,
) -> Result<CredentialId, RegistryError> {
    let (common_name, required) = credential.certificate();
    let row = client
        .query_one(
            "INSERT INTO device_credentials (device_id, kind, hash, common_name,
                 certificate_required, label, not_before, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             RETURNING id",
            &[
                &device.0,
                &credential.kind(),
                &credential.hash(),
                &common_name,
                &required,
                &terms.label,
                &terms.not_before,
                &terms.expires_at,
            ],
        )
        .await
        .map_err(RegistryError::on(format!("the new {}", credential.kind())))?;
    Ok(CredentialId(row.get(0)))
}

/// Lists a device's credentials, revoked and expired ones included, oldest first.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<CredentialRow>, RegistryError> {
    let rows = client
        .query(
            "SELECT id, kind, label, common_name, certificate_required, not_before, expires_at,
                    revoked_at, created_at,
                    revoked_at IS NULL AND coalesce(not_before <= now(), true)
                        AND coalesce(now() < expires_at, true) AS valid
             FROM device_credentials WHERE device_id = $1 ORDER BY id",
            &[&device.0],
        )
        .await
        .map_err(RegistryError::on("the list of credentials"))?;
    Ok(rows.iter().map(credential_row).collect())
}

fn credential_row(row: &Row) -> CredentialRow {
    CredentialRow {
        id: row.get("id"),
        kind: row.get("kind"),
        valid: row.get("valid"),
        label: row.get("label"),
        common_name: row.get("common_name"),
        certificate_required: row.get("certificate_required"),
        not_before: row.get("not_before"),
        expires_at: row.get("expires_at"),
        revoked_at: row.get("revoked_at"),
        created_at: row.get("created_at"),
    }
}

/// What revoking a credential found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// It could have counted, now or later, and no longer does.
    Revoked,
    /// It had expired, and is now revoked as well.
    Expired,
    /// It was revoked before; that moment stays.
    RevokedBefore,
}

/// Revokes a credential for ever; `None` when there is no such row. Doing it again changes nothing.
///
/// # Errors
/// A database that is away.
pub async fn revoke(
    client: &impl GenericClient,
    id: CredentialId,
) -> Result<Option<Revocation>, RegistryError> {
    let on_credential = || RegistryError::on(format!("credential {}", id.0));
    // Locked first, and then the clock is read: while a token is being issued upon the row
    // (see `ensure_token_credential`) this waits, and the revocation is dated after the token.
    let revoked = client
        .query_opt(
            "WITH locked AS (
                 SELECT id FROM device_credentials WHERE id = $1 AND revoked_at IS NULL FOR UPDATE
             )
             UPDATE device_credentials SET revoked_at = clock_timestamp()
             FROM locked WHERE device_credentials.id = locked.id
             RETURNING coalesce(revoked_at < expires_at, true)",
            &[&id.0],
        )
        .await
        .map_err(on_credential())?;
    if let Some(row) = revoked {
        let counted: bool = row.get(0);
        return Ok(Some(if counted { Revocation::Revoked } else { Revocation::Expired }));
    }
    let known = client
        .query_opt("SELECT 1 FROM device_credentials WHERE id = $1", &[&id.0])
        .await
        .map_err(on_credential())?;
    Ok(known.map(|_| Revocation::RevokedBefore))
}

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

/// Makes sure that a device accepts tokens, and tells from when on; `None` when there is no such
/// device.
///
/// A device with a token row that is neither revoked nor expired keeps it. Otherwise it gets a new
/// one, which begins after every `iat` that an earlier row could have accepted: a token's `iat` is in
/// whole seconds, so the row begins in the second after the last one ended, or later. Tokens must
/// therefore carry [`TokenBasis::issued_at`], not the issuer's own clock.
///
/// # Errors
/// A database that is away.
pub async fn ensure_token_credential(
    client: &mut impl GenericClient,
    device: &DeviceName,
) -> Result<Option<TokenBasis>, RegistryError> {
    let on_device = || RegistryError::on(about(device.as_str()));
    let transaction = client.transaction().await.map_err(on_device())?;
    // One issuer at a time a device: two would make two rows.
    let row = transaction
        .query_opt("SELECT id FROM devices WHERE name = $1 FOR NO KEY UPDATE", &[&device.as_str()])
        .await
        .map_err(on_device())?;
    let Some(row) = row else { return Ok(None) };
    let id: i64 = row.get(0);
    let row = match transaction.query_opt(LIVE_TOKEN_ROW, &[&id]).await.map_err(on_device())? {
        Some(row) => row,
        None => transaction.query_one(NEW_TOKEN_ROW, &[&id]).await.map_err(on_device())?,
    };
    transaction.commit().await.map_err(on_device())?;
    Ok(Some(TokenBasis {
        credential: CredentialId(row.get("id")),
        not_before: row.get("not_before"),
        issued_at: row.get("issued_at"),
    }))
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
