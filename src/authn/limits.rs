//! Limits on guessing: who may have a costly password check, and when.
//!
//! # What it keeps
//! 1. **Only what can be guessed is limited**: chosen passwords, whose check is costly. Generated
//!    secrets, tokens, certificates and the digest of a recent success are checked before this is
//!    asked, so no limit keeps a device with a good secret out (see [`super`]).
//! 2. **Nothing here knows whether a device exists.** Limits are counted by the name and address of the
//!    login, decoys' wrong guesses like a device's, and a refused guess looks the same for both.
//! 3. **A name alone is never locked**, only a (name, address): nobody can keep a device out from
//!    elsewhere. All addresses together have a [rate] a name.
//! 4. **The same wrong password again is not a new guess.** It is refused without a hash and lengthens
//!    nothing, so ten clients with one outdated password saved cost one wrong guess, not ten a round.
//! 5. Memory is bounded: [`PAIRS`], [`ADDRESSES`] and [`NAMES`] entries. Each costs a stranger a whole
//!    argon2, so a table is filled no faster than passwords are hashed; a full one gives up what would be
//!    forgotten first. Devices with good secrets notice nothing of it.
//!
//! # Design
//! One mutex around three maps. It is taken only before and after a costly check of 15 ms and more, for
//! microseconds, so it is never what is waited for. [`Softlock`] and [`Rate`] are pure. What becomes a
//! row in PostgreSQL is queued in [`Outbox`] and written by [`super::locks`], which also brings in what
//! other replicas and commands say.
//!
//! # Known races
//! - Guesses that are hashed at the same time are all let in before the first of them fails. The hash
//!   threads have two places a name by default, so that is one guess more.
//! - A failure that is being hashed while its lock is cleared is counted after the clearing.
//! - Replicas hear of each other's locks by NOTIFY; until then each counts for itself.

mod exchange;
mod outbox;
pub mod rate;
pub mod shared;
pub mod softlock;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::hash_threads::PlaceOwner;
use crate::domain::address::Address;
use crate::domain::name::DeviceName;
use crate::metrics::LimitMetrics;
use crate::registry::locks::LockKey;
pub use exchange::Outgoing;
use outbox::LogLimit;
pub use outbox::Outbox;
use rate::Rate;
use shared::SharedAddresses;
use softlock::Softlock;

/// Most (device, address) that are remembered, about 200 bytes each.
pub const PAIRS: usize = 65_536;
/// Most addresses that are remembered.
pub const ADDRESSES: usize = 16_384;
/// Most names that are remembered.
pub const NAMES: usize = 65_536;

/// Wrong guesses from one address, over all names, that lock nothing.
const FREE_OF_ADDRESS: u32 = 20;

/// Wrong passwords of a (device, address) that are recognized when they come again.
const WRONG_KEPT: usize = 4;

/// What is limited, and for whom not.
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// Whether guesses are limited at all.
    pub enabled: bool,
    /// Networks whose addresses stand for many clients: no limit by address holds for them.
    pub exempt: Vec<IpNet>,
}

/// A password whose check is costly.
#[derive(Clone, Copy)]
pub struct Guess<'a> {
    /// The name.
    pub name: &'a DeviceName,
    /// Where from; `None` when EMQX did not say.
    pub address: Option<Address>,
    /// Stands for the password and the hashes it is to be compared with.
    pub digest: u64,
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub enum Admission {
    /// It may be hashed, in a place of this owner.
    Hash(PlaceOwner),
    /// This very password was wrong before: it is again, without a hash.
    KnownWrong,
    /// Not now.
    Refused,
}

/// A lock, and whether PostgreSQL has it.
#[derive(Default, Clone, Copy)]
struct Entry {
    lock: Softlock,
    written: bool,
}

#[derive(Default, Clone, Copy)]
struct Pair {
    entry: Entry,
    wrong: [u64; WRONG_KEPT],
    next: u8,
}

#[derive(Default)]
struct Memory {
    pairs: HashMap<(DeviceName, Address), Pair>,
    addresses: HashMap<Address, Entry>,
    names: HashMap<DeviceName, Rate>,
    outbox: Outbox,
    log_lines: LogLimit,
}

/// See the module documentation.
pub struct Limits {
    settings: LimitSettings,
    memory: Mutex<Memory>,
    shared: SharedAddresses,
    metrics: LimitMetrics,
    /// Woken when the outbox has something.
    pub(super) wake: Notify,
}

impl Limits {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(settings: LimitSettings, metrics: LimitMetrics) -> Self {
        let (memory, shared, wake) = (Mutex::default(), SharedAddresses::default(), Notify::new());
        Self { settings, memory, shared, metrics, wake }
    }

    /// Notes that a device logged in, with whatever credential.
    pub fn logged_in(&self, address: Option<Address>, device: &str, now: Timestamp) {
        let Some(address) = address.filter(|_| self.settings.enabled) else { return };
        if self.shared.logged_in(address, device, now) {
            self.memory().outbox.share(address);
            self.wake.notify_one();
        }
    }

