//! Every open connection of the process, and which of them is closed to make room for another.
//!
//! With all slots taken, a new connection takes the slot of another one, in this order:
//! 1. of those that never sent the webhook token, from the network that has most of them and no
//!    connection that did send it, the one that was silent longest;
//! 2. the same, whatever else the network has: EMQX and a stranger may share an address (Docker's NAT);
//! 3. the one of EMQX's that was silent longest and has nothing to be answered: EMQX opens another.
//!
//! A network is an [`Address`]: an IPv4 address or an IPv6 /64, which is what one customer gets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::{Closed, Connection};
use crate::domain::address::Address;
use crate::logging::log_throttled;
use crate::metrics::ConnectionMetrics;

/// All open connections; one for the process.
pub struct Connections {
    limit: usize,
    idle_limit: Duration,
    began: Instant,
    stopping: OnceLock<Instant>,
    open: Mutex<Open>,
    all_closed: Notify,
    metrics: ConnectionMetrics,
}

#[derive(Default)]
struct Open {
    last_id: u64,
    slots: HashMap<u64, Arc<Slot>>,
    networks: HashMap<Address, Held>,
}

/// How many connections a network has.
#[derive(Default)]
struct Held {
    authenticated: usize,
    unauthenticated: usize,
}

/// One connection's slot.
pub(super) struct Slot {
    id: u64,
    network: Address,
    authenticated: AtomicBool,
    busy: AtomicBool,
    /// When something was last read, in milliseconds since [`Connections::began`].
    active_ms: AtomicU64,
    began: Instant,
    revoked: AtomicBool,
    waker: AtomicWaker,
}

impl Slot {
    pub(super) fn active_at(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.began).as_millis();
        self.active_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }

    fn active_ms(&self) -> u64 {
        self.active_ms.load(Ordering::Relaxed)
    }
}

/// A connection's hold on its slot; gives it back when dropped.
pub struct Lease {
    all: Arc<Connections>,
    slot: Arc<Slot>,
}

impl Lease {
    pub(super) fn wakes(&self, waker: &Waker) {
        self.slot.waker.register(waker);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.slot.revoked.load(Ordering::Acquire)
    }

    pub(super) fn note(&self, why: Closed) {
        self.all.metrics.closed(why.label());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut open = self.all.open();
        open.remove(self.slot.id);
        self.all.metrics.open.set(i64::try_from(open.slots.len()).unwrap_or(i64::MAX));
        if open.slots.is_empty() {
            self.all.all_closed.notify_waiters();
        }
    }
}

impl Connections {
    /// No connection yet; at most `limit` of them, each silent for `idle_limit` at most.
    #[must_use]
    pub fn new(limit: usize, idle_limit: Duration, metrics: ConnectionMetrics) -> Self {
        Self {
            limit,
            idle_limit,
            began: Instant::now(),
            stopping: OnceLock::new(),
            open: Mutex::default(),
            all_closed: Notify::new(),
            metrics,
        }
    }

    pub(super) fn idle_limit(&self) -> Duration {
        self.idle_limit
    }

    pub(super) fn stopping_since(&self) -> Option<Instant> {
        self.stopping.get().copied()
    }

