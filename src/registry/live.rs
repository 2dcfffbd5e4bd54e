//! What changes in the fleet, on its way to those who watch it: the event streams of the HTTP API, on all replicas.
//!
//! ```text
//!  ingest: batch committed ─► LiveChanges ─► tell() ─► NOTIFY ─► ChangeListener ─► LiveChanges ─► http/api: streams
//!  an administrator's transaction (triggers of sql/V3 and sql/V25) ──┘      (of each replica)
//! ```
//!
//! # What it keeps
//! - Whoever watches is told of every change that was committed, or that some were missed ([`Changes::all`]).
//! - Memory is bounded: more than [`MOST`] devices at a time become "all".
//! - Events are not held up: see below.
//!
//! # Why the batches of events do not notify themselves
//! PostgreSQL commits transactions that notify one after the other, under a lock that is held until the commit is on disk, and
//! on a standby where one is waited for. Batches that are under way at once, kick-outs, and heartbeats of all replicas would
//! wait for each other. So what batches changed is collected after their commits and told by a statement of its own, which
//! waits for no disk: at once, then every [`PAUSE`] at most, however many batches there are.
//!
//! # Races
//! - *A replica is killed between a commit and its notice.* Whatever replaces it tells "all" when it starts, and the others once
//!   they delete its row ([`super::replicas`]).
//! - *A notice that could not be sent* is "all" once PostgreSQL is back.
//! - *LISTEN is lost*: "all" once it is proven again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_postgres::GenericClient;

use crate::logging::log_throttled;
use crate::registry::error::RegistryError;
use crate::registry::pool::Postgres;

/// The channel on which it is told.
pub const LIVE_CHANNEL: &str = "fleetgate_live";

/// Most devices that are told one by one.
const MOST: usize = 1000;
/// Devices of a notice: it has less than 8000 bytes.
const MOST_OF_A_NOTICE: usize = 350;
/// Time between two notices of a replica.
const PAUSE: Duration = Duration::from_millis(200);
/// The same while they fail.
const RETRY: Duration = Duration::from_secs(1);

/// What changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may have, besides what follows.
    pub all: bool,
    /// Devices that came, went or were changed, by name.
    pub names: BTreeSet<String>,
    /// Devices that were changed, by id.
    pub devices: BTreeSet<i64>,
    /// Devices that connected or disconnected, with those behind them.
    pub presence: BTreeSet<i64>,
    /// Devices that reported.
    pub state: BTreeSet<i64>,
}

impl Changes {
    /// Anything.
    #[must_use]
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// A device of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { names: BTreeSet::from([name.to_owned()]), ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        if self.all {
            return;
        }
        self.all |= other.all;
        self.names.extend(other.names);
        self.devices.extend(other.devices);
        self.presence.extend(other.presence);
        self.state.extend(other.state);
        let count = self.names.len() + self.devices.len() + self.presence.len() + self.state.len();
        if self.all || count > MOST {
            *self = Self::everything();
        }
    }

    /// As notices tell it. Names are told by triggers alone.
    fn notices(&self) -> Vec<String> {
        if self.all {
            return vec!["all".to_owned()];
        }
        let kinds =
            [("devices", &self.devices), ("presence", &self.presence), ("state", &self.state)];
        let notices = kinds.into_iter().flat_map(|(kind, ids)| {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            let notice = |ids: &[String]| format!("{kind}:{}", ids.join(","));
            ids.chunks(MOST_OF_A_NOTICE).map(notice).collect::<Vec<_>>()
        });
        notices.collect()
    }

    /// Reads a notice. One that is not understood, as a later release may send it, is "all".
    #[must_use]
    pub fn of_notice(notice: &str) -> Self {
        let read = || {
            let (kind, ids) = notice.split_once(':')?;
            let ids = ids.split(',').map(|id| id.parse().ok()).collect::<Option<_>>()?;
            let none = Self::default();
            Some(match kind {
                "devices" => Self { devices: ids, ..none },
                "presence" => Self { presence: ids, ..none },
                "state" => Self { state: ids, ..none },
                _ => return None,
            })
        };
        read().unwrap_or_else(Self::everything)
    }
}

