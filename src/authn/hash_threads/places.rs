//! The few places of logins whose password is costly to check.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::address::Address;
use crate::domain::name::DeviceName;

/// Whose place it is, as far as that is limited. A name is limited whether a device has it or not.
#[derive(Debug, Clone, Default)]
pub struct PlaceOwner {
    /// The name of the login; `None`: not limited by name.
    pub name: Option<DeviceName>,
    /// Where from; `None`: not limited by address.
    pub address: Option<Address>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_name: HashMap<DeviceName, usize>,
    by_address: HashMap<Address, usize>,
}

/// How many places there are, and who holds them.
pub(super) struct Places {
    places: usize,
    of_name: usize,
    of_address: usize,
    taken: Mutex<Taken>,
}

/// One place; dropping it gives it back.
pub(super) struct Place {
    places: Arc<Places>,
    owner: PlaceOwner,
}

impl Places {
    pub(super) fn new(places: usize) -> Arc<Self> {
        let (of_name, of_address) = ((places / 4).max(2), (places / 2).max(2));
        Arc::new(Self { places, of_name, of_address, taken: Mutex::default() })
    }

    /// A place, if there is one for this owner.
    pub(super) fn take(self: &Arc<Self>, owner: PlaceOwner) -> Option<Place> {
        let mut taken = self.taken();
        let held = |count: Option<&usize>| count.copied().unwrap_or(0);
        let by_name = owner.name.as_ref().map_or(0, |name| held(taken.by_name.get(name)));
        let by_address = owner.address.map_or(0, |address| held(taken.by_address.get(&address)));
        let free =
            taken.all < self.places && by_name < self.of_name && by_address < self.of_address;
        if !free {
            return None;
        }
        taken.all += 1;
        if let Some(name) = &owner.name {
            *taken.by_name.entry(name.clone()).or_default() += 1;
        }
        if let Some(address) = owner.address {
            *taken.by_address.entry(address).or_default() += 1;
        }
        Some(Place { places: Arc::clone(self), owner })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(name) = &self.owner.name {
            give_back(&mut taken.by_name, name);
        }
        if let Some(address) = &self.owner.address {
            give_back(&mut taken.by_address, address);
        }
    }
}

fn give_back<K: Hash + Eq>(held: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = held.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str, address: &str) -> PlaceOwner {
        PlaceOwner { name: name.parse().ok(), address: Address::of_peer(address) }
    }

    #[test]
    fn neither_a_name_nor_an_address_fills_the_line() {
        let places = Places::new(8);
        let mut held = Vec::new();
        for n in 0..8 {
            held.extend(places.take(owner("one", &format!("10.0.0.{n}"))));
        }
        assert_eq!(held.len(), 2, "a quarter a name");
        for n in 0..8 {
            held.extend(places.take(owner(&format!("n{n}"), "192.0.2.7")));
        }
        assert_eq!(held.len(), 6, "half an address");
        for n in 0..8 {
            held.extend(places.take(owner(&format!("m{n}"), &format!("10.0.1.{n}"))));
        }
        assert_eq!(held.len(), 8, "all there are");
        assert!(places.take(PlaceOwner::default()).is_none());
        held.clear();
        let taken = places.taken();
        assert!(taken.all == 0 && taken.by_name.is_empty() && taken.by_address.is_empty());
    }

    #[test]
    fn without_limits_all_places_are_for_anybody_and_one_is_there_for_everybody() {
        let places = Places::new(8);
        assert_eq!(
            (0..9).filter_map(|_| places.take(PlaceOwner::default())).collect::<Vec<_>>().len(),
            8
        );
        let few = Places::new(4);
        let of_one = (0..4).filter_map(|_| few.take(owner("a", "10.0.0.1"))).collect::<Vec<_>>();
        assert_eq!(of_one.len(), 2, "two are never too many");
    }
}
