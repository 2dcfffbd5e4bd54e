//! What goes on besides requests: the registry kept in step with PostgreSQL, EMQX with the registry.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{AppError, first_token, set_up};
use crate::authn::imported::ImportedKeeper;
use crate::authn::limits::{LimitSettings, Limits};
use crate::authn::locks::LockKeeper;
use crate::clock::Clock;
use crate::commands::Commands;
use crate::config::{self, Config};
use crate::emqx::EmqxApi;
use crate::fleet::routing::Bounds;
use crate::kickouts::KickOuts;
use crate::metrics::Metrics;
use crate::registry::cache::DeviceCache;
use crate::registry::changes::ChangeListener;
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::hearing::Hearing;
use crate::registry::live::LiveChanges;
use crate::registry::locks::LockFeed;
use crate::registry::migrate::{migrate, schema_version};
use crate::registry::pool::Postgres;
use crate::registry::roles::missing_privileges;
use crate::registry::{live, probe, replicas};
use crate::requests::Requests;
use crate::sweep::{Keep, Sweeper};
use crate::work::Worker;

/// Wait between attempts to reach a PostgreSQL that was never seen.
const FIRST_CONTACT_RETRY: Duration = Duration::from_millis(500);

/// How long PostgreSQL may take to tell what its schema is, and what the role may do.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long PostgreSQL may take to answer for the first time without being complained about.
const POSTGRES_STARTING: Duration = Duration::from_secs(60);

/// What keeps EMQX in step with the registry, and the registry with EMQX.
pub(super) struct Broker {
    kick_outs: Worker<KickOuts>,
    commands: Worker<Commands>,
    requests: Worker<Requests>,
    sweeper: Sweeper,
}

/// What wakes the workers of the work queue.
pub(super) struct Wake {
    pub(super) kick_outs: Arc<Notify>,
    pub(super) commands: Arc<Notify>,
    pub(super) requests: Arc<Notify>,
}

/// What bounds commands.
pub(super) fn bounds(config: &Config) -> Bounds {
    let config::Commands { max_payload, max_devices, .. } = config.commands;
    Bounds { max_payload, max_devices, has_broker: config.emqx.api.is_some() }
}

