//! One transaction's worth of changes, coalesced.

use std::collections::BTreeMap;
use std::sync::Arc;

use deadpool_postgres::Transaction;
use futures_util::future::FutureExt;

use crate::domain::device::DeviceId;
use crate::ingest::Change;
use crate::presence::coalesce;
use crate::registry::error::RegistryError;
use crate::registry::pool::Postgres;
use crate::registry::presence::{Applied, SessionMove, apply_sessions};
use crate::registry::reports::{self, DeviceNews};

/// One row a client id and one a device, both in the order in which they are locked.
pub(super) struct Batch {
    sessions: Vec<SessionMove>,
    news: Vec<DeviceNews>,
}

/// What a committed batch had in it that changed nothing.
pub(super) struct Outdated {
    pub(super) sessions: u64,
    pub(super) reports: u64,
}

impl Batch {
    pub(super) fn new<'a>(changes: impl IntoIterator<Item = &'a Change> + Clone) -> Self {
        let moves = changes.clone().into_iter().filter_map(|change| change.session.clone());
        let sessions = coalesce(moves);
        let mut by_device = BTreeMap::<DeviceId, DeviceNews>::new();
        for Change { news, .. } in changes {
            by_device
                .entry(news.device_id)
                .and_modify(|known| known.absorb(news.clone()))
                .or_insert_with(|| news.clone());
        }
        Self { sessions, news: by_device.into_values().collect() }
    }

    pub(super) async fn commit(self, postgres: &Postgres) -> Result<Outdated, RegistryError> {
        let batch = Arc::new(self);
        postgres.transact(|transaction| batch.clone().write(transaction).boxed()).await
    }

    async fn write(
        self: Arc<Self>,
        transaction: &Transaction<'_>,
    ) -> Result<Outdated, RegistryError> {
        let tx: &tokio_postgres::Transaction<'_> = transaction;
        let Applied { ignored, .. } = apply_sessions(tx, &self.sessions).await?;
        let reports = reports::write(tx, &self.news).await?;
        Ok(Outdated { sessions: ignored, reports })
    }
}
