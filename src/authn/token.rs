//! Device tokens: JWTs signed with Ed25519, sent as the password.
//!
//! # Properties kept
//! - One algorithm. There is no code for another, the header must say `EdDSA`, and `kid` alone chooses the
//!   key: no confusion is possible. Signatures are verified strictly: what more than one key or message
//!   would fit is refused.
//! - A token is valid from `nbf` (inclusive, when there is one) to `exp` (exclusive) by our own clock,
//!   without leeway.
//! - A token that says it was issued in the future (`iat`) is refused, so that no token outlives the
//!   revocation of its credential: a new `token` credential accepts what was issued after it. Only the
//!   clock of the machine that signs may be ahead, by [`CLOCK_LEEWAY`].
//! - Whether a password is checked as a token is decided by the password alone ([`has_token_shape`]),
//!   never by the device, so that the time of an answer reveals nothing about the device. A password of
//!   that shape is checked as a token only.
//!
//! What a token may do is not decided here: the device it names must accept tokens at all, be
//! enabled and so on, see [`super`].

mod claims;
mod keys;

use std::collections::HashMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use thiserror::Error;

use crate::domain::json_object::Object;
use claims::{Claims, TokenHeader, TokenParts};
pub use keys::{KeyFileError, key_id, new_signing_key, read_signing_key, read_verification_key};

/// Longest token in bytes. Ours have about 250.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far the clock of the machine that issues tokens may be ahead of ours. Machines that keep their
/// time by NTP differ by far less.
pub const CLOCK_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// More than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not a JWT, a claim is missing or has the wrong type, or `crit` asks for an extension.
    #[error("the token is not a JWT with sub, aud, iat and exp")]
    Malformed,
    /// The header's `alg` is not `EdDSA`.
    #[error("the token is not signed with EdDSA")]
    Algorithm,
    /// The header has no `kid`, or one that no verification key has.
    #[error("the token's kid is not one of the verification keys")]
    UnknownKey,
    /// The signature does not belong to the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// `aud` is not ours.
    #[error("the token is meant for another audience")]
    Audience,
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` lies further ahead than [`CLOCK_LEEWAY`].
    #[error("the token was issued in the future; set the clock of the machine that issues tokens")]
    IssuedInFuture,
    /// `exp` is not after `iat`, or not after `nbf`: there is no time at which it is valid.
    #[error("the token expires before it is issued or becomes valid")]
    NeverValid,
}

impl TokenError {
    /// Every reason, in the order of their discriminants.
    pub(super) const ALL: [Self; 10] = [
        Self::TooLong,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Audience,
        Self::Expired,
        Self::NotYetValid,
        Self::IssuedInFuture,
        Self::NeverValid,
    ];

    /// The reason as a metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_wrong_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_wrong_signature",
            Self::Audience => "token_wrong_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuedInFuture => "token_issued_in_future",
            Self::NeverValid => "token_never_valid",
        }
    }
}

/// What a valid token says, in whole seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// The device's name (`sub`).
    pub device: String,
    /// When it was issued (`iat`).
    pub issued_at: Timestamp,
    /// First second at which it is no longer valid (`exp`).
    pub expires_at: Timestamp,
}

/// The public keys that tokens may be signed with, by `kid`.
pub struct TokenKeys {
    audience: String,
    keys: HashMap<String, VerifyingKey>,
}

impl TokenKeys {
    /// Takes keys in; several at once while keys are being rotated, none to accept no token.
    #[must_use]
    pub fn new(audience: &str, keys: &[VerifyingKey]) -> Self {
        let keys = keys.iter().map(|key| (key_id(key), *key)).collect();
        Self { audience: audience.to_owned(), keys }
    }

    /// Reads key files: SPKI public keys or PKCS#8 private keys (of which the public half is taken),
    /// PEM each.
    ///
    /// # Errors
    /// Names the file and what to do about it.
    pub fn load<P: AsRef<std::path::Path>>(
        audience: &str,
        files: &[P],
    ) -> Result<Self, KeyFileError> {
        let keys = files.iter().map(|file| read_verification_key(file.as_ref()));
        Ok(Self::new(audience, &keys.collect::<Result<Vec<_>, _>>()?))
    }

    /// Checks whether a token is valid at a timestamp.
    ///
    /// # Errors
    /// The first rule it breaks. Times and audience are looked at only after the signature.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<TokenClaims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let parts = TokenParts::of(token).ok_or(TokenError::Malformed)?;
        let key = self.key(&parts.header)?;
        let signature =
            decode(parts.signature).and_then(|bytes| Signature::from_slice(&bytes).ok());
        let signature = signature.ok_or(TokenError::Signature)?;
        key.verify_strict(parts.signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims = decode(parts.claims).and_then(|json| serde_json::from_slice(&json).ok());
        let Object(claims) = claims.ok_or(TokenError::Malformed)?;
        self.check(claims, now)
    }

    fn key(&self, header: &TokenHeader) -> Result<&VerifyingKey, TokenError> {
        if header.alg != "EdDSA" {
            return Err(TokenError::Algorithm);
        }
        if header.crit {
            return Err(TokenError::Malformed);
        }
        let kid = header.kid.as_ref().ok_or(TokenError::UnknownKey)?;
        self.keys.get(kid).ok_or(TokenError::UnknownKey)
    }

    fn check(&self, claims: Claims, now: Timestamp) -> Result<TokenClaims, TokenError> {
        if !claims.aud.contains(&self.audience) {
            return Err(TokenError::Audience);
        }
        let (issued_at, expires_at) = (claims.iat.0, claims.exp.0);
        let not_before = claims.nbf.map(|nbf| nbf.0);
        if expires_at <= now {
            return Err(TokenError::Expired);
        }
        if not_before.is_some_and(|start| start > now) {
            return Err(TokenError::NotYetValid);
        }
        if issued_at.duration_since(now) > CLOCK_LEEWAY {
            return Err(TokenError::IssuedInFuture);
        }
        if expires_at <= not_before.map_or(issued_at, |start| start.max(issued_at)) {
            return Err(TokenError::NeverValid);
        }
        Ok(TokenClaims { device: claims.sub, issued_at, expires_at })
    }
}

/// Whether a password is to be checked as a token: three parts of base64url between dots, the first a
/// JSON object with an `alg`. No generated secret looks like that.
#[must_use]
pub fn has_token_shape(password: &str) -> bool {
    TokenParts::of(password).is_some()
}

/// Writes a token for a device. Fractions of a second are cut off.
#[must_use]
pub fn issue(
    key: &SigningKey,
    audience: &str,
    device: &str,
    issued_at: Timestamp,
    expires_at: Timestamp,
) -> String {
    let (iat, exp) = (issued_at.as_second(), expires_at.as_second());
    let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": key_id(&key.verifying_key())});
    let claims = json!({"sub": device, "aud": audience, "iat": iat, "exp": exp});
    let encode = |part: &[u8]| Base64UrlUnpadded::encode_string(part);
    let signed = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
    let signature = encode(&key.sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}

fn decode(part: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(part).ok()
}

#[cfg(test)]
mod tests;
