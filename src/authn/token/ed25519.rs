//! The only signature algorithm of this process, as `jsonwebtoken` wants it.
//!
//! Its own backends bring RSA, ECDSA and HMAC along; with this one, a token of another algorithm has
//! nothing that could check it.

use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use signature::{Error, Signer, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // Keys as JSON (JWK) are not supported.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this the process's provider. Only the first call does anything; nothing else in this
/// program installs one.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

struct Ed25519Signer(SigningKey);

impl Signer<Vec<u8>> for Ed25519Signer {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let signature = self.0.try_sign(message).map_err(|_| Error::new())?;
        Ok(signature.to_vec())
    }
}

impl JwtSigner for Ed25519Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct Ed25519Verifier(VerifyingKey);

impl Verifier<Vec<u8>> for Ed25519Verifier {
    /// Strict: also refuses signatures that more than one key or message would fit.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let signature = Signature::from_slice(signature).map_err(|_| Error::new())?;
        self.0.verify_strict(message, &signature).map_err(|_| Error::new())
    }
}

impl JwtVerifier for Ed25519Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    check(*algorithm, key.family())?;
    let key = SigningKey::from_pkcs8_der(key.as_bytes()).map_err(|_| ErrorKind::InvalidEddsaKey)?;
    Ok(Box::new(Ed25519Signer(key)))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    check(*algorithm, key.family())?;
    let key = VerifyingKey::try_from(key.try_get_as_bytes()?);
    Ok(Box::new(Ed25519Verifier(key.map_err(|_| ErrorKind::InvalidEddsaKey)?)))
}

fn check(algorithm: Algorithm, family: AlgorithmFamily) -> Result<()> {
    if algorithm != Algorithm::EdDSA || family != AlgorithmFamily::Ed {
        return Err(ErrorKind::UnsupportedAlgorithm.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_algorithm_exists() {
        let all = [Algorithm::HS256, Algorithm::RS256, Algorithm::PS512, Algorithm::ES256];
        for algorithm in all {
            assert!(verifier(&algorithm, &DecodingKey::from_ed_der(&[1; 32])).is_err());
            assert!(verifier(&algorithm, &DecodingKey::from_secret(&[1; 32])).is_err());
            assert!(signer(&algorithm, &EncodingKey::from_secret(&[1; 32])).is_err());
        }
        assert!(verifier(&Algorithm::EdDSA, &DecodingKey::from_secret(&[1; 32])).is_err());
        assert!(verifier(&Algorithm::EdDSA, &DecodingKey::from_ed_der(&[1; 31])).is_err());
    }
}
