//! What goes out: changes that become rows for the other replicas, and log lines. Both are bounded.

use std::collections::{HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::domain::address::Address;
use crate::registry::locks::LockKey;

/// Most changes that wait to be written. Further locks hold in this process's memory only.
const MAX_WAITING: usize = 1_024;

/// Most log lines about locks a minute.
const MAX_LINES: u32 = 20;
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
        if self.order.len() < MAX_WAITING && self.waiting.insert(change.clone()) {
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

    /// Puts back what could not be written; not the end of a lock that began anew meanwhile.
    pub fn put_back(&mut self, changes: Vec<Change>) {
        for change in changes {
            match &change {
                Change::Clear(key) if self.waiting.contains(&Change::Set(key.clone())) => {}
                _ => self.add(change),
            }
        }
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

/// Limits log lines, so that a stranger cannot fill the log.
#[derive(Default)]
pub(super) struct LogLimit {
    since: Timestamp,
    written: u32,
    suppressed: u32,
}

impl LogLimit {
    /// Whether a line may be written now: then how many were suppressed since the last one.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<u32> {
        let passed = now.duration_since(self.since);
        if passed.is_negative() || passed >= MINUTE {
            (self.since, self.written) = (now, 0);
        }
        if self.written >= MAX_LINES {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> LockKey {
        LockKey { name: None, address: Address::from(std::net::IpAddr::from([10, 0, 0, n])) }
    }

    #[test]
    fn the_end_of_a_lock_that_began_anew_is_not_put_back() {
        let mut outbox = Outbox::default();
        outbox.clear(key(1));
        outbox.clear(key(2));
        let unwritten = outbox.take(10);
        outbox.set(key(1));
        outbox.put_back(unwritten);
        assert_eq!(outbox.take(10), [Change::Set(key(1)), Change::Clear(key(2))]);
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
        assert_eq!(outbox.take(usize::MAX).len(), MAX_WAITING);
        assert!(outbox.is_empty());
    }

    #[test]
    fn log_lines_are_bounded_and_suppressed_ones_are_counted() {
        let mut lines = LogLimit::default();
        let minute = Timestamp::UNIX_EPOCH + MINUTE;
        assert_eq!((0..100).filter(|_| lines.next(minute).is_some()).count(), 20);
        assert_eq!(lines.next(minute + MINUTE), Some(80));
    }
}
