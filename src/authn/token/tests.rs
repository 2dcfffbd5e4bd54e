use super::claims::LAST_SECOND;
use super::*;
use base64ct::{Base64UrlUnpadded, Encoding};
use ed25519_dalek::Signer;
use serde_json::{Value, json};

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn keys() -> TokenKeys {
    TokenKeys::new("fleetgate", &[key(1).verifying_key(), key(2).verifying_key()])
}

fn encode(part: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(part)
}

/// A token made by hand, so that nothing of the code under test decides what is in it.
fn token(header: &Value, claims: &Value, signer: &SigningKey) -> String {
    let message = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let signature = encode(&signer.sign(message.as_bytes()).to_bytes());
    format!("{message}.{signature}")
}

fn header(signer: &SigningKey) -> Value {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": key_id(&signer.verifying_key())})
}

fn claims() -> Value {
    json!({"sub": "thermo-1", "aud": "fleetgate", "iat": NOW - 10, "exp": NOW + 10})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn verify(token: &str) -> Result<TokenClaims, TokenError> {
    keys().verify(token, at(NOW))
}

fn check(claims: &Value) -> Result<TokenClaims, TokenError> {
    verify(&token(&header(&key(1)), claims, &key(1)))
}

#[test]
fn an_issued_token_is_accepted_from_either_key() {
    for signer in [key(1), key(2)] {
        let token = issue(&signer, "fleetgate", "thermo-1", at(NOW - 10), at(NOW + 10));
        assert!(has_token_shape(&token));
        let (issued_at, expires_at) = (at(NOW - 10), at(NOW + 10));
        let expected = TokenClaims { device: "thermo-1".into(), issued_at, expires_at };
        assert_eq!(verify(&token), Ok(expected));
    }
}

#[test]
fn a_token_of_another_key_is_refused() {
    let foreign = issue(&key(3), "fleetgate", "thermo-1", at(NOW - 10), at(NOW + 10));
    assert_eq!(verify(&foreign), Err(TokenError::UnknownKey));
    assert_eq!(verify(&token(&header(&key(1)), &claims(), &key(2))), Err(TokenError::Signature));
    assert_eq!(verify(&token(&header(&key(1)), &claims(), &key(3))), Err(TokenError::Signature));
    let without_kid = json!({"alg": "EdDSA", "typ": "JWT"});
    assert_eq!(verify(&token(&without_kid, &claims(), &key(1))), Err(TokenError::UnknownKey));
}

#[test]
fn no_other_algorithm_is_accepted() {
    let kid = key_id(&key(1).verifying_key());
    for alg in ["none", "None", "HS256", "HS512", "RS256", "ES256", "eddsa", "Ed25519", ""] {
        let header = json!({"alg": alg, "kid": kid});
        let signed = token(&header, &claims(), &key(1));
        assert!(has_token_shape(&signed));
        assert_eq!(verify(&signed), Err(TokenError::Algorithm), "{alg}");
        let (message, _) = signed.rsplit_once('.').unwrap();
        assert_eq!(verify(&format!("{message}.")), Err(TokenError::Algorithm), "{alg}");
    }
}

/// HMAC-SHA256 with the raw public key of `key(1)` as its secret, made by Python's `hmac` over
/// `{"alg":"HS256","kid":...}` and the claims below.
#[test]
fn the_public_key_is_no_hmac_secret() {
    let public: String =
        key(1).verifying_key().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(public, "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c");
    assert_eq!(
        verify(concat!(
            "eyJhbGciOiJIUzI1NiIsImtpZCI6IjgzNTYxYWRiMzk4ZmQ4N2YifQ.eyJzdWIiOiJ0aGVybW8tMSIsI",
            "mF1ZCI6ImZsZWV0Z2F0ZSIsImlhdCI6MTc5OTk5OTk5MCwiZXhwIjoxODAwMDAwMDEwfQ.8tP0NfDSyZ",
            "E3Jwde_VzGUvfUd3FJVzlwuc4GIJ9I-DE"
        )),
        Err(TokenError::Algorithm)
    );
    assert_eq!(
        verify(concat!(
            "eyJhbGciOiJFZERTQSIsImtpZCI6IjgzNTYxYWRiMzk4ZmQ4N2YifQ.eyJzdWIiOiJ0aGVybW8tMSIsI",
            "mF1ZCI6ImZsZWV0Z2F0ZSIsImlhdCI6MTc5OTk5OTk5MCwiZXhwIjoxODAwMDAwMDEwfQ.Vw3QQYdC8w",
            "MtogbeBY2NPr5VGHGS2nkG0ybdrmgLsyU"
        )),
        Err(TokenError::Signature)
    );
}

#[test]
fn a_changed_token_is_refused() {
    let good = token(&header(&key(1)), &claims(), &key(1));
    let parts: Vec<_> = good.split('.').collect();
    let other = encode(with("sub", json!("relay-1")).to_string().as_bytes());
    let forged = format!("{}.{other}.{}", parts[0], parts[2]);
    assert_eq!(verify(&forged), Err(TokenError::Signature));
    let cut = format!("{}.{}.{}", parts[0], parts[1], &parts[2][..84]);
    assert!(verify(&cut).is_err());
    for bytes in [&[][..], &[0; 63], &[0; 64], &[0; 65]] {
        let signed = format!("{}.{}.{}", parts[0], parts[1], encode(bytes));
        assert_eq!(verify(&signed), Err(TokenError::Signature), "{} bytes", bytes.len());
    }
}

#[test]
fn times_are_kept_to_the_second_without_leeway() {
    assert_eq!(check(&with("exp", json!(NOW))), Err(TokenError::Expired));
    assert_eq!(check(&with("exp", json!(NOW - 1))), Err(TokenError::Expired));
    assert_eq!(check(&with("exp", json!(NOW + 1))).unwrap().expires_at, at(NOW + 1));
    assert_eq!(check(&with("nbf", json!(NOW + 1))), Err(TokenError::NotYetValid));
    assert!(check(&with("nbf", json!(NOW))).is_ok());
    assert!(check(&with("nbf", Value::Null)).is_ok());
}

#[test]
fn a_token_issued_in_the_future_is_refused() {
    let issued =
        |iat: i64| check(&json!({"sub": "d", "aud": "fleetgate", "iat": iat, "exp": LAST_SECOND}));
    assert!(issued(0).is_ok());
    assert!(issued(NOW).is_ok());
    let leeway = CLOCK_LEEWAY.as_secs();
    assert!(issued(NOW + leeway).is_ok());
    for iat in [NOW + leeway + 1, NOW + 10 * 366 * 86_400, LAST_SECOND] {
        assert_eq!(issued(iat), Err(TokenError::IssuedInFuture), "{iat}");
    }
}

#[test]
fn a_token_that_expires_before_it_is_issued_is_refused() {
    let dated = |iat: i64, exp: i64| {
        check(&json!({"sub": "d", "aud": "fleetgate", "iat": iat, "exp": exp}))
    };
    assert_eq!(dated(NOW + 30, NOW + 20), Err(TokenError::NeverValid));
    assert_eq!(dated(NOW + 30, NOW + 30), Err(TokenError::NeverValid));
    assert!(dated(NOW + 30, NOW + 31).is_ok());
}

#[test]
fn dates_may_have_a_fraction_which_is_cut_off() {
    assert_eq!(check(&with("exp", json!(NOW as f64 + 1.9))).unwrap().expires_at, at(NOW + 1));
    assert_eq!(check(&with("exp", json!(NOW as f64 + 0.9))), Err(TokenError::Expired));
    assert_eq!(check(&with("iat", json!(NOW as f64 - 0.5))).unwrap().issued_at, at(NOW - 1));
}

#[test]
fn invalid_dates_are_refused() {
    for date in
        [json!("1800000100"), json!(-1), json!(1e300), json!(u64::MAX), json!(LAST_SECOND + 1)]
    {
        assert_eq!(check(&with("exp", date.clone())), Err(TokenError::Malformed), "{date}");
        assert_eq!(check(&with("iat", date.clone())), Err(TokenError::Malformed), "{date}");
        assert_eq!(check(&with("nbf", date.clone())), Err(TokenError::Malformed), "{date}");
    }
}

#[test]
fn the_claims_are_all_required() {
    for missing in ["sub", "aud", "iat", "exp"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(check(&claims), Err(TokenError::Malformed), "{missing}");
        assert_eq!(check(&with(missing, Value::Null)), Err(TokenError::Malformed), "{missing}");
    }
}

#[test]
fn the_audience_must_be_ours() {
    assert!(check(&with("aud", json!(["other", "fleetgate"]))).is_ok());
    for audience in [json!("other"), json!([]), json!(["other"]), json!("fleetgate "), json!("")] {
        assert_eq!(check(&with("aud", audience.clone())), Err(TokenError::Audience), "{audience}");
    }
}

#[test]
fn critical_extensions_are_refused() {
    let mut header = header(&key(1));
    header["b64"] = json!(false);
    for crit in [json!(["b64"]), json!([]), json!(null)] {
        header["crit"] = crit;
        assert_eq!(verify(&token(&header, &claims(), &key(1))), Err(TokenError::Malformed));
    }
}

#[test]
fn an_array_is_no_object() {
    let kid = key_id(&key(1).verifying_key());
    let good = claims();
    let listed = json!(["thermo-1", "fleetgate", NOW - 10, NOW + 10, null]);
    assert_eq!(check(&listed), Err(TokenError::Malformed));
    let listed = json!(["EdDSA", kid]);
    assert_eq!(verify(&token(&listed, &good, &key(1))), Err(TokenError::Malformed));
    assert!(!has_token_shape(&token(&listed, &good, &key(1))));
}

#[test]
fn a_token_is_bounded() {
    let long = with("sub", json!("x".repeat(MAX_TOKEN_BYTES)));
    assert_eq!(check(&long), Err(TokenError::TooLong));
}

#[test]
fn only_texts_in_the_shape_of_a_token_are_checked_as_one() {
    let header = encode(br#"{"alg":"none"}"#);
    for shaped in [format!("{header}.."), format!("{header}.e30.AA"), format!("{header}.a-_.")] {
        assert!(has_token_shape(&shaped), "{shaped}");
    }
    let no_alg = encode(br#"{"kid":"x"}"#);
    let list = encode(b"[1]");
    for other in [
        String::new(),
        "..".into(),
        "correct.horse.battery".into(),
        header.clone(),
        format!("{header}.e30"),
        format!("{header}.e30.AA.AA"),
        format!("{header}.e 0.AA"),
        format!("{header}=.e30.AA"),
        format!("{no_alg}.e30.AA"),
        format!("{list}.e30.AA"),
    ] {
        assert!(!has_token_shape(&other), "{other}");
    }
    for _ in 0..100 {
        assert!(!has_token_shape(crate::secret::Secret::generate().expose()));
    }
}
