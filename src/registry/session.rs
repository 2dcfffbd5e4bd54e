//! One session with PostgreSQL: moved along, listened to, and ended so that nothing of it stays behind.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, CancelToken, Client, GenericClient, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::logging::log_throttled;
use crate::registry::error::RegistryError;
use crate::registry::server::RawConnection;

/// A connection in order closes within this.
const CLOSES_AT_ONCE: Duration = Duration::from_millis(250);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait before a statement is cancelled once more; doubled up to the longest.
const CANCEL_AGAIN: Duration = Duration::from_secs(5);
const CANCEL_AGAIN_LONGEST: Duration = Duration::from_secs(60);
/// How often a listener looks whether others have moved to another server.
const LOOK_FOR_MOVE: Duration = Duration::from_secs(1);

/// Lets each statement of a transaction take longer than the session's own limit: for work in bulk.
///
/// # Errors
/// A database that is away.
pub async fn statements_may_take(
    transaction: &impl GenericClient,
    limit: Duration,
) -> Result<(), RegistryError> {
    let set = "SELECT set_config('statement_timeout', $1, true)";
    let set = transaction.execute(set, &[&limit.as_millis().to_string()]).await;
    set.map(drop).map_err(RegistryError::on("the limit of a statement"))
}

/// A connection that was opened, with all that it takes to end it.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) task: JoinHandle<()>,
    pub(super) canceller: Canceller,
    /// A commit was answered that a synchronous standby has not confirmed.
    pub(super) unconfirmed: Arc<AtomicBool>,
}

/// Ends what a session is doing.
#[derive(Clone)]
pub(super) struct Canceller {
    pub(super) token: CancelToken,
    pub(super) tls: MakeRustlsConnect,
    /// In which turn of the servers the session was opened, and which one it is ([`super::connection::Target`]).
    pub(super) turn: usize,
    pub(super) current: Arc<AtomicUsize>,
}

impl Canceller {
    /// Cancels again and again until `ended` says that the statement has; or until others use another
    /// server: this one may be frozen for ever.
    pub(super) async fn until(&self, ended: impl Future<Output = ()>) {
        let mut ended = pin!(ended);
        let mut pause = CANCEL_AGAIN;
        loop {
            self.once().await;
            if timeout(pause, &mut ended).await.is_ok() || self.has_moved() {
                return;
            }
            pause = (pause * 2).min(CANCEL_AGAIN_LONGEST);
        }
    }

    /// Cancels what runs on the session, if the server takes that.
    pub(super) async fn once(&self) {
        let cancelling = self.token.cancel_query(self.tls.clone());
        let _bounded = timeout(CANCEL_TIMEOUT, cancelling).await;
    }

    /// Waits until others use another server, or until there is no need to know.
    async fn moved(&self, is_over: impl Fn() -> bool) {
        let mut looks = interval(LOOK_FOR_MOVE);
        while !self.has_moved() && !is_over() {
            looks.tick().await;
        }
    }

    /// Whether others use another server since.
    pub(super) fn has_moved(&self) -> bool {
        self.current.load(Ordering::SeqCst) != self.turn
    }
}

/// A connection of a task in the background.
pub struct Guarded {
    client: Client,
    ending: Option<Ending>,
}

impl Guarded {
    /// `place` is given back once the server is done with the connection.
    pub(super) fn new(session: Session, place: Option<OwnedSemaphorePermit>) -> Self {
        let Session { client, task, canceller, .. } = session;
        // A task that waits for something to do would stay on a server that others have left.
        let (open, server) = (task.abort_handle(), canceller.clone());
        tokio::spawn(async move {
            server.moved(|| open.is_finished()).await;
            if !open.is_finished() {
                open.abort();
                server.once().await;
            }
        });
        Self { client, ending: Some(Ending::new(task, canceller, place)) }
    }
}

impl Deref for Guarded {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let (Some(ending), Ok(runtime)) = (self.ending.take(), Handle::try_current()) {
            runtime.spawn(ending.run());
        }
    }
}

/// The end of a connection whose client is gone.
pub(super) struct Ending {
    task: JoinHandle<()>,
    canceller: Canceller,
    _place: Option<OwnedSemaphorePermit>,
}

impl Ending {
    /// `place` is given back once the server is done with the connection.
    pub(super) fn new(
        task: JoinHandle<()>,
        canceller: Canceller,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { task, canceller, _place: place }
    }

    async fn run(mut self) {
        if timeout(CLOSES_AT_ONCE, &mut self.task).await.is_err() {
            let task = &mut self.task;
            self.canceller.until(async move { drop(task.await) }).await;
            self.task.abort();
        }
    }
}

/// Moves a connection along until it ends. Its end also ends the notification channel, which is how
/// the listener learns of it.
pub(super) struct Driver {
    pub(super) connection: RawConnection,
    pub(super) notifications: Option<mpsc::Sender<Notification>>,
    pub(super) unconfirmed: Arc<AtomicBool>,
}

impl Driver {
    pub(super) async fn run(mut self) {
        while let Some(message) = poll_fn(|cx| self.connection.poll_message(cx)).await {
            match (message, &self.notifications) {
                (Ok(AsyncMessage::Notification(notification)), Some(sender)) => {
                    if sender.send(notification).await.is_err() {
                        return;
                    }
                }
                (Ok(AsyncMessage::Notice(notice)), _) => {
                    if says_unconfirmed(&notice) {
                        self.unconfirmed.store(true, Ordering::SeqCst);
                    }
                    tracing::debug!(
                        severity = notice.severity(),
                        "PostgreSQL: {}",
                        notice.message()
                    );
                }
                (Ok(_), _) => {}
                (Err(error), _) => {
                    tracing::debug!(%error, "a PostgreSQL connection ended");
                    return;
                }
            }
        }
    }
}

/// Ends a listening connection when its notifications are no longer taken, and when others have moved to
/// another server: changes of what they read would not be heard here.
pub(super) async fn end_in_time(mut ending: Ending, listener: mpsc::Sender<Notification>) {
    tokio::select! {
        // The listener's channel ends with the last sender, and so when this returns.
        _ = &mut ending.task => {}
        () = listener.closed() => ending.run().await,
        () = ending.canceller.moved(|| false) => {
            log_throttled!(info, "moving to the database server that other connections now use");
            ending.task.abort();
        }
    }
}

/// "canceling wait for synchronous replication": the commit is answered as done, and only its warning says
/// that the standby may lack it. The message is translated, the routine is not.
fn says_unconfirmed(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
}
