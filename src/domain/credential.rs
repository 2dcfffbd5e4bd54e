//! What a device may log in with.

use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::password_hash::PasswordHash;

/// Row id of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CredentialId(pub i64);

/// When something stops being valid. Ordered: what never expires comes after every timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValidUntil {
    /// At this timestamp it has expired.
    Timestamp(Timestamp),
    /// It never expires.
    Forever,
}

impl ValidUntil {
    /// Whether it is still valid at the next whole second: EMQX takes the end of a login in whole
    /// seconds and refuses one that is not in the future (docs/EMQX.md).
    #[must_use]
    pub fn outlasts_second_of(self, now: Timestamp) -> bool {
        match self {
            Self::Timestamp(end) => end.as_second() > now.as_second(),
            Self::Forever => true,
        }
    }
}

/// When a credential is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first timestamp at which it is valid; `None`: it has always been.
    pub not_before: Option<Timestamp>,
    /// When it expires.
    pub until: ValidUntil,
}

impl Validity {
    /// Always valid.
    pub const ALWAYS: Self = Self { not_before: None, until: ValidUntil::Forever };

    /// Whether it has begun at a timestamp.
    #[must_use]
    pub fn has_begun(&self, at: Timestamp) -> bool {
        self.not_before.is_none_or(|start| start <= at)
    }
}

/// Whether a client certificate is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUse {
    /// The certificate alone logs the device in.
    Alone,
    /// No other credential of this device is enough without the certificate.
    Required,
}

/// What a client must present.
pub enum Proof {
    /// A secret that Fleetgate generated (256 random bits): hashed at argon2id's minimum cost.
    Secret(PasswordHash),
    /// A password that a person chose: hashed at the OWASP cost.
    Password(PasswordHash),
    /// A password whose hash another broker made. It becomes a [`Proof::Password`] after its first success.
    Imported(PasswordHash),
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
    /// When it is valid.
    pub validity: Validity,
    /// What a client must present.
    pub proof: Proof,
    /// The keyed digest of the secret that was verified, for as long as this record is in memory.
    /// [`crate::authn::recent_successes`] fills it in and reads it.
    pub remembered: OnceLock<[u8; 32]>,
}

impl Credential {
    /// A credential without a remembered success.
    #[must_use]
    pub fn new(id: CredentialId, validity: Validity, proof: Proof) -> Self {
        Self { id, validity, proof, remembered: OnceLock::new() }
    }

    /// The stored hash, where the credential is a secret or a password.
    #[must_use]
    pub fn hash(&self) -> Option<&PasswordHash> {
        match &self.proof {
            Proof::Secret(hash) | Proof::Password(hash) | Proof::Imported(hash) => Some(hash),
            Proof::Token | Proof::Certificate { .. } => None,
        }
    }

    /// Whether a login may use it now: it is valid, and still will be at the next whole second.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.validity.has_begun(now) && self.validity.until.outlasts_second_of(now)
    }
}
