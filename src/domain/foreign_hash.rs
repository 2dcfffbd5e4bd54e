//! Password hashes that other brokers and plugins made, as imports store them (credential kind `imported`).
//!
//! | text | made by |
//! |---|---|
//! | `$2a$NN$…`, `$2b$NN$…`, `$2y$NN$…` | bcrypt: EMQX, mosquitto-go-auth, VerneMQ's databases, `htpasswd -B` |
//! | `$pbkdf2-sha512$i=N,l=N$SALT$HASH`, `-sha256`, `-sha1` | mosquitto (`$7$`), EMQX, mosquitto-go-auth |
//! | `$sha512-salted$pos=suffix$SALT$HASH`, `sha256`, `sha1`, `pos=prefix` | mosquitto and VerneMQ (`$6$`), EMQX: one round |
//! | `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH` | mosquitto 2.1, mosquitto-go-auth: other costs than here |
//!
//! SALT and HASH are standard base64 without padding; the salt is bytes, whatever the maker took it for. What a hash may
//! cost is bounded, here and by `sql/V23`: a row that asks for more would be a way to keep the hash thread busy. Each is
//! replaced by an argon2id hash after its first success ([`crate::authn::imported`]).

use base64ct::{Base64Bcrypt, Base64Unpadded, Encoding};
use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::password_hash::{Argon2id, HashMemory, MIN_OUTPUT_BYTES, PasswordHashError};

/// Least and most cost of bcrypt, the logarithm of its rounds: 12 is about a quarter of a second.
pub const BCRYPT_COSTS: std::ops::RangeInclusive<u8> = 4..=12;
/// Most rounds of PBKDF2 (OWASP's figure for HMAC-SHA-256).
pub const MAX_ROUNDS: u32 = 600_000;
/// Fewest rounds of PBKDF2 that are not called weak.
pub const FEW_ROUNDS: u32 = 10_000;
/// Most memory of argon2id, in KiB.
pub const MAX_MEMORY_KIB: u32 = 64 * 1024;
/// Longest salt in bytes. mosquitto's newest has 64.
pub const MAX_SALT_BYTES: usize = 128;
/// Longest output in bytes.
pub const MAX_OUTPUT_BYTES: usize = 64;
/// bcrypt looks at no more of a password: a longer one has no hash here.
pub const BCRYPT_PASSWORD_BYTES: usize = 72;

const BCRYPT_SALT_CHARACTERS: usize = 22;

/// Why a text is not an imported hash. Repeats nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ForeignHashError {
    /// None of the known forms.
    #[error(
        "is not the hash of a password in a form that is known here: bcrypt, $pbkdf2-sha1, -sha256 or -sha512, $sha1-salted, $sha256-salted or $sha512-salted, argon2id"
    )]
    Unknown,
    /// One of them, but with something that is missing or of another form.
    #[error("is not a complete {0} hash")]
    Incomplete(&'static str),
    /// A cost of bcrypt that is out of bounds.
    #[error("asks for bcrypt of cost {0}; the bounds are 4 to 12")]
    BcryptCost(u8),
    /// Rounds of PBKDF2 that are out of bounds.
    #[error("asks for {0} rounds of PBKDF2; the bounds are 1 to {MAX_ROUNDS}")]
    Rounds(u32),
    /// Memory of argon2id that is out of bounds.
    #[error("asks for {0} KiB of memory; at most {MAX_MEMORY_KIB} are taken")]
    Memory(u32),
    /// Another fault of an argon2id hash.
    #[error("{0}")]
    Argon2id(#[from] PasswordHashError),
    /// A salt or output of a length that is out of bounds.
    #[error(
        "has a salt of {salt} bytes and an output of {output}; at most {MAX_SALT_BYTES}, and {MIN_OUTPUT_BYTES} to {MAX_OUTPUT_BYTES}, are taken"
    )]
    Length {
        /// Bytes of the salt.
        salt: usize,
        /// Bytes of the output.
        output: usize,
    },
}

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Digest {
    const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Bytes of its output.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The text of a hash of one round over salt and password, or password and salt.
    #[must_use]
    pub fn salted(self, salt_first: bool, salt: &[u8], output: &[u8]) -> String {
        let position = if salt_first { "prefix" } else { "suffix" };
        let [salt, output] = [salt, output].map(Base64Unpadded::encode_string);
        format!("${}-salted$pos={position}${salt}${output}", self.name())
    }

    /// The text of a hash of so many rounds of PBKDF2.
    #[must_use]
    pub fn pbkdf2(self, rounds: u32, salt: &[u8], output: &[u8]) -> String {
        let length = output.len();
        let [salt, output] = [salt, output].map(Base64Unpadded::encode_string);
        format!("$pbkdf2-{}$i={rounds},l={length}${salt}${output}", self.name())
    }

    fn of(self, first: &[u8], then: &[u8]) -> Vec<u8> {
        fn over<D: sha2::Digest>(first: &[u8], then: &[u8]) -> Vec<u8> {
            D::new().chain_update(first).chain_update(then).finalize().to_vec()
        }
        match self {
            Self::Sha1 => over::<Sha1>(first, then),
            Self::Sha256 => over::<Sha256>(first, then),
            Self::Sha512 => over::<Sha512>(first, then),
        }
    }
}

