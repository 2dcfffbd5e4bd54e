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

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::credential::{Credential, CredentialId, Proof, Validity};
use crate::domain::foreign_hash::ForeignHash;
use crate::domain::password_hash::{Cost, PasswordHash};
use crate::registry::imported::ImportedHashes;
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

/// What names look like that seem to have an imported hash. A name changes its look when its kind of hash is gone from the fleet, and
/// else hardly ever: shares and counts are taken roughly, and each name draws for each kind apart.
#[derive(Default)]
struct Imported {
    /// How many of 2^32 names do.
    share: u32,
    /// By kind of hash: how often it is, and the look.
    looks: BTreeMap<String, (f64, Arc<[Credential]>)>,
}

/// Shares are rounded up to one of so many steps.
const STEPS: f64 = 64.0;

impl Imported {
    /// The look of a name, whose keyed hash is `random`.
    fn of(&self, key: &[u8; 32], name: &str, random: &[u8; 32]) -> Option<Arc<[Credential]>> {
        let [_, a, b, c, d, ..] = *random;
        if u32::from_be_bytes([a, b, c, d]) >= self.share {
            return None;
        }
        // The least wins: of two kinds the one that is twice as often wins for twice as many names.
        let draw = |(kind, (weight, look)): (&String, &(f64, Arc<[Credential]>))| {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(kind.as_bytes()).update(&[0]).update(name.as_bytes());
            let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
            let drawn = (f64::from(u32::from_be_bytes([a, b, c, d])) + 1.0) / 4_294_967_296.0;
            (-drawn.ln() / weight, look.clone())
        };
        self.looks.iter().map(draw).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, look)| look)
    }
}

impl Decoys {
    /// Decoys that every process with the same secret chooses alike.
    pub(super) fn new(shared_secret: &[u8]) -> Self {
        let key = Zeroizing::new(blake3::derive_key(KEY_CONTEXT, shared_secret));
        let looks = LOOKS.map(|costs| costs.iter().map(decoy).collect());
        // None of them zero: a password with U+0000 is like no other.
        let dummy_password = random_bytes::<32>().map(|byte| byte.max(1));
        Self { key, looks, imported: RwLock::default(), dummy_password }
    }

    /// From now on as much of the names as of the fleet looks like imported hashes. As those are replaced, fewer names do, and none
    /// that did not before.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of 0 to 1 of 2^32; from floats `as` saturates; counts need not be exact"
    )]
    pub(super) fn look_like(&self, imported: &ImportedHashes) {
        let mut counts: BTreeMap<String, (u64, &ForeignHash)> = BTreeMap::new();
        for some in &imported.hashes {
            counts.entry(some.example.description()).or_insert((0, &some.example)).0 += some.count;
        }
        let look = |(kind, (count, example)): (String, (u64, &ForeignHash))| {
            let hash = PasswordHash::Foreign(Box::new(example.unmatchable(random_bytes())));
            let look: Arc<[Credential]> = Arc::from([decoy_of(Proof::Imported(hash))]);
            (kind, (count.next_power_of_two() as f64, look))
        };
        let looks = counts.into_iter().map(look).collect();
        let share = (imported.share * STEPS).ceil() / STEPS;
        let share = (share * f64::from(u32::MAX)) as u32;
        *self.imported.write().unwrap_or_else(PoisonError::into_inner) = Imported { share, looks };
    }

    /// What is hashed in place of a password that must not matter: 256 random bits of this process, which
    /// belong to no hash.
    pub(super) fn dummy_password(&self) -> &[u8] {
        &self.dummy_password
    }

    /// The credentials that a name seems to have.
    pub(super) fn of(&self, name: &str) -> Arc<[Credential]> {
        let random = *blake3::keyed_hash(&self.key, name.as_bytes()).as_bytes();
        let imported = self.imported.read().unwrap_or_else(PoisonError::into_inner);
        let imported = imported.of(&self.key, name, &random);
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
    use crate::registry::imported::SameCost;

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

    const OFTEN: &str = "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW";
    const SELDOM: &str = "$sha1-salted$pos=prefix$YQ$AAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn mix(share: f64, kinds: &[(&str, u64)]) -> ImportedHashes {
        let same = |(text, count): &(&str, u64)| SameCost {
            example: ForeignHash::parse(text).ok().unwrap(),
            count: *count,
        };
        ImportedHashes { share, hashes: kinds.iter().map(same).collect() }
    }

    /// Which of 1,000 names look like which imported kind, and which like none.
    fn imported(decoys: &Decoys) -> Vec<Option<String>> {
        let look = |n| match decoys.of(&format!("n{n}")).first().map(|one| &one.proof) {
            Some(Proof::Imported(PasswordHash::Foreign(hash))) => Some(hash.description()),
            _ => None,
        };
        (0..1000).map(look).collect()
    }

    #[test]
    fn names_look_imported_as_the_fleet_is_and_seldom_change_their_looks() {
        let (one, other) = (Decoys::new(b"shared"), Decoys::new(b"shared"));
        one.look_like(&mix(0.5, &[(OFTEN, 3000), (SELDOM, 1000)]));
        // A replica that looked a little later, when some were replaced.
        other.look_like(&mix(0.497, &[(OFTEN, 2970), (SELDOM, 990)]));
        let first = imported(&one);
        assert_eq!(first, imported(&other));
        let count = |looks: &[Option<String>], kind: &str| {
            looks.iter().flatten().filter(|look| look.starts_with(kind)).count()
        };
        let (often, seldom) = (count(&first, "bcrypt"), count(&first, "sha1"));
        assert!((450..560).contains(&(often + seldom)), "{often} {seldom}");
        assert!((340..460).contains(&often), "a fifth of them are the other: {often}");
        one.look_like(&mix(0.25, &[(OFTEN, 500), (SELDOM, 1000)]));
        let later = imported(&one);
        let (left, come) = first.iter().zip(&later).fold((0, 0), |(left, come), pair| match pair {
            (Some(_), None) => (left + 1, come),
            (None, Some(_)) => (left, come + 1),
            _ => (left, come),
        });
        assert!(left > 200 && come == 0, "{left} {come}");
        one.look_like(&ImportedHashes::default());
        assert_eq!(imported(&one), vec![None; 1000]);
    }

    #[test]
    fn nobody_can_tell_a_look_without_the_secret() {
        let (one, other) = (Decoys::new(b"one"), Decoys::new(b"other"));
        let look = |decoys: &Decoys, n| looks_expensive(&decoys.of(&format!("n{n}")));
        assert!((0..1000).filter(|n| look(&one, *n) != look(&other, *n)).count() > 300);
    }
}
