//! Made-up credentials for names that no device has, so that they take as long to refuse as a device.
//!
//! A device with a generated secret refuses in microseconds, one with a chosen password after argon2
//! at full cost. So an unknown name must look like the one or the other, and always the same: a keyed
//! hash of the name chooses. A few look like a device in the middle of a rotation, with two
//! credentials, so that twice the work proves nothing either.
//!
//! The key comes from a secret that all replicas share and that outlives a restart. If each process
//! made up its own, a name whose kind differs between two replicas would be known not to exist.

use crate::domain::credential::{Credential, CredentialId, Proof, Validity};
use crate::domain::password_hash::{Cost, PasswordHash};
use crate::secret::random_bytes;
use zeroize::Zeroizing;

const KEY_CONTEXT: &str = "fleetgate 2026-11 decoy of an unknown name";

/// What decoys look like, each as often as it stands here.
const LOOKS: [&[Cost]; 16] = {
    const SECRET: &[Cost] = &[Cost::Generated];
    const PASSWORD: &[Cost] = &[Cost::Chosen];
    [
        SECRET,
        SECRET,
        SECRET,
        SECRET,
        SECRET,
        SECRET,
        PASSWORD,
        PASSWORD,
        PASSWORD,
        PASSWORD,
        PASSWORD,
        PASSWORD,
        &[Cost::Generated, Cost::Generated],
        &[Cost::Generated, Cost::Generated],
        &[Cost::Chosen, Cost::Chosen],
        &[Cost::Generated, Cost::Chosen],
    ]
};

/// The decoys of one deployment.
pub(super) struct Decoys {
    key: Zeroizing<[u8; 32]>,
    looks: [Box<[Credential]>; 16],
    dummy_password: [u8; 32],
}

impl Decoys {
    /// Decoys that every process with the same secret chooses alike.
    pub(super) fn new(shared_secret: &[u8]) -> Self {
        let key = Zeroizing::new(blake3::derive_key(KEY_CONTEXT, shared_secret));
        let looks = LOOKS.map(|costs| costs.iter().map(decoy).collect());
        Self { key, looks, dummy_password: random_bytes() }
    }

    /// What is hashed in place of a password that must not matter: 256 random bits of this process, which
    /// belong to no hash.
    pub(super) fn dummy_password(&self) -> &[u8] {
        &self.dummy_password
    }

    /// The credentials that a name seems to have.
    pub(super) fn of(&self, name: &str) -> &[Credential] {
        let [choice, ..] = *blake3::keyed_hash(&self.key, name.as_bytes()).as_bytes();
        self.looks.get(usize::from(choice) % self.looks.len()).map_or(&[], |look| look)
    }
}

/// No row has the id; nothing is ever remembered under it, because nothing matches.
fn decoy(cost: &Cost) -> Credential {
    let hash = PasswordHash::unmatchable(*cost, random_bytes());
    let proof = match cost {
        Cost::Generated => Proof::Secret(hash),
        Cost::Chosen => Proof::Password(hash),
    };
    Credential::new(CredentialId(-1), Validity::ALWAYS, proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks_expensive(credentials: &[Credential]) -> bool {
        credentials.iter().filter_map(Credential::hash).any(|hash| !hash.is_minimum_cost())
    }

    #[test]
    fn a_name_always_looks_the_same_in_every_process_with_the_secret() {
        let (one, other) = (Decoys::new(b"shared"), Decoys::new(b"shared"));
        let look = |decoys: &Decoys, name: &str| {
            let hashes = decoys.of(name).iter().filter_map(Credential::hash);
            hashes.map(PasswordHash::is_minimum_cost).collect::<Vec<_>>()
        };
        for number in 0..200 {
            let name = format!("name-{number}");
            assert_eq!(look(&one, &name), look(&other, &name));
            assert!(!one.of(&name).is_empty());
        }
    }

    #[test]
    fn about_half_of_the_names_look_like_chosen_passwords() {
        let decoys = Decoys::new(b"shared");
        let expensive = (0..1000).filter(|n| looks_expensive(decoys.of(&format!("n{n}")))).count();
        assert!((400..600).contains(&expensive), "{expensive}");
    }

    #[test]
    fn nobody_can_tell_a_look_without_the_secret() {
        let (one, other) = (Decoys::new(b"one"), Decoys::new(b"other"));
        let look = |decoys: &Decoys, n| looks_expensive(decoys.of(&format!("n{n}")));
        assert!((0..1000).filter(|n| look(&one, *n) != look(&other, *n)).count() > 300);
    }
}
