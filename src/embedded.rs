//! A private PostgreSQL for `fleetgate dev` and the tests: its own cluster, one unix socket, no port.
//!
//! Wanted properties, and what gives them:
//!
//! * **Nobody else reaches it.** It listens on a unix socket only, in a fresh directory of mode 0700.
//!   That directory is the authentication: inside it every role is trusted.
//! * **It never outlives its owner.** PostgreSQL runs below a shell that watches a pipe held by this
//!   process (`watch`). However this process ends, the pipe closes and PostgreSQL shuts down; then a
//!   second shell removes what was temporary. `PR_SET_PDEATHSIG` would need `unsafe` and fires when
//!   the *thread* that started the child ends.
//! * **Ctrl-C is the owner's to handle.** The shells and PostgreSQL have a process group of their
//!   own, so that a terminal's signals don't reach them.
//! * **It works as root, anywhere.** PostgreSQL refuses uid 0 and then runs as another user
//!   (`account`), who may be unable to walk to a checkout below `/root`. It is therefore given its data
//!   directory as an open file descriptor (`cluster`).
//! * **One owner at a time.** A lock file guards the data. Whoever holds the lock may stop a
//!   PostgreSQL that an owner killed together with its watcher left behind.
//!
//! Everything here blocks; call it from a thread that may.

mod account;
mod binaries;
mod cluster;
mod directory;
mod error;
mod process;
mod watch;

use std::path::{Path, PathBuf};

pub use binaries::{Binaries, OLDEST_MAJOR};
pub use error::EmbeddedError;

use cluster::{Cluster, Lock};
use watch::{AtTheEnd, Janitor, Run};

/// The superuser of a private PostgreSQL.
const USER: &str = "fleetgate";

/// Where the cluster lives, and whether it stays.
#[derive(Debug, Clone)]
pub enum Home {
    /// In this directory (made if absent), which holds `data/`, `postgres.log` and `lock`, and stays.
    Kept(PathBuf),
    /// In a fresh directory below the system's temporary one, removed when the owner ends.
    Temporary,
}

/// A running PostgreSQL that belongs to this process. Dropping it stops it.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Fields are dropped in this order: PostgreSQL ends, its directories go, the lock is released.
    run: Option<Run>,
    janitor: Janitor,
    cluster: Cluster,
    socket_directory: PathBuf,
    _lock: Lock,
}

impl PrivatePostgres {
    /// Makes the cluster if there is none yet, starts it and waits until it takes connections.
    ///
    /// `max_connections` is PostgreSQL's setting of that name.
    ///
    /// # Errors
    /// No PostgreSQL is installed, the data belong to another version, user or running owner, or
    /// PostgreSQL did not come up: then the error carries the end of its log.
    pub fn start(home: &Home, max_connections: u16) -> Result<Self, EmbeddedError> {
        let (home, keep) = match home {
            Home::Kept(path) => (directory::existing(path)?, true),
            Home::Temporary => (directory::fresh()?, false),
        };
        let account = account::Account::for_data(&cluster::data_directory(&home));
        let prepared = account.and_then(|account| Ok((directory::for_socket(&account)?, account)));
        // Until the janitor runs, a failure must itself remove what was made.
        let (socket_directory, account) =
            prepared.inspect_err(|_| directory::discard(&home, keep))?;
        let mut temporary = vec![socket_directory.clone()];
        if !keep {
            temporary.push(home.clone());
        }
        let janitor = Janitor::start(&temporary).inspect_err(|_| {
            directory::discard(&socket_directory, false);
            directory::discard(&home, keep);
        })?;
        let lock = Lock::take(&home)?;
        let end = if keep { AtTheEnd::Fast } else { AtTheEnd::Immediate };
        let cluster = Cluster::open(&home, account, max_connections, end, &janitor)?;
        let mut server = Self { run: None, janitor, cluster, socket_directory, _lock: lock };
        server.restart()?;
        Ok(server)
    }

    /// A connection string in libpq's keyword form.
    #[must_use]
    pub fn connection_string(&self, database: &str) -> String {
        let host = quoted(&self.socket_directory.to_string_lossy());
        format!("host={host} port={} user={USER} dbname={}", cluster::PORT, quoted(database))
    }

    /// The unix socket itself.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.socket_directory.join(format!(".s.PGSQL.{}", cluster::PORT))
    }

    /// The file that PostgreSQL logs to; begun anew by [`PrivatePostgres::start`].
    #[must_use]
    pub fn log_path(&self) -> &Path {
        self.cluster.log()
    }

    /// Ends PostgreSQL (in order if the data stay) and removes what was temporary. Sessions are cut.
    ///
    /// # Errors
    /// Waiting for the watching processes failed.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.run.take().map_or(Ok(()), Run::finish)?;
        self.janitor.finish()
    }

    /// Shuts PostgreSQL down in order, cutting open sessions, until [`PrivatePostgres::restart`].
    ///
    /// # Errors
    /// A process could not be signalled or waited for.
    pub fn shut_down(&mut self) -> Result<(), EmbeddedError> {
        self.run.take().map_or(Ok(()), Run::shut_down)
    }

    /// Stops PostgreSQL as `SIGKILL` does, without a shutdown. [`PrivatePostgres::restart`] recovers it.
    ///
    /// # Errors
    /// A process could not be signalled or waited for.
    pub fn kill(&mut self) -> Result<(), EmbeddedError> {
        self.run.take().map_or(Ok(()), Run::kill)
    }

    /// Starts PostgreSQL again on the same data and the same socket; stops it first if it runs.
    ///
    /// # Errors
    /// As [`PrivatePostgres::start`].
    pub fn restart(&mut self) -> Result<(), EmbeddedError> {
        self.shut_down()?;
        self.run = Some(self.cluster.run(&self.socket_directory, &self.janitor)?);
        Ok(())
    }

    /// Freezes PostgreSQL: connections stay open and are accepted by the kernel, nothing answers.
    ///
    /// # Errors
    /// A process could not be signalled.
    pub fn pause(&mut self) -> Result<(), EmbeddedError> {
        self.run.as_ref().map_or(Ok(()), Run::pause)
    }

    /// Lets a frozen PostgreSQL go on.
    ///
    /// # Errors
    /// A process could not be signalled.
    pub fn resume(&mut self) -> Result<(), EmbeddedError> {
        self.run.as_ref().map_or(Ok(()), Run::resume)
    }
}

/// A value of a libpq connection string.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn connection_values_survive_quotes_and_backslashes() {
        assert_eq!(quoted(r"/tmp/it's \ here"), r"'/tmp/it\'s \\ here'");
    }
}
