//! Listens to what PostgreSQL says has changed.
//!
//! # What it keeps
//! - LISTEN is in force and *proven* before the first record is trusted, and again before any is trusted
//!   after a lost connection.
//! - A proof is a notice from **another session** that arrives: that is what a change is. A pooler in
//!   transaction mode accepts LISTEN and loses every notice; it may also move a session to another
//!   server at any time. So every heartbeat, each [`HEARTBEAT`], is such a proof, sent over a second
//!   connection, and has [`ECHO_TIMEOUT`] to arrive. Its travel time is the measured lag of changes.
//! - A proof counts from when it was sent.
//! - PostgreSQL coming back is noticed by itself, within [`RETRY_MAX`] and a connection attempt.
//! - At most six sessions on the server, those included whose statement was given up: two of each
//!   [`Target`] here. Each is asked to end before its place is given away.
//!
//! # States
//! *listening* → (a connection ends, a proof is missing) → *reconnecting*: what is in memory is asked for again, every
//! request asks PostgreSQL → connection attempt fails → *away*: records in memory are served stale, new names
//! are refused. When PostgreSQL answers neither a heartbeat nor a fresh session it is *away* at once, and the
//! next attempt begins with another server. → LISTEN succeeds and is proven → *listening*. Without the first
//! proof it is *deaf*, which is reconnecting with a reason: PostgreSQL answers, so it is asked each time.
//!
//! A heartbeat alone does not tell whether PostgreSQL is there: commits that notify go one after the other,
//! and one that waits for a synchronous standby holds up all others, while reads go on.
//!
//! # Races
//! - *A change between LISTEN and its proof* is heard like any other.
//! - *The second connection breaks while notices still come.* Nothing is proven any more, so it counts
//!   as lost; that costs loads, never a wrong answer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, Notification};
use tokio_util::sync::CancellationToken;

use crate::causes::causes;
use crate::logging::log_throttled;
use crate::metrics::ListenMetrics;
use crate::registry::cache::DeviceCache;
use crate::registry::connection::Target;
use crate::registry::error::RegistryError;
use crate::registry::freshness::{Freshness, now_ms};
use crate::registry::hearing::{Hearing, Proof};
use crate::registry::heartbeat::{answers, database_time, is_read_only, or_else_asked};
use crate::registry::live::{Changes, LIVE_CHANNEL, LiveChanges};
use crate::registry::locks::{LockFeed, LockNotice};
use crate::registry::schemas::SchemaCache;
use crate::registry::session::Guarded;
use crate::registry::work::WorkNotices;
use crate::secret::random_bytes;

/// The channel that the triggers in `sql/` notify, with the device's name as payload.
pub const DEVICE_CHANNEL: &str = "fleetgate_device";

/// The channel that the triggers on `capabilities` notify, with the capability's name as payload.
pub const CAPABILITY_CHANNEL: &str = "fleetgate_capability";
/// The channel that says that there is work, with its kind as payload (`sql/V7`). A transaction's notice on it
/// comes after those on [`DEVICE_CHANNEL`].
pub const WORK_CHANNEL: &str = "fleetgate_work";

/// The channel that says which locks after wrong passwords began or ended (`sql/V6`).
pub const LOCK_CHANNEL: &str = "fleetgate_lock";

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Longest time that a heartbeat may take to come back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Keeps a cache's promise by listening for as long as it runs.
pub struct ChangeListener {
    /// Where it listens.
    target: Target,
    /// Where heartbeats are sent.
    speaking: Target,
    /// Where PostgreSQL is asked whether it is there at all.
    asking: Target,
    cache: Arc<DeviceCache>,
    schemas: Arc<SchemaCache>,
    freshness: Arc<Freshness>,
    metrics: ListenMetrics,
    /// Whom work wakes.
    work: WorkNotices,
    /// Who keeps the locks of logins.
    locks: LockFeed,
    /// What those who watch the fleet are told.
    live: LiveChanges,
    hearing: Arc<Hearing>,
    /// This replica's own channel for heartbeats.
    heartbeat_channel: String,
}

/// What listening works with: one session that hears, and another that speaks.
struct Listening {
    /// Held, because LISTEN ends with it.
    _listener: Client,
    notifications: mpsc::Receiver<Notification>,
    speaker: Guarded,
}

