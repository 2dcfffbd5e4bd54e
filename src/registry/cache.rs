//! The read-through cache of device records.
//!
//! # What it keeps
//! 1. A record is served only while [`freshness`](super::freshness) trusts it; a change that was
//!    committed in PostgreSQL and notified is never undone by a slow load.
//! 2. However many requests ask for a name at once, one [look-up](super::lookup_batches) runs for it, and
//!    none of them gets a record older than a change that was heard before it ([`single_flight`](super::single_flight)).
//! 3. Memory is bounded: records by number (a large one is counted as several), unknown names by number
//!    and time, look-ups by the requests that wait for them.
//! 4. While records cannot be loaded, those already here are served stale for a bounded time, see
//!    [`freshness`](super::freshness); a name that is not here is refused with an error, never guessed.
//!
//! # Design
//! Known and unknown names live in two caches, so that a flood of made-up names cannot push out the
//! devices in use.

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use thiserror::Error;

use crate::config;
use crate::domain::device::DeviceRecord;
use crate::domain::name::DeviceName;
use crate::domain::schema::NotValidated;
use crate::logging::log_throttled;
use crate::metrics::CacheMetrics;
use crate::registry::error::RegistryError;
use crate::registry::freshness::{Freshness, Stamp};
use crate::registry::lookup_batches::LookupBatches;
use crate::registry::pool::Postgres;
use crate::registry::recent_logins::RecentLogins;
use crate::registry::single_flight::{SingleFlight, Stamped};

/// Rights and credentials of a device that count as one entry of the cache's size.
const PARTS_PER_ENTRY: usize = 16;

