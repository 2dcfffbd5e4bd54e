//! EMQX's list of clients beside the registry.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;
use tokio_postgres::Client;

use crate::domain::device::DeviceId;
use crate::domain::event::timestamp_from_ms;
use crate::emqx::{ClientPage, ConnectedClient, EmqxApi, Place};
use crate::logging::log_throttled;
use crate::registry::error::RegistryError;
use crate::registry::presence::{SessionChange, apply_sessions};
use crate::registry::sweep::SeenClient;
use crate::registry::{kickouts, sweep as registry};
use crate::sweep::{SweepError, in_time};

/// Sessions repaired in one transaction, which locks their devices.
const REPAIRS: usize = 500;
/// Longest client id in bytes that the work queue takes: its key is indexed. Fleetgate itself lets none in over 128 bytes.
const LONGEST_CLIENT_ID: usize = 2000;
/// Sessions of the registry read at once.
const SESSIONS: usize = 5000;
/// How often numbered pages are read.
const PASSES: usize = 2;

/// What was read of EMQX's list: which client ids it holds, and what differs from the registry.
pub(super) struct Listing {
    /// A keyed hash of each client id. Two with the same hash would hide an end until the next sweep,
    /// which has another key.
    listed: HashSet<u64>,
    key: RandomState,
    /// What was noted before this is older than the list.
    began: Timestamp,
    /// By client id, because one that moves while pages are read can be on two of them.
    opened: BTreeMap<String, SessionChange>,
    /// User name by client id.
    unentitled: BTreeMap<String, String>,
}

impl Listing {
    /// Reads the whole list; `began` is when that begins, by PostgreSQL's clock.
    pub(super) async fn read(
        api: &EmqxApi,
        client: &Client,
        began: Timestamp,
    ) -> Result<Self, SweepError> {
        let mut listing = Self {
            began,
            listed: HashSet::new(),
            key: RandomState::new(),
            opened: BTreeMap::new(),
            unentitled: BTreeMap::new(),
        };
        for _ in 0..PASSES {
            let numbered = listing.read_pages(api, client).await?;
            if !numbered {
                break;
            }
        }
        Ok(listing)
    }

    /// Connected clients that EMQX listed.
    pub(super) fn clients(&self) -> usize {
        self.listed.len()
    }

    /// Reads all pages; returns whether they were numbered.
    async fn read_pages(&mut self, api: &EmqxApi, client: &Client) -> Result<bool, SweepError> {
        let mut place = Place::Start;
        loop {
            let ClientPage { connected, next, numbered } = api.clients(&place).await?;
            self.take(client, connected).await?;
            match next {
                Some(next) => place = next,
                None => return Ok(numbered),
            }
        }
    }

    async fn take(
        &mut self,
        client: &Client,
        mut connected: Vec<ConnectedClient>,
    ) -> Result<(), RegistryError> {
        // MQTT forbids U+0000 and PostgreSQL cannot hold it.
        connected.retain(|seen| !seen.client_id.contains('\0') && !seen.user_name.contains('\0'));
        self.listed.extend(connected.iter().map(|seen| self.key.hash_one(&seen.client_id)));
        // A session that the registry cannot hold is listed all the same: it is not ended.
        connected.retain(|seen| timestamp_from_ms(seen.connected_at.as_millisecond()).is_some());
        let seen: Vec<_> = connected.iter().map(as_seen).collect();
        let differences = in_time(registry::compare(client, &seen, self.began)).await?;
        for difference in differences {
            let Some(seen) = connected.get(difference.position) else { continue };
            if let Some(device_id) = difference.opens {
                self.note_open(seen, device_id);
            }
            if difference.unentitled {
                self.unentitled.insert(seen.client_id.clone(), seen.user_name.clone());
            }
        }
        Ok(())
    }

    fn note_open(&mut self, seen: &ConnectedClient, device_id: DeviceId) {
        let connected_at = seen.connected_at;
        let known = self.opened.get(&seen.client_id).map(|known| known.connected_at);
        if known.is_none_or(|known| known < connected_at) {
            let client_id = seen.client_id.clone();
            let session = SessionChange {
                client_id: client_id.clone(),
                device_id,
                connected_at,
                ended_at: None,
                inferred: false,
                owned: true,
            };
            self.opened.insert(client_id, session);
        }
    }

    /// Opens what the registry does not know as open; once, because it keeps no copy.
    pub(super) async fn open(&mut self, client: &mut Client) -> Result<u64, RegistryError> {
        let mut opened = 0;
        let sessions: Vec<SessionChange> = std::mem::take(&mut self.opened).into_values().collect();
        for chunk in sessions.chunks(REPAIRS) {
            opened += in_time(async {
                let transaction = client.transaction().await.map_err(on_repair())?;
                let applied = apply_sessions(&transaction, chunk, Some(self.began)).await?;
                transaction.commit().await.map_err(on_repair())?;
                Ok(applied.moved)
            })
            .await?;
        }
        Ok(opened)
    }

    pub(super) async fn end_the_rest(&self, client: &mut Client) -> Result<u64, RegistryError> {
        let began = self.began;
        let mut ended = 0;
        let mut after = String::new();
        loop {
            let open = registry::open_sessions(client, began, &after, SESSIONS);
            let open = in_time(open).await?;
            let Some(last) = open.last() else { return Ok(ended) };
            after.clone_from(last);
            let unlisted: Vec<&str> = open
                .iter()
                .filter(|client_id| !self.listed.contains(&self.key.hash_one(client_id.as_str())))
                .map(String::as_str)
                .collect();
            for chunk in unlisted.chunks(REPAIRS) {
                ended += in_time(async {
                    let transaction = client.transaction().await.map_err(on_repair())?;
                    let ended = registry::end_sessions(&transaction, chunk, began).await?;
                    transaction.commit().await.map_err(on_repair())?;
                    Ok(ended)
                })
                .await?;
            }
        }
    }

    pub(super) async fn kick_out_the_unentitled(
        &self,
        client: &Client,
    ) -> Result<u64, RegistryError> {
        let mut queued = 0;
        let all = self.unentitled.iter().map(|(id, name)| (id.as_str(), name.as_str()));
        let (clients, too_long): (Vec<_>, Vec<_>) =
            all.partition(|(id, _)| id.len() <= LONGEST_CLIENT_ID);
        if let Some((_, name)) = too_long.first() {
            let (count, longest) = (too_long.len(), LONGEST_CLIENT_ID);
            log_throttled!(warn, "sessions without a right to be there cannot be ended: their client ids are too long; disconnect them in EMQX's dashboard", user_name = ?name, count, longest);
        }
        for chunk in clients.chunks(REPAIRS) {
            in_time(kickouts::queue_swept(client, chunk)).await?;
            queued += chunk.len() as u64;
        }
        Ok(queued)
    }
}

fn as_seen(client: &ConnectedClient) -> SeenClient<'_> {
    SeenClient {
        client_id: &client.client_id,
        user_name: &client.user_name,
        connected_at: client.connected_at,
    }
}

fn on_repair() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the repair of sessions")
}
