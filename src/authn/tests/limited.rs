//! Limits on guessing: whom they slow, and that they tell nothing.

use super::*;

async fn asked(
    authenticator: &Authenticator,
    record: Option<DeviceRecord>,
    login: Login<'_>,
) -> Result<Option<i64>, Refusal> {
    answer(authenticator.decide(record.map(Arc::new), &login).await.unwrap())
}

#[tokio::test]
async fn a_wrong_chosen_password_makes_further_ones_wait() {
    let authenticator = authenticator_of(8, true);
    let own = || Some(device(vec![chosen("right"), secret("generated"), token_row()]));
    assert_eq!(asked(&authenticator, own(), login("wrong")).await, Err(Refusal::WrongCredential));
    assert_eq!(asked(&authenticator, own(), login("right")).await, Err(Refusal::TooManyGuesses));
    // What nobody can guess never waits.
    assert_eq!(asked(&authenticator, own(), login("generated")).await, Ok(None));
    let token = token::issue(&signing_key(), "fleetgate", "thermo-1", NOW, NOW + seconds(9));
    assert!(asked(&authenticator, own(), login(&token)).await.is_ok());
    let alone = device(vec![chosen("right"), certificate("cn", CertificateUse::Alone)]);
    assert_eq!(asked(&authenticator, Some(alone), with_certificate("", "cn")).await, Ok(None));
    let elsewhere = Login { address: Address::of_peer("192.0.2.8"), ..login("right") };
    assert_eq!(asked(&authenticator, own(), elsewhere).await, Ok(None), "nor the device elsewhere");
    // Found right lately: the digest answers, here too.
    assert_eq!(asked(&authenticator, own(), login("right")).await, Ok(None));
}

#[tokio::test]
async fn a_name_that_nobody_has_is_limited_like_a_device() {
    let mut kinds = std::collections::HashSet::new();
    for number in 0..10 {
        let name = format!("name-{number}");
        let authenticator = authenticator_of(8, true);
        let own = |credentials| DeviceRecord { name: name.parse().unwrap(), ..device(credentials) };
        let credentials = || {
            let look = authenticator.verifier.decoys.of(&name);
            let looks = look.iter().filter_map(Credential::hash);
            let like = |hash: &PasswordHash| match hash.is_minimum_cost() {
                true => secret("right"),
                false => chosen("right"),
            };
            looks.map(like).collect::<Vec<_>>()
        };
        let disabled = || DeviceRecord { enabled: false, ..own(credentials()) };
        let mut seen = Vec::new();
        for record in [
            (&|| None) as &dyn Fn() -> Option<DeviceRecord>,
            &|| Some(own(credentials())),
            &|| Some(disabled()),
            &|| Some(own(vec![])),
        ] {
            let authenticator = authenticator_of(8, true);
            let metrics = authenticator.verifier.hash_threads.metrics();
            let mut hashed = Vec::new();
            for password in ["a", "a", "b", "c", "right", "a", ""] {
                let login = Login { user_name: &name, client_id: "foreign", ..login(password) };
                assert!(asked(&authenticator, record(), login).await.is_err());
                hashed.push(metrics.duration.get_sample_count());
            }
            seen.push((hashed, authenticator.limits.locked(NOW)));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {seen:?}");
        kinds.insert(seen.remove(0).1);
    }
    assert_eq!(kinds.len(), 2, "some lock, some never do: {kinds:?}");
}

#[tokio::test]
async fn a_device_that_is_enabled_again_is_let_in() {
    let authenticator = authenticator_of(8, true);
    let own = |enabled| Some(DeviceRecord { enabled, ..device(vec![chosen("right")]) });
    assert_eq!(asked(&authenticator, own(false), login("right")).await, Err(Refusal::Disabled));
    authenticator.clock.advance(Duration::from_secs(1));
    assert_eq!(asked(&authenticator, own(true), login("right")).await, Ok(None));
}

#[tokio::test]
async fn a_name_that_no_device_can_have_is_worth_no_hash() {
    let authenticator = authenticator_of(8, true);
    for number in 0..40 {
        let name = format!("no/name-{number}");
        let login = Login { user_name: &name, client_id: &name, ..login("x") };
        assert_eq!(asked(&authenticator, None, login).await, Err(Refusal::UnknownDevice));
    }
    assert_eq!(authenticator.verifier.hash_threads.metrics().duration.get_sample_count(), 0);
}
