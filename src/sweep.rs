//! Compares the registry's presence with EMQX's list of clients, and repairs it.
//!
//! Events tell presence as it changes; a broker node that dies takes its events along, and then only
//! asking repairs what they would have told (docs/EMQX.md).
//!
//! # What it keeps
//! 1. Nothing is repaired before every page was read: a list that broke off says nothing of the rest.
//! 2. Nothing that was heard after reading began is undone. A session that is listed moves its client
//!    id only forward along the order of sessions ([`crate::registry::presence`]). One that is not
//!    listed is ended only if its row was noted before, by PostgreSQL's clock.
//! 3. An end that was concluded here is marked as such, and taken back when the client is listed again.
//!    So is an end that an event told, whatever the timestamps say, unless it names the very session that is
//!    listed or was noted since reading began: a broker's clock that is or was wrong takes nobody offline
//!    for longer than the time between two sweeps.
//! 4. One process sweeps at a time, and the replicas together no more often than one would.
//! 5. Memory: eight bytes a client listed, and a record for each that differs.
//!
//! # Races
//! - *A client connects or disconnects while pages are read.* Its event says so, before or after the
//!   repair: before, the row was noted after reading began or lies ahead of what is listed; after, the
//!   event lies ahead of the repair. When the event is lost, the next sweep does it.
//! - *A client takes its session over while pages are read, and falls between them.* Its old session
//!   is ended here, its connect event opens the new one.
//! - *A broker without `clients_v2`.* Its numbered pages shift when clients come and go, so that a
//!   client can be on none. They are read twice; one missed both times is offline until the next sweep.
//!
//! A client that is connected without right to be (its device is disabled, or the client id is not its
//! own) is [kicked out](crate::kickouts). Clients whose user name is no device are left
//! alone: they may be another authenticator's.

mod listing;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::backoff::{exponential, jittered};
use crate::clock::Clock;
use crate::emqx::{EmqxApi, EmqxError};
use crate::logging::log_throttled;
use crate::metrics::SweepMetrics;
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::live;
use crate::registry::sweep::{self as registry, DeviceCounts};
use crate::sweep::listing::Listing;

/// Share of the interval by which sweeps vary.
const JITTER: f64 = 0.1;
/// Waits between attempts while EMQX does not answer, at first and at most: it starts after Fleetgate
/// (`docker/compose.yaml`), and presence is right only once it was asked.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most steps of the removal of ended sessions at once, each of a few thousand sessions.
const PRUNING_STEPS: usize = 20;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Connected clients that EMQX listed.
    pub clients: usize,
    /// Sessions that were found open and are so now in the registry.
    pub repaired_online: u64,
    /// Sessions that the registry took for open and that have ended.
    pub repaired_offline: u64,
    /// Clients that have no right to be connected; they are being kicked out.
    pub kicked_out: u64,
}

/// Why a sweep was not finished. Nothing, or a part of what was found, is repaired then.
#[derive(Debug, Error)]
pub enum SweepError {
    /// There is nobody to ask.
    #[error("there is no EMQX to ask; set emqx.api_url, emqx.api_key and emqx.api_secret")]
    NotConfigured,
    /// Another process does it now.
    #[error("another process is sweeping now")]
    Busy,
    /// Another process has finished one so short a while ago that none is due.
    #[error("another process has just finished a sweep")]
    RecentlyDone,
    /// EMQX did not give the whole list.
    #[error(transparent)]
    Emqx(#[from] EmqxError),
    /// The registry could not be read or repaired.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// See the module documentation.
pub struct Sweeper {
    target: Target,
    /// `None`: devices are counted, nothing else.
    api: Option<Arc<EmqxApi>>,
    interval: Duration,
    keep: Keep,
    clock: Clock,
    metrics: SweepMetrics,
}

/// How long things are kept that nobody removes.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Sessions that have ended.
    pub sessions: Duration,
    /// Entries of the audit log.
    pub audit: Duration,
}

fn complain(error: &SweepError) {
    log_throttled!(warn, "presence could not be compared with EMQX", %error);
}

impl Sweeper {
    /// Sweeps nothing yet.
    #[must_use]
    pub fn new(
        target: Target,
        api: Option<Arc<EmqxApi>>,
        interval: Duration,
        keep: Keep,
        clock: Clock,
        metrics: SweepMetrics,
    ) -> Self {
        metrics.interval.set(interval.as_secs_f64());
        Self { target, api, interval, keep, clock, metrics }
    }

