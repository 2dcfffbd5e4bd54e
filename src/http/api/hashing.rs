//! Hashes of passwords that are chosen over the API.
//!
//! One at a time, on a thread of lower priority: those that check logins have threads of their own, and their processors
//! first. Whoever waits longer than [`LONGEST_WAIT`] is answered 503.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix_web::http::StatusCode;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::Problem;
use crate::authn::hash_threads::lower_priority;
use crate::fleet::credentials::NewCredential;
use crate::secret::Secret;

/// Longest wait for one's turn.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Makes hashes, one at a time.
pub(super) struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Hashing {
    /// Makes a credential of a password.
    ///
    /// # Errors
    /// A rule about passwords; 503 when too many are being hashed.
    pub(super) async fn hash(
        &self,
        password: Secret,
        weak_is_fine: bool,
    ) -> Result<NewCredential, Problem> {
        let busy = || {
            let detail = "too many passwords are being hashed; try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        };
        let turn = timeout(LONGEST_WAIT, self.0.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?;
        let (sender, receiver) = oneshot::channel();
        let hash = move || {
            lower_priority();
            let _gone = sender.send(NewCredential::password(&password, weak_is_fine));
            // Only now is it another one's, also when the client has gone.
            drop(turn);
        };
        thread::Builder::new().name("api-hash".to_owned()).spawn(hash).map_err(|_| busy())?;
        Ok(receiver.await.map_err(|_| Problem::failed())??)
    }
}
