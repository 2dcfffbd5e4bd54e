//! The one list of settings.

use std::ops::RangeInclusive;
use std::thread::available_parallelism;
use std::time::Duration;

use super::environment::PREFIX;
use super::rules;

/// One setting.
pub(super) struct Setting {
    /// Section and name as in the file: `http.listen`.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) preset: Preset,
    /// What it means, for `docs/CONFIGURATION.md`.
    pub(super) meaning: &'static str,
}

/// What a setting takes.
pub(super) enum Kind {
    Address,
    Count(RangeInclusive<usize>),
    Duration(RangeInclusive<Duration>),
    Text(Rule),
    /// An existing file. `private`: nobody but its owner should read it.
    Path {
        private: bool,
    },
    /// Existing files.
    Paths,
    /// IP networks.
    Networks,
    /// Also taken as `<key>_file`, the path of a file that holds it.
    Secret(Rule),
    Choice(&'static [&'static str]),
    Flag,
}

/// A further demand on a text. The error says what is wrong and what would be right, and holds
/// nothing of a secret text.
pub(super) struct Rule {
    pub(super) check: fn(&str) -> Result<(), String>,
    /// The demand in words, for `docs/CONFIGURATION.md`.
    pub(super) words: &'static str,
}

/// What holds when nobody gives a value.
pub(super) enum Preset {
    /// This value, written as in an environment variable.
    Value(&'static str),
    /// A number that depends on the machine.
    Machine { words: &'static str, count: fn() -> usize },
    /// Nothing; the words say what that means.
    Absent(&'static str),
    /// `serve` can't do without it.
    Required,
}

impl Setting {
    pub(super) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The setting that a key of the file means, and whether it is the `_file` form.
    pub(super) fn by_file_key(key: &str) -> Option<(&'static Self, bool)> {
        let in_file = || key.strip_suffix("_file").and_then(Self::find).filter(|s| s.is_secret());
        Self::find(key).map(|s| (s, false)).or_else(|| in_file().map(|s| (s, true)))
    }

    pub(super) fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret(_))
    }

    /// The `_file` form of the key.
    pub(super) fn file_key(&self) -> String {
        format!("{}_file", self.key)
    }

    pub(super) fn section(&self) -> &'static str {
        self.key.split('.').next().unwrap_or_default()
    }

    /// Every key the file may hold.
    pub(super) fn all_keys() -> impl Iterator<Item = String> {
        SETTINGS.iter().flat_map(|setting| {
            let in_file = setting.is_secret().then(|| setting.file_key());
            std::iter::once(setting.key.to_owned()).chain(in_file)
        })
    }
}

/// The environment variable of a key: `http.listen` is `FLEETGATE_HTTP_LISTEN`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn cores() -> usize {
    available_parallelism().map_or(1, std::num::NonZero::get)
}

fn hash_threads() -> usize {
    (cores() / 2).clamp(1, 8)
}

fn password_places() -> usize {
    (2 * hash_threads()).clamp(4, 8)
}