    /// Sweeps at once and then at intervals until `stop` is cancelled; soon again while EMQX does not
    /// answer.
    pub async fn run(self, stop: CancellationToken) {
        let mut recent = Duration::ZERO;
        let mut failures = 0;
        let mut counted = None;
        loop {
            let emqx_failed = tokio::select! {
                () = stop.cancelled() => return,
                emqx_failed = self.turn(recent, &mut counted) => emqx_failed,
            };
            let wait = if emqx_failed {
                failures += 1;
                exponential(RETRY_FIRST, RETRY_LONGEST.min(self.interval), failures - 1)
            } else {
                (recent, failures) = (self.interval / 2, 0);
                jittered(self.interval, JITTER)
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Returns whether EMQX failed, so that it is to be asked again soon. Such further attempts do not count the devices
    /// anew, but once an interval they do: that needs no EMQX, however long it is away.
    async fn turn(&self, recent: Duration, counted: &mut Option<Instant>) -> bool {
        let emqx_failed = match &self.api {
            Some(api) => self.compare(api, recent).await,
            None => false,
        };
        if emqx_failed && counted.is_some_and(|at| at.elapsed() < self.interval) {
            return true;
        }
        *counted = Some(Instant::now());
        match self.count_devices().await {
            Ok(counts) => {
                self.metrics.online_devices.set(counts.online);
                self.metrics.offline_devices.set(counts.offline);
            }
            Err(error) => tracing::debug!(%error, "devices could not be counted"),
        }
        emqx_failed
    }

    async fn compare(&self, api: &EmqxApi, recent: Duration) -> bool {
        let outcome = self.sweep_unless_within(recent).await;
        match &outcome {
            Ok(report) if *report == (Report { clients: report.clients, ..Report::default() }) => {
                tracing::debug!(?report, "presence is as EMQX says");
            }
            Ok(report) => tracing::info!(?report, "presence is repaired"),
            Err(error @ (SweepError::Busy | SweepError::RecentlyDone)) => {
                tracing::debug!(%error, "no sweep here");
            }
            Err(SweepError::Emqx(error)) if api.is_awaited() && error.is_away() => {
                tracing::debug!(%error, "EMQX is not there yet");
            }
            Err(error) => complain(error),
        }
        matches!(outcome, Err(SweepError::Emqx(error)) if error.is_away() || error.may_be_anothers())
    }

    /// Counts devices, and removes sessions that ended long ago and old entries of the audit log.
    async fn count_devices(&self) -> Result<DeviceCounts, RegistryError> {
        let client = self.target.open_guarded().await?;
        if let Err(error) = self.prune_sessions(&client).await {
            log_throttled!(warn, "ended sessions could not be removed", %error);
        }
        if let Err(error) = self.prune_audit(&client).await {
            log_throttled!(warn, "old entries of the audit log could not be removed", %error);
        }
        in_time(registry::count_devices(&*client)).await
    }

    /// A bounded number each time.
    async fn prune_sessions(&self, client: &Client) -> Result<(), RegistryError> {
        for _ in 0..PRUNING_STEPS {
            let step = registry::prune_sessions(client, self.keep.sessions);
            let (pruned, more) = in_time(step).await?;
            self.metrics.pruned_sessions.inc_by(pruned);
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// A bounded number each time.
    async fn prune_audit(&self, client: &Client) -> Result<(), RegistryError> {
        for _ in 0..PRUNING_STEPS {
            if !in_time(registry::prune_audit(client, self.keep.audit)).await? {
                break;
            }
        }
        Ok(())
    }

    /// Sweeps now.
    ///
    /// # Errors
    /// See [`SweepError`].
    pub async fn sweep(&self) -> Result<Report, SweepError> {
        self.sweep_unless_within(Duration::ZERO).await
    }

    /// Sweeps unless some process finished a sweep within `recent`.
    ///
    /// # Errors
    /// See [`SweepError`].
    pub async fn sweep_unless_within(&self, recent: Duration) -> Result<Report, SweepError> {
        let began = Instant::now();
        let outcome = self.sweep_alone(recent).await;
        self.metrics.ended(match &outcome {
            Ok(_) => "done",
            Err(SweepError::Busy | SweepError::RecentlyDone) => "elsewhere",
            Err(_) => "failed",
        });
        if let Ok(report) = &outcome {
            self.count(report, began.elapsed());
        }
        outcome
    }

    fn count(&self, report: &Report, took: Duration) {
        self.metrics.duration.observe(took.as_secs_f64());
        self.metrics.repaired_online.inc_by(report.repaired_online);
        self.metrics.repaired_offline.inc_by(report.repaired_offline);
        self.metrics.kicked_out.inc_by(report.kicked_out);
        let now = self.clock.now().duration_since(Timestamp::UNIX_EPOCH);
        self.metrics.last_success.set(now.as_secs_f64());
    }

    async fn sweep_alone(&self, recent: Duration) -> Result<Report, SweepError> {
        let api = self.api.as_ref().ok_or(SweepError::NotConfigured)?;
        // A connection of its own: it holds the lock, and ends it by ending.
        let mut client = self.target.open_guarded().await?;
        if !in_time(registry::try_lock(&*client)).await? {
            return Err(SweepError::Busy);
        }
        let outcome = if in_time(registry::finished_within(&*client, recent)).await? {
            Err(SweepError::RecentlyDone)
        } else {
            compare_and_repair(api, &mut client).await
        };
        match &outcome {
            Ok(report) if report.repaired_online + report.repaired_offline > 0 => {
                in_time(live::tell_everything(&*client)).await?;
            }
            // A part may be repaired, and this connection lost.
            Err(SweepError::Registry(_)) => self.tell_everything().await,
            Ok(_) | Err(_) => {}
        }
        if outcome.is_ok() {
            in_time(registry::note_finished(&*client)).await?;
        }
        // Closing the connection frees the lock as well, but nobody knows when.
        if !matches!(outcome, Err(SweepError::Registry(_))) {
            in_time(registry::unlock(&*client)).await?;
        }
        outcome
    }

    async fn tell_everything(&self) {
        let told = async {
            let client = self.target.open_guarded().await?;
            in_time(live::tell_everything(&*client)).await
        };
        if let Err(error) = told.await {
            log_throttled!(warn, "event streams are not told what a sweep repaired that broke off", %error);
        }
    }
}

async fn compare_and_repair(api: &EmqxApi, client: &mut Client) -> Result<Report, SweepError> {
    let began = in_time(registry::now(client)).await?;
    let mut listing = Listing::read(api, client, began).await?;
    Ok(Report {
        clients: listing.clients(),
        repaired_online: listing.open(client).await?,
        repaired_offline: listing.end_the_rest(client).await?,
        kicked_out: listing.kick_out_the_unentitled(client).await?,
    })
}

async fn in_time<T>(
    query: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    within(QUERY_TIMEOUT, query).await
}
