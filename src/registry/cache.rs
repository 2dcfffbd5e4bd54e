//! The read-through cache of device records.
//!
//! # What it keeps
//! 1. A record is served only while [`freshness`](super::freshness) vouches for it; a change that was
//!    committed in PostgreSQL and notified is never undone by a slow load.
//! 2. However many requests ask for a name at once, one [load](super::loads) runs for it.
//! 3. Memory is bounded: records by number (a large one counts as several), unknown names by number
//!    and time, loads by the requests that wait for them.
//! 4. While records cannot be loaded, those already here stand in for a bounded time, see
//!    [`freshness`](super::freshness); a name that is not here is refused with an error, never guessed.
//!
//! # Design
//! Known and unknown names live in two caches, so that a flood of made-up names cannot push out the
//! devices in use. A miss joins the *flight* of its name: a cell that the first request fills. When
//! that request is cancelled (its client went away), the next one in line takes over the load.
//!
//! # Races
//! - *A change arrives during a flight*: what was loaded still answers the requests that came before the
//!   change, and is not trusted by any that comes after it.
//! - *A request joins a flight that began before a change which the request already knows of*: the
//!   flight is too old for it, and it takes the next one, which begins after it came. So a device that
//!   changes all the time costs two loads a request at most.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use thiserror::Error;
use tokio::sync::OnceCell;

use crate::config;
use crate::domain::device::DeviceRecord;
use crate::domain::name::DeviceName;
use crate::domain::schema::NotJudged;
use crate::logging::log_throttled;
use crate::metrics::CacheMetrics;
use crate::registry::error::RegistryError;
use crate::registry::freshness::{Freshness, Stamp};
use crate::registry::loads::Loads;
use crate::registry::pool::Postgres;

/// Rights and credentials of a device that count as one entry of the cache's size.
const PARTS_PER_ENTRY: usize = 16;

/// Why a record could not be had.
#[derive(Debug, Clone, Error)]
pub enum CacheError {
    /// PostgreSQL did not answer and nothing in memory may stand in.
    #[error("the registry cannot be asked: {0}")]
    Registry(#[source] Arc<RegistryError>),
    /// What was had could not be applied to a value at present.
    #[error(transparent)]
    NotJudged(#[from] NotJudged),
}

/// A known device and when its load began.
#[derive(Clone)]
struct Known {
    device: Arc<DeviceRecord>,
    stamp: Stamp,
}

/// A name that no device had when it was looked up.
#[derive(Clone)]
struct Unknown {
    stamp: Stamp,
    until: Instant,
}

#[derive(Clone)]
struct Loaded {
    device: Option<Arc<DeviceRecord>>,
    stamp: Stamp,
}

type Flight = Arc<OnceCell<Result<Loaded, CacheError>>>;

/// See the module documentation.
pub struct DeviceCache {
    known: Cache<DeviceName, Known, BySize>,
    unknown: Cache<DeviceName, Unknown>,
    unknown_ttl: Duration,
    flights: Mutex<HashMap<DeviceName, Flight>>,
    freshness: Arc<Freshness>,
    loads: Loads,
    metrics: CacheMetrics,
}

impl DeviceCache {
    /// An empty cache in front of `postgres`.
    #[must_use]
    pub fn new(
        settings: &config::Cache,
        postgres: &Postgres,
        freshness: Arc<Freshness>,
        metrics: CacheMetrics,
    ) -> Self {
        let capacity = u64::try_from(settings.devices).unwrap_or(u64::MAX);
        Self {
            known: Cache::with_weighter(settings.devices, capacity, BySize),
            unknown: Cache::new(settings.unknown_names),
            unknown_ttl: settings.unknown_ttl,
            flights: Mutex::default(),
            freshness,
            loads: Loads::start(postgres),
            metrics,
        }
    }

    /// The device of this name, or `None` when the registry has none.
    ///
    /// `name` is what a client sent: a text that cannot be a name is nobody's.
    ///
    /// # Errors
    /// [`CacheError`] when nothing trustworthy can be said.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        if let Some(answer) = self.trusted(name) {
            self.metrics.hits.inc();
            return Ok(answer);
        }
        let Ok(name) = name.parse::<DeviceName>() else { return Ok(None) };
        self.metrics.misses.inc();
        // Boxed, or every hit would carry a load's kilobytes of state about.
        Box::pin(self.find_beyond_memory(name)).await
    }

    /// Where the registry stands for a name: take it before [`DeviceCache::find`].
    #[must_use]
    pub fn stamp(&self, name: &str) -> Stamp {
        self.freshness.stamp(name)
    }

    /// Whether what was found at the stamp may still decide: no change of its name was heard of since, nor
    /// can one have been missed for long.
    #[must_use]
    pub fn unchanged_since(&self, stamp: Stamp) -> bool {
        self.freshness.still_holds(stamp)
    }

