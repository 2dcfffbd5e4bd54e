//! What is to be told: rows to the other replicas, lines to the log. Both bounded.

use std::collections::{HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::domain::address::Address;
use crate::registry::locks::LockKey;

/// Most changes that wait to be written. Further locks hold in this process's memory only.
const WAITING: usize = 1_024;

/// Log lines about locks, a minute.
const LINES: u32 = 20;
const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// A change to be written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// A lock began or grew.
    Set(LockKey),
    /// A lock ended by a right password.
    Clear(LockKey),
    /// Many devices share an address.
    Share(Address),
}

/// Changes that wait to be written, each key once, the oldest first.
#[derive(Default)]
pub struct Outbox {
    order: VecDeque<Change>,
    waiting: HashSet<Change>,
}

impl Outbox {
    pub(super) fn set(&mut self, key: LockKey) {
        self.add(Change::Set(key));
    }

    pub(super) fn clear(&mut self, key: LockKey) {
        self.forget(|other| *other == key);
        self.add(Change::Clear(key));
    }

    pub(super) fn share(&mut self, address: Address) {
        self.add(Change::Share(address));
    }

    fn add(&mut self, change: Change) {
        if self.order.len() < WAITING && self.waiting.insert(change.clone()) {
            self.order.push_back(change);
        }
    }

    /// Takes up to `most` changes out.
    pub fn take(&mut self, most: usize) -> Vec<Change> {
        let taken: Vec<_> = self.order.drain(..most.min(self.order.len())).collect();
        for change in &taken {
            self.waiting.remove(change);
        }
        taken
    }

    /// Puts back what could not be written.
    pub fn put_back(&mut self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.add(change));
    }

    /// Drops what was to be written about locks that are cleared.
    pub fn forget(&mut self, is_cleared: impl Fn(&LockKey) -> bool) {
        self.order.retain(|change| !matches!(change, Change::Set(key) if is_cleared(key)));
        self.waiting.retain(|change| !matches!(change, Change::Set(key) if is_cleared(key)));
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Whether a line may be written.
pub(super) enum Told {
    /// It may; so many were left out since the last one.
    Yes { left_out: u32 },
    /// It is left out.
    No,
}

/// Counts log lines, so that a stranger cannot fill the log.
#[derive(Default)]
pub(super) struct Lines {
    since: Timestamp,
    written: u32,
    left_out: u32,
}

impl Lines {
    pub(super) fn tell(&mut self, now: Timestamp) -> Told {
        let passed = now.duration_since(self.since);
        if passed.is_negative() || passed >= MINUTE {
            (self.since, self.written) = (now, 0);
        }
        if self.written >= LINES {
            self.left_out = self.left_out.saturating_add(1);
            return Told::No;
        }
        self.written += 1;
        Told::Yes { left_out: std::mem::take(&mut self.left_out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> LockKey {
        LockKey { name: None, address: Address::from(std::net::IpAddr::from([10, 0, 0, n])) }
    }

    #[test]
    fn each_change_waits_once_and_no_more_than_the_bound() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.set(key(1));
        }
        outbox.clear(key(1));
        assert_eq!(outbox.take(10), [Change::Clear(key(1))]);
        for n in 0..=255 {
            for other in 0..8 {
                let address = Address::from(std::net::IpAddr::from([10, 0, other, n]));
                outbox.set(LockKey { name: None, address });
            }
        }
        assert_eq!(outbox.take(usize::MAX).len(), WAITING);
        assert!(outbox.is_empty());
    }

    #[test]
    fn log_lines_are_bounded_and_those_left_out_are_counted() {
        let mut lines = Lines::default();
        let minute = Timestamp::UNIX_EPOCH + MINUTE;
        let told = |lines: &mut Lines, now| matches!(lines.tell(now), Told::Yes { .. });
        assert_eq!((0..100).filter(|_| told(&mut lines, minute)).count(), 20);
        assert!(matches!(lines.tell(minute + MINUTE), Told::Yes { left_out: 80 }));
    }
}
