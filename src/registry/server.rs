//! One of the servers that `database.url` names: how it is reached, and what it must be.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::{Host, SslMode as Negotiated, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::DatabaseUrl;
use crate::registry::connection_error::{no_postgres, of_connecting, wrong_encoding};
use crate::registry::error::RegistryError;
use crate::registry::inspection::OLDEST_SERVER;

/// PostgreSQL's own port.
const PORT: u16 = 5432;

/// A connection whose messages are not processed yet.
pub(super) type RawConnection =
    Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// See the module documentation.
pub(super) struct Server {
    /// For people: `db.example.net:5432`, or the path of a socket.
    pub(super) place: String,
    address: Address,
    port: u16,
    /// Everything but where the server is.
    config: Config,
    tls: MakeRustlsConnect,
}

enum Address {
    Socket(Host),
    Fixed { host: String, address: IpAddr },
    Name(String),
}

impl Server {
    /// The servers of a URL, in its order.
    pub(super) fn all(
        url: &DatabaseUrl,
        negotiated: Negotiated,
        tls: &MakeRustlsConnect,
    ) -> Vec<Self> {
        let (hosts, addresses) = (url.config.get_hosts(), url.config.get_hostaddrs());
        let ports = url.config.get_ports();
        let server = |index: usize| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
            let address = Address::new(hosts.get(index), addresses.get(index).copied())?;
            let mut config = without_place(&url.config);
            // PostgreSQL does not speak TLS on a Unix socket; libpq does not ask for it either.
            let mode = if address.is_socket() { Negotiated::Disable } else { negotiated };
            config.ssl_mode(mode).target_session_attrs(TargetSessionAttrs::Any);
            let place = address.place(port);
            Some(Self { place, address, port, config, tls: tls.clone() })
        };
        (0..url.hosts()).filter_map(server).collect()
    }

    /// Logs in within `limit`, which covers everything from the look-up of the name. Where a name has
    /// several addresses, each gets its share of the time that is left.
    pub(super) async fn connect(
        &self,
        limit: Duration,
    ) -> Result<(tokio_postgres::Client, RawConnection), RegistryError> {
        let deadline = Instant::now() + limit;
        let addresses = match &self.address {
            Address::Socket(_) => vec![None],
            Address::Fixed { address, .. } => vec![Some(*address)],
            Address::Name(name) => self.resolve(name, deadline, limit).await?,
        };
        let mut failure = None;
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let now = Instant::now();
            let until = now + deadline.saturating_duration_since(now) / left;
            match self.connect_to(*address, until, limit).await {
                Ok(connected) => return Ok(connected),
                // A problem that an operator has to solve says more than that another address is away.
                Err(error) if failure.as_ref().is_none_or(RegistryError::is_unreachable) => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(|| {
            RegistryError::Unreachable(format!(
                "{}: the name has no address; check DNS",
                self.place
            ))
        }))
    }

    async fn resolve(
        &self,
        name: &str,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Vec<Option<IpAddr>>, RegistryError> {
        let found = timeout_at(deadline, lookup_host((name, self.port))).await;
        let found = found.map_err(|_| {
            RegistryError::Unreachable(format!(
                "{}: the name was not resolved within {limit:?}; check the DNS server of this machine",
                self.place
            ))
        })?;
        let found = found.map_err(|error| {
            RegistryError::Unreachable(format!(
                "{}: the name cannot be resolved ({error}); check host in database.url, and DNS",
                self.place
            ))
        })?;
        let mut addresses: Vec<Option<IpAddr>> = Vec::new();
        for address in found.map(|found: SocketAddr| Some(found.ip())) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    async fn connect_to(
        &self,
        address: Option<IpAddr>,
        until: Instant,
        limit: Duration,
    ) -> Result<(tokio_postgres::Client, RawConnection), RegistryError> {
        let mut config = self.config.clone();
        config.port(self.port);
        match &self.address {
            Address::Socket(Host::Unix(path)) => config.host_path(path),
            Address::Socket(Host::Tcp(host))
            | Address::Fixed { host, .. }
            | Address::Name(host) => config.host(host),
        };
        if let Some(address) = address {
            config.hostaddr(address);
        }
        // The socket's own time-out is that of a request to cancel, which nothing else bounds.
        config.connect_timeout(limit);
        let connecting = timeout_at(until, config.connect(self.tls.clone())).await;
        let connected = connecting.map_err(|_| self.silent(limit))?;
        let (client, connection) = connected.map_err(|error| of_connecting(&error, &self.place))?;
        self.require_usable(&connection)?;
        Ok((client, connection))
    }

    pub(super) fn silent(&self, limit: Duration) -> RegistryError {
        RegistryError::Unreachable(format!(
            "no answer from {} within {limit:?} (database.connect_timeout); check that the server is not \
             frozen or overloaded, and that no firewall is between",
            self.place
        ))
    }

    /// What PostgreSQL reports of itself at each login. The schema's first migration checks the same,
    /// and is not reached where statements do not even arrive.
    fn require_usable(&self, connection: &RawConnection) -> Result<(), RegistryError> {
        let parameter = |name| connection.parameter(name).unwrap_or_default();
        let version = parameter("server_version");
        if let Some(other) = connection.parameter("crdb_version") {
            return Err(RegistryError::Unusable(no_postgres(&self.place, other)));
        }
        match major(version) {
            None => Err(RegistryError::Unusable(no_postgres(
                &self.place,
                &format!("it calls itself version {version:?}"),
            ))),
            Some(old) if old < OLDEST_SERVER => Err(RegistryError::Unusable(format!(
                "{}: this is PostgreSQL {version}; Fleetgate needs {OLDEST_SERVER} or later. Point it at a newer \
                 server.",
                self.place
            ))),
            Some(_) if !["UTF8", ""].contains(&parameter("server_encoding")) => {
                Err(wrong_encoding(&self.place, parameter("server_encoding")))
            }
            Some(_) => Ok(()),
        }
    }

    /// The TLS of a request to cancel.
    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }

    /// Explains what went wrong on a connection to this server before it was handed out.
    pub(super) fn explain(&self, error: &tokio_postgres::Error) -> RegistryError {
        of_connecting(error, &self.place)
    }
}

