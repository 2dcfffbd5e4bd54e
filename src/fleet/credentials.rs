//! Credentials: what a device may log in with (`device_credentials`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::authn::token::has_token_shape;
use crate::domain::credential::CredentialId;
use crate::domain::device::DeviceId;
use crate::domain::foreign_hash::ForeignHash;
use crate::domain::name::DeviceName;
use crate::domain::password_hash::{Cost, hash_password};
use crate::fleet::devices;
use crate::fleet::error::{FleetError, PasswordRule, Rule, Thing};
use crate::fleet::one_thing::row_of;
use crate::fleet::part::Part;
use crate::registry::error::RegistryError;
use crate::registry::selector::values;
use crate::secret::{Secret, random_bytes};

/// Longest password in bytes. EMQX's own limit for what it sends is 64 KiB a request.
pub const MAX_PASSWORD_BYTES: usize = 4096;
/// Fewest characters of a password that is not called weak (NIST SP 800-63B).
pub const MIN_PASSWORD_CHARACTERS: usize = 8;

/// A credential to be made. Device tokens have their own way: [`crate::fleet::tokens`]. No `Debug`: hashes.
pub struct NewCredential {
    kind: &'static str,
    hash: Option<String>,
    common_name: Option<String>,
    certificate_required: Option<bool>,
}

impl NewCredential {
    /// A secret (`secret`) or a chosen password (`password`), by its PHC string.
    #[must_use]
    pub fn hashed(kind: &'static str, hash: String) -> Self {
        Self { kind, hash: Some(hash), common_name: None, certificate_required: None }
    }

    /// A client certificate with this common name of its subject; `required`: needed beside another credential, and not
    /// enough by itself.
    #[must_use]
    pub fn certificate(common_name: String, required: bool) -> Self {
        Self {
            kind: "certificate",
            hash: None,
            common_name: Some(common_name),
            certificate_required: Some(required),
        }
    }

    /// A generated secret (256 random bits) and its credential. The secret is stored nowhere.
    #[must_use]
    pub fn generate() -> (Secret, Self) {
        let (secret, hash) = generate_secret();
        (secret, Self::hashed("secret", hash))
    }

    /// A chosen password.
    ///
    /// # Errors
    /// [`PasswordRule`]. One of fewer than [`MIN_PASSWORD_CHARACTERS`] is taken if `weak_is_fine`.
    pub fn password(password: &Secret, weak_is_fine: bool) -> Result<Self, FleetError> {
        if let Some(rule) = broken_rule(password.expose(), weak_is_fine) {
            return Err(FleetError::rule(
                &Thing::NewCredential("password".into()),
                Rule::Password(rule),
            ));
        }
        let hash = hash_password(password.expose().as_bytes(), &random_bytes(), Cost::Chosen);
        Ok(Self::hashed("password", hash))
    }

    /// The kind as the table writes it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

/// A secret with its hash.
pub(super) fn generate_secret() -> (Secret, String) {
    let secret = Secret::generate();
    let hash = hash_password(secret.expose().as_bytes(), &random_bytes(), Cost::Generated);
    (secret, hash)
}

/// What kind of credential somebody asks for; a secret is made then. No `Debug`: passwords.
pub enum Wanted {
    /// A generated secret.
    Secret,
    /// A chosen password.
    Password {
        /// The password.
        password: Secret,
        /// Whether one of fewer than [`MIN_PASSWORD_CHARACTERS`] is taken.
        weak_is_fine: bool,
    },
    /// A client certificate.
    Certificate {
        /// The subject's common name.
        common_name: String,
        /// Whether it is needed beside another credential, and not enough by itself.
        required: bool,
    },
}

impl Wanted {
    /// The kind as the table writes it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Password { .. } => "password",
            Self::Certificate { .. } => "certificate",
        }
    }

    /// The credential, and the secret where one is generated.
    ///
    /// # Errors
    /// A password that is not good enough.
    pub fn make(&self) -> Result<(Option<Secret>, NewCredential), FleetError> {
        match self {
            Self::Secret => {
                let (secret, credential) = NewCredential::generate();
                Ok((Some(secret), credential))
            }
            Self::Password { password, weak_is_fine } => {
                Ok((None, NewCredential::password(password, *weak_is_fine)?))
            }
            Self::Certificate { common_name, required } => {
                Ok((None, NewCredential::certificate(common_name.clone(), *required)))
            }
        }
    }
}

