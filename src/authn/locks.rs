//! Keeps the locks of this process and those in PostgreSQL in step.
//!
//! # What it keeps
//! 1. A lock of one replica is known to the others, and survives a restart: it is a row (`sql/V6`), and
//!    a notice carries it on. All rows are read whenever LISTEN begins.
//! 2. A lock that is cleared ends on every replica at once, written or not.
//! 3. Bounded: [`WRITES_A_SECOND`] changes a second, [`super::limits::Outbox`] has room for 1,024; what has no
//!    room, and everything while PostgreSQL is away, holds in this process's memory only.
//! 4. No login ever waits for this.
//!
//! # Known races
//! - *A lock is written while it is being cleared*: the row comes after the clearing and stays, as if the
//!   wrong password had come a little later. It ends by itself.
//! - *A change that PostgreSQL took, but whose answer was lost*, is written again: that changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::limits::{Limits, Outgoing};
use crate::clock::Clock;
use crate::logging::log_throttled;
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::locks::{self, LockNotice, LockNotices};
use crate::registry::pool::Postgres;

/// Most changes written a second.
pub const WRITES_A_SECOND: usize = 10;

const SECOND: Duration = Duration::from_secs(1);
/// Time between two looks for what is over.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(30);

/// See the module documentation.
pub struct LockKeeper {
    limits: Arc<Limits>,
    postgres: Postgres,
    freshness: Arc<Freshness>,
    notices: LockNotices,
    clock: Clock,
}

impl LockKeeper {
    /// Does nothing yet.
    #[must_use]
    pub fn new(
        limits: Arc<Limits>,
        postgres: Postgres,
        freshness: Arc<Freshness>,
        notices: LockNotices,
        clock: Clock,
    ) -> Self {
        Self { limits, postgres, freshness, notices, clock }
    }

    /// Works until `end` is cancelled. What has not been written then is lost with this process's
    /// memory: waits of at most 15 minutes.
    pub async fn run(mut self, end: CancellationToken) {
        let mut second = interval(SECOND);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut left, mut reload, mut cleanup_at) = (WRITES_A_SECOND, false, Instant::now());
        let limits = Arc::clone(&self.limits);
        loop {
            let mut ticked = false;
            tokio::select! {
                () = end.cancelled() => return,
                notice = self.notices.next() => match notice {
                    Some(LockNotice::Listening) => reload = true,
                    Some(notice) => self.limits.apply_notice(&notice, self.clock.now()),
                    None => return,
                },
                _ = second.tick() => (left, ticked) = (WRITES_A_SECOND, true),
                () = limits.wake.notified(), if left > 0 => {}
            }
            reload |= self.notices.were_missed();
            if ticked {
                self.limits.update_metrics(self.clock.now());
            }
            if self.freshness.is_away() {
                continue;
            }
            // Not at each notice: one that fails is tried again with the next second.
            if reload
                && ticked
                && let Ok((rows, shared)) = self.load().await
            {
                self.limits.apply_rows(&rows, &shared, self.clock.now());
                reload = false;
            }
            left = left.saturating_sub(self.write(left).await);
            if cleanup_at <= Instant::now() {
                cleanup_at = Instant::now() + CLEANUP_INTERVAL;
                self.clean_up().await;
            }
        }
    }

    async fn load(&self) -> Result<locks::Remembered, RegistryError> {
        self.postgres.run(|client| load(client).boxed()).await.inspect_err(|error| {
            log_throttled!(warn, "locks after wrong passwords cannot be read; those in memory hold", %error);
        })
    }

    /// Writes up to `most` changes; returns how many.
    async fn write(&self, most: usize) -> usize {
        let outgoing = self.limits.outgoing(most, self.clock.now());
        if outgoing.changes.is_empty() {
            return 0;
        }
        let written =
            self.postgres.change(&outgoing, |outgoing, client| write_all(client, outgoing).boxed());
        let count = outgoing.changes.len();
        match written.await {
            Ok(()) => self.limits.written(&outgoing),
            Err(error) if error.is_unreachable() => self.limits.put_back(outgoing),
            Err(error) => {
                log_throttled!(warn, "locks after wrong passwords hold in this process only", %error);
            }
        }
        // A failed attempt is one too: the next one comes with the next second.
        count
    }

    async fn clean_up(&self) {
        self.limits.clean_up(self.clock.now());
        let pruned = self.postgres.change(&(), |(), client| prune(client).boxed());
        if let Err(error) = pruned.await {
            tracing::debug!(%error, "locks that are over cannot be deleted now");
        }
    }
}

async fn load(client: &tokio_postgres::Client) -> Result<locks::Remembered, RegistryError> {
    locks::load(client).await
}

async fn prune(client: &tokio_postgres::Client) -> Result<(), RegistryError> {
    locks::prune(client).await
}

async fn write_all(
    client: &tokio_postgres::Client,
    outgoing: &Outgoing,
) -> Result<(), RegistryError> {
    if !outgoing.ended.is_empty() {
        locks::end(client, &outgoing.ended).await?;
    }
    if !outgoing.locks.is_empty() {
        locks::write(client, &outgoing.locks).await?;
    }
    if !outgoing.shared.is_empty() {
        locks::share(client, &outgoing.shared).await?;
    }
    Ok(())
}
