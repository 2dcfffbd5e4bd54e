//! What the operating system must give before anything starts: an address, open files, threads.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use crate::app::{AppError, api, registry_threads};
use crate::config::{Api, Config};
use crate::http::api::POOL_SIZE;
use crate::http::server::ConnectionLimits;
use crate::lifecycle::{open_files, try_threads};

/// Threads besides those that settings ask for: they accept connections, look up names, run the process itself.
const OTHER_THREADS: usize = 8;

/// The thread for imported hashes, and the one that replaces them.
const IMPORTED_HASH_THREADS: usize = 2;

/// Connections to PostgreSQL of what goes on besides requests. One listens for changes, one proves that they are heard, and
/// one asks whether PostgreSQL is there while that proof is late; of the work queue one is for kick-outs, two are for commands and
/// two for what services ask for (what waits, and what is done); one sweeps.
const BACKGROUND_CONNECTIONS: usize = 9;

/// Most connections to PostgreSQL that a replica uses besides `database.pool_size`.
#[must_use]
pub fn further_connections(api: &Api) -> usize {
    BACKGROUND_CONNECTIONS + api.listen.map_or(0, |_| POOL_SIZE)
}

/// Binds the port.
///
/// # Errors
/// [`AppError::Listen`].
pub(super) fn bind(address: SocketAddr, setting: &'static str) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).map_err(|source| AppError::Listen { address, setting, source })
}

/// What to do about an address that cannot be listened on. `setting` is where it stands: `http.listen`.
#[must_use]
pub fn listen_remedy(source: &io::Error, setting: &str) -> String {
    let (cause, what) = match source.kind() {
        ErrorKind::AddrInUse => ("something else uses it: stop that", "address"),
        ErrorKind::AddrNotAvailable => ("no interface of this machine has it", "address"),
        ErrorKind::PermissionDenied => {
            ("ports below 1024 are for root and CAP_NET_BIND_SERVICE", "port")
        }
        _ => return format!("choose another address with {setting}"),
    };
    format!("{cause}, or choose another {what} with {setting}")
}

/// How many connections there is room for.
///
/// # Errors
/// [`AppError::SetUp`]: for none.
pub(super) fn room(config: &Config) -> Result<ConnectionLimits, AppError> {
    let wanted = config.http.max_connections;
    let files = open_files();
    let left = files.saturating_sub(api::open_files(config));
    let room = ConnectionLimits::within(left, wanted, config.http.workers, config.database.pool_size).ok_or_else(|| {
        let why = format!(
            "this process may have {files} files open, which leaves none for connections; raise the \
             limit (`ulimit -n`, systemd's LimitNOFILE)"
        );
        AppError::SetUp { what: "connections", why }
    })?;
    if room.connections < wanted {
        tracing::warn!(
            open_files = files,
            connections = room.connections,
            wanted,
            "the limit of open files leaves fewer connections than http.max_connections; raise it \
             (`ulimit -n`, systemd's LimitNOFILE)"
        );
    }
    Ok(room)
}

/// Makes sure that all threads can start: the libraries that start them panic where one cannot.
///
/// # Errors
/// [`AppError::SetUp`] with the number and the limits.
pub(super) fn require_threads(config: &Config) -> Result<(), AppError> {
    let workers = config.http.workers;
    let count = workers
        + registry_threads(workers)
        + config.hashing.threads
        + IMPORTED_HASH_THREADS
        + api::threads(config)
        + OTHER_THREADS;
    try_threads(count).map_err(|error| {
        let why = format!(
            "{count} are needed, and the operating system refuses: {error}; raise the limit of processes (`ulimit \
             -u`, systemd's TasksMax) or of memory (`ulimit -v`), or lower http.workers and hashing.threads"
        );
        AppError::SetUp { what: "threads", why }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_has_connections_only_where_there_is_one() {
        let mut api = Api {
            listen: None,
            tls_certificate: None,
            tls_key: None,
            public_url: None,
            first_token_file: None,
        };
        assert_eq!(further_connections(&api), 9);
        api.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        assert_eq!(further_connections(&api), 13);
    }
}