/// How a password becomes the output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Bcrypt { cost: u8 },
    Pbkdf2 { digest: Digest, rounds: u32 },
    Salted { digest: Digest, salt_first: bool },
}

#[derive(Clone)]
enum Kind {
    Argon2id(Argon2id),
    Other { method: Method, salt: Box<[u8]>, output: Box<[u8]> },
}

/// A hash that an import brought. Has no `Debug`: nothing of it belongs in a log.
#[derive(Clone)]
pub struct ForeignHash(Kind);

impl ForeignHash {
    /// Reads a hash in one of the forms of this module.
    ///
    /// # Errors
    /// If it is in none, incomplete, or costs more than is allowed.
    pub fn parse(text: &str) -> Result<Self, ForeignHashError> {
        let parts: Vec<&str> =
            text.strip_prefix('$').ok_or(ForeignHashError::Unknown)?.split('$').collect();
        let (algorithm, parameters, salt, output) = match parts.as_slice() {
            ["argon2id", ..] => return Self::argon2id(text),
            ["2a" | "2b" | "2y", cost, material] => return Self::bcrypt(cost, material),
            ["2a" | "2b" | "2y", ..] => return Err(ForeignHashError::Incomplete("bcrypt")),
            [algorithm, parameters, salt, output] => (*algorithm, *parameters, *salt, *output),
            _ => return Err(ForeignHashError::Unknown),
        };
        if let Some(digest) = algorithm.strip_prefix("pbkdf2-").and_then(Digest::named) {
            return Self::pbkdf2(digest, parameters, salt, output);
        }
        let salted = algorithm.strip_suffix("-salted").and_then(Digest::named);
        Self::salted(salted.ok_or(ForeignHashError::Unknown)?, parameters, salt, output)
    }

    fn argon2id(text: &str) -> Result<Self, ForeignHashError> {
        let hash = Argon2id::parse(text)?;
        match hash.memory_kib() {
            ..=MAX_MEMORY_KIB => Ok(Self(Kind::Argon2id(hash))),
            more => Err(ForeignHashError::Memory(more)),
        }
    }

    fn bcrypt(cost: &str, material: &str) -> Result<Self, ForeignHashError> {
        let incomplete = || ForeignHashError::Incomplete("bcrypt");
        let two_digits = whole(cost, 2).filter(|_| cost.len() == 2);
        let cost = two_digits.and_then(|it| u8::try_from(it).ok()).ok_or_else(incomplete)?;
        if !BCRYPT_COSTS.contains(&cost) {
            return Err(ForeignHashError::BcryptCost(cost));
        }
        let (salt, output) =
            material.split_at_checked(BCRYPT_SALT_CHARACTERS).ok_or_else(incomplete)?;
        let salt = bcrypt_bytes(salt).ok_or_else(incomplete)?;
        let output = bcrypt_bytes(output).filter(|it| it.len() == 23).ok_or_else(incomplete)?;
        Self::of(Method::Bcrypt { cost }, salt, output)
    }

