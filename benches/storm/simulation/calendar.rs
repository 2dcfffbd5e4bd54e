//! What will happen, in order of time; what happens at one moment, in the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Moment;

pub(super) struct Calendar<E> {
    now: Moment,
    planned: u64,
    entries: BinaryHeap<Reverse<Entry<E>>>,
}

struct Entry<E> {
    at: Moment,
    number: u64,
    event: E,
}

impl<E> Calendar<E> {
    pub(super) fn new() -> Self {
        Self { now: Moment::ZERO, planned: 0, entries: BinaryHeap::new() }
    }

    pub(super) fn now(&self) -> Moment {
        self.now
    }

    pub(super) fn after(&mut self, wait: Duration, event: E) {
        self.planned += 1;
        let entry = Entry { at: self.now + wait, number: self.planned, event };
        self.entries.push(Reverse(entry));
    }

    /// The next event; its moment is now.
    pub(super) fn next(&mut self) -> Option<E> {
        let Reverse(entry) = self.entries.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
