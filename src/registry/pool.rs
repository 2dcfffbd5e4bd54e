//! The bounded pool that loads and batches of events run on.
//!
//! # What it keeps
//! 1. At most `pool_size` connections, on the server as well: a statement that took too long keeps its
//!    place until the server has ended it, which it is asked to. One whose caller was dropped (a client
//!    that hung up) is cancelled when its session would be used next, and gives its place up at once; the server
//!    ends it by then or at its statement time-out.
//! 2. A session is used again only if nothing speaks against it: not one that broke, whose server takes no
//!    writes, that failed in a way which may lie in its settings, or that stayed on a server
//!    which others have left.
//! 3. What was answered is committed, also on a synchronous standby where there is one: PostgreSQL answers a
//!    commit that was cancelled while it waited for the standby as done, with a warning. Here it is an error.
//! 4. While PostgreSQL is known to be away, nothing is tried and no request waits.
//!
//! # Races
//! - *A statement ends while it is given up*: its outcome is unknown. Loads are asked for again; events are sent
//!   again by EMQX, and change nothing the second time.
//!
//! deadpool opens a connection on the runtime that first needed it, which inside an actix worker is a single
//! thread that may be busy or stop first. Every connection is therefore opened on the runtime given to
//! [`Postgres::new`], and goes on to be opened when its caller gives up.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Pool, PoolError, QueueMode, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use crate::config::Database;
#[cfg(test)]
use crate::registry::connection::tests::settings;
use crate::registry::connection::{Target, known_to_be_away, timed_out};
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::session::{Canceller, Session};

/// How often a change that got into another's way is begun.
const CHANGE_ATTEMPTS: u32 = 5;

/// A session that failed is kept only if it is younger: otherwise a fault of its settings would stay with it,
/// and younger ones would be opened as fast as requests come.
const YOUNG: Duration = Duration::from_secs(1);

/// A connection of the pool, until it is dropped.
pub type Object = managed::Object<Sessions>;

/// The pool that loads and batches of events run on.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool<Sessions>,
    query_timeout: Duration,
    runtime: Handle,
    unless_away: Option<Arc<Freshness>>,
    target: Target,
    /// The turn of the servers that idle sessions were last looked through for.
    turn: Arc<AtomicUsize>,
}

