//! Ends sessions whose rights are gone.
//!
//! # What it keeps
//! 1. Whatever took the right away (the API, the command line, `psql`), the sessions that had it end:
//!    the work is a row, written by trigger in the transaction of the change (`sql/V7`), and the row
//!    goes only when EMQX has said that the session has ended or was not there.
//! 2. One change ends a session once, however many replicas there are. Several changes of one device
//!    that come together count as one.
//! 3. From commit to EMQX's answer it takes tens of milliseconds while EMQX is well. While it is away,
//!    rows wait, nobody waits for them, and they are done once it is back.
//! 4. A kick-out is never given up while its client may be connected. Its row goes when EMQX has ended the
//!    session, or when the session is known to have ended by itself: it ended, or another began, after
//!    nobody could be let in by the old right any more. Where EMQX is not asked, also when no session is
//!    known to be open then. One row a client id, so what waits is bounded by the clients there are. A client id that EMQX refuses is tried again with waits up to
//!    [`RETRY_LONGEST`].
//! 5. A session that came back through a replica that had not heard of the change ends as well: the
//!    kick-out is carried out once more when that replica can decide by old records no longer. Where all
//!    replicas heard of the change, which they tell ([`crate::registry::replicas`]), it is not.
//!
//! # Design
//! PostgreSQL's notice wakes every replica; each takes what it can get (`FOR UPDATE SKIP LOCKED`) for
//! [`LEASE`], makes its own cache forget the device, calls EMQX and strikes the row out. Few client ids
//! go one by one, many in bulk. A poll every [`POLL`] finds what a lost notice or a crashed replica
//! left behind. Its connection to PostgreSQL is its own, so that logins never wait for it.
//!
//! # Races
//! - *The client logs in again before this replica has heard of the change.* It can't here: the row was
//!   read, so the change is visible, and the cache forgets the device before EMQX is called.
//! - *… on another replica, which has not heard of it either.* Its notice left PostgreSQL together with
//!   ours. The call waits for [`SETTLE`] after the notice, and the client needs a network round trip or
//!   two to come back; the window is what the other replica lags beyond that. A replica that is deaf, slow
//!   or dead then is known by its row, and the session ends the second time (5), whether or not a login is
//!   known of: its connect event may be what is still missing. What heartbeats cannot see is a notice
//!   that is late by less than the second between two of them.
//! - *The client logs in with the new rights between the change and the call.* It is thrown out once:
//!   EMQX can end only whatever session the client id has now. It then logs in again.
//! - *A new change while EMQX is called.* The row's `changed_at` has moved on, so it is not struck out,
//!   and the session is ended again: the login in between may have had the rights of before. If that
//!   change is rolled back in the end, the row, which could not be struck out meanwhile, costs a
//!   second call after the lease.
//! - *The replica dies between EMQX's answer and the strike.* The session is ended a second time, after
//!   the lease. At a shutdown the strike is waited for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::backoff::exponential;
use crate::emqx::{EmqxApi, EmqxError, Gone};
use crate::logging::log_throttled;
use crate::metrics::EvictionMetrics;
use crate::registry::cache::DeviceCache;
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::evictions::{self, Ends, Eviction};
use crate::registry::hearing::Hearing;

/// Head start of the other replicas' caches.
pub const SETTLE: Duration = Duration::from_millis(20);
/// Longest time between two looks at the table.
pub const POLL: Duration = Duration::from_secs(5);
/// How long a replica keeps what it took: longer than a batch ever takes.
pub const LEASE: Duration = Duration::from_secs(60);
/// Added to the bound of a replica that lagged before a kick-out is repeated: an answer on its way.
pub const ANSWER: Duration = Duration::from_secs(1);

/// Client ids taken at once.
const BATCH: usize = 500;
/// From this many on, they go in bulk.
const BULK_FROM: usize = 32;
/// Client ids of one bulk call.
const BULK: usize = 250;
/// Calls at a time where they go one by one.
const CALLS: usize = 8;
/// Time between two looks at kick-outs that were carried out and are not confirmed.
const CONFIRM: Duration = Duration::from_secs(1);
/// Time between two looks for what is no longer needed.
const TIDY: Duration = Duration::from_secs(60);
/// Least wait before EMQX is tried again after a failure.
const BREATH: Duration = Duration::from_millis(100);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait before a client id that EMQX refuses is tried again.
pub const RETRY_LONGEST: Duration = Duration::from_secs(300);
const RECONNECT: Duration = Duration::from_secs(1);

