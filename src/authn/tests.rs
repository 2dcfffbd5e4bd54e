mod credentials;
mod limited;
mod work;

use super::*;
use crate::domain::credential::{CertificateUse, Credential, CredentialId, Proof, Validity};
use crate::domain::device::DeviceId;
use crate::domain::password_hash::{Cost, PasswordHash, hash_password};
use crate::domain::rights::Rights;
use ed25519_dalek::SigningKey;

/// In the middle of a second.
pub(super) const NOW: Timestamp = Timestamp::constant(NOW_SECONDS, 500_000_000);
pub(super) const NOW_SECONDS: i64 = 1_800_000_000;

pub(super) fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

pub(super) fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(super) fn authenticator_with(queue: usize) -> Authenticator {
    authenticator_of(queue, false)
}

pub(super) fn authenticator_of(queue: usize, enabled: bool) -> Authenticator {
    let metrics = hash_threads::tests::metrics();
    let threads = HashLanes::start(1, queue, &metrics).unwrap();
    let tokens = TokenKeys::new("fleetgate", &[signing_key().verifying_key()]);
    let secret = Secret::new("webhook token".into());
    let settings = limits::LimitSettings { enabled, exempt: Vec::new() };
    let limits = Arc::new(Limits::new(settings, crate::metrics::Metrics::new().unwrap().limits));
    let recent_successes = RecentSuccesses::new(100);
    Authenticator::new(Clock::manual(NOW), tokens, threads, recent_successes, limits, &secret)
}

pub(super) fn authenticator() -> Authenticator {
    authenticator_with(64)
}

pub(super) fn hash(password: &str, cost: Cost) -> PasswordHash {
    PasswordHash::parse(&hash_password(password.as_bytes(), &[9; 16], cost)).unwrap()
}

pub(super) fn secret(password: &str) -> Credential {
    let proof = Proof::Secret(hash(password, Cost::Generated));
    Credential::new(CredentialId(1), Validity::ALWAYS, proof)
}

pub(super) fn chosen(password: &str) -> Credential {
    let proof = Proof::Password(hash(password, Cost::Chosen));
    Credential::new(CredentialId(2), Validity::ALWAYS, proof)
}

pub(super) fn token_row() -> Credential {
    Credential::new(CredentialId(3), Validity::ALWAYS, Proof::Token)
}

pub(super) fn certificate(name: &str, required: CertificateUse) -> Credential {
    let proof = Proof::Certificate { common_name: name.into(), required };
    Credential::new(CredentialId(4), Validity::ALWAYS, proof)
}

pub(super) fn expiring(credential: Credential, end: Timestamp) -> Credential {
    let until = ValidUntil::Timestamp(end);
    Credential { validity: Validity { until, ..credential.validity }, ..credential }
}

pub(super) fn beginning(credential: Credential, start: Timestamp) -> Credential {
    let not_before = Some(start);
    Credential { validity: Validity { not_before, ..credential.validity }, ..credential }
}

/// Valid in 1970 only.
pub(super) fn outdated(credential: Credential) -> Credential {
    expiring(beginning(credential, Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH + seconds(1))
}

pub(super) fn device(credentials: Vec<Credential>) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId(1),
        name: "thermo-1".parse().unwrap(),
        client_id: None,
        kind: "sensor".parse().unwrap(),
        enabled: true,
        credentials: credentials.into(),
        rights: Rights::default(),
    }
}

pub(super) fn login(password: &str) -> Login<'_> {
    let (client_id, user_name) = ("thermo-1", "thermo-1");
    let address = Address::of_peer("192.0.2.7");
    Login { client_id, user_name, password, certificate_common_name: None, address }
}

pub(super) fn with_certificate<'a>(password: &'a str, name: &'a str) -> Login<'a> {
    Login { certificate_common_name: Some(name), ..login(password) }
}

/// The end of an allowed login in Unix seconds, or the reason of a refusal.
pub(super) fn answer(decision: Decision) -> Result<Option<i64>, Refusal> {
    match decision {
        Decision::Allow(allowed) => Ok(allowed.expires_at.map(Timestamp::as_second)),
        Decision::Deny(refusal) => Err(refusal),
    }
}

pub(super) async fn decide(
    authenticator: &Authenticator,
    device: DeviceRecord,
    login: Login<'_>,
) -> Result<Option<i64>, Refusal> {
    answer(authenticator.decide(Some(Arc::new(device)), &login).await.unwrap())
}
