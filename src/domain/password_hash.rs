//! Stored password hashes, parsed once and held small: PHC strings of argon2id, and what imports brought
//! ([`super::foreign_hash`]).
//!
//! The registry holds text that anyone with database access can write, so the costs that a hash may
//! ask for are bounded here: no row can hold a hash thread for longer than about a second or take
//! more than [`MAX_MEMORY_KIB`] of memory. Parsing never panics, whatever the text.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64ct::{Base64Unpadded, Encoding};
use phc::{Output, ParamsString, Salt};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroize;

use super::foreign_hash::{ForeignHash, MAX_OUTPUT_BYTES, MAX_SALT_BYTES};

/// Most memory in KiB that one verification may use (256 MiB).
pub const MAX_MEMORY_KIB: u32 = 256 * 1024;
/// Most passes over that memory.
pub const MAX_PASSES: u32 = 16;
/// Most lanes; they are computed one after the other.
pub const MAX_LANES: u32 = 4;
/// Most memory in KiB times passes: about a second of one core, which fills 1 to 2 GiB a second.
pub const MAX_WORK_KIB: u32 = 1024 * 1024;
/// Shortest hash output in bytes: fewer than 128 bits could be hit by chance.
pub const MIN_OUTPUT_BYTES: usize = 16;

const ALGORITHM: &str = "argon2id";
/// Characters of 48 bytes.
const LONGEST_PHC_SALT: usize = 64;
const MIN_BLOCKS: usize = Params::MIN_M_COST as usize;

/// How much work a hash is, chosen by what it protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// For 256 random bits, which nobody can guess: argon2id's minimum (8 KiB, one pass).
    Generated,
    /// For a password that a person chose: the OWASP recommendation (19 MiB, two passes).
    Chosen,
}

impl Cost {
    /// Memory in KiB, passes, lanes.
    const fn numbers(self) -> (u32, u8, u8) {
        match self {
            Self::Generated => (Params::MIN_M_COST, 1, 1),
            Self::Chosen => (19 * 1024, 2, 1),
        }
    }
}

/// Why a text is not a hash that can be checked here. Repeats nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PasswordHashError {
    /// Not `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    #[error("is not a PHC string ({0}); expected $argon2id$v=19$m=...,t=...,p=...$<salt>$<hash>")]
    Unreadable(phc::Error),
    /// A PHC string, but not with argon2's fields.
    #[error("is not complete ({0}); expected $argon2id$v=19$m=...,t=...,p=...$<salt>$<hash>")]
    Incomplete(&'static str),
    /// bcrypt, argon2i, scrypt and so on.
    #[error("is not an argon2id hash; only argon2id, version 19, is supported: hash it anew")]
    Algorithm,
    /// Version 16, or none.
    #[error("is argon2id of another version than 19; hash it anew with v=19")]
    Version,
    /// A cost that is out of bounds.
    #[error(
        "asks for m={memory_kib},t={passes},p={lanes}; the bounds are m=8*p..{MAX_MEMORY_KIB}, \
         t=1..{MAX_PASSES}, p=1..{MAX_LANES} and m*t at most {MAX_WORK_KIB}"
    )]
    Cost {
        /// `m`, in KiB.
        memory_kib: u32,
        /// `t`.
        passes: u32,
        /// `p`.
        lanes: u32,
    },
    /// Too short an output.
    #[error("has an output of {0} bytes; at least {MIN_OUTPUT_BYTES} are needed")]
    Output(usize),
}

/// A stored hash. Has no `Debug`: nothing of it belongs in a log.
#[derive(Clone)]
pub enum PasswordHash {
    /// Made here.
    Argon2id(Argon2id),
    /// Imported.
    Foreign(Box<ForeignHash>),
}

impl PasswordHash {
    /// Reads the PHC string of a hash that was made here.
    ///
    /// # Errors
    /// As [`Argon2id::parse`].
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        Argon2id::parse(text).map(Self::Argon2id)
    }

    /// A hash that no password has, for work that must look real: the material is random bytes.
    #[must_use]
    pub fn unmatchable(cost: Cost, random: [u8; 48]) -> Self {
        Self::Argon2id(Argon2id::unmatchable(cost, random))
    }

    /// Whether it was imported. Those have a hash thread of their own.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign(_))
    }

    /// Whether the hash has argon2id's minimum cost: it is then checked in microseconds, on the
    /// caller's stack, and anything else belongs on a hash thread.
    #[must_use]
    pub fn is_minimum_cost(&self) -> bool {
        match self {
            Self::Argon2id(hash) => hash.is_minimum_cost(),
            Self::Foreign(_) => false,
        }
    }

    /// Checks a password, comparing in constant time. Allocates nothing at the minimum cost, and
    /// the hash's memory otherwise.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2id(hash) => hash.verify(password),
            Self::Foreign(hash) => hash.verify_with(password, &mut HashMemory::default()),
        }
    }

    /// Checks a password in memory that is kept for the next check: a fresh 19 MiB costs thousands
    /// of page faults. `false` as well if the memory cannot be had.
    #[must_use]
    pub fn verify_with(&self, password: &[u8], memory: &mut HashMemory) -> bool {
        match self {
            Self::Argon2id(hash) => hash.verify_with(password, memory),
            Self::Foreign(hash) => hash.verify_with(password, memory),
        }
    }

    /// Hands over everything that tells this hash from another, in pieces of known length.
    pub fn write_identity(&self, sink: impl FnMut(&[u8])) {
        match self {
            Self::Argon2id(hash) => hash.write_identity(sink),
            Self::Foreign(hash) => hash.write_identity(sink),
        }
    }
}

