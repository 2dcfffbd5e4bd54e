//! Addresses that many devices share: Docker's NAT, a proxy, an office.
//!
//! The limit by address would let one of them lock out the others there, so it is off where more than
//! [`DEVICES`] different devices logged in within [`WITHIN`]. Only successes are counted, so a stranger
//! needs as many devices of their own to get there.
//!
//! Bounded: [`ADDRESSES`] addresses of 21 devices each, about 2 MB; the ones used least go first.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use jiff::{SignedDuration, Timestamp};
use quick_cache::sync::Cache;

use crate::clock::saturating_add;
use crate::domain::address::Address;

/// Devices that may log in from an address before it is taken for shared.
pub const DEVICES: usize = 20;

/// Time within which they log in.
pub const WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// Most addresses that are watched.
const ADDRESSES: usize = 4_096;

/// How often other replicas hear of a shared address again.
const SEND_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

#[derive(Default)]
struct Watched {
    /// The devices that logged in last, by a hash of their names; one more than may before the address is
    /// shared.
    recent: Vec<(u64, Timestamp)>,
    shared_until: Timestamp,
    sent_at: Timestamp,
}

impl Watched {
    /// Notes a login; whether the address is shared and other replicas should hear of it.
    fn note(&mut self, device: u64, now: Timestamp) -> bool {
        if let Some((_, at)) = self.recent.iter_mut().find(|(known, _)| *known == device) {
            *at = now;
        } else if self.recent.len() <= DEVICES {
            self.recent.push((device, now));
        } else if let Some(oldest) = self.recent.iter_mut().min_by_key(|(_, at)| *at) {
            *oldest = (device, now);
        }
        if self.recent.len() <= DEVICES {
            return false;
        }
        let first = self.recent.iter().map(|(_, at)| *at).min().unwrap_or(now);
        if now.duration_since(first) >= WITHIN {
            return false;
        }
        self.shared_until = saturating_add(first, WITHIN);
        let is_due = now.duration_since(self.sent_at) >= SEND_INTERVAL || self.sent_at > now;
        if is_due {
            self.sent_at = now;
        }
        is_due
    }

    fn is_shared(&self, now: Timestamp) -> bool {
        let left = self.shared_until.duration_since(now);
        left.is_positive() && left <= WITHIN
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
    /// Notes that a device logged in from an address; whether the address is shared and other replicas
    /// should hear of it.
    pub fn logged_in(&self, address: Address, device: &str, now: Timestamp) -> bool {
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

    /// Takes in that an address is shared until a timestamp.
    pub fn learn(&self, address: Address, until: Timestamp) {
        let watched = self.watched.get_or_insert_with(&address, || Ok::<_, ()>(Arc::default()));
        if let Ok(watched) = watched {
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.shared_until = watched.shared_until.max(until);
        }
    }

    /// Whether many devices share an address now.
    #[must_use]
    pub fn is_shared(&self, address: &Address, now: Timestamp) -> bool {
        self.watched.peek(address).is_some_and(|watched| {
            watched.lock().unwrap_or_else(PoisonError::into_inner).is_shared(now)
        })
    }

    /// How many addresses are shared now.
    #[must_use]
    pub fn count(&self, now: Timestamp) -> usize {
        let shared = |watched: &Mutex<Watched>| {
            watched.lock().unwrap_or_else(PoisonError::into_inner).is_shared(now)
        };
        self.watched.iter().filter(|(_, watched)| shared(watched)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

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
        assert!(shared.logged_in(address(), "one more", NOW), "other replicas should know");
        assert!(shared.is_shared(&address(), NOW));
        assert!(!shared.logged_in(address(), "one more", NOW), "the other replicas know");
        assert_eq!(shared.count(NOW), 1);
        assert!(!shared.is_shared(&address(), NOW + WITHIN));
        assert!(!shared.is_shared(&Address::of_peer("192.0.2.8").unwrap(), NOW));
    }

    #[test]
    fn devices_of_different_hours_do_not() {
        let shared = SharedAddresses::default();
        for n in 0..100 {
            let now = NOW + WITHIN * n / 20;
            shared.logged_in(address(), &format!("d{n}"), now);
            assert!(!shared.is_shared(&address(), now), "{n}");
        }
    }

    #[test]
    fn what_others_found_is_valid_until_its_time_is_over() {
        let shared = SharedAddresses::default();
        let end = NOW + SignedDuration::from_micros(5);
        shared.learn(address(), end);
        assert!(shared.is_shared(&address(), NOW) && !shared.is_shared(&address(), end));
    }
}
