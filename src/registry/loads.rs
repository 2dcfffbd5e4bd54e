//! Loads of records, many in one query.
//!
//! After a start nothing is in memory, and a broker that was cut off brings all its clients back at
//! once: every device is asked for within seconds. One query for each would cost a round trip for each;
//! here the names that wait travel together.
//!
//! # What it keeps
//! 1. A name never waits for others to come: the first of a quiet moment is asked for at once.
//! 2. Bounded: [`LOADERS`] queries at a time, [`BATCH`] names in each; the names that wait are those of
//!    requests, each of which gives up at its deadline.
//! 3. One device whose row cannot be read fails alone.
//!
//! # Design
//! Loaders are tasks on the registry's runtime. Each takes what waits, asks PostgreSQL, and answers
//! those who wait. While a query is under way names gather, so batches grow with the load by themselves.
//!
//! # Races
//! - *A caller goes away while its name waits*: the name is dropped. *While the query runs*: nobody
//!   hears what was loaded.
//! - *A device changes while its name waits*: the caller took its [`Stamp`](super::freshness::Stamp)
//!   before it asked, which is earlier than the query.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use crate::domain::device::DeviceRecord;
use crate::domain::name::DeviceName;
use crate::registry::connection::timed_out;
use crate::registry::error::RegistryError;
use crate::registry::load::{Records, load};
use crate::registry::pool::Postgres;

/// Queries side by side. More would mean smaller batches, fewer that one slow query holds up half of
/// all logins.
const LOADERS: usize = 4;

/// Most names in a query. Their records are in memory all at once.
const BATCH: usize = 64;

/// Names that wait before callers wait to be let in; a request waits for one name at most.
const WAITING: usize = 1024;

/// What a load ends with.
pub type Loaded = Result<Option<Arc<DeviceRecord>>, Arc<RegistryError>>;

/// A name, and who waits for its record.
struct Wanted {
    name: DeviceName,
    answer: oneshot::Sender<Loaded>,
}

/// The way to the loaders, which end with it.
pub struct Loads {
    waiting: mpsc::Sender<Wanted>,
    patience: Duration,
}

impl Loads {
    /// Starts the loaders on the runtime of `postgres`.
    #[must_use]
    pub fn start(postgres: &Postgres) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..LOADERS {
            postgres.spawn(answer_all(queue.clone(), postgres.clone()));
        }
        // A query that fails on a connection which turns out to be broken is asked once more.
        Self { waiting, patience: postgres.query_timeout() }
    }

    /// Loads the device of this name; `None` when there is none.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else why the record cannot be
    /// read.
    pub async fn load(&self, name: &DeviceName) -> Loaded {
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted { name: name.clone(), answer };
        let asked = async {
            self.waiting.send(wanted).await.ok()?;
            answered.await.ok()
        };
        match timeout(self.patience, asked).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => Err(Arc::new(RegistryError::Unreachable("the service is stopping".into()))),
            Err(_) => Err(Arc::new(timed_out("a query", self.patience))),
        }
    }
}

/// One loader: until nobody can ask any more.
async fn answer_all(queue: Arc<Mutex<mpsc::Receiver<Wanted>>>, postgres: Postgres) {
    loop {
        let mut batch = Vec::new();
        if queue.lock().await.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        batch.retain(|wanted| !wanted.answer.is_closed());
        if !batch.is_empty() {
            answer(batch, &postgres).await;
        }
    }
}

async fn answer(batch: Vec<Wanted>, postgres: &Postgres) {
    let names: Arc<[DeviceName]> = batch.iter().map(|wanted| wanted.name.clone()).collect();
    let records = postgres.run(|client| {
        let names = names.clone();
        async move { load(client, &names).await }.boxed()
    });
    let records = records.await.map_err(Arc::new);
    for Wanted { name, answer } in batch {
        // A name may be there twice: of requests from before and after a change.
        let record = |records: &Records| records.get(&name).cloned().transpose();
        let _gone = answer.send(records.as_ref().map_err(Arc::clone).and_then(record));
    }
}