/// Why nobody listens.
#[derive(Debug, Error)]
enum ListenError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(
        "LISTEN is accepted, but a notice from another session does not arrive within {ECHO_TIMEOUT:?}: \
         typically a pooler in transaction or statement mode stands between (PgBouncer's pool_mode); \
         connect straight to PostgreSQL, or through a pooler in session mode"
    )]
    Deaf,
    #[error(
        "PostgreSQL answers, but a NOTIFY does not go through within {ECHO_TIMEOUT:?}: typically a commit that \
         notifies waits for a synchronous standby that is gone, and holds up all others; look for the \
         wait_event SyncRep in pg_stat_activity, and at synchronous_standby_names"
    )]
    Held,
    #[error("LISTEN is accepted, but there is no second session to prove it with: {0}")]
    Mute(RegistryError),
    #[error("{0}")]
    Lost(String),
    #[error("PostgreSQL did not answer within {ECHO_TIMEOUT:?}")]
    Silent,
}

/// How a time of listening ended.
enum End {
    Stopped,
    Lost(ListenError),
}

impl ChangeListener {
    /// A listener that is not connected yet.
    #[must_use]
    pub fn new(
        target: Target,
        cache: Arc<DeviceCache>,
        schemas: Arc<SchemaCache>,
        freshness: Arc<Freshness>,
        metrics: ListenMetrics,
        work: WorkNotices,
        locks: LockFeed,
    ) -> Self {
        let own = u64::from_ne_bytes(random_bytes());
        let heartbeat_channel = format!("fleetgate_heartbeat_{own:016x}");
        let hearing = Arc::new(Hearing::new(freshness.bound()));
        Self {
            speaking: target.clone().for_background(),
            asking: target.clone().for_background(),
            target: target.for_background(),
            cache,
            schemas,
            freshness,
            metrics,
            work,
            locks,
            live: LiveChanges::default(),
            hearing,
            heartbeat_channel,
        }
    }

    /// Where it tells what those who watch the fleet are to hear of.
    #[must_use]
    pub fn telling(self, live: LiveChanges) -> Self {
        Self { live, ..self }
    }

    /// What this replica has heard, by PostgreSQL's clock.
    #[must_use]
    pub fn hearing(&self) -> Arc<Hearing> {
        self.hearing.clone()
    }

