//! Who is let in, with what, and until when.

use super::*;

#[tokio::test]
async fn a_device_with_its_secret_or_password_is_allowed() {
    let authenticator = authenticator();
    for credential in [secret, chosen] {
        let allowed = decide(&authenticator, device(vec![credential("s3cret")]), login("s3cret"));
        assert_eq!(allowed.await, Ok(None));
        for wrong in ["", "S3cret", "s3cret ", "s3cre"] {
            let refused = decide(&authenticator, device(vec![credential("s3cret")]), login(wrong));
            assert_eq!(refused.await, Err(Refusal::WrongCredential), "{wrong:?}");
        }
    }
}

#[tokio::test]
async fn several_credentials_are_valid_side_by_side() {
    let authenticator = authenticator();
    let old = || expiring(chosen("old"), NOW + seconds(60));
    let rotation = || vec![secret("machine"), old(), chosen("new")];
    for (password, expected) in [
        ("machine", Ok(None)),
        ("old", Ok(Some(NOW_SECONDS + 60))),
        ("new", Ok(None)),
        ("other", Err(Refusal::WrongCredential)),
    ] {
        let decision = decide(&authenticator, device(rotation()), login(password)).await;
        assert_eq!(decision, expected, "{password}");
    }
}

#[tokio::test]
async fn an_unknown_name_is_refused() {
    let authenticator = authenticator();
    for name in ["", "nobody", "a/b", "thermo-2"] {
        let login = Login { user_name: name, ..login("s3cret") };
        let decision = authenticator.decide(None, &login).await.unwrap();
        assert_eq!(answer(decision), Err(Refusal::UnknownDevice));
    }
}

#[tokio::test]
async fn a_disabled_device_is_refused_whatever_it_shows() {
    let authenticator = authenticator();
    let disabled = |credentials| DeviceRecord { enabled: false, ..device(credentials) };
    let right = decide(&authenticator, disabled(vec![secret("s3cret")]), login("s3cret")).await;
    let wrong = decide(&authenticator, disabled(vec![secret("s3cret")]), login("other")).await;
    let shown = certificate("cn", CertificateUse::Alone);
    let certified = decide(&authenticator, disabled(vec![shown]), with_certificate("", "cn")).await;
    let token = issued("thermo-1", NOW_SECONDS);
    let with_token = decide(&authenticator, disabled(vec![token_row()]), login(&token)).await;
    for decision in [right, wrong, certified, with_token] {
        assert_eq!(decision, Err(Refusal::Disabled));
    }
}

#[tokio::test]
async fn another_client_id_is_refused_whatever_is_shown() {
    let authenticator = authenticator();
    for client_id in ["", "thermo-2", "thermo-1:1", "THERMO-1"] {
        let foreign = Login { client_id, ..login("s3cret") };
        let decision = decide(&authenticator, device(vec![secret("s3cret")]), foreign).await;
        assert_eq!(decision, Err(Refusal::ForeignClientId), "{client_id}");
        let certified = Login { client_id, ..with_certificate("", "cn") };
        let alone = device(vec![certificate("cn", CertificateUse::Alone)]);
        assert_eq!(decide(&authenticator, alone, certified).await, Err(Refusal::ForeignClientId));
    }
}

#[tokio::test]
async fn a_service_opens_several_clients_and_a_device_its_own_id() {
    let authenticator = authenticator();
    let service = || DeviceRecord { kind: "service".parse().unwrap(), ..device(vec![secret("s")]) };
    let second = Login { client_id: "thermo-1:2", ..login("s") };
    assert_eq!(decide(&authenticator, service(), second).await, Ok(None));

    let renamed =
        || DeviceRecord { client_id: Some("aa:bb".parse().unwrap()), ..device(vec![secret("s")]) };
    let own = Login { client_id: "aa:bb", ..login("s") };
    assert_eq!(decide(&authenticator, renamed(), own).await, Ok(None));
    let by_name = decide(&authenticator, renamed(), login("s")).await;
    assert_eq!(by_name, Err(Refusal::ForeignClientId));
}

