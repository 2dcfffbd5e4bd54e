//! What goes out to the other replicas, and what comes in from them.

use jiff::{SignedDuration, Timestamp};

use super::outbox::Change;
use super::softlock::{LONGEST, MEMORY, Softlock};
use super::{Entry, Limits, Memory, shared};
use crate::clock::saturating_add;
use crate::domain::address::Address;
use crate::metrics::LimitMetrics;
use crate::registry::locks::{LockKey, LockNotice, LockRow, LockScope};

/// Changes that are to be written.
#[derive(Default)]
pub struct Outgoing {
    /// As they stood in the outbox.
    pub changes: Vec<Change>,
    /// Locks that began or grew.
    pub locks: Vec<LockRow>,
    /// Locks that a right password ended.
    pub ended: Vec<LockKey>,
    /// Shared addresses, and for how long that holds.
    pub shared: Vec<(Address, SignedDuration)>,
}

impl Limits {
    /// Takes up to `most` changes out of the outbox.
    pub fn outgoing(&self, most: usize, now: Timestamp) -> Outgoing {
        let mut memory = self.memory();
        let mut outgoing = Outgoing { changes: memory.outbox.take(most), ..Outgoing::default() };
        for change in &outgoing.changes {
            match change {
                // It may have been cleared meanwhile.
                Change::Set(key) => outgoing.locks.extend(memory.row(key, now)),
                Change::Clear(key) => outgoing.ended.push(key.clone()),
                Change::Share(address) => outgoing.shared.push((*address, shared::WITHIN)),
            }
        }
        outgoing
    }

    /// These are rows now.
    pub fn written(&self, outgoing: &Outgoing) {
        let mut memory = self.memory();
        for row in &outgoing.locks {
            if let Some(entry) = memory.entry(&row.key) {
                entry.written = true;
            }
        }
    }

    /// These could not be written.
    pub fn put_back(&self, outgoing: Outgoing) {
        self.memory().outbox.put_back(outgoing.changes);
    }

    /// Takes in what another replica or a command did.
    pub fn apply_notice(&self, notice: &LockNotice, now: Timestamp) {
        if !self.settings.enabled {
            return;
        }
        let mut memory = self.memory();
        match notice {
            LockNotice::Listening => {}
            LockNotice::Lock(row) => memory.merge(row, now),
            LockNotice::Ended(key) => memory.end(key),
            LockNotice::Cleared(scope) => memory.clear(scope),
        }
    }

    /// Takes in all rows. A lock that was one of them and is none any more has been cleared.
    pub fn apply_rows(
        &self,
        rows: &[LockRow],
        shared: &[(Address, SignedDuration)],
        now: Timestamp,
    ) {
        if !self.settings.enabled {
            return;
        }
        let mut memory = self.memory();
        let keys: std::collections::HashSet<&LockKey> = rows.iter().map(|row| &row.key).collect();
        memory.pairs.retain(|(name, address), pair| {
            let key = LockKey { name: Some(name.clone()), address: *address };
            !pair.entry.written || keys.contains(&key)
        });
        memory.addresses.retain(|address, entry| {
            !entry.written || keys.contains(&LockKey { name: None, address: *address })
        });
        for row in rows {
            memory.merge(row, now);
        }
        drop(memory);
        for (address, left) in shared {
            self.shared.learn(*address, saturating_add(now, (*left).min(shared::WITHIN)));
        }
    }

    /// Drops what is forgotten.
    pub fn clean_up(&self, now: Timestamp) {
        let mut memory = self.memory();
        memory.pairs.retain(|_, pair| !pair.entry.lock.is_forgotten(now));
        memory.addresses.retain(|_, entry| !entry.lock.is_forgotten(now));
        memory.names.retain(|_, rate| rate.full_at() > now);
    }

    /// Brings the metrics up to date.
    pub fn update_metrics(&self, now: Timestamp) {
        let (pairs, addresses) = self.locked(now);
        for (kind, held) in LimitMetrics::KINDS.iter().zip([pairs, addresses]) {
            let held = i64::try_from(held).unwrap_or(i64::MAX);
            self.metrics.held.with_label_values(&[kind]).set(held);
        }
        self.metrics.shared.set(i64::try_from(self.shared(now)).unwrap_or(i64::MAX));
    }
}

impl Memory {
    fn entry(&mut self, key: &LockKey) -> Option<&mut Entry> {
        match &key.name {
            Some(name) => {
                self.pairs.get_mut(&(name.clone(), key.address)).map(|pair| &mut pair.entry)
            }
            None => self.addresses.get_mut(&key.address),
        }
    }

    fn row(&mut self, key: &LockKey, now: Timestamp) -> Option<LockRow> {
        let lock = self.entry(key)?.lock;
        let left = lock.forgotten_at().duration_since(now) - MEMORY;
        (lock.failures() > 0).then(|| LockRow { key: key.clone(), failures: lock.failures(), left })
    }

    fn merge(&mut self, row: &LockRow, now: Timestamp) {
        let known = Softlock::known(row.failures, saturating_add(now, row.left.min(LONGEST)));
        if known.is_forgotten(now) {
            return;
        }
        self.make_room(now);
        let entry = match &row.key.name {
            Some(name) => {
                let pair = self.pairs.entry((name.clone(), row.key.address));
                &mut pair.or_default().entry
            }
            None => self.addresses.entry(row.key.address).or_default(),
        };
        entry.lock.merge(known, now);
        entry.written = true;
    }

    fn end(&mut self, key: &LockKey) {
        match &key.name {
            Some(name) => drop(self.pairs.remove(&(name.clone(), key.address))),
            None => drop(self.addresses.remove(&key.address)),
        }
        self.outbox.forget(|other| other == key);
    }

    fn clear(&mut self, scope: &LockScope) {
        self.pairs.retain(|(name, address), _| {
            !scope.contains(&LockKey { name: Some(name.clone()), address: *address })
        });
        self.addresses
            .retain(|address, _| !scope.contains(&LockKey { name: None, address: *address }));
        if scope.address.is_none() {
            self.names.retain(|name, _| scope.name.as_ref().is_some_and(|cleared| cleared != name));
        }
        self.outbox.forget(|key| scope.contains(key));
    }
}
