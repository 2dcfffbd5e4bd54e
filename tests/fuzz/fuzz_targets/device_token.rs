//! No text is a panic, and none is a valid token: nobody has the private key.
#![no_main]

use std::sync::LazyLock;

use fleetgate::authn::token::{TokenKeys, has_token_shape};

static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| {
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    TokenKeys::new("fleetgate", &[key.verifying_key()])
});

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = has_token_shape(text);
    assert!(KEYS.verify(text, jiff::Timestamp::UNIX_EPOCH).is_err());
});
