//! Look-ups of device records, many in one query.
//!
//! After a start nothing is in memory, and a broker that was cut off brings all its clients back at
//! once: every device is asked for within seconds. One query for each would cost a round trip for each;
//! here the names that wait travel together.
//!
//! # What it keeps
//! 1. A name never waits for others to come: the first one after a quiet time is looked up at once.
//! 2. Bounded: [`WORKERS`] queries at a time, [`MAX_BATCH`] names in each; the names that wait are those of
//!    requests, each of which gives up at its deadline.
//! 3. While PostgreSQL answers nothing, [`MAX_STALLED_CALLERS`] requests wait for it and no more: EMQX has 32
//!    connections for logins, and known devices, which need no look-up, come over the same ones.
//! 4. One device whose row cannot be read fails alone.
//!
//! # Design
//! Workers are tasks on the registry's runtime. Each takes what waits, asks PostgreSQL, and answers the
//! callers. While a query is under way names gather, so batches grow with the load by themselves.
//!
//! # Races
//! - *A caller goes away while its name waits*: the name is dropped. *While the query runs*: the result
//!   is dropped.
//! - *A device changes while its name waits*: the caller took its [`Stamp`](super::freshness::Stamp)
//!   before it asked, which is earlier than the query.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use crate::domain::device::DeviceRecord;
use crate::domain::name::DeviceName;
use crate::registry::connection::timed_out;
use crate::registry::error::RegistryError;
use crate::registry::lookup::{Records, look_up};
use crate::registry::pool::Postgres;

/// Queries side by side. More would mean smaller batches, fewer that one slow query holds up half of
/// all logins.
const WORKERS: usize = 4;

/// Most names in a query. Their records are in memory all at once.
const MAX_BATCH: usize = 64;

/// Names that may wait; further callers wait until there is room. A request waits for one name at most.
const QUEUE_CAPACITY: usize = 1024;

/// Requests that may wait once nothing was loaded for [`STALL_THRESHOLD`]; further ones fail at once.
const MAX_STALLED_CALLERS: usize = 12;
const STALL_THRESHOLD: Duration = Duration::from_millis(500);

/// The device, or `None` when there is none.
pub type Outcome = Result<Option<Arc<DeviceRecord>>, Arc<RegistryError>>;

/// A name, and who waits for its record.
struct Request {
    name: DeviceName,
    answer: oneshot::Sender<Outcome>,
}

/// Sends names to the workers, which end with it.
pub struct LookupBatches {
    queue: mpsc::Sender<Request>,
    timeout: Duration,
    progress: Progress,
}

/// How many requests wait, and since when nothing was loaded.
struct Progress {
    callers: AtomicUsize,
    began: Instant,
    /// Milliseconds after `began` at which something was loaded, or the first of the waiting requests came.
    last_ms: AtomicU64,
}

/// A request that waits.
struct Caller<'a>(&'a Progress);

impl Progress {
    fn new() -> Self {
        let (callers, last_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { callers, began: Instant::now(), last_ms }
    }

    /// Lets one more request wait, unless enough wait for a PostgreSQL that does not answer.
    fn join(&self) -> Option<Caller<'_>> {
        let before = self.callers.fetch_add(1, Ordering::Relaxed);
        let caller = Caller(self);
        if before == 0 {
            self.note();
        }
        let stalled = before >= MAX_STALLED_CALLERS
            && self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed))
                >= u64::try_from(STALL_THRESHOLD.as_millis()).unwrap_or(u64::MAX);
        (!stalled).then_some(caller)
    }

    /// Something was loaded.
    fn note(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LookupBatches {
    /// Starts the workers on the runtime of `postgres`.
    #[must_use]
    pub fn start(postgres: &Postgres) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_CAPACITY);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..WORKERS {
            postgres.spawn(answer_all(waiting.clone(), postgres.clone()));
        }
        // A query that fails on a connection which turns out to be broken is asked once more.
        Self { queue, timeout: postgres.query_timeout(), progress: Progress::new() }
    }

    /// Looks up the device of this name; `None` when there is none.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else why the record cannot be
    /// read.
    pub async fn look_up(&self, name: &DeviceName) -> Outcome {
        let Some(_caller) = self.progress.join() else {
            return Err(Arc::new(RegistryError::Unreachable(format!(
                "PostgreSQL has answered nothing for {STALL_THRESHOLD:?}, and enough requests wait for it; look for \
                 locks and load in pg_stat_activity"
            ))));
        };
        let (answer, answered) = oneshot::channel();
        let request = Request { name: name.clone(), answer };
        let asked = async {
            self.queue.send(request).await.ok()?;
            answered.await.ok()
        };
        match timeout(self.timeout, asked).await {
            Ok(Some(loaded)) => {
                if loaded.is_ok() {
                    self.progress.note();
                }
                loaded
            }
            Ok(None) => Err(Arc::new(RegistryError::Unreachable("the service is stopping".into()))),
            Err(_) => Err(Arc::new(timed_out("a query", self.timeout))),
        }
    }
}

/// One worker: until the other end of the queue is gone.
async fn answer_all(queue: Arc<Mutex<mpsc::Receiver<Request>>>, postgres: Postgres) {
    loop {
        let mut batch = Vec::new();
        if queue.lock().await.recv_many(&mut batch, MAX_BATCH).await == 0 {
            return;
        }
        batch.retain(|request| !request.answer.is_closed());
        if !batch.is_empty() {
            answer(batch, &postgres).await;
        }
    }
}

async fn answer(batch: Vec<Request>, postgres: &Postgres) {
    let names: Arc<[DeviceName]> = batch.iter().map(|request| request.name.clone()).collect();
    let records = postgres.run(|client| {
        let names = names.clone();
        async move { look_up(client, &names).await }.boxed()
    });
    let records = records.await.map_err(Arc::new);
    for Request { name, answer } in batch {
        // A name may be there twice: of requests from before and after a change.
        let record = |records: &Records| records.get(&name).cloned().transpose();
        let _gone = answer.send(records.as_ref().map_err(Arc::clone).and_then(record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_wait_while_nothing_is_answered() {
        let progress = Progress::new();
        let waiting: Vec<_> = (0..100).map(|_| progress.join()).collect();
        assert!(waiting.iter().all(Option::is_some), "a burst may wait");
        let began = Instant::now().checked_sub(STALL_THRESHOLD * 2).unwrap();
        let stalled = Progress { began, ..Progress::new() };
        stalled.callers.store(MAX_STALLED_CALLERS - 1, Ordering::Relaxed);
        let last = stalled.join();
        assert!(last.is_some() && stalled.join().is_none());
        stalled.note();
        assert!(stalled.join().is_some(), "something was loaded");
        drop((waiting, last));
        assert_eq!(progress.callers.load(Ordering::Relaxed), 0);
    }
}
