//! Key files.

use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    self, DecodePrivateKey, DecodePublicKey, EncodePrivateKey, KeypairBytes,
};
use ed25519_dalek::{SigningKey, VerifyingKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::random_bytes;

/// Why a key file cannot be used. Repeats nothing of its content.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the key file {}: {error}; check the path and its permissions", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        error: std::io::Error,
    },
    /// It contains no Ed25519 public key.
    #[error(
        "{} contains no Ed25519 key in PEM; make one: openssl genpkey -algorithm ed25519 -out \
         private.pem && openssl pkey -in private.pem -pubout -out public.pem",
        .0.display()
    )]
    NoKey(PathBuf),
    /// It contains a public key where the private one is needed, or neither.
    #[error(
        "{} contains no Ed25519 private key in PEM (PKCS#8), which signing needs; make one: openssl \
         genpkey -algorithm ed25519 -out private.pem",
        .0.display()
    )]
    NoPrivateKey(PathBuf),
    /// A key of small order, for which anybody can forge signatures.
    #[error("{} contains a weak Ed25519 key; replace it with one made by openssl", .0.display())]
    Weak(PathBuf),
}

/// The `kid` of a key: lower-case hex of the first 8 bytes of BLAKE3 over the raw public key.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    let digest = blake3::hash(key.as_bytes()).to_hex();
    digest.chars().take(16).collect()
}

/// Reads a public key: SPKI PEM, or PKCS#8 PEM of the private key, whose public half is taken.
///
/// # Errors
/// Names the file and what to do about it.
pub fn read_verification_key(file: &Path) -> Result<VerifyingKey, KeyFileError> {
    let pem = read(file)?;
    let private = || SigningKey::from_pkcs8_pem(&pem).map(|key| key.verifying_key());
    let key = VerifyingKey::from_public_key_pem(&pem).ok().or_else(|| private().ok());
    let key = key.ok_or_else(|| KeyFileError::NoKey(file.to_owned()))?;
    if key.is_weak() { Err(KeyFileError::Weak(file.to_owned())) } else { Ok(key) }
}

/// Reads a private key: PKCS#8 PEM.
///
/// # Errors
/// Names the file and what to do about it.
pub fn read_signing_key(file: &Path) -> Result<SigningKey, KeyFileError> {
    let key = SigningKey::from_pkcs8_pem(&read(file)?);
    key.map_err(|_| KeyFileError::NoPrivateKey(file.to_owned()))
}

/// Makes a private key as PKCS#8 PEM.
///
/// # Errors
/// Never in practice: encoding 32 bytes does not fail.
pub fn new_signing_key() -> Result<Zeroizing<String>, pkcs8::Error> {
    let secret_key = Zeroizing::new(random_bytes::<32>());
    // Without the public half inside: OpenSSL reads only the first version of PKCS#8.
    KeypairBytes { secret_key: *secret_key, public_key: None }.to_pkcs8_pem(LineEnding::LF)
}

fn read(file: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let text = std::fs::read_to_string(file);
    text.map(Zeroizing::new).map_err(|error| KeyFileError::Read { file: file.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::pkcs8::EncodePublicKey;

    /// Made for this test by `openssl genpkey -algorithm ed25519` and its `openssl pkey -pubout`.
    const OPENSSL_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIDybwGBD+jQOXALIPnvs30pGct0dsaEaoDHRFf03P+Qd\n-----END PRIVATE KEY-----\n";
    const OPENSSL_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEALzYOo4dilYDH8BkY8Dv/F4AHOLE+CLRBeAFibngJAHg=\n-----END PUBLIC KEY-----\n";

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn both_halves_of_an_openssl_key_are_the_same_verification_key() {
        let public = read_verification_key(file(OPENSSL_PUBLIC).path()).unwrap();
        let private = read_verification_key(file(OPENSSL_PRIVATE).path()).unwrap();
        assert_eq!(key_id(&public), key_id(&private));
        let signing = read_signing_key(file(OPENSSL_PRIVATE).path()).unwrap();
        assert_eq!(signing.verifying_key(), public);
    }

    #[test]
    fn keys_that_this_crate_writes_are_read() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let private = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        let public = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        assert_eq!(read_signing_key(file(&private).path()).unwrap(), key);
        assert_eq!(read_verification_key(file(&public).path()).unwrap(), key.verifying_key());
    }

    #[test]
    fn a_key_id_is_sixteen_hex_digits_of_the_public_key() {
        let id = key_id(&SigningKey::from_bytes(&[7; 32]).verifying_key());
        assert!(id.len() == 16 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{id}");
        assert_ne!(id, key_id(&SigningKey::from_bytes(&[8; 32]).verifying_key()));
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let missing = read_verification_key(Path::new("/nowhere/key.pem")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/key.pem") && missing.contains("check the path"));

        let bad = file("-----BEGIN PUBLIC KEY-----\nTOPSECRET\n-----END PUBLIC KEY-----\n");
        let error = read_verification_key(bad.path()).unwrap_err().to_string();
        assert!(error.contains(&*bad.path().to_string_lossy()), "{error}");
        assert!(error.contains("openssl genpkey") && !error.contains("TOPSECRET"), "{error}");

        let public = file(OPENSSL_PUBLIC);
        let error = read_signing_key(public.path()).unwrap_err();
        assert!(matches!(error, KeyFileError::NoPrivateKey(_)));
    }
}
