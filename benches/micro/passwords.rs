//! A password's check: argon2 at both costs, and the digest that spares it.

use std::hint::black_box;

use criterion::Criterion;
use fleetgate::authn::recent_successes::RecentSuccesses;
use fleetgate::domain::credential::{Credential, CredentialId, Proof, Validity};
use fleetgate::domain::password_hash::{Cost, HashMemory, PasswordHash, hash_password};
use fleetgate::secret::{Secret, random_bytes};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("passwords");
    let secret = Secret::generate();
    let secret = secret.expose().as_bytes();
    for (name, cost) in [("generated", Cost::Generated), ("chosen", Cost::Chosen)] {
        let hash = hash_password(secret, &random_bytes(), cost);
        let hash = || PasswordHash::parse(&hash).unwrap();
        let mut memory = HashMemory::default();
        group.bench_function(format!("argon2, {name}"), |bencher| {
            let hash = hash();
            bencher.iter(|| match cost {
                Cost::Generated => assert!(hash.verify(black_box(secret))),
                Cost::Chosen => assert!(hash.verify_with(black_box(secret), &mut memory)),
            });
        });
        group.bench_function(format!("verified login, {name}"), |bencher| {
            let logins = RecentSuccesses::new(1_000);
            let proof = Proof::Secret(hash());
            let credential = Credential::new(CredentialId(1), Validity::ALWAYS, proof);
            let hash = credential.hash().unwrap();
            logins.remember(&credential, hash, secret);
            bencher.iter(|| assert!(logins.contains(&credential, hash, black_box(secret))));
        });
    }
}