/// An argon2id hash.
#[derive(Clone)]
pub struct Argon2id {
    memory_kib: u32,
    passes: u8,
    lanes: u8,
    salt_bytes: u8,
    /// The salt and, behind it, the output.
    material: Box<[u8]>,
}

impl Argon2id {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// If it is not argon2id version 19 with a salt of 8 to 128 bytes, an output of 16 to 64 bytes
    /// and costs within the bounds of this module.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        let long = with_long_salt(text);
        let (head, salt_and_output) = long.map_or((text, None), |(head, rest)| (head, Some(rest)));
        let parsed = phc::PasswordHash::new(head).map_err(|error| unreadable(head, error))?;
        if parsed.algorithm.as_str() != ALGORITHM {
            return Err(PasswordHashError::Algorithm);
        }
        if parsed.version != Some(u32::from(Version::V0x13)) {
            return Err(PasswordHashError::Version);
        }
        let costs = costs(&parsed.params)?;
        if let Some((salt, output)) = salt_and_output {
            if parsed.salt.is_some() {
                return Err(PasswordHashError::Incomplete("it has something behind the hash"));
            }
            let salt = Base64Unpadded::decode_vec(salt).ok();
            let salt = salt.filter(|salt| salt.len() <= MAX_SALT_BYTES);
            let salt = salt.ok_or(PasswordHashError::Incomplete("the salt cannot be read"))?;
            let output = Output::decode(output);
            let output = output.map_err(|error| unreadable(text, error))?;
            return Self::from_parts(costs, &salt, &output);
        }
        let salt = parsed.salt.ok_or(PasswordHashError::Incomplete("the salt is missing"))?;
        let output = parsed.hash.ok_or(PasswordHashError::Incomplete("the hash is missing"))?;
        Self::from_parts(costs, &salt, &output)
    }

    fn from_parts(
        (memory_kib, passes, lanes): (u32, u32, u32),
        salt: &[u8],
        output: &Output,
    ) -> Result<Self, PasswordHashError> {
        if output.len() < MIN_OUTPUT_BYTES {
            return Err(PasswordHashError::Output(output.len()));
        }
        let refused = PasswordHashError::Cost { memory_kib, passes, lanes };
        let narrow = |number: u32, most| u8::try_from(number).ok().filter(|_| number <= most);
        let passes = narrow(passes, MAX_PASSES).ok_or(refused.clone())?;
        let lanes = narrow(lanes, MAX_LANES).ok_or(refused.clone())?;
        let salt_bytes = u8::try_from(salt.len()).map_err(|_| refused.clone())?;
        let material = [salt, output.as_bytes()].concat().into_boxed_slice();
        let hash = Self { memory_kib, passes, lanes, salt_bytes, material };
        let in_bounds = memory_kib <= MAX_MEMORY_KIB && hash.work_kib() <= MAX_WORK_KIB;
        if in_bounds && hash.params().is_some() { Ok(hash) } else { Err(refused) }
    }

    fn unmatchable(cost: Cost, random: [u8; 48]) -> Self {
        let (memory_kib, passes, lanes) = cost.numbers();
        Self { memory_kib, passes, lanes, salt_bytes: 16, material: Box::new(random) }
    }

    /// Memory that it takes, in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// One of the same cost that no password has.
    pub(super) fn unmatchable_of_same_cost(&self, random: [u8; MAX_OUTPUT_BYTES]) -> Self {
        let (salt, output) = self.salt_and_output();
        let output = random.iter().copied().take(output.len());
        Self { material: salt.iter().copied().chain(output).collect(), ..self.clone() }
    }

    fn is_minimum_cost(&self) -> bool {
        usize::try_from(self.memory_kib).is_ok_and(|kib| kib <= MIN_BLOCKS) && self.passes == 1
    }

    fn verify(&self, password: &[u8]) -> bool {
        if self.is_minimum_cost() {
            let mut blocks = [Block::new(); MIN_BLOCKS];
            let matched = self.verify_in(password, &mut blocks);
            blocks.zeroize();
            return matched;
        }
        self.verify_with(password, &mut HashMemory::default())
    }

    pub(super) fn verify_with(&self, password: &[u8], memory: &mut HashMemory) -> bool {
        let Some(params) = self.params() else { return false };
        let matched = match memory.blocks(params.block_count()) {
            Some(blocks) => self.verify_in(password, blocks),
            None => false,
        };
        memory.give_back_excess();
        matched
    }

    fn verify_in(&self, password: &[u8], blocks: &mut [Block]) -> bool {
        let Some(params) = self.params() else { return false };
        let (salt, output) = self.salt_and_output();
        let mut buffer = [0; Output::MAX_LENGTH];
        let Some(computed) = buffer.get_mut(..output.len()) else { return false };
        let done =
            argon2id_with(params).hash_password_into_with_memory(password, salt, computed, blocks);
        let matched: bool = (*computed).ct_eq(output).into();
        buffer.zeroize();
        done.is_ok() && matched
    }

    pub(super) fn write_identity(&self, mut sink: impl FnMut(&[u8])) {
        sink(&self.memory_kib.to_le_bytes());
        sink(&[self.passes, self.lanes, self.salt_bytes]);
        sink(&(self.material.len() as u64).to_le_bytes());
        sink(&self.material);
    }

    fn salt_and_output(&self) -> (&[u8], &[u8]) {
        self.material.split_at_checked(usize::from(self.salt_bytes)).unwrap_or_default()
    }

    fn work_kib(&self) -> u32 {
        self.memory_kib.saturating_mul(u32::from(self.passes))
    }

    fn params(&self) -> Option<Params> {
        let output = self.salt_and_output().1.len();
        let (passes, lanes) = (u32::from(self.passes), u32::from(self.lanes));
        Params::new(self.memory_kib, passes, lanes, Some(output)).ok()
    }
}