    /// Whether a guess may be hashed now.
    pub fn admit(&self, guess: &Guess<'_>, now: Timestamp) -> Admission {
        let address = self.limited(guess.address);
        let by_address = address.filter(|address| !self.shared.is_shared(address, now));
        let owner = PlaceOwner { name: Some(guess.name.clone()), address: by_address };
        if !self.settings.enabled {
            return Admission::Hash(owner);
        }
        let memory = self.memory();
        if let Some(pair) = address.and_then(|a| memory.pairs.get(&(guess.name.clone(), a))) {
            if pair.wrong.contains(&guess.digest) && !pair.entry.lock.is_forgotten(now) {
                return Admission::KnownWrong;
            }
            if pair.entry.lock.left(now).is_some() {
                return self.refuse("device_address");
            }
        }
        let locked = |address| {
            memory.addresses.get(&address).is_some_and(|entry| entry.lock.left(now).is_some())
        };
        if by_address.is_some_and(locked) {
            return self.refuse("address");
        }
        if memory.names.get(guess.name).is_some_and(|rate| !rate.allows(now)) {
            return self.refuse("device");
        }
        Admission::Hash(owner)
    }

    fn refuse(&self, by: &str) -> Admission {
        self.metrics.refused.with_label_values(&[by]).inc();
        Admission::Refused
    }

    /// The address, where limits by address hold for it.
    fn limited(&self, address: Option<Address>) -> Option<Address> {
        address.filter(|one| !self.settings.exempt.iter().any(|network| one.is_in(network)))
    }

    /// Counts a wrong guess.
    pub fn failed(&self, guess: &Guess<'_>, now: Timestamp) {
        if !self.settings.enabled {
            return;
        }
        let address = self.limited(guess.address);
        let counts = address.filter(|address| !self.shared.is_shared(address, now));
        let mut memory = self.memory();
        memory.make_room(now);
        memory.names.entry(guess.name.clone()).or_default().spend(now);
        let Some(address) = address else { return };
        let pair = memory.pairs.entry((guess.name.clone(), address)).or_default();
        let (lock, failures) = (pair.failed(guess.digest, now), pair.entry.lock.failures());
        let name = Some(guess.name.clone());
        self.begun(&mut memory, LockKey { name, address }, lock, failures, now);
        if let Some(address) = counts {
            let lock = &mut memory.addresses.entry(address).or_default().lock;
            let (begun, failures) = (lock.failed(FREE_OF_ADDRESS, now), lock.failures());
            self.begun(&mut memory, LockKey { name: None, address }, begun, failures, now);
        }
    }

    /// A lock has begun: it is counted, logged, and sent to the other replicas.
    fn begun(
        &self,
        memory: &mut Memory,
        key: LockKey,
        lock: Option<Duration>,
        failures: u32,
        now: Timestamp,
    ) {
        let Some(wait) = lock else { return };
        let kind = if key.name.is_some() { "device_address" } else { "address" };
        self.metrics.locks.with_label_values(&[kind]).inc();
        if let Some(suppressed) = memory.log_lines.next(now) {
            let suppressed = (suppressed > 0).then_some(suppressed);
            let device = key.name.as_ref().map_or("*", DeviceName::as_str);
            let (address, seconds) = (key.address, wait.as_secs());
            tracing::warn!(%device, %address, seconds, failures, suppressed, "wrong passwords: further ones wait; see `fleetgate lock list`");
        }
        memory.outbox.set(key);
        self.wake.notify_one();
    }

    /// A guess was right: what was wrong before it does not matter any more.
    pub fn succeeded(&self, guess: &Guess<'_>, now: Timestamp) {
        let Some(address) = guess.address else { return };
        let mut memory = self.memory();
        let pair = memory.pairs.remove(&(guess.name.clone(), address));
        if pair.is_some_and(|pair| !pair.entry.lock.is_forgotten(now)) {
            memory.outbox.clear(LockKey { name: Some(guess.name.clone()), address });
            self.wake.notify_one();
        }
    }

    /// How many locks hold now, of (device, address) and of addresses.
    #[must_use]
    pub fn locked(&self, now: Timestamp) -> (usize, usize) {
        let memory = self.memory();
        let held = |entry: &Entry| entry.lock.left(now).is_some();
        let pairs = memory.pairs.values().filter(|pair| held(&pair.entry)).count();
        (pairs, memory.addresses.values().filter(|entry| held(entry)).count())
    }

    /// How many addresses are shared by many devices now.
    #[must_use]
    pub fn shared(&self, now: Timestamp) -> usize {
        self.shared.count(now)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pair {
    fn failed(&mut self, digest: u64, now: Timestamp) -> Option<Duration> {
        if let Some(slot) = self.wrong.get_mut(usize::from(self.next) % WRONG_KEPT) {
            *slot = digest;
        }
        self.next = self.next.wrapping_add(1);
        self.entry.lock.failed(0, now)
    }
}

impl Memory {
    fn make_room(&mut self, now: Timestamp) {
        make_room(&mut self.pairs, PAIRS, |pair| pair.entry.lock.forgotten_at(), now);
        make_room(&mut self.addresses, ADDRESSES, |entry| entry.lock.forgotten_at(), now);
        make_room(&mut self.names, NAMES, Rate::full_at, now);
    }
}

/// Makes room in a full map: what is forgotten goes, and where that is not enough the quarter that
/// would be forgotten first.
fn make_room<K: Hash + Eq, V>(
    map: &mut HashMap<K, V>,
    capacity: usize,
    forgotten_at: impl Fn(&V) -> Timestamp,
    now: Timestamp,
) {
    if map.len() < capacity {
        return;
    }
    map.retain(|_, value| forgotten_at(value) > now);
    let most = capacity - capacity / 4;
    if map.len() > most {
        let mut times: Vec<Timestamp> = map.values().map(&forgotten_at).collect();
        let surplus = map.len() - most;
        let (_, last, _) = times.select_nth_unstable(surplus - 1);
        let last = *last;
        map.retain(|_, value| forgotten_at(value) > last);
    }
}

#[cfg(test)]
mod tests;