    /// Listens, and connects again whenever the connection is lost, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        loop {
            let failed = match self.connect().await {
                Ok(sessions) => {
                    retry = RETRY_MIN;
                    match self.listen(sessions, &stop).await {
                        End::Stopped => return,
                        End::Lost(why) => self.report_loss(&why),
                    }
                    continue;
                }
                Err(failed) => failed,
            };
            match &failed {
                ListenError::Registry(error) => self.report_away(error),
                ListenError::Deaf | ListenError::Held | ListenError::Mute(_) => {
                    self.report_deaf(&failed);
                }
                ListenError::Lost(_) | ListenError::Silent => self.report_loss(&failed),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(RETRY_MAX);
        }
    }

    async fn connect(&self) -> Result<Listening, ListenError> {
        let (listener, notifications) = self.target.open_listener().await?;
        let own = &self.heartbeat_channel;
        let channels =
            [DEVICE_CHANNEL, CAPABILITY_CHANNEL, WORK_CHANNEL, LOCK_CHANNEL, LIVE_CHANNEL, own];
        let listen = channels.map(|channel| format!("LISTEN {channel}")).join(";");
        match timeout(ECHO_TIMEOUT, listener.batch_execute(&listen)).await {
            Ok(listening) => listening.map_err(RegistryError::on("LISTEN"))?,
            Err(_) if answers(&self.asking, ECHO_TIMEOUT).await => return Err(ListenError::Held),
            Err(_) => return Err(ListenError::Silent),
        }
        let speaker = self.speaking.open_guarded().await.map_err(ListenError::Mute)?;
        let mut sessions = Listening { _listener: listener, notifications, speaker };
        let recovered = self.freshness.is_away();
        let sent_ms = now_ms();
        let proof = self.beat(&mut sessions).await?;
        self.hearing.begins(proof);
        self.freshness.listening_since(sent_ms);
        self.metrics.up.set(1);
        self.work.wake_all();
        self.locks.send(Some(LockNotice::Listening));
        self.live.add(Changes::everything());
        if recovered {
            log_throttled!(info, "PostgreSQL is back; listening for changes");
        }
        Ok(sessions)
    }

    fn report_loss(&self, why: &ListenError) {
        let was_away = self.freshness.is_away();
        self.freshness.lost();
        let is_silent = matches!(why, ListenError::Silent);
        if is_silent {
            // Nobody has to find that out again: not requests, and not the attempt to connect.
            self.freshness.away();
            self.target.leave();
        }
        self.hearing.lost();
        self.metrics.up.set(0);
        self.metrics.losses.inc();
        if is_silent {
            return tell_away(was_away, why);
        }
        log_throttled!(warn, "the LISTEN connection is lost; records are asked for again until it is back", %why);
    }

    fn report_deaf(&self, why: &ListenError) {
        self.freshness.deaf();
        self.metrics.up.set(0);
        log_throttled!(error, "changes are not heard; every decision asks PostgreSQL until they are", %why);
    }

    fn report_away(&self, error: &RegistryError) {
        tell_away(self.freshness.is_away(), error);
        self.freshness.away();
        self.metrics.up.set(0);
    }

    async fn listen(&self, mut sessions: Listening, stop: &CancellationToken) -> End {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return End::Stopped,
                notification = sessions.notifications.recv() => match notification {
                    Some(notification) => self.take(&notification),
                    None => {
                        return End::Lost(ListenError::Lost("the connection ended".to_owned()));
                    }
                },
                _ = heartbeat.tick() => {
                    let sent_ms = now_ms();
                    match self.beat(&mut sessions).await {
                        Ok(proof) => {
                            self.freshness.confirm(sent_ms);
                            self.hearing.confirm(proof);
                        }
                        Err(why) => return End::Lost(why),
                    }
                }
            }
        }
    }

    fn take(&self, notification: &Notification) {
        match (notification.channel(), notification.payload()) {
            (DEVICE_CHANNEL, "") => {
                self.cache.everything_changed();
                self.live.add(Changes::everything());
            }
            (DEVICE_CHANNEL, name) => {
                self.cache.changed(name);
                self.live.add(Changes::named(name));
            }
            (CAPABILITY_CHANNEL, "") => return self.schemas.everything_changed(),
            (CAPABILITY_CHANNEL, name) => return self.schemas.changed(name),
            (WORK_CHANNEL, kind) => return self.work.wake(kind),
            (LIVE_CHANNEL, notice) => return self.live.add(Changes::of_notice(notice)),
            (LOCK_CHANNEL, notice) => return self.locks.send(LockNotice::parse(notice)),
            _ => return,
        }
        self.metrics.changes.inc();
    }

    /// Sends a notice over the other session and takes what comes until it is here.
    async fn beat(&self, sessions: &mut Listening) -> Result<Proof, ListenError> {
        let sent = Instant::now();
        // A simple query: poolers get along with it in any mode.
        let notify = format!(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                    current_setting('transaction_read_only') = 'on', pg_notify('{}', '')",
            self.heartbeat_channel
        );
        let answered = AtomicBool::new(false);
        let echo = async {
            let mut speaking = pin!(sessions.speaker.simple_query(&notify));
            let (mut sent_at, mut heard) = (None, false);
            loop {
                if let (Some(sent_at), true) = (sent_at, heard) {
                    return Ok(sent_at);
                }
                tokio::select! {
                    // Both at once: a flood of changes must not keep the answer from being read.
                    outcome = &mut speaking, if sent_at.is_none() => {
                        let answer = outcome.map_err(|error| ListenError::Lost(causes(&error)))?;
                        answered.store(true, Ordering::Relaxed);
                        if self.target.wants_writes() && is_read_only(&answer) {
                            let why = "the server takes no writes any more";
                            return Err(ListenError::Lost(why.to_owned()));
                        }
                        sent_at = Some(database_time(&answer).ok_or_else(|| {
                            ListenError::Lost("PostgreSQL's time cannot be read".to_owned())
                        })?);
                    }
                    notification = sessions.notifications.recv() => match notification {
                        Some(echo) if echo.channel() == self.heartbeat_channel => heard = true,
                        Some(change) => self.take(&change),
                        None => return Err(ListenError::Lost("the connection ended".to_owned())),
                    }
                }
            }
        };
        let (echoed, is_there) = or_else_asked(&self.asking, echo, ECHO_TIMEOUT).await;
        let missing = || match (answered.load(Ordering::Relaxed), is_there) {
            (true, _) => ListenError::Deaf,
            (false, true) => ListenError::Held,
            (false, false) => ListenError::Silent,
        };
        let sent_at = echoed.unwrap_or_else(|| Err(missing()))?;
        let travelled = sent.elapsed();
        self.metrics.lag.set(travelled.as_secs_f64());
        Ok(Proof { sent_at, travelled })
    }
}

/// Tells once that PostgreSQL is away, and why.
fn tell_away(was_away: bool, why: &dyn std::fmt::Display) {
    if !was_away {
        log_throttled!(
            error,
            "PostgreSQL is away; devices already known keep working for a bounded time",
            %why
        );
    }
}
