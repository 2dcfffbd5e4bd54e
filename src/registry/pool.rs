//! The bounded pool that loads and batches of events run on.
//!
//! deadpool starts each connection's task on the runtime that first needed it, which inside an
//! actix worker is a single thread that may be busy or stop first. Every connection is therefore
//! opened on the runtime given to [`Postgres::new`].

use std::time::Duration;

use deadpool_postgres::{
    Connect, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod,
};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Config};

use crate::config::Database;
#[cfg(test)]
use crate::registry::connection::tests::settings;
use crate::registry::connection::{Target, timed_out};
use crate::registry::error::RegistryError;

/// How often a change that got into another's way is begun.
const CHANGE_ATTEMPTS: u32 = 5;

/// The pool that loads and batches of events run on.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    query_timeout: Duration,
    runtime: Handle,
}

impl Postgres {
    /// A pool of at most `settings.pool_size` connections, opened on `runtime` when first needed.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn new(settings: &Database, runtime: Handle) -> Result<Self, RegistryError> {
        let target = Target::new(settings)?;
        let target = target.for_look_ups(settings.query_timeout);
        let manager = Manager::from_connect(
            target.config.clone(),
            OnRuntime { target, runtime: runtime.clone() },
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            // The connection used last is the one whose plans and pages are still at hand.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| RegistryError::Unreachable(error.to_string()))?;
        Ok(Self { pool, query_timeout: settings.query_timeout, runtime })
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
    /// included. `work` only reads: on a connection that turns out to be broken it is begun again on
    /// another one, once, so that a restarted PostgreSQL costs no refused login.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else what `work` says.
    pub async fn run<T>(
        &self,
        work: impl for<'c> Fn(&'c Object) -> BoxFuture<'c, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + self.query_timeout;
        match self.attempt(deadline, &work).await {
            Err(RegistryError::Unreachable(_)) if Instant::now() < deadline => {
                self.attempt(deadline, &work).await
            }
            outcome => outcome,
        }
    }

    /// Runs `work` on `subject`: a single statement that changes rows, and so a transaction of its own.
    /// One that PostgreSQL undid because it got into another's way (SQLSTATE class 40) is run again,
    /// [`CHANGE_ATTEMPTS`] times in all; each attempt may take the query time-out.
    ///
    /// After [`RegistryError::Unreachable`] nothing is known: a commit whose answer was lost may have
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
                Err(RegistryError::Interrupted(_)) if attempts < CHANGE_ATTEMPTS => attempts += 1,
                outcome => return outcome,
            }
        }
    }

    async fn attempt_change<S: Sync, T>(
        &self,
        deadline: Instant,
        subject: &S,
        work: &impl ChangeOf<S, T>,
    ) -> Result<T, RegistryError> {
        let client = self.connection(deadline).await?;
        let outcome = timeout_at(deadline, work(subject, &client)).await;
        self.keep_or_drop(client, outcome)
    }

    async fn connection(&self, deadline: Instant) -> Result<Object, RegistryError> {
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
        let outcome = timeout_at(deadline, work(&client)).await;
        self.keep_or_drop(client, outcome)
    }

    /// A connection that broke or whose query was given up is not used again: the next query would
    /// wait behind it.
    fn keep_or_drop<T>(
        &self,
        client: Object,
        outcome: Result<Result<T, RegistryError>, Elapsed>,
    ) -> Result<T, RegistryError> {
        let outcome = outcome.unwrap_or_else(|_| Err(timed_out("a query", self.query_timeout)));
        if let Err(RegistryError::Unreachable(_)) = outcome {
            drop(Object::take(client));
        }
        outcome
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
    pub(crate) fn of_nobody() -> Self {
        let settings = settings("host=/nonexistent dbname=none");
        Self::new(&settings, Handle::current()).unwrap()
    }
}

fn no_connection(error: PoolError) -> RegistryError {
    match error {
        PoolError::Backend(error) => RegistryError::on("the connection")(error),
        other => RegistryError::Unreachable(other.to_string()),
    }
}

/// What the pool is doing.
#[derive(Debug, Clone, Copy)]
pub struct PoolUsage {
    /// Open connections.
    pub open: usize,
    /// Open connections that nobody uses.
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

struct OnRuntime {
    target: Target,
    runtime: Handle,
}

impl Connect for OnRuntime {
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let target = self.target.clone();
        let opening = self.runtime.spawn(async move { target.open_unbounded(None).await });
        async move {
            match opening.await {
                Ok(opened) => opened,
                // The runtime is shutting down; the caller's time-out ends the wait.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }
}
