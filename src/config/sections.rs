//! The one list of settings, by section.
//!
//! The doc comment of a setting is also its meaning in `docs/CONFIGURATION.md`.
//! No struct that holds a [`Secret`] has `Debug`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use ipnet::IpNet;

use super::kinds::{
    HOUR, MINUTE, SECOND, address, address_or_off, boolean, choice, count, duration, file, files,
    networks, new_token_file, private_file, secret, text, web_url,
};
use super::problem::{Problem, Problems};
use super::reader::Reader;
use super::setting::{Setting, section};
use super::texts;
use crate::secret::Secret;

/// Everything `fleetgate serve` needs.
#[derive(Clone)]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// The HTTP API for people and programs.
    pub api: Api,
    /// The registry's PostgreSQL.
    pub database: Database,
    /// What EMQX and Fleetgate agree on.
    pub emqx: Emqx,
    /// The cache of devices.
    pub cache: Cache,
    /// The threads that hash chosen passwords.
    pub hashing: Hashing,
    /// Passwords that were imported from elsewhere.
    pub imports: Imports,
    /// Limits on guessing passwords.
    pub logins: Logins,
    /// Events on their way into the registry.
    pub ingest: Ingest,
    /// Commands to devices.
    pub commands: Commands,
    /// The audit log.
    pub audit: Audit,
    /// Device tokens (JWT).
    pub tokens: Tokens,
    /// Logging.
    pub log: Log,
}

/// All settings, in the order of `docs/CONFIGURATION.md`; those of a section stand together.
pub(super) fn settings() -> Vec<Setting> {
    let sections = [
        Http::settings(),
        Api::settings(),
        Database::settings(),
        Emqx::settings(),
        EmqxApi::settings(),
        Cache::settings(),
        Hashing::settings(),
        Imports::settings(),
        Logins::settings(),
        Ingest::settings(),
        Commands::settings(),
        Audit::settings(),
        Tokens::settings(),
        Log::settings(),
    ];
    sections.into_iter().flatten().collect()
}

section! {
    /// The HTTP server.
    #[derive(Debug, Clone)]
    pub struct Http = "http." {
        /// Address and port to listen on. Port 0 takes a free one.
        listen: SocketAddr = address().or("127.0.0.1:8080"),
        /// Worker threads of the HTTP server.
        workers: usize = count(1..=1024).or_computed("number of cores", cores()),
        /// How long an idle connection stays open that has shown the webhook token; any other is closed 7 s after an answer.
        /// Keep it longer than EMQX keeps its idle connections, so that EMQX never sends into one that is just closing.
        keep_alive: Duration = duration(SECOND..=HOUR).or("120s"),
        /// Open connections of the whole process. With so many open, a new one is let in at the cost of
        /// another: of strangers' first. The limit of open files may leave fewer.
        max_connections: usize = count(1..=1_000_000).or("4096"),
        /// How long requests in flight may take to finish after SIGTERM. Usually two seconds are enough.
        shutdown_grace: Duration = duration(0..=10 * MINUTE).or("10s"),
    }
}

section! {
    /// The HTTP API for people and programs.
    #[derive(Debug, Clone)]
    pub struct Api = "api." {
        /// Address and port of the HTTP API; port 0 takes a free one. `off`: there is none. Where it is taken,
        /// `serve` says so in its log and goes on without the API. Any other address than a loopback one (`127.0.0.1`,
        /// `[::1]`) needs `tls_certificate` and `tls_key`.
        listen: Option<SocketAddr> = address_or_off().or("127.0.0.1:8090"),
        /// PEM file of the certificate that the API presents, and those that lead to its authority. The
        /// API is then served over TLS alone.
        tls_certificate: Option<PathBuf> = file().or_none("none: plain HTTP, on loopback only"),
        /// PEM file of its private key, not encrypted.
        tls_key: Option<PathBuf> = private_file().or_none("none"),
        /// Where clients reach the API, where that is another host than a loopback one:
        /// `https://fleet.example.net`. Requests for any other host are refused (421).
        public_url: Option<String> =
            web_url(texts::public_url, "URL with `http` or `https` and a host; no path, user name or query")
                .or_none("none: `localhost` and the loopback addresses, with the port of `listen`"),
        /// File that `serve` writes a first token to, which may do everything, if no token named `first` has ever
        /// been made. Readable for its owner alone. Its directory must be there; a file that is there and holds anything
        /// but a token is left as it is.
        first_token_file: Option<PathBuf> = new_token_file().or_none("none: no token is made"),
    }
}