const fn millis(from: u64, to: u64) -> Kind {
    Kind::Duration(Duration::from_millis(from)..=Duration::from_millis(to))
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// All settings, in the order of `docs/CONFIGURATION.md`; those of a section stand together.
pub(super) static SETTINGS: &[Setting] = &[
    Setting {
        key: "http.listen",
        kind: Kind::Address,
        preset: Preset::Value("127.0.0.1:8080"),
        meaning: "Address and port to listen on. Port 0 takes a free one.",
    },
    Setting {
        key: "http.workers",
        kind: Kind::Count(1..=1024),
        preset: Preset::Machine { words: "number of cores", count: cores },
        meaning: "Worker threads of the HTTP server.",
    },
    Setting {
        key: "http.keep_alive",
        kind: millis(SECOND, HOUR),
        preset: Preset::Value("120s"),
        meaning: "How long an idle connection stays open. Keep it longer than EMQX keeps its \
                  idle connections, so that EMQX never sends into one that is just closing.",
    },
    Setting {
        key: "http.max_connections",
        kind: Kind::Count(1..=1_000_000),
        preset: Preset::Value("4096"),
        meaning: "Open connections of the whole process. With so many open, a new one is let in at the \
                  cost of another: of strangers' first. The limit of open files may leave fewer.",
    },
    Setting {
        key: "http.shutdown_grace",
        kind: millis(0, 10 * MINUTE),
        preset: Preset::Value("10s"),
        meaning: "How long requests in flight may take to finish after SIGTERM. Usually half a second \
                  is enough.",
    },
    Setting {
        key: "database.url",
        kind: Kind::Secret(rules::DATABASE_URL),
        preset: Preset::Required,
        meaning: "Where PostgreSQL is, as libpq reads it: \
                  `postgres://user@host:5432/database?sslmode=verify-full`, or `host=… user=… \
                  dbname=…`. Counts as a secret because it may hold a password. Of several hosts \
                  (`host1,host2`) the one that takes writes is used; `target_session_attrs` is \
                  `read-write` (then the default), `primary` or, for one host, `any`. `sslmode`: \
                  `disable` (the default without certificates), `prefer` (TLS where the server offers it, \
                  verifying nothing), `require` and `verify-full` (certificate and name are verified), \
                  `verify-ca` (not the name); with `sslrootcert` (a file, or `system`), `sslcert` and \
                  `sslkey`. Unlike libpq, `require` verifies, names are taken from the certificate's \
                  subjectAltName alone, no file below `~/.postgresql` is read, and no `PG…` variable. \
                  Keep `options` out of it behind a pooler; they prevail over what Fleetgate sets.",
    },
    Setting {
        key: "database.password",
        kind: Kind::Secret(rules::DATABASE_PASSWORD),
        preset: Preset::Absent("none"),
        meaning: "The password, when it is not part of `database.url`. Never in both.",
    },
    Setting {
        key: "database.ca_file",
        kind: Kind::Path { private: false },
        preset: Preset::Absent("the operating system's authorities"),
        meaning: "PEM file of the authorities to trust when PostgreSQL is reached over TLS, which it then \
                  is; the same as `sslrootcert` in `database.url`.",
    },
    Setting {
        key: "database.pool_size",
        kind: Kind::Count(1..=1000),
        preset: Preset::Value("8"),
        meaning: "Connections to PostgreSQL for requests; up to four more listen for changes, prove \
                  that they are heard, end sessions and repair presence.",
    },
    Setting {
        key: "database.connect_timeout",
        kind: millis(50, MINUTE),
        preset: Preset::Value("2s"),
        meaning: "Time for each host of `database.url`: to find, reach and log in to it. Counts before a \
                  `connect_timeout` in the URL.",
    },
    Setting {
        key: "database.query_timeout",
        kind: millis(10, MINUTE),
        preset: Preset::Value("2s"),
        meaning: "Time for one query of a login or authorization. EMQX gives up after 5 s.",
    },
    Setting {
        key: "emqx.webhook_token",
        kind: Kind::Secret(rules::WEBHOOK_TOKEN),
        preset: Preset::Required,
        meaning: "The token that EMQX presents with every request; the same as in EMQX's \
                  configuration.",
    },
    Setting {
        key: "emqx.acl_in_login",
        kind: Kind::Flag,
        preset: Preset::Absent("`true` with `api_url`, else `false`"),
        meaning: "Whether the answer to a login carries the device's rights, so that EMQX decides \
                  what they allow by itself: several times the messages a second. With `api_url`, \
                  a session whose rights are taken away is ended; without, it keeps them until it \
                  ends by itself.",
    },
    Setting {
        key: "emqx.api_url",
        kind: Kind::Text(rules::API_URL),
        preset: Preset::Absent("none: EMQX is never called"),
        meaning: "Where EMQX's REST API is: `http://emqx:18083`. Needed to end sessions whose \
                  rights are taken away, and to repair presence.",
    },
    Setting {
        key: "emqx.api_key",
        kind: Kind::Text(rules::API_KEY),
        preset: Preset::Absent("none; needed with `api_url`"),
        meaning: "The API key, made in EMQX's dashboard or by its `api_key.bootstrap_file`.",
    },
    Setting {
        key: "emqx.api_secret",
        kind: Kind::Secret(rules::API_SECRET),
        preset: Preset::Absent("none; needed with `api_url`"),
        meaning: "The API key's secret.",
    },
    Setting {
        key: "emqx.api_ca_file",
        kind: Kind::Path { private: false },
        preset: Preset::Absent("the operating system's authorities"),
        meaning: "PEM file of the authorities to trust when `api_url` begins with `https`.",
    },
    Setting {
        key: "emqx.sweep_interval",
        kind: millis(SECOND, 24 * HOUR),
        preset: Preset::Value("60s"),
        meaning: "How often the registry's presence is compared with EMQX's list of clients, give \
                  or take a tenth; one replica does it for all.",
    },
    Setting {
        key: "emqx.max_session",
        kind: millis(MINUTE, 365 * 24 * HOUR),
        preset: Preset::Absent("none: a session lasts as long as its credential"),
        meaning: "Longest time that a session may last; EMQX then ends it, and the device logs in anew. \
                  Bounds how long a right that was taken away is used where EMQX's API cannot be \
                  called. A credential that ends earlier prevails.",
    },
    Setting {
        key: "cache.devices",
        kind: Kind::Count(1..=100_000_000),
        preset: Preset::Value("200000"),
        meaning: "Most devices kept in memory. Room for all devices in use saves queries.",
    },
    Setting {
        key: "cache.unknown_names",
        kind: Kind::Count(1..=100_000_000),
        preset: Preset::Value("20000"),
        meaning: "Most names kept in memory that are no device.",
    },
    Setting {
        key: "cache.unknown_ttl",
        kind: millis(10, 10 * MINUTE),
        preset: Preset::Value("5s"),
        meaning: "How long a name that is no device is remembered as such.",
    },
    Setting {
        key: "cache.max_staleness",
        kind: millis(0, 24 * HOUR),
        preset: Preset::Value("10m"),
        meaning: "How long a device in memory may decide while it cannot be loaded, counted from \
                  when it is known to have been right; `0s`: not at all. Bounds how long a right that \
                  is gone may hold, whatever fails.",
    },
    Setting {
        key: "hashing.threads",
        kind: Kind::Count(1..=256),
        preset: Preset::Machine { words: "half the number of cores, 1 to 8", count: hash_threads },
        meaning: "Threads that check chosen passwords. Each uses 19 MiB. More than `hashing.queue` have \
                  nothing to do.",
    },
    Setting {
        key: "hashing.queue",
        kind: Kind::Count(1..=65_536),
        preset: Preset::Machine {
            words: "two for each default hash thread, 4 to 8",
            count: password_places,
        },
        meaning: "Most logins of the process whose chosen password is being checked or waits for it; \
                  further ones are refused at once with 503. Each keeps one of EMQX's connections \
                  (`pool_size`, 32) busy for as long as those before it take: keep it to a quarter of \
                  them at most, so that strangers who guess passwords cannot hold up devices with secrets. See [LIMITS.md](LIMITS.md).",
    },
    Setting {
        key: "logins.limits",
        kind: Kind::Flag,
        preset: Preset::Value("true"),
        meaning: "Whether wrong chosen passwords make further ones wait, by device and address. \
                  Generated secrets, tokens and certificates never wait. See [LIMITS.md](LIMITS.md).",
    },
    Setting {
        key: "logins.exempt_networks",
        kind: Kind::Networks,
        preset: Preset::Value(""),
        meaning: "Networks such as `192.0.2.0/24` or addresses that many clients come from (a proxy, \
                  NAT): no limit by address holds there.",
    },
    Setting {
        key: "ingest.queue",
        kind: Kind::Count(1..=1_000_000),
        preset: Preset::Value("10000"),
        meaning: "Most events that wait to be written; further ones are answered 503 at once, and \
                  EMQX sends them again.",
    },
    Setting {
        key: "ingest.batch",
        kind: Kind::Count(1..=10_000),
        preset: Preset::Value("512"),
        meaning: "Most events that share one transaction.",
    },
    Setting {
        key: "ingest.linger",
        kind: millis(0, SECOND),
        preset: Preset::Value("1ms"),
        meaning: "Longest that a transaction waits for the next events of callers that were just \
                  answered; `0s`: not at all.",
    },
    Setting {
        key: "ingest.writers",
        kind: Kind::Count(1..=16),
        preset: Preset::Value("2"),
        meaning: "Most transactions at the same time. Another begins beside one under way when enough \
                  events wait to be worth it, or when that one takes long. Each takes one connection of `database.pool_size`.",
    },
    Setting {
        key: "ingest.max_payload",
        kind: Kind::Count(1..=16_777_216),
        preset: Preset::Value("65536"),
        meaning: "Largest payload that is stored, in bytes. For a larger one, only that \
                  the device was heard, and that its report was too large, is recorded (`device show`, \
                  and a line in the log once a minute). Events are read up to 64 MiB, EMQX's packets end at 1 MiB unless \
                  `mqtt.max_packet_size` says otherwise.",
    },
    Setting {
        key: "ingest.keep_sessions",
        kind: millis(HOUR, 24 * 36_500 * HOUR),
        preset: Preset::Value("168h"),
        meaning: "How long sessions that have ended are kept. Connects and disconnects that EMQX tells \
                  later than that are ignored: what was removed must not come back.",
    },
    Setting {
        key: "tokens.audience",
        kind: Kind::Text(rules::AUDIENCE),
        preset: Preset::Value("fleetgate"),
        meaning: "The `aud` claim that a device token must carry, and that `token issue` writes.",
    },
    Setting {
        key: "tokens.verification_keys",
        kind: Kind::Paths,
        preset: Preset::Value(""),
        meaning: "PEM files of the Ed25519 public keys whose device tokens are accepted; several \
                  while keys are exchanged. None: no device token is accepted.",
    },
    Setting {
        key: "tokens.signing_key",
        kind: Kind::Path { private: true },
        preset: Preset::Absent("none"),
        meaning: "PEM file of the Ed25519 private key with which `token issue` signs. `serve` \
                  doesn't need it.",
    },
    Setting {
        key: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        preset: Preset::Value("text"),
        meaning: "`text` for people, `json` for programs (one object a line).",
    },
    Setting {
        key: "log.filter",
        kind: Kind::Text(rules::LOG_FILTER),
        preset: Preset::Value("info"),
        meaning: "What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or \
                  directives such as `info,fleetgate::http=debug`.",
    },
];