    /// Forgets a device that changed. Its old record is gone, even as a stand-in.
    pub fn changed(&self, name: &str) {
        self.freshness.changed(name);
        self.known.remove(name);
        self.unknown.remove(name);
    }

    /// Forgets everything.
    pub fn everything_changed(&self) {
        self.freshness.everything_changed();
        self.known.clear();
        self.unknown.clear();
    }

    /// How many records and how many unknown names are held.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.known.len(), self.unknown.len())
    }

    fn trusted(&self, name: &str) -> Option<Option<Arc<DeviceRecord>>> {
        if let Some(known) = self.known.get(name)
            && self.freshness.trusts(known.stamp)
        {
            return Some(Some(known.device));
        }
        let unknown = self.unknown.get(name)?;
        let holds = Instant::now() < unknown.until && self.freshness.trusts(unknown.stamp);
        holds.then_some(None)
    }

    async fn find_beyond_memory(
        &self,
        name: DeviceName,
    ) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        if self.freshness.is_away()
            && let Some(device) = self.stand_in(&name)
        {
            return Ok(Some(device));
        }
        let arrived = self.freshness.stamp(name.as_str());
        let mut flight = self.load_with_others(&name).await;
        if flight.as_ref().is_ok_and(|loaded| loaded.stamp.is_older_than(arrived)) {
            flight = self.load_with_others(&name).await;
        }
        match flight {
            Ok(loaded) => Ok(loaded.device),
            Err(error) => self.stand_in(&name).map(Some).ok_or(error),
        }
    }

    /// A suspect record that may be used while PostgreSQL does not answer.
    fn stand_in(&self, name: &DeviceName) -> Option<Arc<DeviceRecord>> {
        let known = self.known.get(name.as_str())?;
        if !self.freshness.may_stand_in(known.stamp) {
            return None;
        }
        self.metrics.stand_ins.inc();
        Some(known.device)
    }

    async fn load_with_others(&self, name: &DeviceName) -> Result<Loaded, CacheError> {
        let seat = self.board(name);
        seat.flight.get_or_init(|| self.load(name)).await.clone()
    }

    async fn load(&self, name: &DeviceName) -> Result<Loaded, CacheError> {
        let stamp = self.freshness.stamp(name.as_str());
        let timer = self.metrics.load_duration.start_timer();
        let outcome = self.loads.load(name).await;
        timer.observe_duration();
        match outcome {
            Ok(device) => {
                self.freshness.loaded(stamp);
                Ok(self.keep(name, device, stamp))
            }
            Err(error) => {
                self.freshness.loading(false);
                self.metrics.load_failures.inc();
                log_failure(&error);
                Err(CacheError::Registry(error))
            }
        }
    }

    fn keep(&self, name: &DeviceName, device: Option<Arc<DeviceRecord>>, stamp: Stamp) -> Loaded {
        match &device {
            Some(device) => {
                self.unknown.remove(name.as_str());
                self.known.insert(name.clone(), Known { device: device.clone(), stamp });
            }
            None => {
                self.known.remove(name.as_str());
                let until = Instant::now() + self.unknown_ttl;
                self.unknown.insert(name.clone(), Unknown { stamp, until });
            }
        }
        Loaded { device, stamp }
    }

    fn board(&self, name: &DeviceName) -> Seat<'_> {
        let flight = self.flights().entry(name.clone()).or_default().clone();
        Seat { cache: self, name: name.clone(), flight }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<DeviceName, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While PostgreSQL is away every unknown name fails.
fn log_failure(error: &RegistryError) {
    if error.is_unreachable() {
        log_throttled!(warn, "a device could not be loaded: the database cannot be reached", %error);
    } else {
        log_throttled!(warn, "a device could not be loaded", %error);
    }
}

/// One request's place in a flight. The flight ends with its result, or with its last seat when
/// every request was cancelled.
struct Seat<'a> {
    cache: &'a DeviceCache,
    name: DeviceName,
    flight: Flight,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut flights = self.cache.flights();
        if let Entry::Occupied(entry) = flights.entry(self.name.clone())
            && Arc::ptr_eq(entry.get(), &self.flight)
            && (self.flight.initialized() || Arc::strong_count(&self.flight) <= 2)
        {
            entry.remove();
        }
    }
}

/// Counts a device with very many rights or credentials as several, so that the bound on entries
/// bounds memory.
#[derive(Clone)]
struct BySize;

impl Weighter<DeviceName, Known> for BySize {
    fn weight(&self, _: &DeviceName, known: &Known) -> u64 {
        let rights = &known.device.rights;
        let parts = known.device.credentials.len()
            + rights.state_topics().len()
            + rights.command_topics().len()
            + rights.publish_grants().len()
            + rights.subscribe_grants().len();
        1 + u64::try_from(parts / PARTS_PER_ENTRY).unwrap_or(u64::MAX - 1)
    }
}