section! {
    /// The registry's PostgreSQL.
    #[derive(Clone)]
    pub struct Database = "database." {
        /// Where PostgreSQL is, as libpq reads it:
        /// `postgres://user@host:5432/database?sslmode=verify-full`, or `host=… user=… dbname=…`. Is a
        /// secret because it may hold a password. Of several hosts (`host1,host2`) the one that takes
        /// writes is used; `target_session_attrs` is `read-write` (then the default), `primary` or, for
        /// one host, `any`. `sslmode`: `disable` (the default without certificates), `prefer` (TLS where
        /// the server offers it, verifying nothing), `require` and `verify-full` (certificate and name
        /// are verified), `verify-ca` (not the name); with `sslrootcert` (a file, or `system`), `sslcert`
        /// and `sslkey`. Unlike libpq, `require` verifies, names are taken from the certificate's
        /// subjectAltName alone, no file below `~/.postgresql` is read, and no `PG…` variable. Keep
        /// `options` out of it behind a pooler; they prevail over what Fleetgate sets. In a URL, percent-encode what is
        /// special of user and password: `@` as `%40`, `?` as `%3F`.
        url: Secret = secret(texts::database_url, "a PostgreSQL URL or keywords, with a host")
            .required("none; required"),
        /// The password, when it is not part of `database.url`. Never in both.
        password: Option<Secret> = secret(texts::database_password, "text").or_none("none"),
        /// PEM file of the authorities to trust when PostgreSQL is reached over TLS, which it then is;
        /// the same as `sslrootcert` in `database.url`.
        ca_file: Option<PathBuf> = file().or_none("the operating system's authorities"),
        /// Connections to PostgreSQL for requests. Up to nine more listen for changes, prove that they are heard, end
        /// sessions, send commands, deal with what services ask for and repair presence; with `api.listen` the HTTP API has
        /// four of its own. Keep it above `ingest.writers`.
        pool_size: usize = count(1..=1000).or("8"),
        /// Time for each host of `database.url`: to find, reach and log in to it. Prevails over a
        /// `connect_timeout` in the URL, which is 60 (seconds) at most.
        connect_timeout: Duration = duration(50..=MINUTE).or("2s"),
        /// Time for one query of a login or authorization. EMQX gives up after 5 s.
        query_timeout: Duration = duration(10..=MINUTE).or("2s"),
    }
    with {
        /// Where relative paths in `url` begin; empty: at the working directory.
        directory: PathBuf
    }
}

section! {
    /// What EMQX and Fleetgate agree on.
    #[derive(Clone)]
    pub struct Emqx = "emqx." {
        /// The token that EMQX presents with every request; the same as in EMQX's configuration.
        webhook_token: Secret =
            secret(texts::webhook_token, "at least 16 characters of printable ASCII without spaces")
                .required("none; required"),
        /// Another token that is accepted from EMQX: the one of before, until `fleetgate emqx apply --rotate-token` has given EMQX the new
        /// one. Without this, EMQX drops the events that are refused meanwhile.
        previous_webhook_token: Option<Secret> =
            secret(texts::webhook_token, "at least 16 characters of printable ASCII without spaces")
                .or_none("none"),
        /// Whether the answer to a login carries the device's rights, so that EMQX decides what they
        /// allow by itself: several times the messages a second. With `api_url`, a session whose rights
        /// are taken away is ended; without, it keeps them until it ends by itself.
        acl_in_login: bool = boolean().or_computed("`true` with `api_url`, else `false`", false),
        /// How often the registry's presence is compared with EMQX's list of clients, give or take a
        /// tenth; one replica does it for all.
        sweep_interval: Duration = duration(SECOND..=24 * HOUR).or("60s"),
        /// Longest time that a session may last; EMQX then ends it, and the device logs in anew. Bounds
        /// how long a right that was taken away is used where EMQX's API cannot be called. A credential
        /// that ends earlier prevails.
        max_session: Option<Duration> = duration(MINUTE..=365 * 24 * HOUR)
            .or_none("none: a session lasts as long as its credential"),
    }
    with {
        /// EMQX's REST API; `None`: it is never called.
        api: Option<EmqxApi>
    }
}

