//! Single connections to PostgreSQL: how they are opened, encrypted and moved along.
//!
//! TLS: `sslmode=require` in the URL, or a CA file, means an encrypted connection to a server whose
//! certificate and name are verified. libpq's `prefer` protects against nobody who can alter
//! packets, so without either the connection is plain.

use std::future::poll_fn;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Database;
use crate::registry::error::RegistryError;

/// Notifications that may wait between the connection and the listener. When full, the connection
/// is not read any further, the heartbeat stops coming back and LISTEN counts as lost: late, never
/// wrong.
const NOTIFICATIONS_WAITING: usize = 4096;

/// Settings of a session for [`Target::for_look_ups`], as options of the connection.
pub const LOOK_UP_PLANS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off";

/// How to reach PostgreSQL.
#[derive(Clone)]
pub struct Target {
    pub(super) config: Config,
    tls: Option<MakeRustlsConnect>,
    connect_timeout: Duration,
}

impl Target {
    /// Reads the settings and, where TLS is asked for, the certificates to trust.
    ///
    /// # Errors
    /// When the URL is not one, or the CA file cannot be read.
    pub fn new(settings: &Database) -> Result<Self, RegistryError> {
        let mut config: Config =
            settings.url.expose().parse().map_err(|_| {
                RegistryError::Settings("database.url is no connection string".into())
            })?;
        if let Some(password) = &settings.password {
            config.password(password.expose());
        }
        if config.get_application_name().is_none() {
            config.application_name("fleetgate");
        }
        config
            .connect_timeout(settings.connect_timeout)
            .keepalives_idle(Duration::from_secs(15))
            .tcp_user_timeout(Duration::from_secs(15));
        let wanted = config.get_ssl_mode() == SslMode::Require || settings.ca_file.is_some();
        config.ssl_mode(if wanted { SslMode::Require } else { SslMode::Disable });
        let tls = wanted.then(|| tls(settings.ca_file.as_deref())).transpose()?;
        Ok(Self { config, tls, connect_timeout: settings.connect_timeout })
    }

    /// Lets the server end a statement that nobody waits for any more, and plan each statement once:
    /// one that takes an array would be planned anew for every array, which costs more than running it.
    /// Statements of such a connection look rows up by key, whatever the statistics say; they are stale
    /// exactly when a new fleet has come. The URL's own options come behind, where they prevail.
    pub(super) fn for_look_ups(mut self, timeout: Duration) -> Self {
        let ours = format!("-c statement_timeout={} {LOOK_UP_PLANS}", timeout.as_millis());
        let theirs = self.config.get_options().map(|options| format!(" {options}"));
        self.config.options(ours + &theirs.unwrap_or_default());
        self
    }

    /// Opens one connection; its task runs on the present runtime and hands notifications to
    /// `notifications` where there is somebody to take them.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] when it takes longer than the connect time-out or fails.
    pub async fn open(
        &self,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<(Client, JoinHandle<()>), RegistryError> {
        let opening = self.open_unbounded(notifications);
        match tokio::time::timeout(self.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(RegistryError::on("the connection")),
            Err(_) => Err(timed_out("connecting", self.connect_timeout)),
        }
    }

    pub(super) async fn open_unbounded(
        &self,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        Ok(match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, notifications)))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, notifications)))
            }
        })
    }

    /// Opens a connection that listens to nothing yet, and the notifications it will receive.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub async fn open_listener(
        &self,
    ) -> Result<(Client, mpsc::Receiver<Notification>), RegistryError> {
        let (sender, receiver) = mpsc::channel(NOTIFICATIONS_WAITING);
        let (client, _) = self.open(Some(sender)).await?;
        Ok((client, receiver))
    }
}

/// Opens one connection for a command that then ends; its task runs on the present runtime.
///
/// # Errors
/// As [`Target::new`] and [`Target::open`].
pub async fn connect(settings: &Database) -> Result<Client, RegistryError> {
    let (client, _) = Target::new(settings)?.open(None).await?;
    Ok(client)
}

/// Moves a connection along until it ends. Its end also ends the notification channel, which is how
/// the listener learns of it.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    notifications: Option<mpsc::Sender<Notification>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match (message, &notifications) {
            (Ok(AsyncMessage::Notification(notification)), Some(sender)) => {
                if sender.send(notification).await.is_err() {
                    return;
                }
            }
            (Ok(AsyncMessage::Notice(notice)), _) => {
                tracing::debug!(severity = notice.severity(), "PostgreSQL: {}", notice.message());
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::debug!(%error, "a PostgreSQL connection ended");
                return;
            }
        }
    }
}

fn tls(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, RegistryError> {
    crate::tls::trusting(ca_file)
        .map(MakeRustlsConnect::new)
        .map_err(|problem| RegistryError::Settings(format!("database.ca_file: {problem}")))
}

/// Ends a query that takes longer than `limit`. Its connection is then of no more use: the next query
/// would wait behind it.
pub(crate) async fn within<T>(
    limit: Duration,
    query: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    tokio::time::timeout(limit, query).await.unwrap_or_else(|_| Err(timed_out("a query", limit)))
}

pub(crate) fn timed_out(what: &str, limit: Duration) -> RegistryError {
    RegistryError::Unreachable(format!("{what} took longer than {limit:?}"))
}

#[cfg(test)]
pub(super) mod tests {
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
        }
    }

    fn options_of(url: &str) -> String {
        let target = Target::new(&settings(url)).unwrap();
        let target = target.for_look_ups(Duration::from_secs(2));
        target.config.get_options().unwrap().to_owned()
    }

    #[test]
    fn options_of_the_url_come_behind_our_own() {
        let ours = format!("-c statement_timeout=2000 {LOOK_UP_PLANS}");
        assert_eq!(options_of("host=/tmp dbname=x"), ours);
        let url = "host=/tmp dbname=x options='-c statement_timeout=9'";
        assert_eq!(options_of(url), format!("{ours} -c statement_timeout=9"));
    }
}
