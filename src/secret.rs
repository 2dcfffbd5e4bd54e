//! Secrets and randomness.
//!
//! [`Secret`] has neither `Debug` nor `Display` nor `Serialize`, so that no log line, error or
//! metric can carry one by accident, and is wiped when dropped.

use std::fmt::Write;

use base64ct::{Base64UrlUnpadded, Encoding};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A text that must not be shown: a token, a password, a database URL.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text in.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Generates a secret of 256 random bits, written as 43 characters of base64url.
    #[must_use]
    pub fn generate() -> Self {
        let bytes = Zeroizing::new(random_bytes::<32>());
        Self::new(Base64UrlUnpadded::encode_string(bytes.as_ref()))
    }

    /// The text itself. Every call of this is a place to look at in a review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares with bytes from outside in time that depends on their lengths only.
    #[must_use]
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }
}

/// Random bytes from the operating system.
///
/// # Panics
/// If the operating system has no randomness: nothing safe can be done then.
#[must_use]
#[allow(clippy::expect_used, clippy::disallowed_methods, reason = "the one place that may")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random generator failed");
    bytes
}

/// So many random bytes in lower-case hex.
#[must_use]
pub fn random_hex<const N: usize>() -> String {
    // Room for all of it: a text that grows leaves copies behind, and this may be a secret.
    let mut text = String::with_capacity(N * 2);
    for byte in random_bytes::<N>() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_secrets_differ_and_have_256_bits() {
        let (a, b) = (Secret::generate(), Secret::generate());
        assert_eq!(a.expose().len(), 43);
        assert!(!a.matches(b.expose().as_bytes()));
        assert!(a.matches(a.expose().as_bytes()));
    }
}