/// See the module documentation.
pub struct Evictor {
    target: Target,
    /// `None`: nothing is ended, and rows wait until their sessions end by themselves.
    api: Option<Arc<EmqxApi>>,
    cache: Arc<DeviceCache>,
    /// Which replica this is.
    hearing: Arc<Hearing>,
    /// How long a record may decide after a change, whatever fails.
    bound: Duration,
    /// Longest time that a session may last, where there is one.
    max_session: Option<Duration>,
    wake: Arc<Notify>,
    metrics: EvictionMetrics,
}

/// What became of one of a batch.
type Kick<'a> = (&'a Eviction, Result<&'static str, EmqxError>);

impl Evictor {
    /// Ends nothing yet. `wake` is what the change listener notifies.
    #[must_use]
    pub fn new(
        target: Target,
        api: Option<Arc<EmqxApi>>,
        cache: Arc<DeviceCache>,
        hearing: Arc<Hearing>,
        bound: Duration,
        wake: Arc<Notify>,
        metrics: EvictionMetrics,
    ) -> Self {
        Self { target, api, cache, hearing, bound, max_session: None, wake, metrics }
    }

    /// With a longest time that a session may last, after which EMQX ends it.
    #[must_use]
    pub fn with_max_session(mut self, longest: Option<Duration>) -> Self {
        self.max_session = longest;
        self
    }

