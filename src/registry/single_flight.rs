//! One load for however many requests ask for the same thing at once.
//!
//! # What it keeps
//! 1. At most one load of a key runs at a time; every request that waits for it gets its result.
//! 2. No request gets a result that is older than a change which was heard before the request, or than LISTEN's coming or
//!    going before it: its [`Stamp`] tells. Without LISTEN changes are not heard; [`freshness`](super::freshness) bounds what
//!    that means.
//! 3. When the request that loads is cancelled (its client went away), the next one that waits loads.
//! 4. Memory is bounded by the requests that wait.
//!
//! # Races
//! - *A change arrives during a load*: the result still answers the requests that came before the change.
//! - *A request joins a load that began before a change which the request already knows of*: the result is
//!   too old for it, and it joins the next load, which begins after it came. So a key that changes all the
//!   time costs two loads a request at most.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::registry::freshness::Stamp;

/// What was loaded, and when its load began.
#[derive(Debug, Clone)]
pub(super) struct Stamped<T> {
    pub(super) value: T,
    pub(super) stamp: Stamp,
}

/// A load that is under way. The first request that waits for it runs it.
type Flight<T, E> = Arc<OnceCell<Result<Stamped<T>, E>>>;

/// See the module documentation.
pub(super) struct SingleFlight<K: Clone + Eq + Hash, T, E> {
    flights: Mutex<HashMap<K, Flight<T, E>>>,
}

impl<K: Clone + Eq + Hash, T, E> Default for SingleFlight<K, T, E> {
    fn default() -> Self {
        Self { flights: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, T: Clone, E: Clone> SingleFlight<K, T, E> {
    /// Joins the load of a key, or begins one. `stamp` gives the key's present stamp.
    ///
    /// # Errors
    /// What the load failed with.
    pub(super) async fn load<F: Future<Output = Result<T, E>>>(
        &self,
        key: &K,
        stamp: impl Fn() -> Stamp,
        load: impl Fn(Stamp) -> F,
    ) -> Result<Stamped<T>, E> {
        let arrived = stamp();
        let mut loaded = self.join(key, &stamp, &load).await;
        if loaded.as_ref().is_ok_and(|loaded| loaded.stamp.is_older_than(arrived)) {
            loaded = self.join(key, &stamp, &load).await;
        }
        loaded
    }

    async fn join<F: Future<Output = Result<T, E>>>(
        &self,
        key: &K,
        stamp: &impl Fn() -> Stamp,
        load: &impl Fn(Stamp) -> F,
    ) -> Result<Stamped<T>, E> {
        let flight = self.flights().entry(key.clone()).or_default().clone();
        let waiter = Waiter { all: self, key, flight };
        let run = || async {
            let stamp = stamp();
            load(stamp).await.map(|value| Stamped { value, stamp })
        };
        waiter.flight.get_or_init(run).await.clone()
    }
}

impl<K: Clone + Eq + Hash, T, E> SingleFlight<K, T, E> {
    fn flights(&self) -> MutexGuard<'_, HashMap<K, Flight<T, E>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that waits for a load. The load is forgotten when it has ended, or when the last request
/// that waits for it was cancelled.
struct Waiter<'a, K: Clone + Eq + Hash, T, E> {
    all: &'a SingleFlight<K, T, E>,
    key: &'a K,
    flight: Flight<T, E>,
}

impl<K: Clone + Eq + Hash, T, E> Drop for Waiter<'_, K, T, E> {
    fn drop(&mut self) {
        let mut flights = self.all.flights();
        // Let go of under the lock: of two that are cancelled at once, the second sees that it is the last.
        let flight = std::mem::take(&mut self.flight);
        if let Entry::Occupied(entry) = flights.entry(self.key.clone())
            && Arc::ptr_eq(entry.get(), &flight)
        {
            drop(flight);
            if entry.get().initialized() || Arc::strong_count(entry.get()) == 1 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::registry::freshness::Freshness;

    type Flights = SingleFlight<&'static str, usize, &'static str>;

    /// Whatever is loaded waits here once.
    async fn counted(loads: &Cell<usize>) -> Result<usize, &'static str> {
        loads.set(loads.get() + 1);
        let count = loads.get();
        tokio::task::yield_now().await;
        Ok(count)
    }

    fn freshness() -> Freshness {
        let freshness = Freshness::new(Duration::from_secs(60));
        freshness.listening();
        freshness
    }

    #[tokio::test]
    async fn requests_of_one_time_share_a_load() {
        let (flights, freshness, loads) = (Flights::default(), freshness(), Cell::new(0));
        let request = || flights.load(&"a", || freshness.stamp("a"), |_| counted(&loads));
        let loaded = join_all((0..10).map(|_| request())).await;
        assert!(loaded.iter().all(|loaded| loaded.as_ref().unwrap().value == 1));
        assert_eq!(request().await.unwrap().value, 2, "it is not kept here");
        assert!(flights.flights().is_empty());
    }

    #[tokio::test]
    async fn the_next_one_loads_when_the_first_was_cancelled() {
        let (flights, freshness, loads) = (Flights::default(), freshness(), Cell::new(0));
        let request = || Box::pin(flights.load(&"a", || freshness.stamp("a"), |_| counted(&loads)));
        let (mut first, mut second) = (request(), request());
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!(second.await.unwrap().value, 2);
        let mut cancelled = request();
        assert!((&mut cancelled).now_or_never().is_none());
        drop(cancelled);
        assert!(flights.flights().is_empty(), "nobody waits");
    }

    #[tokio::test]
    async fn a_result_is_not_older_than_its_request() {
        let (flights, freshness, loads) = (Flights::default(), freshness(), Cell::new(0));
        let request = || Box::pin(flights.load(&"a", || freshness.stamp("a"), |_| counted(&loads)));
        let mut before = request();
        assert!((&mut before).now_or_never().is_none());
        freshness.changed("a");
        let (before, after) = futures_util::join!(before, request());
        assert_eq!((before.unwrap().value, after.unwrap().value), (1, 2));
    }

    #[tokio::test]
    async fn a_failure_is_everybodys_and_is_not_kept() {
        let (flights, freshness) = (Flights::default(), freshness());
        let fail = || flights.load(&"a", || freshness.stamp("a"), async |_| Err("no"));
        assert!(join_all([fail(), fail()]).await.iter().all(Result::is_err));
        assert!(flights.flights().is_empty());
    }
}
