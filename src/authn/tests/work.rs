//! What a login costs, and what changes while it is being decided.

use super::*;
use std::cell::Cell;
use std::collections::HashSet;

/// Hashes computed so far: on the spot, and on the hash threads.
fn hashes(authenticator: &Authenticator) -> (u64, u64) {
    let metrics = authenticator.verifier.hash_threads.metrics();
    (metrics.generated.get(), metrics.duration.get_sample_count())
}

async fn cost(
    authenticator: &Authenticator,
    record: Option<DeviceRecord>,
    login: Login<'_>,
) -> (u64, u64) {
    let before = hashes(authenticator);
    authenticator.decide(record.map(Arc::new), &login).await.unwrap();
    let after = hashes(authenticator);
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test]
async fn wrong_disabled_and_foreign_cost_the_same() {
    let authenticator = authenticator();
    for (credential, expected) in [(secret as fn(&str) -> _, (1, 0)), (chosen, (0, 1))] {
        let own = || device(vec![credential("right")]);
        let disabled = || DeviceRecord { enabled: false, ..own() };
        let needing = || {
            let required = certificate("cn", CertificateUse::Required);
            device(vec![credential("right"), required])
        };
        for password in ["", "wrong"] {
            let foreign = Login { client_id: "thermo-2", ..login(password) };
            assert_eq!(cost(&authenticator, Some(own()), login(password)).await, expected);
            assert_eq!(cost(&authenticator, Some(disabled()), login(password)).await, expected);
            assert_eq!(cost(&authenticator, Some(own()), foreign).await, expected);
            assert_eq!(cost(&authenticator, Some(needing()), login(password)).await, expected);
        }
    }
}

/// Or else a fast second answer would tell that the guess was right, to one who cannot log in.
#[tokio::test]
async fn a_right_guess_that_is_refused_costs_what_a_wrong_one_costs() {
    let authenticator = authenticator();
    let rotating = || vec![secret("generated"), chosen("right"), chosen("newer")];
    let first = cost(&authenticator, Some(device(rotating())), login("right")).await;
    assert_eq!(first, (1, 1), "the device itself logs in and is remembered");
    let mut guarded = rotating();
    guarded.push(certificate("cn", CertificateUse::Required));
    let guarded = Arc::new(device(guarded));
    let disabled = Arc::new(DeviceRecord { enabled: false, ..device(rotating()) });
    let foreign = Arc::new(device(rotating()));
    for password in ["wrong", "right", "right", "newer", "newer", "generated"] {
        let stranger = Login { client_id: "thermo-2", ..login(password) };
        for (record, login) in
            [(&guarded, login(password)), (&disabled, login(password)), (&foreign, stranger)]
        {
            let before = hashes(&authenticator);
            authenticator.decide(Some(Arc::clone(record)), &login).await.unwrap();
            let after = hashes(&authenticator);
            assert_eq!((after.0 - before.0, after.1 - before.1), (1, 2), "{password}");
        }
    }
}

#[tokio::test]
async fn a_name_without_usable_password_costs_what_the_unknown_name_costs() {
    let authenticator = authenticator();
    let mut seen = HashSet::new();
    for number in 0..24 {
        let name = format!("name-{number}");
        let asked = |password| Login { user_name: &name, client_id: &name, ..login(password) };
        let unknown = cost(&authenticator, None, asked("wrong")).await;
        assert_ne!(unknown, (0, 0));
        assert_eq!(cost(&authenticator, None, asked("")).await, unknown);
        for credentials in [
            vec![],
            vec![token_row()],
            vec![certificate("cn", CertificateUse::Alone)],
            vec![outdated(secret("wrong"))],
        ] {
            let named = DeviceRecord { name: name.parse().unwrap(), ..device(credentials) };
            assert_eq!(cost(&authenticator, Some(named), asked("wrong")).await, unknown);
        }
        seen.insert(unknown);
    }
    assert!(seen.contains(&(1, 0)) && seen.contains(&(0, 1)), "{seen:?}");
}

#[tokio::test]
async fn tokens_cost_no_hash_for_anybody() {
    let authenticator = authenticator();
    let token = token::issue(&signing_key(), "fleetgate", "x", NOW, NOW + seconds(1));
    for record in [None, Some(device(vec![chosen("s")])), Some(device(vec![token_row()]))] {
        assert_eq!(cost(&authenticator, record, login(&token)).await, (0, 0));
    }
}

#[tokio::test]
async fn the_second_login_with_a_chosen_password_costs_no_hash() {
    let authenticator = authenticator();
    let own = || device(vec![chosen("right")]);
    assert_eq!(cost(&authenticator, Some(own()), login("right")).await, (0, 1));
    assert_eq!(cost(&authenticator, Some(own()), login("right")).await, (0, 0));
    assert_eq!(cost(&authenticator, Some(own()), login("wrong")).await, (0, 1));
    // The hash was changed, back to the same password even: argon2 again.
    let other = PasswordHash::parse(&hash_password(b"right", &[8; 16], Cost::Chosen)).unwrap();
    let changed = Credential { proof: Proof::Password(other), ..chosen("right") };
    assert_eq!(cost(&authenticator, Some(device(vec![changed])), login("right")).await, (0, 1));
    // A hit does not outlive the credential.
    let expired = device(vec![outdated(chosen("right"))]);
    let decision = decide(&authenticator, expired, login("right")).await;
    assert_eq!(decision, Err(Refusal::ExpiredCredential));
}

