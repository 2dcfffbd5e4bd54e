//! Made-up credentials for names that no device has, so that they take as long to refuse as a device.
//!
//! A device with a generated secret refuses in microseconds, one with a chosen password after argon2
//! at full cost. So an unknown name must look like the one or the other, and always the same: a keyed
//! hash of the name chooses. A few look like a device in the middle of a rotation, with two
//! credentials, so that twice the work proves nothing either.
//!
//! Where devices have imported hashes, as much of the names looks like those, in the costs that are there.
//!
//! The key comes from a secret that all replicas share and that outlives a restart. If each process
//! made up its own, a name whose kind differs between two replicas would be known not to exist.

use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::credential::{Credential, CredentialId, Proof, Validity};
use crate::domain::password_hash::{Cost, PasswordHash};
use crate::registry::imported::Mix;
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
    looks: [Arc<[Credential]>; 16],
    imported: RwLock<Imported>,
    dummy_password: [u8; 32],
}

/// What names look like that seem to have an imported hash.
#[derive(Default)]
struct Imported {
    /// How many of 2^32 names do.
    share: u32,
    /// Looks, each with how many of [`Self::all`] names that do have it.
    looks: Vec<(u64, Arc<[Credential]>)>,
    all: u64,
}

impl Imported {
    /// The look of a name whose keyed hash this is.
    fn of(&self, random: &[u8; 32]) -> Option<Arc<[Credential]>> {
        let [_, a, b, c, d, e, f, g, h, i, j, k, l, ..] = *random;
        if u32::from_be_bytes([a, b, c, d]) >= self.share {
            return None;
        }
        let mut place = u64::from_be_bytes([e, f, g, h, i, j, k, l]).checked_rem(self.all)?;
        self.looks.iter().find_map(|(count, look)| {
            let is_here = place < *count;
            place = place.saturating_sub(*count);
            is_here.then(|| look.clone())
        })
    }
}

impl Decoys {
    /// Decoys that every process with the same secret chooses alike.
    pub(super) fn new(shared_secret: &[u8]) -> Self {
        let key = Zeroizing::new(blake3::derive_key(KEY_CONTEXT, shared_secret));
        let looks = LOOKS.map(|costs| costs.iter().map(decoy).collect());
        Self { key, looks, imported: RwLock::default(), dummy_password: random_bytes() }
    }

    /// From now on as much of the names as of the fleet looks like imported hashes. As those are replaced, fewer names do, and none
    /// that did not before.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 0 to 1 of 2^32; from floats `as` saturates"
    )]
    pub(super) fn look_like(&self, mix: &Mix) {
        let look = |hash| [decoy_of(Proof::Imported(PasswordHash::Foreign(Box::new(hash))))];
        let looks: Vec<(u64, Arc<[Credential]>)> = mix
            .hashes
            .iter()
            .map(|some| (some.count, Arc::from(look(some.example.unmatchable(random_bytes())))))
            .collect();
        let all = looks.iter().map(|(count, _)| count).sum();
        let share = (mix.share * f64::from(u32::MAX)) as u32;
        *self.imported.write().unwrap_or_else(PoisonError::into_inner) =
            Imported { share, looks, all };
    }

    /// What is hashed in place of a password that must not matter: 256 random bits of this process, which
    /// belong to no hash.
    pub(super) fn dummy_password(&self) -> &[u8] {
        &self.dummy_password
    }

    /// The credentials that a name seems to have.
    pub(super) fn of(&self, name: &str) -> Arc<[Credential]> {
        let random = *blake3::keyed_hash(&self.key, name.as_bytes()).as_bytes();
        let imported = self.imported.read().unwrap_or_else(PoisonError::into_inner).of(&random);
        let [choice, ..] = random;
        let usual = || self.looks.get(usize::from(choice) % self.looks.len()).cloned();
        imported.or_else(usual).unwrap_or_default()
    }
}

/// No row has the id; nothing is ever remembered under it, because nothing matches.
fn decoy(cost: &Cost) -> Credential {
    let hash = PasswordHash::unmatchable(*cost, random_bytes());
    decoy_of(match cost {
        Cost::Generated => Proof::Secret(hash),
        Cost::Chosen => Proof::Password(hash),
    })
}

fn decoy_of(proof: Proof) -> Credential {
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
            let look = decoys.of(name);
            let hashes = look.iter().filter_map(Credential::hash);
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
        let expensive = (0..1000).filter(|n| looks_expensive(&decoys.of(&format!("n{n}")))).count();
        assert!((400..600).contains(&expensive), "{expensive}");
    }

    #[test]
    fn nobody_can_tell_a_look_without_the_secret() {
        let (one, other) = (Decoys::new(b"one"), Decoys::new(b"other"));
        let look = |decoys: &Decoys, n| looks_expensive(&decoys.of(&format!("n{n}")));
        assert!((0..1000).filter(|n| look(&one, *n) != look(&other, *n)).count() > 300);
    }
}