/// What is noted beside a credential.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// What an administrator calls it.
    pub label: Option<String>,
    /// The first timestamp at which it is valid.
    pub not_before: Option<Timestamp>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// A credential as lists show it: without its hash.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CredentialRow {
    /// Its row, by which it is revoked.
    pub id: i64,
    /// `secret`, `password`, `imported` (a password, until the first login with it), `token` or `certificate`.
    pub kind: String,
    /// Whether it is valid now, by the database's clock.
    pub valid: bool,
    /// What an administrator calls it.
    pub label: Option<String>,
    /// A certificate's common name.
    pub common_name: Option<String>,
    /// Whether a certificate is needed beside another credential.
    pub certificate_required: Option<bool>,
    /// The first timestamp at which it is valid.
    pub not_before: Option<Timestamp>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

pub(super) fn broken_rule(password: &str, weak_is_fine: bool) -> Option<PasswordRule> {
    let characters = password.chars().count();
    if password.is_empty() {
        Some(PasswordRule::Empty)
    } else if password.len() > MAX_PASSWORD_BYTES {
        Some(PasswordRule::TooLong)
    } else if password.contains(['\n', '\r', '\0']) {
        Some(PasswordRule::SeveralLines)
    } else if characters < MIN_PASSWORD_CHARACTERS && !weak_is_fine {
        Some(PasswordRule::Weak(characters))
    } else if has_token_shape(password) {
        Some(PasswordRule::TokenShape)
    } else {
        None
    }
}

/// Gives a device a credential and tells its row. Others that it has stay valid, so that they can be rotated.
///
/// # Errors
/// There is no such device; the rules of `sql/`.
pub async fn add(
    client: &impl GenericClient,
    device: &DeviceName,
    credential: &NewCredential,
    terms: &Terms,
) -> Result<CredentialId, FleetError> {
    let id = devices::find(client, device).await?;
    insert(client, (id, device), credential, terms).await
}

pub(super) async fn insert(
    client: &impl GenericClient,
    (id, device): (DeviceId, &DeviceName),
    credential: &NewCredential,
    terms: &Terms,
) -> Result<CredentialId, FleetError> {
    let row = client
        .query_one(
            "INSERT INTO device_credentials (device_id, kind, hash, common_name,
                 certificate_required, label, not_before, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             RETURNING id",
            &[
                &id.0,
                &credential.kind,
                &credential.hash,
                &credential.common_name,
                &credential.certificate_required,
                &terms.label,
                &terms.not_before,
                &terms.expires_at,
            ],
        )
        .await
        .map_err(FleetError::on_part_of(device, &Thing::NewCredential(credential.kind.into())))?;
    Ok(CredentialId(row.get(0)))
}

/// Lists a device's credentials, revoked and expired ones included, oldest first.
///
/// # Errors
/// There is no such device.
pub async fn list(
    client: &impl GenericClient,
    device: &DeviceName,
) -> Result<Vec<CredentialRow>, FleetError> {
    list_of(client, devices::find(client, device).await?).await
}

