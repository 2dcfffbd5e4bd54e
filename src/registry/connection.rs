//! Connections to PostgreSQL: how they are opened, encrypted, moved along and ended.
//!
//! # What it keeps
//! 1. Each server of `database.url` gets [`connect_timeout`](Database::connect_timeout), which covers
//!    everything: name, TCP, TLS, login, and whether it is the wanted one. An attempt takes that times
//!    the number of servers at most, and where others move to another server meanwhile, the same once more.
//! 2. Every attempt begins with the server that last took a connection. So only one of many connections waits
//!    for a silent first server, and the pool reads from the server that is listened to.
//! 3. Where another PostgreSQL answers behind the same name (after a failover, or begun anew), sessions with the one of before are left, also those
//!    that wait for an answer: that machine may be gone without a word.
//! 4. A statement whose caller is gone is cancelled, and its connection is counted until the
//!    server is done with it: a server that cannot end statements is not given more of them.
//! 5. A connection starts only with parameters that every pooler accepts; settings are made with
//!    SET afterwards. `options` of the URL are passed on, and prevail.
//!
//! # Races
//! - *A cancel comes late*: PostgreSQL cancels what runs on that session then. Nothing else does: the
//!   session is not used again.
//! - *A server that was away for long wakes up as a second primary*: connections to the other one stay
//!   there, and an attempt that waited for it meanwhile begins again with the other one. Nothing here can
//!   fence a server; see docs/OPERATIONS.md.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::LoadBalanceHosts;
use tokio_postgres::{Client, Notification, SimpleQueryMessage};

use crate::config::{Database, DatabaseUrl, WantedServer};
use crate::registry::encryption::{tls, tls_of};
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::server::Server;
use crate::registry::session::{Canceller, Driver, Ending, Guarded, Session, end_in_time};
use crate::secret::random_bytes;

/// Notifications that may wait between the connection and the listener. When full, the connection
/// is not read any further, the heartbeat stops coming back and LISTEN is taken for lost: late, never
/// wrong.
const NOTIFICATIONS_WAITING: usize = 4096;

/// Settings of a session that looks rows up by key, whatever the statistics say; they are stale exactly
/// when a new fleet has come. Each statement is planned once: one that takes an array would be planned anew
/// for every array, which costs more than running it.
pub const LOOK_UP_PLANS: [(&str, &str); 2] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")];

/// Beyond the time that is waited for an answer. Earlier, the server's own end of a statement could pass
/// for its success: a commit that waits for a synchronous standby is answered as done when it is cancelled.
const SERVER_SIDE_GRACE: Duration = Duration::from_secs(1);

/// How often a connection is tried whose server others have left by the time it is open.
const ATTEMPTS: usize = 2;

/// How long what goes on in the background may run on the server.
const BACKGROUND_STATEMENT: Duration = Duration::from_secs(6);
/// Connections of one task in the background: one in use, one whose last statement is being ended.
const BACKGROUND_CONNECTIONS: usize = 2;

/// Least time between two turns because another PostgreSQL took a connection.
const BETWEEN_CHANGES: Duration = Duration::from_secs(30);

/// Which PostgreSQL took the last connection.
#[derive(Default)]
struct Seen {
    turn: usize,
    /// When it started, as it says it.
    started: String,
    changed: Option<Instant>,
}

