//! The settings as types, for the rest of the program.
//!
//! None of the structs that hold a [`Secret`] has `Debug`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::secret::Secret;

/// Everything `fleetgate serve` needs.
#[derive(Clone)]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// The registry's PostgreSQL.
    pub database: Database,
    /// What EMQX and Fleetgate agree on.
    pub emqx: Emqx,
    /// The cache of devices.
    pub cache: Cache,
    /// The threads that hash chosen passwords.
    pub hashing: Hashing,
    /// Limits on guessing passwords.
    pub logins: Logins,
    /// Events on their way into the registry.
    pub ingest: Ingest,
    /// Device tokens (JWT).
    pub tokens: Tokens,
    /// Logging.
    pub log: Log,
}

/// The HTTP server.
#[derive(Debug, Clone)]
pub struct Http {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Worker threads, each with its own event loop.
    pub workers: usize,
    /// How long an idle connection stays open.
    pub keep_alive: Duration,
    /// Open connections of the whole process.
    pub max_connections: usize,
    /// How long requests in flight may take to finish after SIGTERM.
    pub shutdown_grace: Duration,
}

/// The registry's PostgreSQL.
#[derive(Clone)]
pub struct Database {
    /// A `tokio_postgres::Config` as text (URL or keywords); parses, and names a host.
    pub url: Secret,
    /// The password, when it is not part of `url` (never both).
    pub password: Option<Secret>,
    /// PEM file of the authorities to trust for TLS; `None`: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// Connections in the pool, the listening one not counted.
    pub pool_size: usize,
    /// Time to reach the server and log in.
    pub connect_timeout: Duration,
    /// Time for one query of a login or authorization.
    pub query_timeout: Duration,
}

/// What EMQX and Fleetgate agree on.
#[derive(Clone)]
pub struct Emqx {
    /// The token EMQX presents; at least 16 characters of printable ASCII without spaces.
    pub webhook_token: Secret,
    /// Whether the answer to a login carries the device's rights.
    pub acl_in_login: bool,
    /// EMQX's REST API; `None`: it is never called.
    pub api: Option<EmqxApi>,
    /// Time between two sweeps of one process, before jitter.
    pub sweep_interval: Duration,
    /// How long a session may last; `None`: as long as its credential.
    pub max_session: Option<Duration>,
}

/// How to call EMQX's REST API.
#[derive(Clone)]
pub struct EmqxApi {
    /// `http://host:port` or `https://host:port`, possibly with a path; no slash at the end.
    pub url: String,
    /// The API key; no colon in it.
    pub key: String,
    /// Its secret.
    pub secret: Secret,
    /// PEM file of the authorities to trust for TLS; `None`: those of the operating system.
    pub ca_file: Option<PathBuf>,
}

/// The cache of devices. All sizes are entries of one process.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Most devices kept.
    pub devices: usize,
    /// Most names kept that are no device.
    pub unknown_names: usize,
    /// How long a name that is no device is remembered as such.
    pub unknown_ttl: Duration,
    /// How long cached devices may be trusted while PostgreSQL is away.
    pub max_staleness: Duration,
}

/// The threads that hash chosen passwords.
#[derive(Debug, Clone)]
pub struct Hashing {
    /// Threads of the process.
    pub threads: usize,
    /// Most logins of the process that are being hashed or wait for it; further ones are refused with
    /// 503.
    pub queue: usize,
}

/// Limits on guessing passwords.
#[derive(Debug, Clone)]
pub struct Logins {
    /// Whether wrong passwords make further ones wait.
    pub limits: bool,
    /// Networks whose addresses stand for many clients.
    pub exempt_networks: Vec<IpNet>,
}

/// Events on their way into the registry.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// Most events that wait to be written; further ones are answered 503.
    pub queue: usize,
    /// Most events that share one transaction.
    pub batch: usize,
    /// Longest that a transaction waits for the next events of callers that were just answered.
    pub linger: Duration,
    /// Most transactions at the same time.
    pub writers: usize,
    /// Largest payload that is stored, in bytes.
    pub max_payload: usize,
    /// How long sessions that have ended are kept; older events of sessions are ignored.
    pub keep_sessions: Duration,
}

/// Device tokens (JWT).
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The `aud` claim that a token must carry.
    pub audience: String,
    /// PEM files of the Ed25519 public keys that are accepted.
    pub verification_keys: Vec<PathBuf>,
    /// PEM file of the Ed25519 private key for `token issue`.
    pub signing_key: Option<PathBuf>,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// A `tracing_subscriber::EnvFilter` as text; parses.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