#[tokio::test]
async fn a_generated_secret_is_hashed_once_a_record() {
    let authenticator = authenticator();
    let own = Arc::new(device(vec![secret("older"), secret("right")]));
    let hashed = async |password, client_id| {
        let before = hashes(&authenticator);
        let login = Login { client_id, ..login(password) };
        let decision = authenticator.decide(Some(Arc::clone(&own)), &login).await.unwrap();
        (hashes(&authenticator).0 - before.0, answer(decision).is_ok())
    };
    assert_eq!(hashed("right", "thermo-1").await, (2, true));
    assert_eq!(hashed("right", "thermo-1").await, (0, true));
    assert_eq!(hashed("wrong", "thermo-1").await, (2, false));
    assert_eq!(hashed("right", "thermo-2").await, (2, false), "as a wrong one");
    let changed = Some(device(vec![secret("older"), secret("right")]));
    assert_eq!(cost(&authenticator, changed, login("right")).await, (2, 0));
}

#[tokio::test]
async fn a_cheap_match_spares_the_costly_hashes() {
    let authenticator = authenticator();
    let both = || device(vec![chosen("chosen"), secret("generated")]);
    assert_eq!(cost(&authenticator, Some(both()), login("generated")).await, (1, 0));
    assert_eq!(cost(&authenticator, Some(both()), login("wrong")).await, (1, 1));
}

#[tokio::test]
async fn a_secret_with_a_costly_hash_goes_to_the_hash_threads() {
    let authenticator = authenticator();
    let labelled = Credential { proof: Proof::Secret(hash("s", Cost::Chosen)), ..secret("s") };
    assert_eq!(cost(&authenticator, Some(device(vec![labelled])), login("s")).await, (0, 1));
}

#[tokio::test]
async fn a_storm_is_shed_and_does_not_stop_generated_secrets() {
    let authenticator = authenticator_with(0);
    let stormy = authenticator.decide(Some(Arc::new(device(vec![chosen("x")]))), &login("x")).await;
    assert!(matches!(stormy, Err(LoginError::Overloaded)));
    assert_eq!(authenticator.verifier.hash_threads.metrics().shed.get(), 1);
    assert_eq!(decide(&authenticator, device(vec![secret("s")]), login("s")).await, Ok(None));
    // A name that nobody has is shed like one that somebody has.
    let mut outcomes = HashSet::new();
    for number in 0..64 {
        let name = format!("name-{number}");
        let login = Login { user_name: &name, ..login("x") };
        outcomes.insert(authenticator.decide(None, &login).await.is_ok());
    }
    assert_eq!(outcomes.len(), 2);
}

#[tokio::test]
async fn a_login_that_waits_in_the_queue_blocks_nobody() {
    let authenticator = authenticator();
    let waiting = Arc::new(device(vec![chosen("x")]));
    let slow_login = login("x");
    let slow = authenticator.decide(Some(waiting), &slow_login);
    let mut slow = std::pin::pin!(slow);
    // One poll puts it into the queue.
    assert!(futures_util::poll!(slow.as_mut()).is_pending());
    assert_eq!(decide(&authenticator, device(vec![secret("s")]), login("s")).await, Ok(None));
    assert_eq!(answer(slow.await.unwrap()), Ok(None));
}

/// A look-up that finds one record after the other; a look is numbered from 0.
fn looks(
    records: Vec<Option<DeviceRecord>>,
) -> impl AsyncFn() -> Result<(usize, Option<Arc<DeviceRecord>>), LoginError> {
    let records: Vec<_> = records.into_iter().map(|record| record.map(Arc::new)).collect();
    let looked = Cell::new(0);
    async move || {
        let look = looked.get();
        looked.set(look + 1);
        Ok((look, records[look].clone()))
    }
}

#[tokio::test]
async fn a_change_while_the_password_is_hashed_decides() {
    let authenticator = authenticator();
    let own = || device(vec![chosen("right")]);
    for (then, expected) in [
        (Some(device(vec![])), Err(Refusal::NoCredential)),
        (Some(device(vec![chosen("other")])), Err(Refusal::WrongCredential)),
        (Some(DeviceRecord { enabled: false, ..own() }), Err(Refusal::Disabled)),
        (None, Err(Refusal::UnknownDevice)),
        (Some(own()), Ok(None)),
    ] {
        let look = looks(vec![Some(own()), then]);
        let may_be_given = |_: &DeviceRecord, look| look == 1;
        let login = login("right");
        let decision =
            authenticator.decide_until_unchanged(look, may_be_given, &login).await.unwrap();
        assert_eq!(answer(decision), expected);
    }
}

#[tokio::test]
async fn a_device_that_never_settles_is_a_failure() {
    let authenticator = authenticator();
    let look = async || Ok(((), Some(Arc::new(device(vec![secret("s")])))));
    let decision = authenticator.decide_until_unchanged(look, |_, ()| false, &login("s")).await;
    assert!(matches!(decision, Err(LoginError::Unsettled)));
}
