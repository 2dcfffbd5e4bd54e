//! What can go wrong with a private PostgreSQL.

use std::io;
use std::path::{Path, PathBuf};

use super::OLDEST_MAJOR;

/// Why a private PostgreSQL could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No usable server binaries.
    #[error(
        "no PostgreSQL {OLDEST_MAJOR} or newer among {looked}; install it with `sudo apt-get install \
         --no-install-recommends postgresql`, or set FLEETGATE_PG_BIN to the directory of its binaries"
    )]
    NoBinaries {
        /// The directories looked into, and what was found there.
        looked: String,
    },
    /// The data were written by a PostgreSQL that isn't installed.
    #[error(
        "{} was written by PostgreSQL {wanted}, which is not installed (found: {found}); install it with \
         `sudo apt-get install --no-install-recommends postgresql-{wanted}`, or remove the directory to \
         begin anew", data.display()
    )]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// The major version that wrote it.
        wanted: u16,
        /// The binaries that are there.
        found: String,
    },
    /// As root, there is no user to run PostgreSQL as.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` in /etc/passwd to \
         run it as; add one with `adduser --system postgres`"
    )]
    NoAccount,
    /// The data belong to another user.
    #[error("{} belongs to user {owner}; run as that user or as root, or remove it", data.display())]
    OtherOwner {
        /// The data directory.
        data: PathBuf,
        /// Its owner's uid.
        owner: u32,
    },
    /// Another process owns this cluster now.
    #[error("another fleetgate is running with the database in {}; stop that one first", home.display())]
    InUse {
        /// The cluster's home.
        home: PathBuf,
    },
    /// There is no directory for a unix socket.
    #[error(
        "no directory for a unix socket: {tried} is too long (107 bytes are allowed) or closed to the \
         user that PostgreSQL runs as; set TMPDIR to a short path open to all"
    )]
    NoSocketDirectory {
        /// The directories tried.
        tried: String,
    },
    /// `initdb` failed.
    #[error("initdb could not make a database cluster in {}:\n{log}", data.display())]
    Initdb {
        /// The data directory.
        data: PathBuf,
        /// The end of its output.
        log: String,
    },
    /// PostgreSQL ended or hung before it took connections.
    #[error("PostgreSQL {what}; the end of {}:\n{log}", path.display())]
    NotReady {
        /// What it did instead.
        what: &'static str,
        /// The log file.
        path: PathBuf,
        /// The log's last lines.
        log: String,
    },
    /// An operating system call failed.
    #[error("could not {doing} {}: {source}", path.display())]
    System {
        /// What was being done.
        doing: &'static str,
        /// To which file or program.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl EmbeddedError {
    /// Names what a failed system call was for.
    pub(super) fn system(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { doing, path, source }
    }
}