/// How to reach PostgreSQL.
#[derive(Clone)]
pub struct Target {
    servers: Arc<[Server]>,
    /// Grows whenever all move to another of them, or to the same anew: modulo their number it is the one that last took a connection.
    /// For all that were made from one another.
    turn: Arc<AtomicUsize>,
    /// What of PostgreSQL took connections last.
    seen: Arc<Mutex<Seen>>,
    wanted: WantedServer,
    /// Whether the URL brings settings of its own, which prevail.
    has_options: bool,
    connect_timeout: Duration,
    settings: Arc<[(&'static str, String)]>,
    /// Bounds connections that are in use or being ended; absent where the caller bounds them.
    places: Option<Arc<Semaphore>>,
    /// While this says that PostgreSQL is away, no connection is tried.
    unless_away: Option<Arc<Freshness>>,
}

impl Target {
    /// Reads the settings and, where TLS is asked for, the certificates.
    ///
    /// # Errors
    /// When the URL is not one, or a file of certificates cannot be read.
    pub fn new(settings: &Database) -> Result<Self, RegistryError> {
        let mut url = DatabaseUrl::of(settings)
            .map_err(|problem| RegistryError::Settings(format!("database.url: {problem}")))?;
        complete(&mut url, settings);
        let (negotiated, demand) = tls_of(&url, settings.ca_file.as_deref());
        let tls = tls(&url, settings.ca_file.as_deref(), demand)?;
        let servers: Arc<[Server]> = Server::all(&url, negotiated, &tls).into();
        let first = match url.config.get_load_balance_hosts() {
            LoadBalanceHosts::Random => usize::from(u16::from_ne_bytes(random_bytes())),
            _ => 0,
        };
        Ok(Self {
            turn: Arc::new(AtomicUsize::new(first)),
            seen: Arc::default(),
            servers,
            wanted: url.wanted,
            has_options: url.config.get_options().is_some(),
            connect_timeout: settings.connect_timeout,
            settings: Arc::default(),
            places: None,
            unless_away: None,
        })
    }

    /// For requests, which wait for `timeout` at most: see [`LOOK_UP_PLANS`].
    #[must_use]
    pub fn for_look_ups(mut self, timeout: Duration) -> Self {
        let plans = LOOK_UP_PLANS.map(|(name, value)| (name, value.to_owned()));
        self.settings = limits(timeout + SERVER_SIDE_GRACE).into_iter().chain(plans).collect();
        self
    }

    /// For requests of people and programs: any statement, none longer than `timeout`.
    #[must_use]
    pub fn for_statements(mut self, timeout: Duration) -> Self {
        self.settings = limits(timeout).into();
        self
    }

    /// For one task in the background, whose statements take seconds at most.
    #[must_use]
    pub fn for_background(mut self) -> Self {
        self.settings = limits(BACKGROUND_STATEMENT).into();
        self.places = Some(Arc::new(Semaphore::new(BACKGROUND_CONNECTIONS)));
        self
    }

    /// Tries no connection while PostgreSQL is known to be away: the change listener finds out when it is back.
    #[must_use]
    pub fn unless_away(mut self, freshness: Arc<Freshness>) -> Self {
        self.unless_away = Some(freshness);
        self
    }

    /// Opens one connection; its task runs on the present runtime and hands notifications to
    /// `notifications` if there are any.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] when no server answers in time, [`RegistryError::Unusable`] when none
    /// can be used as it is.
    pub async fn open(
        &self,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<(Client, JoinHandle<()>), RegistryError> {
        let session = self.open_session(notifications).await?;
        Ok((session.client, session.task))
    }

    /// Opens a connection whose last statement is ended when it is dropped.
    ///
    /// # Errors
    /// As [`Target::open`], and when the last connections of this task are still being ended.
    pub async fn open_guarded(&self) -> Result<Guarded, RegistryError> {
        let place = self.place().await?;
        Ok(Guarded::new(self.open_session(None).await?, place))
    }

    async fn place(&self) -> Result<Option<OwnedSemaphorePermit>, RegistryError> {
        let Some(places) = &self.places else { return Ok(None) };
        let place = timeout(self.connect_timeout, places.clone().acquire_owned()).await;
        let still_ending = || {
            RegistryError::Unreachable(
                "PostgreSQL has not yet ended the statements that were given up before; look for locks, and \
                 for a synchronous standby that is gone"
                    .to_owned(),
            )
        };
        place.ok().and_then(Result::ok).map(Some).ok_or_else(still_ending)
    }

    /// Opens a connection that listens to nothing yet, and the notifications it will receive. It
    /// ends when the receiver goes, and when others have moved to another server.
    ///
    /// # Errors
    /// As [`Target::open_guarded`].
    pub async fn open_listener(
        &self,
    ) -> Result<(Client, mpsc::Receiver<Notification>), RegistryError> {
        let (sender, receiver) = mpsc::channel(NOTIFICATIONS_WAITING);
        let place = self.place().await?;
        let Session { client, task, canceller, .. } =
            self.open_session(Some(sender.clone())).await?;
        tokio::spawn(end_in_time(Ending::new(task, canceller, place), sender));
        Ok((client, receiver))
    }

    /// A session with the server that others use, or with the next one that takes a connection.
    pub(super) async fn open_session(
        &self,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<Session, RegistryError> {
        if self.unless_away.as_ref().is_some_and(|freshness| freshness.is_away()) {
            return Err(known_to_be_away());
        }
        for _ in 0..ATTEMPTS {
            let first = self.turn();
            let (mut session, started) = self.open_from(first, notifications.clone()).await?;
            let opened = session.canceller.turn;
            let moved =
                self.turn.compare_exchange(first, opened, Ordering::SeqCst, Ordering::SeqCst);
            if moved.is_ok() || moved == Err(opened) {
                session.canceller.turn = self.note_server(opened, started);
                return Ok(session);
            }
            // Others have moved meanwhile: this one may be a primary of before that woke up.
            session.task.abort();
        }
        Err(RegistryError::Unreachable(
            "others moved to another server of database.url each time that one took a connection"
                .to_owned(),
        ))
    }

    /// Notes which PostgreSQL took a connection. If it is another one than before, behind the same name or begun anew, a new turn begins:
    /// sessions with the one of before may wait for a machine that is gone.
    fn note_server(&self, turn: usize, started: String) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = seen.turn != turn || seen.started == started;
        // A pooler that spreads sessions over several servers would have every session end the others.
        let is_settled = seen.changed.is_none_or(|changed| changed.elapsed() >= BETWEEN_CHANGES);
        let turn = match is_same || !is_settled || seen.started.is_empty() {
            true => turn,
            false => {
                seen.changed = Some(Instant::now());
                let next = turn.wrapping_add(self.servers.len());
                let moved =
                    self.turn.compare_exchange(turn, next, Ordering::SeqCst, Ordering::SeqCst);
                moved.map_or(turn, |_| next)
            }
        };
        (seen.turn, seen.started) = (turn, started);
        turn
    }

    /// Tries the servers one after the other, from the one whose turn is `first` on.
    async fn open_from(
        &self,
        first: usize,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<(Session, String), RegistryError> {
        let mut failures = Vec::new();
        for turn in (0..self.servers.len()).map(|more| first.wrapping_add(more)) {
            let Some(server) = self.servers.get(turn % self.servers.len()) else { continue };
            let attempt = self.open_on(turn, server, notifications.clone());
            match timeout(self.connect_timeout, attempt).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => failures.push(error),
                Err(_) => failures.push(server.silent(self.connect_timeout)),
            }
        }
        Err(none_of(failures))
    }

    async fn open_on(
        &self,
        turn: usize,
        server: &Server,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<(Session, String), RegistryError> {
        let (client, connection) = server.connect(self.connect_timeout).await?;
        let canceller = Canceller {
            token: client.cancel_token(),
            tls: server.tls(),
            turn,
            current: self.turn.clone(),
        };
        let unconfirmed = Arc::new(AtomicBool::new(false));
        let driver = Driver { connection, notifications, unconfirmed: unconfirmed.clone() };
        let session = Session { client, task: tokio::spawn(driver.run()), canceller, unconfirmed };
        match self.set_up(&session.client, server).await {
            Ok(started) => Ok((session, started)),
            Err(error) => {
                session.task.abort();
                Err(error)
            }
        }
    }

    /// One round trip; tells when this PostgreSQL started, which tells it from others.
    async fn set_up(&self, client: &Client, server: &Server) -> Result<String, RegistryError> {
        let mut statements = self.settings_statement();
        // As a number: whatever the session's time zone is behind a pooler.
        statements.push_str("SELECT extract(epoch FROM pg_postmaster_start_time());");
        statements.push_str(match self.wanted {
            WantedServer::Any => "SELECT NULL",
            WantedServer::ReadWrite => "SHOW transaction_read_only",
            WantedServer::Primary => "SELECT pg_is_in_recovery()",
        });
        let answers = client.simple_query(&statements).await;
        let answers = answers.map_err(|error| server.explain(&error))?;
        let mut rows = answers.iter().rev().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row.get(0)),
            _ => None,
        });
        let (answer, started) = (rows.next().flatten(), rows.next().flatten());
        match (self.wanted, answer) {
            (WantedServer::ReadWrite, Some("on")) | (WantedServer::Primary, Some("t")) => {
                Err(RegistryError::Unreachable(format!(
                    "{}: the server takes no writes: it is a standby, or default_transaction_read_only is \
                     on there",
                    server.place
                )))
            }
            _ => Ok(started.unwrap_or_default().to_owned()),
        }
    }

    /// `SET`, except for what the URL's `options` have set.
    fn settings_statement(&self) -> String {
        if self.settings.is_empty() {
            return String::new();
        }
        if !self.has_options {
            let set = self.settings.iter().map(|(name, value)| format!("SET {name} = '{value}';"));
            return set.collect();
        }
        let rows = self.settings.iter().map(|(name, value)| format!("('{name}', '{value}')"));
        let rows = rows.collect::<Vec<_>>().join(", ");
        format!(
            "SELECT set_config(ours.name, ours.value, false) FROM (VALUES {rows}) AS ours (name, value)
             JOIN pg_settings AS present USING (name) WHERE present.source <> 'client';"
        )
    }

    /// Whether a server that takes no writes is left.
    #[must_use]
    pub fn wants_writes(&self) -> bool {
        self.wanted != WantedServer::Any
    }

    /// Which turn it is: sessions of another one are not used any more.
    pub(super) fn turn(&self) -> usize {
        self.turn.load(Ordering::SeqCst)
    }

    /// Begins the next attempt with the next server: the last one has fallen silent. Where there is one alone, its name may lead
    /// to another machine by now, so that its sessions are left as well.
    pub fn leave(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }
}

/// A statement's time on the server. The first does not end a commit that waits for the lock of NOTIFY,
/// which one that waits for a synchronous standby may hold; the second does.
fn limits(limit: Duration) -> [(&'static str, String); 2] {
    ["statement_timeout", "lock_timeout"].map(|name| (name, limit.as_millis().to_string()))
}

/// What the other settings add to the URL.
fn complete(url: &mut DatabaseUrl, settings: &Database) {
    if let Some(password) = &settings.password {
        url.config.password(password.expose());
    }
    if url.config.get_application_name().is_none() {
        url.config.application_name("fleetgate");
    }
    // tokio-postgres' own default; a fleet does not wait for two hours.
    if url.config.get_keepalives_idle() >= Duration::from_secs(2 * 60 * 60) {
        url.config.keepalives_idle(Duration::from_secs(15));
    }
    if url.config.get_tcp_user_timeout().is_none() {
        url.config.tcp_user_timeout(Duration::from_secs(15));
    }
}

/// One failure of each server. Where waiting may help with one of them, it may help.
fn none_of(failures: Vec<RegistryError>) -> RegistryError {
    let passing = failures.iter().any(RegistryError::is_unreachable);
    let single = failures.len() == 1;
    let mut failures = failures.into_iter();
    match (single, failures.next()) {
        (true, Some(failure)) => failure,
        (_, first) => {
            let all = first.into_iter().chain(failures).map(|failure| failure.to_string());
            let text = format!("no server can be used. {}", all.collect::<Vec<_>>().join(" | "));
            if passing { RegistryError::Unreachable(text) } else { RegistryError::Unusable(text) }
        }
    }
}

/// Why PostgreSQL is not even asked: the change listener found it away, and logged why.
pub(crate) const KNOWN_AWAY: &str = "the database is known to be away";

pub(super) fn known_to_be_away() -> RegistryError {
    RegistryError::Unreachable(KNOWN_AWAY.to_owned())
}

/// Opens one connection for a command that then ends; its task runs on the present runtime.
///
/// # Errors
/// As [`Target::new`] and [`Target::open`].
pub async fn connect(settings: &Database) -> Result<Client, RegistryError> {
    let (client, _) = Target::new(settings)?.open(None).await?;
    Ok(client)
}

/// Ends a query that takes longer than `limit`. Its connection is then of no more use: the next query
/// would wait behind it.
pub(crate) async fn within<T>(
    limit: Duration,
    query: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    timeout(limit, query).await.unwrap_or_else(|_| Err(timed_out("a query", limit)))
}

pub(crate) fn timed_out(what: &str, limit: Duration) -> RegistryError {
    RegistryError::Unreachable(format!(
        "{what} took longer than {limit:?}; look for locks and load in pg_stat_activity, and at the network"
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::secret::Secret;

    pub(in crate::registry) fn settings(url: &str) -> Database {
        Database {
            url: Secret::new(url.to_owned()),
            password: None,
            ca_file: None,
            pool_size: 1,
            connect_timeout: Duration::from_secs(1),
            query_timeout: Duration::from_secs(1),
            directory: PathBuf::new(),
        }
    }

    fn target(url: &str) -> Target {
        Target::new(&settings(url)).unwrap().for_look_ups(Duration::from_secs(2))
    }

    #[test]
    fn settings_are_made_after_the_start_and_those_of_the_url_prevail() {
        let ours = "SET statement_timeout = '3000';SET lock_timeout = '3000';SET plan_cache_mode = 'force_generic_plan';\
                    SET enable_seqscan = 'off';";
        assert_eq!(target("host=/tmp dbname=x").settings_statement(), ours);
        let mixed = target("host=/tmp options='-c statement_timeout=9'").settings_statement();
        assert!(mixed.contains("('statement_timeout', '3000')") && mixed.contains("'client'"));
    }

    #[test]
    fn where_waiting_helps_with_one_server_it_may_help() {
        let away = || RegistryError::Unreachable("a: away".to_owned());
        let wrong = || RegistryError::Unusable("b: wrong password".to_owned());
        assert!(none_of(vec![wrong(), away()]).is_unreachable());
        let both = none_of(vec![wrong(), wrong()]);
        assert!(!both.is_unreachable() && both.to_string().contains("b: wrong password"));
        assert_eq!(none_of(vec![away()]).to_string(), "a: away");
    }

    #[test]
    fn another_server_behind_the_same_name_begins_a_turn() {
        let target = Target::new(&settings("host=a,b")).unwrap();
        let note = |turn, started: &str| target.note_server(turn, started.to_owned());
        let first = target.turn();
        assert_eq!((note(first, "1"), note(first, "1")), (first, first));
        let second = note(first, "2");
        assert_eq!((second, target.turn()), (first + 2, second), "the same of two names");
        assert_eq!(note(second, "2"), second);
        // As a pooler that spreads sessions over two servers.
        assert_eq!((note(second, "3"), target.turn()), (second, second), "too soon");
        target.seen.lock().unwrap().changed = Instant::now().checked_sub(BETWEEN_CHANGES);
        assert_eq!(note(second, "4"), second + 2);
        // Others have left meanwhile.
        target.leave();
        let left = target.turn();
        assert_eq!(
            (note(left, "5"), target.turn()),
            (left, left),
            "it is the first one seen there"
        );
        assert_eq!((note(left, ""), note(left, "6")), (left, left), "it did not tell");
    }

    #[test]
    fn a_silent_server_is_left_for_the_next() {
        for servers in ["host=a,b,c", "host=a"] {
            let target = Target::new(&settings(servers)).unwrap();
            let first = target.turn();
            target.leave();
            assert_eq!(target.turn(), first + 1);
        }
    }
}