/// Memory that one thread hashes in, kept from one check to the next.
#[derive(Default)]
pub struct HashMemory(Vec<Block>);

impl HashMemory {
    /// Kept at most: what a chosen password needs.
    const KEPT_BLOCKS: usize = 19 * 1024;

    fn blocks(&mut self, count: usize) -> Option<&mut [Block]> {
        self.0.try_reserve_exact(count.saturating_sub(self.0.len())).ok()?;
        if self.0.len() < count {
            self.0.resize(count, Block::new());
        }
        self.0.get_mut(..count)
    }

    fn give_back_excess(&mut self) {
        self.0.truncate(Self::KEPT_BLOCKS);
        self.0.shrink_to(Self::KEPT_BLOCKS);
    }
}

/// Hashes a password into a PHC string for the registry. The salt must be fresh random bytes.
///
/// # Panics
/// If the password is longer than 4 GiB, argon2's own limit.
#[must_use]
#[allow(clippy::expect_used, reason = "fixed costs and salt leave only a length no caller reaches")]
pub fn hash_password(password: &[u8], salt: &[u8; 16], cost: Cost) -> String {
    let (memory_kib, passes, lanes) = cost.numbers();
    let params =
        Params::new(memory_kib, passes.into(), lanes.into(), None).expect("costs are argon2's own");
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    argon2id_with(params)
        .hash_password_into(password, salt, &mut output)
        .expect("a password of under 4 GiB");
    let salt = Salt::new(salt).expect("16 bytes are a PHC salt");
    let output = Output::new(&output).expect("32 bytes are a PHC output");
    let version = u32::from(Version::V0x13);
    format!("${ALGORITHM}$v={version}$m={memory_kib},t={passes},p={lanes}${salt}${output}")
}

fn argon2id_with(params: Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// What is before the salt, and salt and output, where the salt is one that `phc` does not read: it has at most 48 bytes there,
/// and 64 where mosquitto 2.1 makes it.
fn with_long_salt(text: &str) -> Option<(&str, (&str, &str))> {
    let (rest, output) = text.rsplit_once('$')?;
    let (head, salt) = rest.rsplit_once('$')?;
    (salt.len() > LONGEST_PHC_SALT).then_some((head, (salt, output)))
}

/// Exactly `m`, `t` and `p`, each once: key ids and associated data are not supported.
fn costs(params: &ParamsString) -> Result<(u32, u32, u32), PasswordHashError> {
    let (mut memory_kib, mut passes, mut lanes) = (None, None, None);
    for (name, value) in params.iter() {
        let slot = match name.as_str() {
            "m" => &mut memory_kib,
            "t" => &mut passes,
            "p" => &mut lanes,
            _ => return Err(PasswordHashError::Incomplete("a parameter is none of m, t, p")),
        };
        let number = value.decimal();
        let number =
            number.map_err(|_| PasswordHashError::Incomplete("a parameter is not a number"))?;
        if slot.replace(number).is_some() {
            return Err(PasswordHashError::Incomplete("a parameter comes twice"));
        }
    }
    memory_kib
        .zip(passes)
        .zip(lanes)
        .map(|((memory_kib, passes), lanes)| (memory_kib, passes, lanes))
        .ok_or(PasswordHashError::Incomplete("one of m, t, p is missing"))
}

/// Names the algorithm for well-known formats that are not PHC strings, such as bcrypt's `$2b$…`.
fn unreadable(text: &str, error: phc::Error) -> PasswordHashError {
    let algorithm = text.strip_prefix('$').and_then(|rest| rest.split('$').next());
    match algorithm {
        Some(other) if other != ALGORITHM && !other.is_empty() => PasswordHashError::Algorithm,
        _ => PasswordHashError::Unreadable(error),
    }
}

#[cfg(test)]
mod tests;