    /// Admits a connection, at the cost of another one where there are too many; `None` when every other
    /// one is EMQX's and at work.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<(Rc<Connection>, Lease)> {
        let network = Address::from(peer);
        let mut open = self.open();
        if open.slots.len() >= self.limit {
            let Some(least) = open.least_important() else {
                self.metrics.closed(Closed::TooMany.label());
                return None;
            };
            open.remove(least.id);
            log_closed(least.network, self.limit);
            least.revoked.store(true, Ordering::Release);
            least.waker.wake();
        }
        open.last_id += 1;
        let slot = Arc::new(Slot {
            id: open.last_id,
            network,
            authenticated: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            active_ms: AtomicU64::new(0),
            began: self.began,
            revoked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        slot.active_at(Instant::now());
        open.slots.insert(slot.id, slot.clone());
        open.networks.entry(network).or_default().unauthenticated += 1;
        self.metrics.open.set(i64::try_from(open.slots.len()).unwrap_or(i64::MAX));
        drop(open);
        let lease = Lease { all: self.clone(), slot: slot.clone() };
        Some((Rc::new(Connection::new(self.clone(), slot)), lease))
    }

    /// A connection sent the webhook token.
    pub(super) fn mark_authenticated(&self, slot: &Slot) {
        if slot.is_authenticated() {
            return;
        }
        let mut open = self.open();
        if open.slots.contains_key(&slot.id) && !slot.authenticated.swap(true, Ordering::Relaxed) {
            let held = open.networks.entry(slot.network).or_default();
            held.unauthenticated = held.unauthenticated.saturating_sub(1);
            held.authenticated += 1;
        }
    }

    /// The service is about to end: each connection ends once it is silent and owes no answer.
    pub fn stop(&self) {
        let _earlier = self.stopping.set(Instant::now());
        for slot in self.open().slots.values() {
            slot.waker.wake();
        }
    }

    /// Waits until no connection is open.
    pub async fn closed(&self) {
        loop {
            let closed = self.all_closed.notified();
            if self.open().slots.is_empty() {
                return;
            }
            closed.await;
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn remove(&mut self, id: u64) {
        let Some(slot) = self.slots.remove(&id) else { return };
        let Some(held) = self.networks.get_mut(&slot.network) else { return };
        let count = if slot.is_authenticated() {
            &mut held.authenticated
        } else {
            &mut held.unauthenticated
        };
        *count = count.saturating_sub(1);
        if held.authenticated + held.unauthenticated == 0 {
            self.networks.remove(&slot.network);
        }
    }

    fn least_important(&self) -> Option<Arc<Slot>> {
        let most = |strangers_first: bool| {
            let held = self.networks.values();
            held.filter(|held| !strangers_first || held.authenticated == 0)
                .map(|held| held.unauthenticated)
                .max()
                .filter(|most| *most > 0)
        };
        for strangers_first in [true, false] {
            let Some(most) = most(strangers_first) else { continue };
            let from_there = |slot: &&Arc<Slot>| {
                self.networks.get(&slot.network).is_some_and(|held| {
                    held.unauthenticated == most && (!strangers_first || held.authenticated == 0)
                }) && !slot.is_authenticated()
            };
            return self.silent_longest(from_there);
        }
        self.silent_longest(|slot| !slot.busy.load(Ordering::Relaxed))
    }

    fn silent_longest(&self, among: impl Fn(&&Arc<Slot>) -> bool) -> Option<Arc<Slot>> {
        self.slots.values().filter(among).min_by_key(|slot| (slot.active_ms(), slot.id)).cloned()
    }
}

fn log_closed(network: Address, limit: usize) {
    log_throttled!(warn, "too many connections: one of this network is closed to make room; keep strangers away from the port, or raise its limit (of EMQX's port: http.max_connections)", %network, limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn connections(limit: usize) -> Arc<Connections> {
        let metrics = Metrics::new().unwrap().connections;
        Arc::new(Connections::new(limit, Duration::from_secs(60), metrics))
    }

    fn revoked(leases: &[(Rc<Connection>, Lease)]) -> Vec<usize> {
        let lost = leases.iter().enumerate().filter(|(_, (_, lease))| lease.is_revoked());
        lost.map(|(position, _)| position).collect()
    }

    #[test]
    fn the_crowd_makes_room() {
        let all = connections(4);
        let admit = |last| all.admit(address(last)).unwrap();
        // One silent connection of EMQX, three of a stranger.
        let mut open = vec![admit(1), admit(2), admit(2), admit(2)];
        open.push(admit(3));
        assert_eq!(revoked(&open), [1], "the stranger's oldest");
        open.push(admit(2));
        open.push(admit(2));
        assert_eq!(revoked(&open), [1, 2, 3], "its own, however many it opens");
    }

    #[test]
    fn authenticated_connections_stay() {
        let all = connections(3);
        let admit = |last| all.admit(address(last)).unwrap();
        let mut open = vec![admit(1), admit(1), admit(2)];
        all.mark_authenticated(&open[0].0.slot);
        open.push(admit(2));
        assert_eq!(
            revoked(&open),
            [2],
            "a silent connection of EMQX's network outlives a stranger's"
        );
        drop(open.remove(3));
        open.push(admit(1));
        open.push(admit(1));
        assert_eq!(revoked(&open), [1, 2], "with nobody else left, the silent one goes");
        for (connection, _) in &open {
            all.mark_authenticated(&connection.slot);
            connection.slot.set_busy(true);
        }
        assert!(all.admit(address(2)).is_none(), "all are EMQX's and at work");
        open[4].0.slot.set_busy(false);
        assert!(all.admit(address(2)).is_some());
        assert_eq!(revoked(&open), [1, 2, 4]);
    }

    #[test]
    fn places_are_given_back() {
        let all = connections(2);
        for _ in 0..100 {
            let _both = (all.admit(address(1)).unwrap(), all.admit(address(2)).unwrap());
            let _third = all.admit(address(3)).unwrap();
        }
        let open = all.open();
        assert!(open.slots.is_empty() && open.networks.is_empty());
    }

    #[test]
    fn an_ipv6_customer_is_one_network() {
        let all = connections(10);
        let admit = |text: &str| all.admit(text.parse().unwrap()).unwrap();
        let _same = (admit("2001:db8::1"), admit("2001:db8::ffff:1:2:3"));
        assert_eq!(all.open().networks.len(), 1);
        let _other = (admit("2001:db8:0:1::1"), admit("::ffff:192.0.2.7"), admit("192.0.2.7"));
        assert_eq!(all.open().networks.len(), 3);
    }
}