    fn pbkdf2(
        digest: Digest,
        parameters: &str,
        salt: &str,
        output: &str,
    ) -> Result<Self, ForeignHashError> {
        let incomplete = || ForeignHashError::Incomplete("PBKDF2");
        let (rounds, length) = match parameters.split_once(',') {
            Some((rounds, length)) => (rounds, Some(length)),
            None => (parameters, None),
        };
        let rounds =
            rounds.strip_prefix("i=").and_then(|it| whole(it, 9)).ok_or_else(incomplete)?;
        let output = bytes(output).ok_or_else(incomplete)?;
        if let Some(length) = length {
            let length = length.strip_prefix("l=").and_then(|it| whole(it, 3));
            let length = length.and_then(|it| usize::try_from(it).ok()).ok_or_else(incomplete)?;
            if length != output.len() {
                return Err(incomplete());
            }
        }
        if !(1..=MAX_ROUNDS).contains(&rounds) {
            return Err(ForeignHashError::Rounds(rounds));
        }
        let salt = bytes(salt).ok_or_else(incomplete)?;
        Self::of(Method::Pbkdf2 { digest, rounds }, salt, output)
    }

    fn salted(
        digest: Digest,
        parameters: &str,
        salt: &str,
        output: &str,
    ) -> Result<Self, ForeignHashError> {
        let incomplete = || ForeignHashError::Incomplete("salted");
        let salt_first = match parameters {
            "pos=prefix" => true,
            "pos=suffix" => false,
            _ => return Err(incomplete()),
        };
        let output =
            bytes(output).filter(|it| it.len() == digest.bytes()).ok_or_else(incomplete)?;
        let salt = bytes(salt).ok_or_else(incomplete)?;
        Self::of(Method::Salted { digest, salt_first }, salt, output)
    }

    fn of(method: Method, salt: Vec<u8>, output: Vec<u8>) -> Result<Self, ForeignHashError> {
        if salt.len() > MAX_SALT_BYTES
            || !(MIN_OUTPUT_BYTES..=MAX_OUTPUT_BYTES).contains(&output.len())
        {
            return Err(ForeignHashError::Length { salt: salt.len(), output: output.len() });
        }
        Ok(Self(Kind::Other { method, salt: salt.into(), output: output.into() }))
    }

    /// A hash that costs the same and that no password has, for work that must look real: its output is replaced by random
    /// bytes.
    #[must_use]
    pub fn unmatchable(&self, random: [u8; MAX_OUTPUT_BYTES]) -> Self {
        match &self.0 {
            Kind::Argon2id(hash) => Self(Kind::Argon2id(hash.unmatchable_of_same_cost(random))),
            Kind::Other { method, salt, output } => Self(Kind::Other {
                method: *method,
                salt: salt.clone(),
                output: random.iter().copied().take(output.len()).collect(),
            }),
        }
    }

    /// Checks a password, comparing in constant time.
    ///
    /// One with U+0000 never matches: no tool takes one, and to bcrypt and PBKDF2 some of them are the same as the
    /// password without it. Nor does bcrypt of more than [`BCRYPT_PASSWORD_BYTES`]. Both cost what any other password costs:
    /// otherwise they would tell devices from names that nobody has.
    #[must_use]
    pub fn verify_with(&self, password: &[u8], memory: &mut HashMemory) -> bool {
        let is_possible = !password.contains(&0)
            && (!self.is_bcrypt() || password.len() <= BCRYPT_PASSWORD_BYTES);
        self.matches(password, memory) & is_possible
    }

    fn is_bcrypt(&self) -> bool {
        matches!(&self.0, Kind::Other { method: Method::Bcrypt { .. }, .. })
    }

