//! What goes on besides requests: the registry kept in step with PostgreSQL, EMQX with the registry.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{AppError, set_up};
use crate::clock::Clock;
use crate::config::Config;
use crate::emqx::EmqxApi;
use crate::evictions::Evictor;
use crate::metrics::Metrics;
use crate::registry::cache::DeviceCache;
use crate::registry::changes::ChangeListener;
use crate::registry::connection::Target;
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::migrate::migrate;
use crate::registry::pool::Postgres;
use crate::registry::probe;
use crate::registry::roles::missing_privileges;
use crate::sweep::Sweeper;

/// Wait between attempts to reach a PostgreSQL that was never seen.
const FIRST_CONTACT_RETRY: Duration = Duration::from_millis(500);

/// What keeps EMQX in step with the registry, and the registry with EMQX.
pub(super) struct Broker {
    evictor: Evictor,
    sweeper: Sweeper,
}

pub(super) fn broker(
    config: &Config,
    target: &Target,
    devices: &Arc<DeviceCache>,
    wake: Arc<Notify>,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<Broker, AppError> {
    let api = config.emqx.api.as_ref().map(|api| EmqxApi::new(api, metrics.emqx.clone()));
    let api = api.transpose().map_err(set_up("EMQX's REST API"))?.map(Arc::new);
    let evictor =
        Evictor::new(target.clone(), api.clone(), devices.clone(), wake, metrics.evictions.clone());
    let interval = config.emqx.sweep_interval;
    let sweeper = Sweeper::new(target.clone(), api, interval, clock.clone(), metrics.sweep.clone());
    Ok(Broker { evictor, sweeper })
}

/// Brings the schema up to date once PostgreSQL is there (or makes sure that the owner has, and that the
/// role may serve), then listens and keeps EMQX in step until
/// told to stop.
pub(super) async fn keep_registry(
    target: Target,
    postgres: Postgres,
    freshness: Arc<Freshness>,
    listener: ChangeListener,
    broker: Broker,
    end: CancellationToken,
) -> Result<(), RegistryError> {
    while let Err(error) = bring_up_to_date(&target).await {
        if !error.is_unreachable() {
            return Err(error);
        }
        if !freshness.is_away() {
            tracing::error!(%error, "waiting for PostgreSQL");
        }
        freshness.away();
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            () = tokio::time::sleep(FIRST_CONTACT_RETRY) => {}
        }
    }
    let Broker { evictor, sweeper } = broker;
    tokio::join!(
        listener.run(end.clone()),
        probe::run(postgres, freshness, end.clone()),
        evictor.run(end.clone()),
        sweeper.run(end)
    );
    Ok(())
}

async fn bring_up_to_date(target: &Target) -> Result<(), RegistryError> {
    let (mut client, _) = target.open(None).await?;
    let migrated = migrate(&mut client).await?;
    if !migrated.applied.is_empty() {
        tracing::info!(applied = ?migrated.applied, "brought the database's schema up to date");
    }
    missing_privileges(&client).await?.require_serving()
}
