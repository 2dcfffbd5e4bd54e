//! Imported hashes: unknown names look as if they had some, and each is replaced by argon2id after its first success.
//!
//! # Properties kept
//! - An imported hash is replaced only if its password was verified against it, and only if the row still holds it. What
//!   replaces it is of the same password, so nobody is kicked out, and a login under way stays right: where the record
//!   changes under it, it is decided again.
//! - No login waits for a replacement. [`MOST_WAITING`] successes wait at most; what has no room, and everything while
//!   PostgreSQL is away, comes with the next success.
//! - One hash at a time, on a thread that is as nice as the hash threads. Passwords are wiped when it is done or given up.
//! - As much of the names that no device has look like imported hashes as of the fleet has one, in the costs that
//!   are there ([`super::decoy`]). That is read every [`MIX_INTERVAL`].
//!
//! # Known races
//! - Right after a start and after an import, for a moment, unknown names do not look like imported hashes.
//! - Another replica has to verify the new hash once, which takes what a chosen password takes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::decoy::Decoys;
use super::hash_threads::lower_priority;
use super::recent_successes::RecentSuccesses;
use crate::domain::credential::{Credential, CredentialId};
use crate::domain::foreign_hash::ForeignHash;
use crate::domain::password_hash::{Cost, PasswordHash, hash_password};
use crate::logging::log_throttled;
use crate::metrics::HashMetrics;
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::imported::{self, ImportedHashes};
use crate::registry::pool::Postgres;
use crate::secret::random_bytes;

/// Time between two looks at which imported hashes there are.
pub const MIX_INTERVAL: Duration = Duration::from_secs(60);
/// Most successes that wait for their replacement.
pub const MOST_WAITING: usize = 256;

/// A password that was just verified against an imported hash.
pub(super) struct Success {
    id: CredentialId,
    hash: PasswordHash,
    password: Zeroizing<Box<[u8]>>,
}

/// Where successes go.
#[derive(Clone, Default)]
pub(super) struct Successes(Option<mpsc::Sender<Success>>);

impl Successes {
    /// A place for successes and what takes them out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Success>) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        (Self(Some(sender)), receiver)
    }

    /// Takes a success, if the hash was imported and there is room.
    pub(super) fn note(&self, credential: &Credential, hash: &PasswordHash, password: &[u8]) {
        let Some(sender) = self.0.as_ref().filter(|_| hash.is_foreign()) else { return };
        let password = Zeroizing::new(password.into());
        let success = Success { id: credential.id, hash: hash.clone(), password };
        // Full: the next success of this credential brings it again.
        let _ = sender.try_send(success);
    }
}

/// See the module documentation.
pub struct ImportedKeeper {
    pub(super) postgres: Postgres,
    pub(super) freshness: Arc<Freshness>,
    pub(super) decoys: Arc<Decoys>,
    pub(super) recent_successes: Arc<RecentSuccesses>,
    pub(super) successes: mpsc::Receiver<Success>,
    pub(super) metrics: HashMetrics,
}

impl ImportedKeeper {
    /// Works until `end` is cancelled.
    pub async fn run(mut self, end: CancellationToken) {
        let mut look = interval(MIX_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = look.tick() => self.look().await,
                Some(success) = self.successes.recv() => self.replace(success).await,
            }
        }
    }

    async fn look(&self) {
        match self.postgres.run(|client| read_hashes(client).boxed()).await {
            Ok(imported_hashes) => self.decoys.look_like(&imported_hashes),
            Err(error) => tracing::debug!(%error, "imported hashes cannot be looked at now"),
        }
    }

    async fn replace(&self, success: Success) {
        if self.freshness.is_away() {
            return;
        }
        let id = success.id;
        match self.try_replace(success).await {
            Ok(()) => {}
            Err(error) => {
                log_throttled!(warn, "an imported hash stays until the next login with it", credential = id.0, %error);
            }
        }
    }

    async fn try_replace(&self, success: Success) -> Result<(), RegistryError> {
        let Success { id, hash, password } = success;
        let stored = self.postgres.once(async |client| imported::stored(client, id).await).await?;
        let is_verified = |text: &String| {
            ForeignHash::parse(text).is_ok_and(|stored| {
                identity(&PasswordHash::Foreign(stored.into())) == identity(&hash)
            })
        };
        let Some(old) = stored.filter(is_verified) else { return Ok(()) };
        let Some((new, password)) = hash_anew(password).await else { return Ok(()) };
        let replaced = self
            .postgres
            .once(async |client| imported::replace(client, id, (&old, &new)).await)
            .await?;
        if let Ok(hash) = PasswordHash::parse(&new)
            && replaced
        {
            self.metrics.rehashed.inc();
            self.recent_successes.remember_costly(id, &hash, &password);
        }
        Ok(())
    }
}

async fn read_hashes(client: &tokio_postgres::Client) -> Result<ImportedHashes, RegistryError> {
    imported::hashes(client).await
}

fn identity(hash: &PasswordHash) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hash.write_identity(|piece| {
        hasher.update(piece);
    });
    hasher.finalize()
}

/// Hashes on a thread of its own; `None` without one.
async fn hash_anew(password: Zeroizing<Box<[u8]>>) -> Option<(String, Zeroizing<Box<[u8]>>)> {
    let (reply, answer) = oneshot::channel();
    let work = move || {
        lower_priority();
        let hash = hash_password(&password, &random_bytes(), Cost::Chosen);
        // Nobody waits any more: the service is being stopped.
        let _ = reply.send((hash, password));
    };
    std::thread::Builder::new().name("rehash".to_owned()).spawn(work).ok()?;
    answer.await.ok()
}
