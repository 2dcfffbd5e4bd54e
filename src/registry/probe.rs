//! Finds out whether records can be loaded, while none is needed or loads fail.
//!
//! What is in memory is answered from memory, so without a probe it would stay unnoticed that loads fail
//! (`/readyz`), or that they work again. A probe takes the same way as a load: the pool, the query, the
//! tables. While PostgreSQL is away nothing is probed: the listener does that.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::domain::name::DeviceName;
use crate::registry::freshness::Freshness;
use crate::registry::lookup::look_up;
use crate::registry::pool::Postgres;

/// Time between two probes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The name that is looked up. Whether a device has it does not matter.
const NAME: &str = "fleetgate";

/// Probes until `stop` is cancelled.
pub async fn run(postgres: Postgres, freshness: Arc<Freshness>, stop: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !freshness.is_away() {
            tokio::select! {
                () = stop.cancelled() => return,
                works = loads_work(&postgres) => freshness.loading(works),
            }
        }
    }
}

async fn loads_work(postgres: &Postgres) -> bool {
    let Ok(name) = NAME.parse::<DeviceName>() else { return true };
    let names: Arc<[DeviceName]> = Arc::new([name]);
    let probe = postgres.run(|client| {
        let names = names.clone();
        async move { look_up(client, &names).await }.boxed()
    });
    match probe.await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "records cannot be loaded");
            false
        }
    }
}
