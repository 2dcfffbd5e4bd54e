//! One transaction's worth of changes.

use std::time::Duration;

use futures_util::future::FutureExt;

use crate::domain::device::DeviceId;
use crate::ingest::Change;
use crate::registry::error::RegistryError;
use crate::registry::events::{self, Outdated};
use crate::registry::pool::Postgres;
use crate::registry::presence::SessionMove;
use crate::registry::reports::{DeviceNews, Partial};

/// The changes by where they are written, in any order: PostgreSQL takes what is newest of each client id
/// and device. It borrows: when PostgreSQL refuses the batch, its changes are written in other batches.
pub(super) struct Batch<'a> {
    sessions: Vec<&'a SessionMove>,
    news: Vec<&'a DeviceNews>,
    partials: Vec<(DeviceId, &'a Partial)>,
    keep_sessions: Duration,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        changes: impl IntoIterator<Item = &'a Change> + Clone,
        keep_sessions: Duration,
    ) -> Self {
        let moves = changes.clone().into_iter().filter_map(|change| change.session.as_ref());
        let news: Vec<_> = changes.into_iter().filter_map(|change| change.news.as_ref()).collect();
        let partials =
            news.iter().flat_map(|of| of.partials.iter().map(|one| (of.device_id, one))).collect();
        Self { sessions: moves.collect(), news, partials, keep_sessions }
    }

    pub(super) async fn commit(&self, postgres: &Postgres) -> Result<Outdated, RegistryError> {
        postgres
            .change(self, |batch: &Self, client| {
                let Batch { sessions, news, partials, keep_sessions } = batch;
                events::write(client, sessions, news, partials, *keep_sessions).boxed()
            })
            .await
    }
}
