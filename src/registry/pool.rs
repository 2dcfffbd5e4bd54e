//! The bounded pool that loads run on.
//!
//! deadpool starts each connection's task on the runtime that first needed it, which inside an
//! actix worker is a single thread that may be busy or stop first. Every connection is therefore
//! opened on the runtime given to [`Postgres::new`].

use std::time::Duration;

use deadpool_postgres::{
    Connect, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Transaction,
};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Config};

use crate::config::Database;
use crate::registry::connection::{Target, timed_out};
use crate::registry::error::RegistryError;

/// How often a transaction that got into another's way is begun.
const TRANSACTION_ATTEMPTS: u32 = 5;

/// The pool that loads run on.
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
        let target = target.with_statement_timeout(settings.query_timeout);
        let manager = Manager::from_connect(
            target.config.clone(),
            OnRuntime { target, runtime: runtime.clone() },
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
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

    /// Runs `work` in a transaction and commits it. One that PostgreSQL undid because it got into
    /// another's way (SQLSTATE class 40) is begun again, [`TRANSACTION_ATTEMPTS`] times in all; each
    /// attempt may take the query time-out. `work` gives a boxed future because a task that moves
    /// between threads cannot yet hold that of an `AsyncFn` with a borrowed argument.
    ///
    /// After an error nothing is known: a COMMIT whose answer was lost may have happened.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] without connection or in time-out, else what `work` says.
    pub async fn transact<T>(
        &self,
        work: impl for<'t> Fn(&'t Transaction<'t>) -> BoxFuture<'t, Result<T, RegistryError>> + Sync,
    ) -> Result<T, RegistryError> {
        let mut attempts = 1;
        loop {
            let deadline = Instant::now() + self.query_timeout;
            match self.attempt_transaction(deadline, &work).await {
                Err(RegistryError::Interrupted(_)) if attempts < TRANSACTION_ATTEMPTS => {
                    attempts += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt_transaction<T>(
        &self,
        deadline: Instant,
        work: &(impl for<'t> Fn(&'t Transaction<'t>) -> BoxFuture<'t, Result<T, RegistryError>> + Sync),
    ) -> Result<T, RegistryError> {
        let mut client = self.connection(deadline).await?;
        let outcome = timeout_at(deadline, async {
            let on_transaction = || RegistryError::on("a transaction");
            let transaction = client.transaction().await.map_err(on_transaction())?;
            let outcome = work(&transaction).await?;
            transaction.commit().await.map_err(on_transaction())?;
            Ok(outcome)
        })
        .await
        .unwrap_or_else(|_| Err(timed_out("a transaction", self.query_timeout)));
        if let Err(RegistryError::Unreachable(_)) = outcome {
            drop(Object::take(client));
        }
        outcome
    }

    async fn connection(&self, deadline: Instant) -> Result<Object, RegistryError> {
        timeout_at(deadline, self.pool.get())
            .await
            .map_err(|_| timed_out("waiting for a connection", self.query_timeout))?
            .map_err(no_connection)
    }

    /// A connection that broke or whose query was given up is not used again: the next query would
    /// wait behind it.
    async fn attempt<T>(
        &self,
        deadline: Instant,
        work: &impl for<'c> Fn(&'c Object) -> BoxFuture<'c, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let client = self.connection(deadline).await?;
        let outcome = timeout_at(deadline, work(&client))
            .await
            .unwrap_or_else(|_| Err(timed_out("a query", self.query_timeout)));
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