/// Why there is no answer.
#[derive(Debug, Clone, Error)]
pub enum CacheError {
    /// PostgreSQL did not answer, and nothing in memory may be served stale.
    #[error("the registry cannot be asked: {0}")]
    Registry(#[source] Arc<RegistryError>),
    /// The schema could not be applied to a value at present.
    #[error(transparent)]
    NotValidated(#[from] NotValidated),
}

/// A name that no device had when it was looked up.
#[derive(Clone)]
struct Unknown {
    stamp: Stamp,
    until: Instant,
}

/// What is trusted of a name.
enum InMemory {
    Device(Arc<DeviceRecord>),
    /// No device has it.
    UnknownName,
    Nothing,
}

/// See the module documentation.
pub struct DeviceCache {
    known: Cache<DeviceName, Stamped<Arc<DeviceRecord>>, BySize>,
    unknown: Cache<DeviceName, Unknown>,
    unknown_ttl: Duration,
    loading: SingleFlight<DeviceName, Option<Arc<DeviceRecord>>, CacheError>,
    freshness: Arc<Freshness>,
    lookups: LookupBatches,
    metrics: CacheMetrics,
    /// Who was let in by what is found here.
    recent_logins: RecentLogins,
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
        Self {
            known: BySize::cache(settings.devices),
            unknown: Cache::new(settings.unknown_names),
            unknown_ttl: settings.unknown_ttl,
            loading: SingleFlight::default(),
            freshness,
            lookups: LookupBatches::start(postgres),
            metrics,
            recent_logins: RecentLogins::default(),
        }
    }

    /// Who was let in by what was found here.
    pub fn recent_logins(&self) -> &RecentLogins {
        &self.recent_logins
    }

    /// The device of this name, or `None` when the registry has none.
    ///
    /// `name` is what a client sent: for a text that is not a valid name there is no device.
    ///
    /// # Errors
    /// [`CacheError`] when PostgreSQL would have to be asked and cannot.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        let known = match self.in_memory(name) {
            InMemory::Device(device) => Some(device),
            InMemory::UnknownName => None,
            InMemory::Nothing => return self.find_in_registry(name).await,
        };
        self.metrics.hits.inc();
        Ok(known)
    }

    /// Looks a name up that nothing trusted is known of.
    async fn find_in_registry(&self, name: &str) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        let Ok(name) = name.parse::<DeviceName>() else { return Ok(None) };
        self.metrics.misses.inc();
        // Boxed: the future of a miss takes kilobytes, which no hit needs.
        Box::pin(self.load_or_serve_stale(name)).await
    }

    /// The present version of a name: take it before [`DeviceCache::find`].
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

    /// Forgets a device that changed. Its old record is not even served stale.
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

    fn in_memory(&self, name: &str) -> InMemory {
        if let Some(known) = self.known.get(name)
            && self.freshness.trusts(known.stamp)
        {
            return InMemory::Device(known.value);
        }
        match self.unknown.get(name) {
            Some(unknown)
                if Instant::now() < unknown.until && self.freshness.trusts(unknown.stamp) =>
            {
                InMemory::UnknownName
            }
            _ => InMemory::Nothing,
        }
    }

    async fn load_or_serve_stale(
        &self,
        name: DeviceName,
    ) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        if self.freshness.is_away()
            && let Some(device) = self.stale(&name)
        {
            return Ok(Some(device));
        }
        let stamp = || self.freshness.stamp(name.as_str());
        match self.loading.load(&name, stamp, |stamp| self.load(&name, stamp)).await {
            Ok(loaded) => Ok(loaded.value),
            Err(error) => self.stale(&name).map(Some).ok_or(error),
        }
    }

    /// A stale record that may be served while PostgreSQL does not answer.
    fn stale(&self, name: &DeviceName) -> Option<Arc<DeviceRecord>> {
        let known = self.known.get(name.as_str())?;
        if !self.freshness.may_serve_stale(known.stamp) {
            return None;
        }
        self.metrics.stale_hits.inc();
        Some(known.value)
    }

    async fn load(
        &self,
        name: &DeviceName,
        stamp: Stamp,
    ) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        let timer = self.metrics.load_duration.start_timer();
        let outcome = self.lookups.look_up(name).await;
        timer.observe_duration();
        match outcome {
            Ok(device) => {
                self.freshness.loaded(stamp);
                self.keep(name, device.clone(), stamp);
                Ok(device)
            }
            Err(error) => {
                self.freshness.loading(false);
                self.metrics.load_failures.inc();
                log_failure(&error);
                Err(CacheError::Registry(error))
            }
        }
    }

    fn keep(&self, name: &DeviceName, device: Option<Arc<DeviceRecord>>, stamp: Stamp) {
        match device {
            Some(device) => {
                self.unknown.remove(name.as_str());
                self.known.insert(name.clone(), Stamped { value: device, stamp });
            }
            None => {
                self.known.remove(name.as_str());
                let until = Instant::now() + self.unknown_ttl;
                self.unknown.insert(name.clone(), Unknown { stamp, until });
            }
        }
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

/// Counts a device with very many rights or credentials as several, so that the bound on entries
/// bounds memory. As no more than half of what one of the cache's parts holds: an entry that does not fit into its part is not
/// kept at all.
#[derive(Clone)]
struct BySize {
    most: u64,
}

impl BySize {
    /// A cache of so many entries.
    fn cache(entries: usize) -> Cache<DeviceName, Stamped<Arc<DeviceRecord>>, Self> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let parts = (threads * 4).next_power_of_two();
        // Parts hold 32 entries at least: with few entries there are fewer of them.
        let most = (entries / parts / 2).max(16.min(entries / 2)).max(1);
        let capacity = u64::try_from(entries).unwrap_or(u64::MAX);
        let options = OptionsBuilder::new()
            .shards(parts)
            .estimated_items_capacity(entries)
            .weight_capacity(capacity)
            .build();
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        match options {
            Ok(options) => Cache::with_options(
                options,
                Self { most },
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            // Only without a capacity.
            Err(_) => Cache::with_weighter(entries, capacity, Self { most }),
        }
    }
}

impl Weighter<DeviceName, Stamped<Arc<DeviceRecord>>> for BySize {
    fn weight(&self, _: &DeviceName, known: &Stamped<Arc<DeviceRecord>>) -> u64 {
        let parts = known.value.credentials.len() + known.value.rights.size();
        let entries = 1 + u64::try_from(parts / PARTS_PER_ENTRY).unwrap_or(u64::MAX - 1);
        entries.min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::device::DeviceId;
    use crate::domain::rights::Rights;

    #[test]
    fn the_largest_record_is_kept_too() {
        let freshness = Freshness::new(Duration::from_secs(60));
        for entries in [1, 2, 31, 32, 33, 1000, 200_000] {
            let cache = BySize::cache(entries);
            let filter = |n| format!("lab/{n}/#").parse().unwrap();
            let device = DeviceRecord {
                id: DeviceId(1),
                name: "gateway".parse().unwrap(),
                client_id: None,
                kind: "gateway".parse().unwrap(),
                enabled: true,
                credentials: Box::default(),
                rights: Rights::new(vec![], vec![], vec![], (0..100_000).map(filter).collect()),
            };
            let value = Stamped { value: Arc::new(device), stamp: freshness.stamp("gateway") };
            cache.insert("gateway".parse().unwrap(), value);
            assert!(cache.get("gateway").is_some(), "{entries}");
        }
    }
}