#[tokio::test]
async fn a_credential_is_valid_within_its_validity_only() {
    let authenticator = authenticator();
    let microsecond = SignedDuration::from_micros(1);
    let half = SignedDuration::from_millis(500);
    let centuries = SignedDuration::from_hours(500 * 365 * 24);
    for credential in [secret as fn(&str) -> _, chosen] {
        for (start, expected) in
            [(NOW, Ok(None)), (NOW + microsecond, Err(Refusal::ExpiredCredential))]
        {
            let bounded = beginning(credential("s"), start);
            let decision = decide(&authenticator, device(vec![bounded]), login("s")).await;
            assert_eq!(decision, expected, "{start}");
        }
        for (end, expected) in [
            (NOW, Err(Refusal::ExpiredCredential)),
            // It ends within this very second: EMQX would get an end that is not in the future.
            (NOW + microsecond, Err(Refusal::ExpiredCredential)),
            (NOW + half, Ok(Some(NOW_SECONDS + 1))),
            (NOW + seconds(1) + half / 2, Ok(Some(NOW_SECONDS + 1))),
            (NOW + centuries, Ok(None)),
        ] {
            let bounded = expiring(credential("s"), end);
            let decision = decide(&authenticator, device(vec![bounded]), login("s")).await;
            assert_eq!(decision, expected, "{end}");
        }
    }
}

#[tokio::test]
async fn refusals_tell_the_operator_what_is_missing() {
    let authenticator = authenticator();
    let required = || certificate("cn", CertificateUse::Required);
    for (credentials, login, expected) in [
        (vec![], login("s"), Refusal::NoCredential),
        (vec![token_row()], login("s"), Refusal::WrongCredential),
        (vec![required()], login(""), Refusal::CertificateRequired),
        (vec![required()], with_certificate("s", "cn"), Refusal::WrongCredential),
        (vec![outdated(required())], with_certificate("", "cn"), Refusal::ExpiredCredential),
        (vec![secret("s"), required()], login("x"), Refusal::CertificateRequired),
    ] {
        let decision = decide(&authenticator, device(credentials), login).await;
        assert_eq!(decision, Err(expected));
    }
}

#[tokio::test]
async fn a_certificate_may_be_enough_whatever_the_password() {
    let authenticator = authenticator();
    let alone = || certificate("thermo-1.lab", CertificateUse::Alone);
    for password in ["", "wrong", "a.b.c", &issued("other", NOW_SECONDS)] {
        let credentials = vec![alone(), secret("s3cret")];
        let login = with_certificate(password, "thermo-1.lab");
        assert_eq!(decide(&authenticator, device(credentials), login).await, Ok(None));
    }
    let ending = expiring(alone(), NOW + seconds(10));
    let login = with_certificate("", "thermo-1.lab");
    assert_eq!(
        decide(&authenticator, device(vec![ending]), login).await,
        Ok(Some(NOW_SECONDS + 10))
    );
}

#[tokio::test]
async fn another_or_no_certificate_is_not_enough() {
    let authenticator = authenticator();
    for shown in ["", "undefined", "thermo-1.la", "THERMO-1.LAB", "thermo-1.lab "] {
        for stored in ["thermo-1.lab", "undefined"] {
            let credentials = vec![certificate(stored, CertificateUse::Alone)];
            let login = with_certificate("", shown);
            let decision = decide(&authenticator, device(credentials), login).await;
            assert_eq!(decision, Err(Refusal::CertificateRequired), "{shown} {stored}");
        }
    }
}

#[tokio::test]
async fn a_required_certificate_is_needed_beside_every_other_credential() {
    let authenticator = authenticator();
    let required = || certificate("cn", CertificateUse::Required);
    let token = issued("thermo-1", NOW_SECONDS);
    for password in ["s3cret", "chosen", &token] {
        let credentials = || vec![secret("s3cret"), chosen("chosen"), token_row(), required()];
        let without = decide(&authenticator, device(credentials()), login(password)).await;
        assert_eq!(without, Err(Refusal::CertificateRequired), "{password}");
        let with = with_certificate(password, "cn");
        assert!(decide(&authenticator, device(credentials()), with).await.is_ok(), "{password}");
        let other = with_certificate(password, "other");
        let other = decide(&authenticator, device(credentials()), other).await;
        assert_eq!(other, Err(Refusal::CertificateRequired), "{password}");
    }
}