section! {
    /// How to call EMQX's REST API.
    #[derive(Clone)]
    pub struct EmqxApi = "emqx.api_" {
        /// Where EMQX's REST API is: `http://emqx:18083`. Needed to end sessions whose rights are taken
        /// away, and to repair presence.
        url: String =
            web_url(texts::api_url, "URL with `http` or `https` and a host; no user name, password or query")
                .required("none: EMQX is never called"),
        /// The API key, made in EMQX's dashboard or by its `api_key.bootstrap_file`.
        key: String = text(texts::api_key, "printable ASCII without spaces and colons")
            .required("none; required with `api_url`"),
        /// The API key's secret.
        secret: Secret = secret(texts::api_secret, "printable ASCII without spaces")
            .required("none; required with `api_url`"),
        /// PEM file of the authorities to trust; `api_url` must begin with `https`.
        ca_file: Option<PathBuf> = file().or_none("the operating system's authorities"),
    }
}

section! {
    /// The cache of devices. All sizes are entries of one process.
    #[derive(Debug, Clone)]
    pub struct Cache = "cache." {
        /// Most devices kept in memory. Room for all devices in use saves queries.
        devices: usize = count(1..=100_000_000).or("200000"),
        /// Most names kept in memory that no device has.
        unknown_names: usize = count(1..=100_000_000).or("20000"),
        /// How long it is remembered that no device has a name.
        unknown_ttl: Duration = duration(10..=10 * MINUTE).or("5s"),
        /// How long a device in memory may decide while it cannot be loaded, counted from when it is
        /// known to have been right; `0s`: not at all. Bounds how long a right that is gone may hold,
        /// whatever fails.
        max_staleness: Duration = duration(0..=24 * HOUR).or("10m"),
    }
}

section! {
    /// The threads that hash chosen passwords.
    #[derive(Debug, Clone)]
    pub struct Hashing = "hashing." {
        /// Threads that check chosen passwords. Each uses 19 MiB. More than `hashing.queue` have nothing
        /// to do.
        threads: usize =
            count(1..=256).or_computed("half the number of cores, 1 to 8", hash_threads()),
        /// Most logins of the process whose chosen password is being checked or waits for it; further
        /// ones are refused at once with 503. Each keeps one of EMQX's connections (`pool_size`, 32) busy
        /// for as long as those before it take, so that strangers who guess passwords could hold up devices with secrets.
        /// Imported passwords have half as many places besides, at least 4. Keep this to a quarter of EMQX's connections
        /// (8) and both together to three eighths (12) at most. See [LIMITS.md](LIMITS.md).
        queue: usize = count(1..=65_536)
            .or_computed("two for each default hash thread, 4 to 8", (2 * hash_threads()).clamp(4, 8)),
    }
}

section! {
    /// Passwords that were imported from elsewhere.
    #[derive(Debug, Clone)]
    pub struct Imports = "imports." {
        /// Whether the hash that another broker made is replaced by argon2id after the first login with it.
        /// `false`: it stays as it is.
        upgrade: bool = boolean().or("true"),
    }
}

