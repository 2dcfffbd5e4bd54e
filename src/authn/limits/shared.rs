//! Addresses that many devices share: Docker's NAT, a proxy, an office.
//!
//! The limit by address would let one of them lock out the others there, so it is off where more than
//! [`DEVICES`] different devices logged in within [`WITHIN`]. Only successes are counted, so a stranger
//! needs as many devices of their own to get there.
//!
//! Bounded: [`ADDRESSES`] addresses of 21 devices each, about 2 MB; the ones used least go first.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use quick_cache::sync::Cache;

use crate::domain::address::Address;

/// Devices that may log in from an address before it counts as shared.
pub const DEVICES: usize = 20;

/// Time in microseconds within which they log in.
pub const WITHIN: i64 = 3_600 * 1_000_000;

/// Most addresses that are watched.
const ADDRESSES: usize = 4_096;

/// How often a shared address is told again.
const TOLD_EVERY: i64 = WITHIN / 6;

/// One more than may log in: when all of them are recent, the address is shared.
type Recent = [(u64, i64); DEVICES + 1];

#[derive(Default)]
struct Watched {
    recent: Recent,
    shared_until: i64,
    told_at: i64,
}

impl Watched {
    /// Notes a login; whether the address is shared and that is worth telling.
    fn note(&mut self, device: u64, now: i64) -> bool {
        let oldest = || self.recent.iter().enumerate().min_by_key(|(_, (_, at))| *at);
        let known = self.recent.iter().position(|(one, at)| *one == device && *at != 0);
        let Some(place) = known.or_else(|| oldest().map(|(place, _)| place)) else { return false };
        if let Some(slot) = self.recent.get_mut(place) {
            *slot = (device, now);
        }
        let first = self.recent.iter().map(|(_, at)| *at).min().unwrap_or(0);
        if first == 0 || now.saturating_sub(first) >= WITHIN {
            return false;
        }
        self.shared_until = first.saturating_add(WITHIN);
        let tell = now.saturating_sub(self.told_at) >= TOLD_EVERY || self.told_at > now;
        if tell {
            self.told_at = now;
        }
        tell
    }

    fn is_shared(&self, now: i64) -> bool {
        (1..=WITHIN).contains(&self.shared_until.saturating_sub(now))
    }
}

/// See the module documentation.
pub struct SharedAddresses {
    watched: Cache<Address, Arc<Mutex<Watched>>>,
    hasher: RandomState,
}

impl Default for SharedAddresses {
    fn default() -> Self {
        Self { watched: Cache::new(ADDRESSES), hasher: RandomState::new() }
    }
}

impl SharedAddresses {
    /// Notes that a device logged in from an address; whether the address is shared, and that is news
    /// worth telling other replicas.
    pub fn logged_in(&self, address: Address, device: &str, now: i64) -> bool {
        let watched = match self.watched.get(&address) {
            Some(watched) => watched,
            None => self
                .watched
                .get_or_insert_with(&address, || Ok::<_, ()>(Arc::default()))
                .unwrap_or_default(),
        };
        match watched.try_lock() {
            Ok(mut watched) => watched.note(self.hasher.hash_one(device), now),
            Err(TryLockError::Poisoned(watched)) => {
                watched.into_inner().note(self.hasher.hash_one(device), now)
            }
            // Another login of this address is being noted: this one comes again.
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Takes in that an address is shared until a timestamp (microseconds since the Unix epoch).
    pub fn learn(&self, address: Address, until: i64) {
        let watched = self.watched.get_or_insert_with(&address, || Ok::<_, ()>(Arc::default()));
        if let Ok(watched) = watched {
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.shared_until = watched.shared_until.max(until);
        }
    }

    /// Whether many devices share an address now.
    #[must_use]
    pub fn is_shared(&self, address: &Address, now: i64) -> bool {
        self.watched.peek(address).is_some_and(|watched| {
            watched.lock().unwrap_or_else(PoisonError::into_inner).is_shared(now)
        })
    }

    /// How many addresses are shared now.
    #[must_use]
    pub fn count(&self, now: i64) -> usize {
        let shared = |watched: &Mutex<Watched>| {
            watched.lock().unwrap_or_else(PoisonError::into_inner).is_shared(now)
        };
        self.watched.iter().filter(|(_, watched)| shared(watched)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000_000;

    fn address() -> Address {
        Address::of_peer("192.0.2.7").unwrap()
    }

    #[test]
    fn more_than_twenty_devices_within_an_hour_share_an_address() {
        let shared = SharedAddresses::default();
        for n in 0..DEVICES {
            for _ in 0..3 {
                assert!(!shared.logged_in(address(), &format!("d{n}"), NOW));
            }
        }
        assert!(!shared.is_shared(&address(), NOW));
        assert!(shared.logged_in(address(), "one more", NOW), "worth telling");
        assert!(shared.is_shared(&address(), NOW));
        assert!(!shared.logged_in(address(), "one more", NOW), "told already");
        assert_eq!(shared.count(NOW), 1);
        assert!(!shared.is_shared(&address(), NOW + WITHIN));
        assert!(!shared.is_shared(&Address::of_peer("192.0.2.8").unwrap(), NOW));
    }

    #[test]
    fn devices_of_different_hours_do_not() {
        let shared = SharedAddresses::default();
        for n in 0..100_i64 {
            shared.logged_in(address(), &format!("d{n}"), NOW + n * WITHIN / 20);
            assert!(!shared.is_shared(&address(), NOW + n * WITHIN / 20), "{n}");
        }
    }

    #[test]
    fn what_others_found_counts_until_its_time_is_over() {
        let shared = SharedAddresses::default();
        shared.learn(address(), NOW + 5);
        assert!(shared.is_shared(&address(), NOW) && !shared.is_shared(&address(), NOW + 5));
    }
}