/// Changes that wait to be taken. Its clones are the same.
#[derive(Clone, Default)]
pub struct LiveChanges(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    changes: Mutex<Changes>,
    added: Notify,
    closed: AtomicBool,
}

impl LiveChanges {
    /// Adds changes.
    pub fn add(&self, changes: Changes) {
        if !changes.is_empty() {
            self.changes().add(changes);
            self.0.added.notify_one();
        }
    }

    /// Nothing more will be added.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.added.notify_one();
    }

    /// Takes what waits, once there is anything; `None`: nothing more will come.
    pub async fn take(&self) -> Option<Changes> {
        loop {
            let is_closed = self.is_closed();
            let changes = std::mem::take(&mut *self.changes());
            if !changes.is_empty() {
                return Some(changes);
            }
            if is_closed {
                return None;
            }
            self.0.added.notified().await;
        }
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells all replicas what this one changes, until nothing more comes.
pub async fn tell(changes: LiveChanges, postgres: Postgres) {
    changes.add(Changes::everything());
    while let Some(changed) = changes.take().await {
        let told = postgres.change(&changed, |changed, client| {
            let client: &tokio_postgres::Client = client;
            send(client, changed).boxed()
        });
        let pause = match told.await {
            Ok(()) => PAUSE,
            Err(_) if changes.is_closed() => return,
            Err(error) => {
                // That PostgreSQL is away is told by others.
                if !error.is_unreachable() {
                    log_throttled!(warn, "what changed cannot be told to those who watch the fleet", %error);
                }
                changes.add(Changes::everything());
                RETRY
            }
        };
        if !changes.is_closed() {
            sleep(pause).await; // why: it is the time between two notices
        }
    }
}

/// Whoever watches anything is to look at it again.
///
/// # Errors
/// A database that is away.
pub async fn tell_everything(client: &impl GenericClient) -> Result<(), RegistryError> {
    send(client, &Changes::everything()).await
}

/// The commit waits for no disk. A notice that a crash of PostgreSQL takes along is made good by the loss of LISTEN.
const SEND: &str = "
    SELECT pg_notify($1, notice)
    FROM (SELECT set_config('synchronous_commit', 'off', true)) AS at_once, unnest($2::text[]) AS notice";

async fn send(client: &impl GenericClient, changes: &Changes) -> Result<(), RegistryError> {
    let sent = client.execute(SEND, &[&LIVE_CHANNEL, &changes.notices()]).await;
    sent.map(drop).map_err(RegistryError::on("what changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = i64>) -> BTreeSet<i64> {
        ids.into_iter().collect()
    }

    #[test]
    fn what_a_notice_says_is_what_changed() {
        let changes = Changes {
            devices: ids([7]),
            presence: ids([1, i64::MAX]),
            state: ids(i64::MAX - 400..i64::MAX),
            ..Changes::default()
        };
        let notices = changes.notices();
        assert_eq!(notices.len(), 4);
        assert!(notices.iter().all(|notice| notice.len() < 8000));
        let mut heard = Changes::default();
        notices.iter().for_each(|notice| heard.add(Changes::of_notice(notice)));
        assert_eq!(heard, changes);
        for notice in ["all", "", "x:1", "state:", "state:1,x"] {
            assert_eq!(Changes::of_notice(notice), Changes::everything(), "{notice}");
        }
    }

    #[tokio::test]
    async fn more_than_can_be_told_is_everything() {
        let waiting = LiveChanges::default();
        let most = i64::try_from(MOST).unwrap();
        waiting.add(Changes { state: ids(0..most), ..Changes::default() });
        waiting.add(Changes { state: ids(0..most), ..Changes::default() });
        assert_eq!(waiting.take().await.unwrap().state.len(), MOST, "each is told once");
        waiting.add(Changes { state: ids(0..most), ..Changes::default() });
        waiting.add(Changes::named("one more"));
        assert_eq!(waiting.take().await, Some(Changes::everything()));
        waiting.add(Changes::named("last"));
        waiting.close();
        assert_eq!(waiting.take().await, Some(Changes::named("last")));
        assert_eq!(waiting.take().await, None);
    }
}