    fn matches(&self, password: &[u8], memory: &mut HashMemory) -> bool {
        let (method, salt, output) = match &self.0 {
            Kind::Argon2id(hash) => return hash.verify_with(password, memory),
            Kind::Other { method, salt, output } => (method, salt, output),
        };
        let computed = match *method {
            Method::Bcrypt { cost } => match bcrypt(cost, salt, password) {
                Some(computed) => computed,
                None => return false,
            },
            Method::Pbkdf2 { digest, rounds } => {
                let mut computed = Zeroizing::new(vec![0; output.len()]);
                match digest {
                    Digest::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, rounds, &mut computed),
                    Digest::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, rounds, &mut computed),
                    Digest::Sha512 => pbkdf2_hmac::<Sha512>(password, salt, rounds, &mut computed),
                }
                computed
            }
            Method::Salted { digest, salt_first: true } => {
                Zeroizing::new(digest.of(salt, password))
            }
            Method::Salted { digest, salt_first: false } => {
                Zeroizing::new(digest.of(password, salt))
            }
        };
        (**computed).ct_eq(output).into()
    }

    /// Whether guessing its password is cheap: one round, or few.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        match &self.0 {
            Kind::Argon2id(_) | Kind::Other { method: Method::Bcrypt { .. }, .. } => false,
            Kind::Other { method: Method::Pbkdf2 { rounds, .. }, .. } => *rounds < FEW_ROUNDS,
            Kind::Other { method: Method::Salted { .. }, .. } => true,
        }
    }

    /// What it is, for lists: `bcrypt, cost 10`.
    #[must_use]
    pub fn description(&self) -> String {
        match &self.0 {
            Kind::Argon2id(hash) => format!("argon2id, {} KiB", hash.memory_kib()),
            Kind::Other { method: Method::Bcrypt { cost }, .. } => format!("bcrypt, cost {cost}"),
            Kind::Other { method: Method::Pbkdf2 { digest, rounds }, .. } => {
                format!("PBKDF2 with {}, rounds {rounds}", digest.name())
            }
            Kind::Other { method: Method::Salted { digest, .. }, .. } => {
                format!("{}, one round", digest.name())
            }
        }
    }

    /// Hands over everything that tells this hash from another, in pieces of known length.
    pub fn write_identity(&self, mut sink: impl FnMut(&[u8])) {
        let (method, salt, output) = match &self.0 {
            Kind::Argon2id(hash) => return hash.write_identity(sink),
            Kind::Other { method, salt, output } => (method, salt, output),
        };
        let (form, detail, rounds) = match method {
            Method::Bcrypt { cost } => (1, *cost, 0),
            Method::Pbkdf2 { digest, rounds } => (2, *digest as u8, *rounds),
            Method::Salted { digest, salt_first: false } => (3, *digest as u8, 0),
            Method::Salted { digest, salt_first: true } => (4, *digest as u8, 0),
        };
        // The fifth byte is 0, where an argon2id hash has its passes, of which there is one at least.
        sink(&[form, detail, 0, 0, 0, 0, 0, 0]);
        sink(&rounds.to_le_bytes());
        for piece in [salt, output] {
            sink(&(piece.len() as u64).to_le_bytes());
            sink(piece);
        }
    }
}

/// The 23 bytes that bcrypt's text holds; `None`: a salt that bcrypt does not have.
fn bcrypt(cost: u8, salt: &[u8], password: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let read = password.get(..BCRYPT_PASSWORD_BYTES).unwrap_or(password);
    let mut key = Zeroizing::new(Vec::with_capacity(BCRYPT_PASSWORD_BYTES));
    key.extend_from_slice(read);
    // As in C, where the end of a text is part of it as far as there is room.
    if key.len() < BCRYPT_PASSWORD_BYTES {
        key.push(0);
    }
    let mut output = bcrypt::bcrypt(cost.into(), salt.try_into().ok()?, &key);
    let told = output.iter().copied().take(23).collect();
    output.zeroize();
    Some(Zeroizing::new(told))
}

/// A decimal number of at most so many digits.
fn whole(text: &str, most: usize) -> Option<u32> {
    let is_one = (1..=most).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
    text.parse().ok().filter(|_| is_one)
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    Base64Unpadded::decode_vec(text).ok()
}

/// Bytes in bcrypt's base64. The last character of many texts has bits that mean nothing, which decoders of others let pass.
fn bcrypt_bytes(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let spare = match text.len() % 4 {
        2 => 16,
        3 => 4,
        _ => return None,
    };
    let (front, last) = text.as_bytes().split_at_checked(text.len() - 1)?;
    let place = DIGITS.iter().position(|digit| [*digit] == last)?;
    let mut canonical = String::from_utf8(front.to_vec()).ok()?;
    canonical.push(char::from(*DIGITS.get(place - place % spare)?));
    Base64Bcrypt::decode_vec(&canonical).ok()
}

#[cfg(test)]
mod tests;