section! {
    /// Limits on guessing passwords.
    #[derive(Debug, Clone)]
    pub struct Logins = "logins." {
        /// Whether wrong chosen passwords make further ones wait, by device and address. Generated
        /// secrets, tokens and certificates never wait. See [LIMITS.md](LIMITS.md).
        limits: bool = boolean().or("true"),
        /// Networks such as `192.0.2.0/24` or addresses that many clients come from (a proxy, NAT): no
        /// limit by address holds there.
        exempt_networks: Vec<IpNet> = networks().or(""),
    }
}

section! {
    /// Commands to devices.
    #[derive(Debug, Clone)]
    pub struct Commands = "commands." {
        /// How long commands are kept after they have ended.
        keep: Duration = duration(HOUR..=24 * 36_500 * HOUR).or("720h"),
        /// Largest payload of a command, in bytes. Requests over MQTT are bounded by `ingest.max_payload` besides.
        max_payload: usize = count(1..=524_288).or("65536"),
        /// Most devices that one command goes to.
        max_devices: usize = count(1..=100_000).or("10000"),
    }
}

section! {
    /// Events on their way into the registry.
    #[derive(Debug, Clone)]
    pub struct Ingest = "ingest." {
        /// Most events that wait to be written; further ones are answered 503 at once, and EMQX sends
        /// them again.
        queue: usize = count(1..=1_000_000).or("10000"),
        /// Most events that share one transaction.
        batch: usize = count(1..=10_000).or("512"),
        /// Longest that a transaction waits for the next events of callers that were just answered;
        /// `0s`: not at all.
        linger: Duration = duration(0..=SECOND).or("1ms"),
        /// Most transactions at the same time. Another begins beside one under way when enough events
        /// wait to be worth it, or when that one takes long. Each takes one connection of
        /// `database.pool_size`: keep it below that, or slow transactions leave none to logins whose device is
        /// not in memory.
        writers: usize = count(1..=16).or("2"),
        /// Largest payload that is stored, in bytes. For a larger one, only that the device was heard,
        /// and that its report was too large, is recorded (`device show`, and a line in the log once a
        /// minute). Events are read up to 64 MiB, or up to twelve times this (and a little) where that is more;
        /// EMQX's packets end at 1 MiB unless `mqtt.max_packet_size` says otherwise.
        max_payload: usize = count(1..=16_777_216).or("65536"),
        /// How long sessions that have ended are kept. Connects and disconnects that EMQX tells later
        /// than that are ignored: what was removed must not come back.
        keep_sessions: Duration = duration(HOUR..=24 * 36_500 * HOUR).or("168h"),
    }
}

section! {
    /// The audit log.
    #[derive(Debug, Clone)]
    pub struct Audit = "audit." {
        /// How long its entries are kept.
        keep: Duration = duration(24 * 7 * HOUR..=24 * 36_500 * HOUR).or("8760h"),
    }
}

section! {
    /// Device tokens (JWT).
    #[derive(Debug, Clone)]
    pub struct Tokens = "tokens." {
        /// The `aud` claim that a device token must carry, and that `token issue` writes.
        audience: String = text(texts::audience, texts::AUDIENCE).or("fleetgate"),
        /// PEM files of the Ed25519 public keys whose device tokens are accepted; several while keys are
        /// exchanged. None: no device token is accepted.
        verification_keys: Vec<PathBuf> = files().or(""),
        /// PEM file of the Ed25519 private key with which `token issue` signs. `serve` doesn't need it.
        signing_key: Option<PathBuf> = private_file().or_none("none"),
    }
}

section! {
    /// Logging.
    #[derive(Debug, Clone)]
    pub struct Log = "log." {
        /// `text` for people, `json` for programs (one object a line).
        format: LogFormat =
            choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]).or("text"),
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or directives such
        /// as `info,fleetgate::http=debug`. The statements and parameters of the database, hashes and payloads among
        /// them, are logged only where the target is named: `debug,tokio_postgres=debug`.
        filter: String =
            text(texts::log_filter, "a level or comma-separated directives").or("info"),
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn cores() -> usize {
    available_parallelism().map_or(1, std::num::NonZero::get)
}

fn hash_threads() -> usize {
    (cores() / 2).clamp(1, 8)
}
