//! What a device may log in with.

use std::sync::OnceLock;

use crate::domain::password_hash::PasswordHash;

/// Row id of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId(pub i64);

/// When a credential counts: from `not_before` (inclusive) to `expires_at` (exclusive).
///
/// Both in microseconds since the Unix epoch, PostgreSQL's own resolution; the ends of `i64` mean
/// "always" and "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment at which it counts.
    pub not_before: i64,
    /// First moment at which it no longer counts.
    pub expires_at: i64,
}

impl Validity {
    /// Counts for ever.
    pub const ALWAYS: Self = Self { not_before: i64::MIN, expires_at: i64::MAX };

    /// Whether it counts at a moment (microseconds since the Unix epoch).
    #[must_use]
    pub fn contains(&self, now: i64) -> bool {
        self.not_before <= now && now < self.expires_at
    }

    /// Its end in whole Unix seconds, rounded down, or `None` when it never ends.
    #[must_use]
    pub fn expires_at_seconds(&self) -> Option<i64> {
        (self.expires_at != i64::MAX).then(|| self.expires_at.div_euclid(1_000_000))
    }
}

/// Whether a client certificate is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUse {
    /// The certificate alone logs the device in.
    Alone,
    /// No other credential of this device counts without the certificate.
    Required,
}

/// What must be shown.
pub enum Proof {
    /// A secret that Fleetgate generated (256 random bits): hashed at argon2id's minimum cost.
    Secret(PasswordHash),
    /// A password that a person chose: hashed at the OWASP cost.
    Password(PasswordHash),
    /// A device token (JWT) issued no earlier than the credential's `not_before`.
    Token,
    /// A client certificate with this common name.
    Certificate {
        /// The subject's common name, compared byte for byte.
        common_name: Box<str>,
        /// Enough, or needed beside another credential.
        required: CertificateUse,
    },
}

/// One unrevoked credential of a device.
pub struct Credential {
    /// Its row.
    pub id: CredentialId,
    /// When it counts.
    pub validity: Validity,
    /// What must be shown.
    pub proof: Proof,
    /// The keyed digest of the secret that was found right, for as long as this record is in memory.
    /// [`crate::authn::verified`] fills it in and reads it.
    pub remembered: OnceLock<[u8; 32]>,
}

impl Credential {
    /// One that nothing is remembered of.
    #[must_use]
    pub fn new(id: CredentialId, validity: Validity, proof: Proof) -> Self {
        Self { id, validity, proof, remembered: OnceLock::new() }
    }

    /// The stored hash, where the credential is a secret or a password.
    #[must_use]
    pub fn hash(&self) -> Option<&PasswordHash> {
        match &self.proof {
            Proof::Secret(hash) | Proof::Password(hash) => Some(hash),
            Proof::Token | Proof::Certificate { .. } => None,
        }
    }

    /// Whether it counts now and still will at the next whole second: EMQX takes the end of a login
    /// in whole seconds and refuses one that is not in the future (docs/EMQX.md).
    #[must_use]
    pub fn is_usable(&self, now: i64) -> bool {
        let seconds = now.div_euclid(1_000_000);
        self.validity.contains(now)
            && self.validity.expires_at_seconds().is_none_or(|end| end > seconds)
    }
}
