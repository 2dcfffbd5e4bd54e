//! One transaction's worth of changes, coalesced.

use futures_util::future::FutureExt;

use crate::domain::device::DeviceId;
use crate::ingest::Change;
use crate::presence::coalesce;
use crate::registry::error::RegistryError;
use crate::registry::events::{self, Outdated};
use crate::registry::pool::Postgres;
use crate::registry::presence::SessionMove;
use crate::registry::reports::{NewsItem, Partial, merge};

/// One move a client id and what is newest of each device, both in the order in which rows are locked.
/// It borrows: when PostgreSQL refuses the batch, its changes are written in other batches.
pub(super) struct Batch<'a> {
    sessions: Vec<&'a SessionMove>,
    news: Vec<NewsItem<'a>>,
    partials: Vec<(DeviceId, &'a Partial)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(changes: impl IntoIterator<Item = &'a Change> + Clone) -> Self {
        let news = || changes.clone().into_iter().map(|change| &change.news);
        let partials = news().flat_map(|of| of.partials.iter().map(|one| (of.device_id, one)));
        let (partials, news) = (partials.collect(), merge(news()));
        let moves = changes.into_iter().filter_map(|change| change.session.as_ref());
        Self { sessions: coalesce(moves), news, partials }
    }

    pub(super) async fn commit(&self, postgres: &Postgres) -> Result<Outdated, RegistryError> {
        postgres
            .change(self, |batch: &Self, client| {
                events::write(client, &batch.sessions, &batch.news, &batch.partials).boxed()
            })
            .await
    }
}