pub(super) fn broker(
    config: &Config,
    target: &Target,
    devices: &Arc<DeviceCache>,
    (hearing, bound): (Arc<Hearing>, Duration),
    wake: Wake,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<Broker, AppError> {
    let api = config.emqx.api.as_ref().map(|api| EmqxApi::new(api, metrics.emqx.clone()));
    let api = api.transpose().map_err(set_up("EMQX's REST API"))?.map(Arc::new);
    let kick_outs = KickOuts::new(
        api.clone(),
        devices.clone(),
        hearing,
        bound,
        config.emqx.max_session,
        metrics.kick_outs.clone(),
    );
    let kick_outs = Worker::new(kick_outs, target.clone(), wake.kick_outs, metrics.work.clone());
    let commands =
        Commands::new(api.clone(), target.clone(), config.commands.keep, metrics.commands.clone());
    let commands = Worker::new(commands, target.clone(), wake.commands, metrics.work.clone());
    let (keep, bounds) = (config.commands.keep, bounds(config));
    let requests =
        Requests::new(api.clone(), target.clone(), keep, bounds, metrics.requests.clone());
    let requests = Worker::new(requests, target.clone(), wake.requests, metrics.work.clone());
    let interval = config.emqx.sweep_interval;
    let keep = Keep { sessions: config.ingest.keep_sessions, audit: config.audit.keep };
    let target = target.clone().for_background();
    let sweeper = Sweeper::new(target, api, interval, keep, clock.clone(), metrics.sweep.clone());
    Ok(Broker { kick_outs, commands, requests, sweeper })
}

/// The limits on guessing, the way on which changes of locks come to them, and who keeps them in step with
/// PostgreSQL.
pub(super) fn locks(
    config: &Config,
    postgres: &Postgres,
    freshness: &Arc<Freshness>,
    metrics: &Metrics,
    clock: &Clock,
) -> (Arc<Limits>, LockFeed, LockKeeper) {
    let exempt = config.logins.exempt_networks.clone();
    let settings = LimitSettings { enabled: config.logins.limits, exempt };
    let limits = Arc::new(Limits::new(settings, metrics.limits.clone()));
    let (feed, notices) = LockFeed::new();
    let (postgres, freshness) = (postgres.clone(), freshness.clone());
    let keeper = LockKeeper::new(limits.clone(), postgres, freshness, notices, clock.clone());
    (limits, feed, keeper)
}

/// Brings the schema up to date once PostgreSQL is there (or makes sure that the owner has, and that the
/// role may serve), then listens and keeps EMQX in step until told to stop.
pub(super) async fn keep_registry(
    (address, target, token_file): (SocketAddr, Target, Option<PathBuf>),
    postgres: Postgres,
    freshness: Arc<Freshness>,
    (listener, changes): (ChangeListener, LiveChanges),
    broker: Broker,
    (lock_keeper, imported_keeper): (LockKeeper, ImportedKeeper),
    end: CancellationToken,
) -> Result<(), RegistryError> {
    let mut wait = FirstContact::begin();
    let checking = target.clone().for_background();
    while let Err(error) = bring_up_to_date(&target, &checking).await {
        if !error.is_unreachable() {
            return Err(error);
        }
        wait.tell(&error);
        freshness.away();
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            () = tokio::time::sleep(FIRST_CONTACT_RETRY) => {}
        }
    }
    tracing::info!(%address, "serving");
    if let Some(file) = token_file {
        first_token::write(&checking, &file).await;
    }
    let Broker { kick_outs, commands, requests, sweeper } = broker;
    let hearing = listener.hearing();
    // Others have to know of this replica before it keeps anything.
    replicas::tell(&postgres, &freshness, &hearing).await;
    tokio::join!(
        replicas::run(postgres.clone(), freshness.clone(), hearing, end.clone()),
        listener.run(end.clone()),
        live::tell(changes, postgres.clone()),
        probe::run(postgres, freshness, end.clone()),
        lock_keeper.run(end.clone()),
        imported_keeper.run(end.clone()),
        kick_outs.run(end.clone()),
        commands.run(end.clone()),
        requests.run(end.clone()),
        sweeper.run(end)
    );
    Ok(())
}

/// Waiting for a PostgreSQL that was never seen. It may start after Fleetgate: for a while that is told once
/// and is no error.
struct FirstContact {
    began: Instant,
    is_told: bool,
    is_error_told: bool,
}

impl FirstContact {
    fn begin() -> Self {
        Self { began: Instant::now(), is_told: false, is_error_told: false }
    }

    fn tell(&mut self, error: &RegistryError) {
        if self.began.elapsed() < POSTGRES_STARTING {
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::info!(%error, "waiting for PostgreSQL");
            }
        } else if !std::mem::replace(&mut self.is_error_told, true) {
            tracing::error!(%error, "still waiting for PostgreSQL");
        }
    }
}

/// Everything but a migration, which takes as long as it takes, is given up after [`CHECK_TIMEOUT`]: the
/// server may be frozen.
async fn bring_up_to_date(target: &Target, checking: &Target) -> Result<(), RegistryError> {
    let client = checking.open_guarded().await?;
    let version = within(CHECK_TIMEOUT, schema_version(&*client)).await?;
    if version.applied != version.known {
        let (mut client, _) = target.open(None).await?;
        let migrated = migrate(&mut client).await?;
        if !migrated.applied.is_empty() {
            tracing::info!(applied = ?migrated.applied, "brought the database's schema up to date");
        }
    }
    within(CHECK_TIMEOUT, missing_privileges(&*client)).await?.require_serving()
}