    /// Ends sessions until `stop` is cancelled; what is under way then is finished.
    pub async fn run(self, stop: CancellationToken) {
        while let Err(error) = self.work(&stop).await {
            // Without EMQX's API nobody would end them anyway.
            if self.api.is_some() {
                log_throttled!(warn, "sessions that have to end wait for the database", %error);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    async fn work(&self, stop: &CancellationToken) -> Result<(), RegistryError> {
        let client = self.target.open_guarded().await?;
        let mut tidy_at = Instant::now();
        while !stop.is_cancelled() {
            if tidy_at <= Instant::now() {
                self.tidy(&client).await?;
                tidy_at = Instant::now() + TIDY;
            }
            let pause = self.end_what_is_due(&client, stop).await?;
            let unconfirmed = self.confirm(&client).await?;
            let (waiting, until_due) = bounded(evictions::waiting(&*client)).await?;
            self.metrics.waiting.set(waiting);
            let pause = pause.or(until_due.filter(|_| self.api.is_some())).unwrap_or(POLL);
            let longest = if unconfirmed { CONFIRM } else { POLL };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.wake.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(pause.min(longest)) => {}
            }
        }
        Ok(())
    }

    /// Looks at what was carried out; returns whether any of it still waits.
    async fn confirm(&self, client: &Client) -> Result<bool, RegistryError> {
        let confirmations = bounded(evictions::confirm(client, ANSWER)).await?;
        self.metrics.kicked("repeated", confirmations.repeated);
        if confirmations.repeated > 0 {
            let sessions = confirmations.repeated;
            log_throttled!(
                warn,
                "a replica heard late of changes; sessions that it may have let in are ended again",
                sessions
            );
        }
        Ok(confirmations.waiting > 0)
    }

    async fn tidy(&self, client: &Client) -> Result<(), RegistryError> {
        let (bound, max_session) = (self.bound, self.max_session);
        let ends = Ends { bound, asks_emqx: self.api.is_some(), max_session };
        let dropped = bounded(evictions::drop_unneeded(client, ends)).await?;
        if dropped > 0 {
            tracing::info!(dropped, "sessions that had to end have ended by themselves");
        }
        self.metrics.kicked("ended_by_itself", dropped);
        Ok(())
    }

    /// Works until nothing is due; returns how long to wait where EMQX is the reason to.
    async fn end_what_is_due(
        &self,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<Option<Duration>, RegistryError> {
        let Some(api) = &self.api else { return Ok(None) };
        while !stop.is_cancelled() {
            let wait = api.circuit().wait();
            if wait > Duration::ZERO {
                return Ok(Some(wait));
            }
            // One is enough to find out whether EMQX is back.
            let limit = if api.circuit().is_open() { 1 } else { BATCH };
            let batch = bounded(evictions::lease(client, limit, LEASE)).await?;
            if batch.is_empty() {
                return Ok(None);
            }
            for device in batch.iter().filter_map(|eviction| eviction.device_name.as_deref()) {
                self.cache.changed(device);
            }
            let kicks = kick(api, &batch).await;
            if self.settle(client, &kicks).await? {
                return Ok(Some(api.circuit().wait().max(BREATH)));
            }
        }
        Ok(None)
    }

    /// Strikes out what is done and puts back the rest; returns whether EMQX was the reason.
    async fn settle(&self, client: &Client, kicks: &[Kick<'_>]) -> Result<bool, RegistryError> {
        let done: Vec<&Eviction> =
            kicks.iter().filter(|(_, kick)| kick.is_ok()).map(|(eviction, _)| *eviction).collect();
        for delay in bounded(evictions::finish(client, &done, self.hearing.id())).await? {
            self.metrics.delay.observe(delay);
        }
        let mut emqx_unfit = None;
        let mut put_back = Vec::new();
        for (eviction, kick) in kicks {
            self.metrics.kicked(kick.as_ref().map_or("failed", |outcome| outcome), 1);
            match kick {
                Ok(_) => {}
                Err(error) if error.is_emqx_unfit() => {
                    put_back.push(*eviction);
                    emqx_unfit = Some(error);
                }
                Err(error) => self.put_off(client, eviction, error).await?,
            }
        }
        if let Some(error) = emqx_unfit {
            let is_awaited =
                error.is_away() && self.api.as_ref().is_some_and(|api| api.circuit().is_awaited());
            if !is_awaited {
                let waiting = put_back.len();
                log_throttled!(warn, "sessions that have to end wait for EMQX", %error, waiting);
            }
            let why = error.to_string();
            bounded(evictions::postpone(client, &put_back, Duration::ZERO, &why)).await?;
        }
        Ok(emqx_unfit.is_some())
    }

    /// EMQX is well and would not do this one.
    async fn put_off(
        &self,
        client: &Client,
        eviction: &Eviction,
        error: &EmqxError,
    ) -> Result<(), RegistryError> {
        let client_id = &eviction.client_id;
        log_throttled!(warn, "a session that has to end did not", client_id, %error);
        let wait = exponential(RETRY_FIRST, RETRY_LONGEST, eviction.attempts.saturating_sub(1));
        let why = error.to_string();
        bounded(evictions::postpone(client, &[eviction], wait, &why)).await
    }
}

async fn kick<'a>(api: &EmqxApi, batch: &'a [Eviction]) -> Vec<Kick<'a>> {
    if batch.len() < BULK_FROM {
        return kick_one_by_one(api, batch).await;
    }
    let mut kicks = Vec::with_capacity(batch.len());
    for chunk in batch.chunks(BULK) {
        let client_ids: Vec<&str> = chunk.iter().map(|e| e.client_id.as_str()).collect();
        match api.disconnect_all(&client_ids).await {
            Ok(()) => kicks.extend(chunk.iter().map(|eviction| (eviction, Ok("in_bulk")))),
            Err(error) if error.is_emqx_unfit() => {
                kicks.extend(chunk.iter().map(|eviction| (eviction, Err(error.clone()))));
            }
            // One client id that EMQX does not like must not hold up the others.
            Err(_) => kicks.extend(kick_one_by_one(api, chunk).await),
        }
    }
    kicks
}

async fn kick_one_by_one<'a>(api: &EmqxApi, batch: &'a [Eviction]) -> Vec<Kick<'a>> {
    let kicks: Vec<_> = batch.iter().map(|eviction| kick_one(api, eviction)).collect();
    stream::iter(kicks).buffer_unordered(CALLS).collect().await
}

async fn kick_one<'a>(api: &EmqxApi, eviction: &'a Eviction) -> Kick<'a> {
    let outcome = api.disconnect(&eviction.client_id).await.map(|gone| match gone {
        Gone::Disconnected => "disconnected",
        Gone::WasNotThere => "was_not_there",
    });
    (eviction, outcome)
}

async fn bounded<T>(
    query: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    within(QUERY_TIMEOUT, query).await
}
