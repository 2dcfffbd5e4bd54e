//! Listens to what PostgreSQL says has changed.
//!
//! # What it keeps
//! - LISTEN is in force before the first record is trusted, and again before any is trusted after a
//!   lost connection.
//! - A connection that is silently dead is noticed: every [`HEARTBEAT`] the listener notifies itself
//!   over its own connection and waits [`ECHO_TIMEOUT`] at most for the echo. The echo's travel time
//!   is the measured lag of changes.
//! - PostgreSQL coming back is noticed by itself, within [`RETRY_MAX`] and a connection attempt.
//!
//! # States
//! *listening* → (connection ends, echo missing) → *reconnecting*: records are suspect, every request
//! asks PostgreSQL → connection attempt fails → *away*: records here stand in, new names are refused
//! → LISTEN succeeds → *listening*.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, Notification};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::LogThrottle;
use crate::metrics::ListenMetrics;
use crate::registry::cache::DeviceCache;
use crate::registry::connection::{Target, timed_out};
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::schemas::SchemaCache;
use crate::secret::random_bytes;

/// The channel that the triggers in `sql/` notify, with the device's name as payload.
pub const DEVICE_CHANNEL: &str = "fleetgate_device";

/// The channel that the triggers on `capabilities` notify, with the capability's name as payload.
pub const CAPABILITY_CHANNEL: &str = "fleetgate_capability";
/// The channel that says that sessions have to end. A transaction's notice on it comes after those on
/// [`DEVICE_CHANNEL`].
pub const EVICTION_CHANNEL: &str = "fleetgate_eviction";

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Longest time that a heartbeat may take to come back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Keeps a cache's promise by listening for as long as it runs.
pub struct ChangeListener {
    target: Target,
    cache: Arc<DeviceCache>,
    schemas: Arc<SchemaCache>,
    freshness: Arc<Freshness>,
    metrics: ListenMetrics,
    /// Woken when sessions may have to end.
    evictions: Arc<Notify>,
    /// This replica's own channel for heartbeats.
    heartbeat_channel: String,
}

/// How a listening connection ended.
enum End {
    Stopped,
    Lost(String),
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
        evictions: Arc<Notify>,
    ) -> Self {
        let own = u64::from_ne_bytes(random_bytes());
        let heartbeat_channel = format!("fleetgate_heartbeat_{own:016x}");
        Self { target, cache, schemas, freshness, metrics, evictions, heartbeat_channel }
    }

    /// Listens, and connects again whenever the connection is lost, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut retry = RETRY_MIN;
        loop {
            let why = match self.connect().await {
                Ok((client, notifications)) => {
                    retry = RETRY_MIN;
                    match self.listen(&client, notifications, &stop).await {
                        End::Stopped => return,
                        End::Lost(why) => why,
                    }
                }
                Err(error) => {
                    self.report_away(&error);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(retry) => {}
                    }
                    retry = (retry * 2).min(RETRY_MAX);
                    continue;
                }
            };
            self.freshness.lost();
            self.metrics.up.set(0);
            self.metrics.losses.inc();
            static THROTTLE: LogThrottle = LogThrottle::new("the LISTEN connection is lost");
            if let Some(unsaid) = THROTTLE.now() {
                tracing::warn!(
                    why,
                    unsaid,
                    "the LISTEN connection is lost; records are asked for again until it is back"
                );
            }
        }
    }

    async fn connect(&self) -> Result<(Client, mpsc::Receiver<Notification>), RegistryError> {
        let (client, notifications) = self.target.open_listener().await?;
        let own = &self.heartbeat_channel;
        let listen = [DEVICE_CHANNEL, CAPABILITY_CHANNEL, EVICTION_CHANNEL, own]
            .map(|channel| format!("LISTEN {channel}"))
            .join(";");
        match timeout(ECHO_TIMEOUT, client.batch_execute(&listen)).await {
            Ok(listening) => {
                listening.map_err(RegistryError::on("LISTEN"))?;
            }
            Err(_) => return Err(timed_out("LISTEN", ECHO_TIMEOUT)),
        }
        let recovered = self.freshness.is_away();
        self.freshness.listening();
        self.metrics.up.set(1);
        self.evictions.notify_one();
        if recovered {
            static THROTTLE: LogThrottle = LogThrottle::new("PostgreSQL is back");
            if let Some(unsaid) = THROTTLE.now() {
                tracing::info!(unsaid, "PostgreSQL is back; listening for changes");
            }
        }
        Ok((client, notifications))
    }

    fn report_away(&self, error: &RegistryError) {
        if !self.freshness.is_away() {
            static THROTTLE: LogThrottle = LogThrottle::new("PostgreSQL cannot be reached");
            if let Some(unsaid) = THROTTLE.now() {
                tracing::error!(%error, unsaid, "PostgreSQL cannot be reached; devices already known keep working for a bounded time");
            }
        }
        self.freshness.away();
        self.metrics.up.set(0);
    }

    async fn listen(
        &self,
        client: &Client,
        mut notifications: mpsc::Receiver<Notification>,
        stop: &CancellationToken,
    ) -> End {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return End::Stopped,
                notification = notifications.recv() => match notification {
                    Some(notification) => self.take(&notification),
                    None => return End::Lost("the connection ended".to_owned()),
                },
                _ = heartbeat.tick() => {
                    if let Err(why) = self.beat(client, &mut notifications).await {
                        return End::Lost(why);
                    }
                }
            }
        }
    }

    fn take(&self, notification: &Notification) {
        match (notification.channel(), notification.payload()) {
            (DEVICE_CHANNEL, "") => self.cache.everything_changed(),
            (DEVICE_CHANNEL, name) => self.cache.changed(name),
            (CAPABILITY_CHANNEL, "") => return self.schemas.everything_changed(),
            (CAPABILITY_CHANNEL, name) => return self.schemas.changed(name),
            (EVICTION_CHANNEL, _) => return self.evictions.notify_one(),
            _ => return,
        }
        self.metrics.changes.inc();
    }

    /// Sends a notification to itself and takes what comes until it is back.
    async fn beat(
        &self,
        client: &Client,
        notifications: &mut mpsc::Receiver<Notification>,
    ) -> Result<(), String> {
        let sent = Instant::now();
        let notify = format!("NOTIFY {}", self.heartbeat_channel);
        let echo = async {
            let mut sending = pin!(client.batch_execute(&notify));
            let mut accepted = false;
            loop {
                tokio::select! {
                    // Both at once: a flood of changes must not keep the answer from being read.
                    outcome = &mut sending, if !accepted => {
                        outcome.map_err(|error| error.to_string())?;
                        accepted = true;
                    }
                    notification = notifications.recv() => match notification {
                        Some(echo) if echo.channel() == self.heartbeat_channel => return Ok(()),
                        Some(change) => self.take(&change),
                        None => return Err("the connection ended".to_owned()),
                    }
                }
            }
        };
        match timeout(ECHO_TIMEOUT, echo).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(format!("no heartbeat within {ECHO_TIMEOUT:?}")),
        }
        self.freshness.confirm();
        self.metrics.lag.set(sent.elapsed().as_secs_f64());
        Ok(())
    }
}