impl Postgres {
    /// A pool of at most `settings.pool_size` connections, opened on `runtime` when first needed.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn new(settings: &Database, runtime: Handle) -> Result<Self, RegistryError> {
        Self::of(&Target::new(settings)?, settings, runtime)
    }

    /// The same to a target that others share, so that all use the same of several servers.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn of(
        target: &Target,
        settings: &Database,
        runtime: Handle,
    ) -> Result<Self, RegistryError> {
        let target = target.clone().for_look_ups(settings.query_timeout);
        Self::with(target, settings.pool_size, settings.query_timeout, runtime)
    }

    /// A pool for people and programs: `size` connections, statements of `statement` at most, and `timeout` for all that is
    /// done on one at a time, waiting for it included.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn for_api(
        target: &Target,
        size: usize,
        statement: Duration,
        timeout: Duration,
        runtime: Handle,
    ) -> Result<Self, RegistryError> {
        Self::with(target.clone().for_statements(statement), size, timeout, runtime)
    }

    fn with(
        target: Target,
        size: usize,
        query_timeout: Duration,
        runtime: Handle,
    ) -> Result<Self, RegistryError> {
        let pool = Pool::builder(Sessions { target: target.clone(), runtime: runtime.clone() })
            .max_size(size)
            // The connection used last is the one whose plans and pages are still at hand.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| RegistryError::Unreachable(error.to_string()))?;
        Ok(Self {
            pool,
            query_timeout,
            runtime,
            unless_away: None,
            turn: Arc::new(AtomicUsize::new(target.turn())),
            target,
        })
    }

    /// Refuses at once what is asked for while PostgreSQL is known to be away.
    #[must_use]
    pub fn unless_away(mut self, freshness: Arc<Freshness>) -> Self {
        self.unless_away = Some(freshness);
        self
    }

    /// How long a query may take, waiting for a connection included.
    #[must_use]
    pub fn query_timeout(&self) -> Duration {
        self.query_timeout
    }

    /// Runs a task where the connections are.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Runs `work` on a pooled connection within the query time-out, waiting for the connection
    /// included. `work` only reads: on a connection that turns out to be broken or unfit it is begun again
    /// on another one, once, so that a restarted PostgreSQL costs no refused login.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else what `work` says.
    pub async fn run<T>(
        &self,
        work: impl for<'c> Fn(&'c Object) -> BoxFuture<'c, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + self.query_timeout;
        match self.attempt(deadline, &work).await {
            Err(error) if error.is_unreachable() && Instant::now() < deadline => {
                self.attempt(deadline, &work).await
            }
            outcome => outcome,
        }
    }

    /// Runs `work` on `subject`: a single statement that changes rows, and so a transaction of its own; or
    /// several such, each of which changes nothing when it is run again, since all are run again. One that PostgreSQL undid because it got into another's way (SQLSTATE class 40), or refused because
    /// of the session, is run again, [`CHANGE_ATTEMPTS`] times in all; each attempt may take the query time-out.
    ///
    /// After [`RegistryError::Unreachable`] or [`RegistryError::TookTooLong`] nothing is known: a commit whose answer was lost may have
    /// happened.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else what `work` says.
    pub async fn change<S: Sync, T>(
        &self,
        subject: &S,
        work: impl ChangeOf<S, T>,
    ) -> Result<T, RegistryError> {
        let mut attempts = 1;
        loop {
            let deadline = Instant::now() + self.query_timeout;
            match self.attempt_change(deadline, subject, &work).await {
                Err(RegistryError::Interrupted(_) | RegistryError::SessionUnfit(_))
                    if attempts < CHANGE_ATTEMPTS =>
                {
                    attempts += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Runs `work` on a pooled connection, once. What it says about anything but PostgreSQL is handed through.
    ///
    /// After [`RegistryError::Unreachable`] or [`RegistryError::TookTooLong`] nothing is known of a change.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else what `work` says.
    pub async fn once<T>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.once_within(self.query_timeout, work).await
    }

    /// The same for work in bulk: it may take `limit` once there is a connection.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub async fn once_within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let began = Instant::now();
        let mut client = self.connection(began + self.query_timeout).await?;
        client.busy.store(true, Ordering::SeqCst);
        let outcome = timeout_at(began + limit, work(&mut client.client)).await;
        self.keep_or_drop(client, outcome, limit)
    }

    async fn attempt_change<S: Sync, T>(
        &self,
        deadline: Instant,
        subject: &S,
        work: &impl ChangeOf<S, T>,
    ) -> Result<T, RegistryError> {
        let client = self.connection(deadline).await?;
        client.busy.store(true, Ordering::SeqCst);
        let outcome = timeout_at(deadline, work(subject, &client)).await;
        self.keep_or_drop(client, outcome, self.query_timeout)
    }

    async fn connection(&self, deadline: Instant) -> Result<Object, RegistryError> {
        if self.unless_away.as_ref().is_some_and(|freshness| freshness.is_away()) {
            return Err(known_to_be_away());
        }
        let turn = self.target.turn();
        if self.turn.swap(turn, Ordering::SeqCst) != turn {
            let _left = self.pool.retain(|session, _| !session.canceller.has_moved());
        }
        timeout_at(deadline, self.pool.get())
            .await
            .map_err(|_| timed_out("waiting for a connection", self.query_timeout))?
            .map_err(no_connection)
    }

    async fn attempt<T>(
        &self,
        deadline: Instant,
        work: &impl for<'c> Fn(&'c Object) -> BoxFuture<'c, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let client = self.connection(deadline).await?;
        client.busy.store(true, Ordering::SeqCst);
        let outcome = timeout_at(deadline, work(&client)).await;
        self.keep_or_drop(client, outcome, self.query_timeout)
    }

    /// Decides whether the connection is used again.
    fn keep_or_drop<T>(
        &self,
        client: Object,
        outcome: Result<Result<T, RegistryError>, Elapsed>,
        limit: Duration,
    ) -> Result<T, RegistryError> {
        let Ok(outcome) = outcome else {
            self.runtime.spawn(end(client));
            let why = timed_out("a query", limit).to_string();
            return Err(RegistryError::TookTooLong(why));
        };
        client.busy.store(false, Ordering::SeqCst);
        match outcome {
            Ok(_) if client.unconfirmed.load(Ordering::SeqCst) => {
                drop(Object::take(client));
                Err(RegistryError::Unreachable(
                    "a commit was cancelled before a synchronous standby had it; look at the standbys in \
                     pg_stat_replication"
                        .to_owned(),
                ))
            }
            Err(error @ RegistryError::SessionUnfit(_)) => {
                drop(Object::take(client));
                // What holds for its server holds for the others there.
                let _dropped = self.pool.retain(|_, _| false);
                Err(error)
            }
            Err(error) if error.is_unreachable() => {
                drop(Object::take(client));
                Err(error)
            }
            Err(error) if may_be_the_session(&error) && Object::metrics(&client).age() >= YOUNG => {
                drop(Object::take(client));
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// Connections: how many exist, how many of those are idle, how many callers wait.
    #[must_use]
    pub fn usage(&self) -> PoolUsage {
        let status = self.pool.status();
        PoolUsage { open: status.size, idle: status.available, waiting: status.waiting }
    }
}

#[cfg(test)]
impl Postgres {
    /// A pool whose server is not there; needs a runtime.
    pub(crate) fn unreachable() -> Self {
        let settings = settings("host=/nonexistent dbname=none");
        Self::new(&settings, Handle::current()).unwrap()
    }
}

fn no_connection(error: PoolError<RegistryError>) -> RegistryError {
    match error {
        PoolError::Backend(error) => error,
        other => RegistryError::Unreachable(other.to_string()),
    }
}

/// Whether a new session may do better: its search path, role or rights may have changed since.
fn may_be_the_session(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::SchemaMissing | RegistryError::Unusable(_) | RegistryError::Database { .. }
    )
}

/// Has the server end the statement that was given up, and keeps the connection's place until it has.
async fn end(client: Object) {
    // It is answered after what was asked before.
    let ended = async { drop(client.simple_query("").await) };
    client.canceller.until(ended).await;
    drop(Object::take(client));
}

/// What the pool is doing.
#[derive(Debug, Clone, Copy)]
pub struct PoolUsage {
    /// Open connections.
    pub open: usize,
    /// Open connections that are not in use.
    pub idle: usize,
    /// Callers that wait for one.
    pub waiting: usize,
}

/// What [`Postgres::change`] runs. It gives a boxed future because a task that moves between threads
/// cannot yet hold that of an `AsyncFn` with a borrowed argument.
pub trait ChangeOf<S, T>:
    for<'c> Fn(&'c S, &'c Object) -> BoxFuture<'c, Result<T, RegistryError>> + Sync
{
}

impl<S, T, F> ChangeOf<S, T> for F where
    F: for<'c> Fn(&'c S, &'c Object) -> BoxFuture<'c, Result<T, RegistryError>> + Sync
{
}

/// Opens the pool's connections.
pub struct Sessions {
    target: Target,
    runtime: Handle,
}

/// A session of the pool, with the statements that were prepared in it.
pub struct PooledSession {
    client: ClientWrapper,
    canceller: Canceller,
    unconfirmed: Arc<AtomicBool>,
    /// A statement was begun, and has not ended as far as is known.
    busy: AtomicBool,
}

impl Deref for PooledSession {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for PooledSession {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl managed::Manager for Sessions {
    type Type = PooledSession;
    type Error = RegistryError;

    async fn create(&self) -> Result<PooledSession, RegistryError> {
        let target = self.target.clone();
        match self.runtime.spawn(async move { target.open_session(None).await }).await {
            Ok(opened) => opened.map(PooledSession::from),
            // The runtime is shutting down; the caller's time-out ends the wait.
            Err(_) => std::future::pending().await,
        }
    }

    async fn recycle(
        &self,
        session: &mut PooledSession,
        _: &Metrics,
    ) -> RecycleResult<RegistryError> {
        // Its last user was dropped while a statement ran.
        if session.busy.load(Ordering::SeqCst) {
            let canceller = session.canceller.clone();
            self.runtime.spawn(async move { canceller.once().await });
            return Err(RecycleError::message("its last statement was given up"));
        }
        if session.is_closed() || session.canceller.has_moved() {
            return Err(RecycleError::message("the session has ended, or its server was left"));
        }
        Ok(())
    }
}

impl From<Session> for PooledSession {
    fn from(session: Session) -> Self {
        let Session { client, task, canceller, unconfirmed } = session;
        let (client, busy) = (ClientWrapper::new(client, task), AtomicBool::new(false));
        Self { client, canceller, unconfirmed, busy }
    }
}