pub(super) async fn list_of(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<CredentialRow>, FleetError> {
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

/// Most that [`foreign`] tells at once.
pub const MAX_FOREIGN: u16 = 10_000;

/// A credential that still has the hash that another broker made: nobody has logged in with it since it was imported.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForeignCredential {
    /// Its row, by which it is revoked.
    pub id: i64,
    /// Whose it is.
    pub device: String,
    /// What its hash is, such as `bcrypt, cost 10`.
    pub hash: String,
    /// Whether guessing its password is cheap: one round, or few.
    pub weak: bool,
    /// When it was imported.
    pub created_at: Timestamp,
}

/// Lists credentials with hashes of other brokers of the devices in a part of the fleet, those behind `after` by their row,
/// oldest first. [`MAX_FOREIGN`] at most.
///
/// # Errors
/// A database that is away.
pub async fn foreign(
    client: &impl GenericClient,
    part: &Part,
    after: Option<CredentialId>,
    limit: u16,
) -> Result<Vec<ForeignCredential>, FleetError> {
    let condition = part.condition(2);
    let statement = format!(
        "SELECT credential.id, device.name, hash, credential.created_at
         FROM device_credentials AS credential JOIN devices AS device ON device.id = device_id
         WHERE credential.kind = 'imported' AND revoked_at IS NULL AND credential.id > $1 AND {}
         ORDER BY credential.id LIMIT $2",
        condition.sql()
    );
    let after = after.map_or(0, |id| id.0);
    let limit = i64::from(limit.min(MAX_FOREIGN));
    let rows = client.query(&statement, &values(&[&after, &limit], [&condition])).await;
    let rows = rows.map_err(RegistryError::on("the list of imported credentials"))?;
    Ok(rows.iter().map(foreign_credential).collect())
}

fn foreign_credential(row: &Row) -> ForeignCredential {
    let hash = ForeignHash::parse(row.get("hash")).ok();
    ForeignCredential {
        id: row.get("id"),
        device: row.get("name"),
        weak: hash.as_ref().is_none_or(ForeignHash::is_weak),
        hash: hash.map_or_else(|| "unusable".to_owned(), |hash| hash.description()),
        created_at: row.get("created_at"),
    }
}

/// The device that a credential belongs to.
///
/// # Errors
/// There is no such credential.
pub async fn owner(client: &impl GenericClient, id: CredentialId) -> Result<String, FleetError> {
    let thing = Thing::Credential(id);
    let statement = "SELECT name FROM devices
         WHERE id = (SELECT device_id FROM device_credentials WHERE id = $1)";
    Ok(row_of(client, &thing, statement, &[&id.0]).await?.get(0))
}

/// What revoking a credential found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Revocation {
    /// It was valid, or would have been, and no longer is.
    Revoked,
    /// It had expired, and is now revoked as well.
    Expired,
    /// It was revoked before; the timestamp of that stays.
    RevokedBefore,
}

/// Revokes a credential for ever. Doing it again changes nothing. The device's sessions end, by trigger.
///
/// # Errors
/// There is no such credential.
pub async fn revoke(
    client: &impl GenericClient,
    id: CredentialId,
) -> Result<Revocation, FleetError> {
    let thing = Thing::Credential(id);
    // Locked first, and then the clock is read: while a token is being issued upon the row
    // ([`crate::fleet::tokens::accept`]) this waits, and the revocation is dated after the token.
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
        .map_err(FleetError::on(&thing))?;
    if let Some(row) = revoked {
        let was_valid: bool = row.get(0);
        return Ok(if was_valid { Revocation::Revoked } else { Revocation::Expired });
    }
    row_of(client, &thing, "SELECT FROM device_credentials WHERE id = $1", &[&id.0]).await?;
    Ok(Revocation::RevokedBefore)
}

/// Of credentials, those that still log their device in: each with the device's name.
///
/// # Errors
/// A database that is away.
pub async fn still_valid(
    client: &impl GenericClient,
    ids: &[CredentialId],
) -> Result<Vec<(CredentialId, String)>, FleetError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let statement = "SELECT device_credentials.id, devices.name FROM device_credentials
         JOIN devices ON devices.id = device_id AND enabled
         WHERE device_credentials.id = ANY($1) AND revoked_at IS NULL
           AND coalesce(expires_at > now(), true)";
    let rows = client.query(statement, &[&ids]).await;
    let rows = rows.map_err(RegistryError::on("the list of credentials"))?;
    Ok(rows.iter().map(|row| (CredentialId(row.get(0)), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_impossible_passwords_are_refused() {
        assert_eq!(broken_rule("eight ch", false), None);
        assert_eq!(broken_rule("gerät-ß", false), Some(PasswordRule::Weak(7)));
        assert_eq!(broken_rule("short", true), None);
        assert_eq!(broken_rule("", true), Some(PasswordRule::Empty));
        let lines = broken_rule("two\nlines and more", false);
        assert_eq!(lines, Some(PasswordRule::SeveralLines));
        assert_eq!(broken_rule(&"x".repeat(4097), false), Some(PasswordRule::TooLong));
    }
}
