//! Recent successes, so that a device that logs in again costs no argon2.
//!
//! # Properties kept
//! - What is kept is a keyed digest: without the key, which is random per process and never leaves
//!   it, nothing kept is a function of the password that could be guessed against.
//! - A hit needs the identical credential, the identical stored hash and the identical password: a
//!   changed hash never hits, nor does one credential's password at another.
//! - Bounded: one entry a credential. A generated secret's is a part of the device's record and goes
//!   with it, when the device changes at the latest: argon2's minimum costs microseconds. That of a
//!   chosen password is worth keeping: the least useful one goes when the bound is reached.
//! - Compared in constant time; a generated secret's also where nothing is remembered, so that it
//!   takes the same time whether the device has logged in before, or is none.
//!
//! What it does not do: decide whether the credential is still valid. That is asked of the record on
//! every login, hit or not.

use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::domain::credential::{Credential, CredentialId};
use crate::domain::password_hash::PasswordHash;
use crate::secret::random_bytes;

/// Digests of the secrets and passwords that were verified lately.
pub struct RecentSuccesses {
    key: Zeroizing<[u8; 32]>,
    entries: Cache<CredentialId, [u8; 32]>,
}

impl RecentSuccesses {
    /// Room for so many chosen passwords, about 100 bytes each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { key: Zeroizing::new(random_bytes()), entries: Cache::new(capacity) }
    }

    /// Whether this password was verified lately against this hash, which is the credential's.
    #[must_use]
    pub fn contains(&self, credential: &Credential, hash: &PasswordHash, password: &[u8]) -> bool {
        let digest = self.digest(credential.id, hash, password);
        if hash.is_minimum_cost() {
            let known = credential.remembered.get();
            let same: bool = known.unwrap_or(&[0; 32]).ct_eq(&digest).into();
            return same & known.is_some();
        }
        self.entries.get(&credential.id).is_some_and(|known| known.ct_eq(&digest).into())
    }

    /// Keeps a success. Only for what argon2 has just confirmed.
    pub fn remember(&self, credential: &Credential, hash: &PasswordHash, password: &[u8]) {
        let digest = self.digest(credential.id, hash, password);
        if hash.is_minimum_cost() {
            // Only one password has this hash: a login that came first has kept the same.
            credential.remembered.get_or_init(|| digest);
        } else {
            self.entries.insert(credential.id, digest);
        }
    }

    /// Keeps a success of a hash that replaces the credential's.
    pub(super) fn remember_costly(&self, id: CredentialId, hash: &PasswordHash, password: &[u8]) {
        self.entries.insert(id, self.digest(id, hash, password));
    }

    /// Stands for a password and all hashes that it is to be compared with; `already_refused` logins have
    /// digests of their own.
    #[must_use]
    pub fn guess<'c>(
        &self,
        hashes: impl Iterator<Item = (&'c Credential, &'c PasswordHash)>,
        already_refused: bool,
        password: &[u8],
    ) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[u8::from(already_refused)]);
        for (credential, hash) in hashes {
            hasher.update(&self.digest(credential.id, hash, password));
        }
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
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
    use crate::domain::credential::{Proof, Validity};
    use crate::domain::password_hash::Cost;
    use proptest::prelude::*;

    fn credential(id: i64, salt: u8, cost: Cost) -> Credential {
        let proof = Proof::Password(PasswordHash::unmatchable(cost, [salt; 48]));
        Credential::new(CredentialId(id), Validity::ALWAYS, proof)
    }

    fn remember(logins: &RecentSuccesses, credential: &Credential, password: &[u8]) {
        logins.remember(credential, credential.hash().unwrap(), password);
    }

    fn hits(logins: &RecentSuccesses, credential: &Credential, password: &[u8]) -> bool {
        logins.contains(credential, credential.hash().unwrap(), password)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn only_the_identical_login_hits(
            cost in prop::sample::select(vec![Cost::Generated, Cost::Chosen]),
            id in 0..3_i64, other_id in 0..3_i64,
            salt in 0..3_u8, other_salt in 0..3_u8,
            password in prop::collection::vec(0..2_u8, 0..3),
            other_password in prop::collection::vec(0..2_u8, 0..3),
        ) {
            let logins = RecentSuccesses::new(100);
            let one = credential(id, salt, cost);
            remember(&logins, &one, &password);
            let same = (id, salt, &password) == (other_id, other_salt, &other_password);
            // What is kept in a record is of no use in another's place either.
            let remembered = one.remembered.clone();
            let other = Credential { remembered, ..credential(other_id, other_salt, cost) };
            prop_assert_eq!(hits(&logins, &other, &other_password), same);
            prop_assert!(hits(&logins, &one, &password));
        }

        #[test]
        fn what_is_kept_depends_on_the_process_key(password in prop::collection::vec(any::<u8>(), 0..40)) {
            let (one, other) = (RecentSuccesses::new(1), RecentSuccesses::new(1));
            let credential = credential(1, 1, Cost::Generated);
            let digest = |logins: &RecentSuccesses| {
                logins.digest(credential.id, credential.hash().unwrap(), &password)
            };
            prop_assert_ne!(digest(&one), digest(&other));
        }
    }

    #[test]
    fn without_a_success_nothing_hits() {
        for cost in [Cost::Generated, Cost::Chosen] {
            assert!(!hits(&RecentSuccesses::new(10), &credential(1, 1, cost), b""));
        }
    }

    #[test]
    fn it_is_bounded() {
        let logins = RecentSuccesses::new(100);
        for id in 0..10_000 {
            remember(&logins, &credential(id, 1, Cost::Chosen), b"password");
        }
        assert!(logins.entries.len() <= 200, "{}", logins.entries.len());
    }
}