#[tokio::test]
async fn an_expired_required_certificate_is_still_required() {
    let authenticator = authenticator();
    let expired = || outdated(certificate("cn", CertificateUse::Required));
    let own = || device(vec![secret("s3cret"), expired()]);
    let shown = decide(&authenticator, own(), with_certificate("s3cret", "cn")).await;
    assert_eq!(shown, Err(Refusal::ExpiredCredential));
    let none = decide(&authenticator, own(), login("s3cret")).await;
    assert_eq!(none, Err(Refusal::CertificateRequired));
}

#[tokio::test]
async fn the_earliest_end_of_what_was_used_ends_the_session() {
    let authenticator = authenticator();
    let credentials = |secret_end: i64, certificate_end: i64| {
        let required = certificate("cn", CertificateUse::Required);
        vec![
            expiring(secret("s"), NOW + seconds(secret_end)),
            expiring(required, NOW + seconds(certificate_end)),
        ]
    };
    for (secret_end, certificate_end, earliest) in [(10, 20, 10), (20, 10, 10)] {
        let device = device(credentials(secret_end, certificate_end));
        let decision = decide(&authenticator, device, with_certificate("s", "cn")).await;
        assert_eq!(decision, Ok(Some(NOW_SECONDS + earliest)));
    }
}

#[tokio::test]
async fn a_device_that_accepts_tokens_is_allowed_by_its_own() {
    let authenticator = authenticator();
    let own = issued("thermo-1", NOW_SECONDS);
    let decision = decide(&authenticator, device(vec![token_row()]), login(&own)).await;
    assert_eq!(decision, Ok(Some(NOW_SECONDS + 100)));

    let other = issued("thermo-2", NOW_SECONDS);
    let decision = decide(&authenticator, device(vec![token_row()]), login(&other)).await;
    assert_eq!(decision, Err(Refusal::TokenOfOtherDevice));

    let decision = decide(&authenticator, device(vec![secret("s")]), login(&own)).await;
    assert_eq!(decision, Err(Refusal::TokenRevoked));
}

#[tokio::test]
async fn a_token_is_valid_only_if_it_was_issued_after_the_credential() {
    let authenticator = authenticator();
    let issued_at = Timestamp::from_second(NOW_SECONDS - 50).unwrap();
    let own = issued("thermo-1", NOW_SECONDS - 50);
    let early = || beginning(token_row(), Timestamp::UNIX_EPOCH);
    for (row, expected) in [
        (beginning(token_row(), issued_at), Ok(Some(NOW_SECONDS + 50))),
        (
            beginning(token_row(), issued_at + SignedDuration::from_micros(1)),
            Err(Refusal::TokenRevoked),
        ),
        (expiring(early(), NOW), Err(Refusal::TokenRevoked)),
        (expiring(early(), NOW + seconds(10)), Ok(Some(NOW_SECONDS + 10))),
    ] {
        assert_eq!(decide(&authenticator, device(vec![row]), login(&own)).await, expected);
    }
}

#[tokio::test]
async fn a_password_in_the_shape_of_a_token_is_only_a_token() {
    let authenticator = authenticator();
    let shaped = "eyJhbGciOiJub25lIn0.e30.";
    let decision = decide(&authenticator, device(vec![secret(shaped)]), login(shaped)).await;
    assert_eq!(decision, Err(Refusal::Token(token::TokenError::Algorithm)));
    let dotted = "correct.horse.battery";
    assert_eq!(decide(&authenticator, device(vec![secret(dotted)]), login(dotted)).await, Ok(None));
}

/// A token that ends 100 seconds after it was issued.
fn issued(device: &str, issued_at: i64) -> String {
    let issued_at = Timestamp::from_second(issued_at).unwrap();
    token::issue(&signing_key(), "fleetgate", device, issued_at, issued_at + seconds(100))
}

#[tokio::test]
async fn a_session_ends_with_its_credential_or_when_it_lasted_long_enough() {
    let authenticator = authenticator().with_max_session(Some(Duration::from_millis(60_900)));
    for (credential, expected) in [
        (secret("s"), Ok(Some(NOW_SECONDS + 60))),
        (expiring(secret("s"), NOW + seconds(61)), Ok(Some(NOW_SECONDS + 60))),
        (expiring(secret("s"), NOW + seconds(59)), Ok(Some(NOW_SECONDS + 59))),
        (expiring(secret("s"), NOW), Err(Refusal::ExpiredCredential)),
    ] {
        let decision = decide(&authenticator, device(vec![credential]), login("s")).await;
        assert_eq!(decision, expected);
    }
}
