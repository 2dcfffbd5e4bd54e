//! Recent successes of chosen passwords, so that a device that comes back costs no argon2.
//!
//! # Properties kept
//! - What is kept is a keyed digest: without the key, which is random per process and never leaves
//!   it, nothing kept is a function of the password that could be guessed against.
//! - A hit needs the identical credential, the identical stored hash and the identical password: a
//!   changed hash never hits, nor does one credential's password at another.
//! - Bounded: one entry a credential, the least useful one goes when the bound is reached.
//! - Compared in constant time.
//!
//! What it does not do: decide whether the credential is still valid. That is asked of the record on
//! every login, hit or not.

use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::domain::credential::CredentialId;
use crate::domain::password_hash::PasswordHash;
use crate::secret::random_bytes;

/// Digests of the passwords that were found right lately.
pub struct VerifiedLogins {
    key: Zeroizing<[u8; 32]>,
    entries: Cache<CredentialId, [u8; 32]>,
}

impl VerifiedLogins {
    /// Room for so many credentials, about 100 bytes each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { key: Zeroizing::new(random_bytes()), entries: Cache::new(capacity) }
    }

    /// Whether this password was found right for this hash of this credential.
    #[must_use]
    pub fn contains(&self, id: CredentialId, hash: &PasswordHash, password: &[u8]) -> bool {
        let digest = self.digest(id, hash, password);
        self.entries.get(&id).is_some_and(|known| known.ct_eq(&digest).into())
    }

    /// Keeps a success. Only what argon2 has just confirmed may come here.
    pub fn remember(&self, id: CredentialId, hash: &PasswordHash, password: &[u8]) {
        self.entries.insert(id, self.digest(id, hash, password));
    }

    /// Every piece has a fixed length or its length before it, so no two inputs write the same.
    fn digest(&self, id: CredentialId, hash: &PasswordHash, password: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&id.0.to_le_bytes());
        hash.write_identity(|piece| {
            hasher.update(piece);
        });
        hasher.update(&(password.len() as u64).to_le_bytes());
        hasher.update(password);
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::password_hash::{Cost, hash_password};
    use proptest::prelude::*;

    fn hash(salt: u8) -> PasswordHash {
        let text = hash_password(b"any", &[salt; 16], Cost::Generated);
        PasswordHash::parse(&text).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn only_the_identical_login_hits(
            id in 0..3_i64, other_id in 0..3_i64,
            salt in 0..3_u8, other_salt in 0..3_u8,
            password in prop::collection::vec(0..2_u8, 0..3),
            other_password in prop::collection::vec(0..2_u8, 0..3),
        ) {
            let logins = VerifiedLogins::new(100);
            logins.remember(CredentialId(id), &hash(salt), &password);
            let same = (id, salt, &password) == (other_id, other_salt, &other_password);
            let hit = logins.contains(CredentialId(other_id), &hash(other_salt), &other_password);
            prop_assert_eq!(hit, same);
            prop_assert!(logins.contains(CredentialId(id), &hash(salt), &password));
        }

        #[test]
        fn what_is_kept_depends_on_the_process_key(password in prop::collection::vec(any::<u8>(), 0..40)) {
            let (one, other) = (VerifiedLogins::new(1), VerifiedLogins::new(1));
            let id = CredentialId(1);
            prop_assert_ne!(one.digest(id, &hash(1), &password), other.digest(id, &hash(1), &password));
        }
    }

    #[test]
    fn without_a_success_nothing_hits() {
        assert!(!VerifiedLogins::new(10).contains(CredentialId(1), &hash(1), b""));
    }

    #[test]
    fn it_is_bounded() {
        let logins = VerifiedLogins::new(100);
        for id in 0..10_000 {
            logins.remember(CredentialId(id), &hash(1), b"password");
        }
        assert!(logins.entries.len() <= 200, "{}", logins.entries.len());
    }
}