/// Reads `15.4 (Debian …)` and `17beta1`; PgBouncer's console says `1.18.0/bouncer`.
fn major(version: &str) -> Option<i32> {
    if version.contains("bouncer") {
        return None;
    }
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..end)?.parse().ok()
}

impl Address {
    fn new(host: Option<&Host>, address: Option<IpAddr>) -> Option<Self> {
        match (host, address) {
            (Some(Host::Tcp(host)), Some(address)) => {
                Some(Self::Fixed { host: host.clone(), address })
            }
            // The name that a certificate has to be for is then the address.
            (None | Some(Host::Unix(_)), Some(address)) => {
                Some(Self::Fixed { host: address.to_string(), address })
            }
            (Some(Host::Tcp(host)), None) => Some(match host.parse() {
                Ok(address) => Self::Fixed { host: host.clone(), address },
                Err(_) => Self::Name(host.clone()),
            }),
            (Some(host @ Host::Unix(_)), None) => Some(Self::Socket(host.clone())),
            (None, None) => None,
        }
    }

    fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    fn place(&self, port: u16) -> String {
        match self {
            Self::Socket(Host::Unix(path)) => format!("{}/.s.PGSQL.{port}", path.display()),
            Self::Fixed { address, .. } => SocketAddr::new(*address, port).to_string(),
            Self::Socket(Host::Tcp(name)) | Self::Name(name) => format!("{name}:{port}"),
        }
    }
}

/// A copy without hosts, addresses and ports: tokio-postgres can only add to them.
fn without_place(from: &Config) -> Config {
    let mut config = Config::new();
    if let Some(user) = from.get_user() {
        config.user(user);
    }
    if let Some(password) = from.get_password() {
        config.password(password);
    }
    if let Some(name) = from.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = from.get_options() {
        config.options(options);
    }
    if let Some(name) = from.get_application_name() {
        config.application_name(name);
    }
    if let Some(limit) = from.get_tcp_user_timeout() {
        config.tcp_user_timeout(*limit);
    }
    if let Some(interval) = from.get_keepalives_interval() {
        config.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        config.keepalives_retries(retries);
    }
    config
        .keepalives(from.get_keepalives())
        .keepalives_idle(from.get_keepalives_idle())
        .ssl_negotiation(from.get_ssl_negotiation())
        .channel_binding(from.get_channel_binding());
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_others_are_told_apart() {
        assert_eq!(major("15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("18beta1"), Some(18));
        assert_eq!(major("9.6.24"), Some(9));
        assert_eq!(major("1.18.0/bouncer"), None);
        assert_eq!(major(""), None);
    }
}
