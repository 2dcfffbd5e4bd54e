//! Tokens of the HTTP API: `fg1_<id>_<secret>`.
//!
//! The secret has 256 random bits, so its SHA-256 is stored: nobody guesses it, and to check one costs next to nothing.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What every token begins with.
const PREFIX: &str = "fg1_";
/// Longest text that can be a token, in bytes.
const MAX_BYTES: usize = 128;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// See the fleet and who changed it, try what would be done.
    Read,
    /// Change devices, their bindings and grants; capabilities, routing rules.
    Devices,
    /// Make and revoke what devices log in with; end locks.
    Credentials,
    /// Send, cancel, repeat and pause commands.
    Commands,
    /// Everything, other tokens included.
    Admin,
}

words! {
    Scope {
        Read: "read",
        Devices: "devices",
        Credentials: "credentials",
        Commands: "commands",
        Admin: "admin",
    }
}

/// What a token may do in all. A word that this release does not know allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// These, each once, in the order of [`Scope`].
    #[must_use]
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes)
    }

    /// Whether they allow what needs this one.
    #[must_use]
    pub fn allow(&self, needed: Scope) -> bool {
        self.0.iter().any(|scope| *scope == needed || *scope == Scope::Admin)
    }

    /// Their words.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|scope| scope.word()).collect()
    }
}

/// A token as somebody presents it.
pub struct PresentedToken {
    /// The row that it names.
    pub id: i64,
    digest: [u8; 32],
}

impl PresentedToken {
    /// Reads a token; `None`: it cannot be one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_BYTES)?;
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let id = id.parse().ok().filter(|number: &i64| number.to_string() == id)?;
        Some(Self { id, digest: digest(secret) })
    }

    /// Whether its secret is the one of this SHA-256, in time that tells nothing of either.
    #[must_use]
    pub fn matches(&self, hash: &[u8]) -> bool {
        self.digest.as_slice().ct_eq(hash).into()
    }

    /// SHA-256 of its secret.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// SHA-256 of a token's secret.
#[must_use]
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The token of a row with this secret.
#[must_use]
pub fn token(id: i64, secret: &str) -> String {
    format!("{PREFIX}{id}_{secret}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_again_and_no_other() {
        let secret = "with_underscores-and_more";
        let presented = PresentedToken::parse(token(17, secret).as_bytes()).unwrap();
        assert_eq!(presented.id, 17);
        assert!(presented.matches(&digest(secret)));
        assert!(!presented.matches(&digest("another")));
        assert!(!presented.matches(b""), "a hash of another length");
        for other in [
            "",
            "fg1_",
            "fg1_x_y",
            "fg1_+1_y",
            "fg1_01_y",
            "fg2_1_y",
            "1_y",
            "fg1_1",
            &"x".repeat(129),
        ] {
            assert!(PresentedToken::parse(other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(PresentedToken::parse(b"fg1_1_\xff").is_none());
    }

    #[test]
    fn scopes_allow_what_they_name_and_admin_everything() {
        let scopes = Scopes::new([Scope::Devices, Scope::Read, Scope::Read]);
        assert_eq!(scopes.words(), ["read", "devices"]);
        assert!(
            scopes.allow(Scope::Read)
                && !scopes.allow(Scope::Commands)
                && !scopes.allow(Scope::Admin)
        );
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::new([Scope::Admin]).allow(scope)));
        assert!(Scope::ALL.into_iter().all(|scope| Scope::of_word(scope.word()) == Some(scope)));
    }
}
