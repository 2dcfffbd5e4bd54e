//! `database.url`: a libpq connection string, as a URL or as keywords.
//!
//! tokio-postgres reads it except for what it does not know: certificates, the two modes that verify, and
//! libpq's names and units of a few others. [`parts`] takes those out, and the rest is handed on.
//! No message repeats a value: it may be the password, or a part of it where a character was not
//! percent-encoded. A name is repeated only if it is one of libpq's.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslNegotiation};

use self::parts::{EXAMPLE, UNSUPPORTED, not_a_url, only, split};
use super::sections::Database;

mod parts;

/// What `database.url` says.
#[derive(Clone)]
pub struct DatabaseUrl {
    /// Everything that tokio-postgres knows. Its TLS mode, its time-out of connecting and its wish for
    /// writable servers are not to be used: the fields here are.
    pub config: Config,
    /// Which server will do.
    pub wanted: WantedServer,
    /// How TLS is used.
    pub tls: UrlTls,
    /// `connect_timeout`, where it is part of the URL.
    pub connect_timeout: Option<Duration>,
}

/// Which of several servers will do (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedServer {
    /// Any: it is not asked.
    Any,
    /// One whose sessions may write.
    ReadWrite,
    /// One that is not a standby.
    Primary,
}

/// The `ssl…` parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlTls {
    /// `sslmode`; `None`: not given.
    pub mode: Option<SslMode>,
    /// `sslrootcert`.
    pub root_cert: Option<RootCert>,
    /// `sslcert`: the file of our own certificate.
    pub cert: Option<PathBuf>,
    /// `sslkey`: the file of its private key.
    pub key: Option<PathBuf>,
}

/// `sslrootcert`: whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// `system`: the operating system's authorities.
    System,
    /// A PEM file of authorities.
    File(PathBuf),
}

impl RootCert {
    /// The file, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::System => None,
            Self::File(path) => Some(path),
        }
    }
}

/// libpq's `sslmode`, as far as it is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS where the server offers it, without looking at its certificate.
    Prefer,
    /// TLS; a verified certificate of the host's name. libpq's does not verify.
    Require,
    /// TLS; a verified certificate of any name.
    VerifyCa,
    /// As [`SslMode::Require`].
    VerifyFull,
}

impl std::str::FromStr for DatabaseUrl {
    type Err = String;

    /// Says what is wrong and what would be right; nothing of a value.
    fn from_str(url: &str) -> Result<Self, String> {
        let (rest, taken) = split(url)?;
        let config: Config = rest.parse().map_err(|error| unreadable(&error))?;
        let mut parsed = Self {
            config,
            wanted: WantedServer::Any,
            tls: UrlTls::default(),
            connect_timeout: None,
        };
        let mut wanted = None;
        for (name, value) in taken {
            match name {
                "target_session_attrs" => wanted = Some(wanted_server(&value)?),
                _ => parsed.take(name, &value)?,
            }
        }
        parsed.check_hosts()?;
        parsed.check_tls()?;
        parsed.wanted = parsed.one_that_writes(wanted);
        Ok(parsed)
    }
}

impl DatabaseUrl {
    /// What the settings say, with its paths where they begin.
    ///
    /// # Errors
    /// As its parsing.
    pub fn of(settings: &Database) -> Result<Self, String> {
        let mut url: Self = settings.url.expose().parse()?;
        let root_cert = match &mut url.tls.root_cert {
            Some(RootCert::File(path)) => Some(path),
            Some(RootCert::System) | None => None,
        };
        for path in [root_cert, url.tls.cert.as_mut(), url.tls.key.as_mut()].into_iter().flatten() {
            *path = settings.directory.join(&path);
        }
        Ok(url)
    }

    /// How many servers it names; at least one.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.config.get_hosts().len().max(self.config.get_hostaddrs().len())
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let file = || Some(value).filter(|value| !value.is_empty()).map(PathBuf::from);
        match name {
            "sslmode" => self.tls.mode = Some(ssl_mode(value)?),
            "ssl" if value == "true" => self.tls.mode = Some(SslMode::Require),
            "ssl" => return Err("the URL's part \"ssl\" takes only true; write sslmode=…".into()),
            "sslrootcert" if value == "system" => self.tls.root_cert = Some(RootCert::System),
            "sslrootcert" => self.tls.root_cert = file().map(RootCert::File),
            "sslcert" => self.tls.cert = file(),
            "sslkey" => self.tls.key = file(),
            "connect_timeout" => {
                self.connect_timeout = seconds(name, value, LONGEST_CONNECT_TIMEOUT)?;
            }
            "tcp_user_timeout" => {
                let limit = whole(name, value, "milliseconds", LONGEST_USER_TIMEOUT)?;
                if let Some(milliseconds) = limit {
                    self.config.tcp_user_timeout(Duration::from_millis(milliseconds.into()));
                }
            }
            "keepalives_idle" => {
                if let Some(idle) = seconds(name, value, LONGEST_KEEPALIVE)? {
                    self.config.keepalives_idle(idle);
                }
            }
            "keepalives_interval" => {
                if let Some(interval) = seconds(name, value, LONGEST_KEEPALIVE)? {
                    self.config.keepalives_interval(interval);
                }
            }
            "keepalives_count" | "keepalives_retries" => {
                if let Some(count) = whole(name, value, "probes", MOST_KEEPALIVES)? {
                    self.config.keepalives_retries(count);
                }
            }
            "fallback_application_name" => {
                if self.config.get_application_name().is_none() {
                    self.config.application_name(value);
                }
            }
            "client_encoding" if ["auto", "utf8", "utf-8"].contains(&&*value.to_lowercase()) => {}
            "client_encoding" => return Err(only(name, "UTF8")),
            "gssencmode" if ["disable", "prefer"].contains(&value) => {}
            "gssencmode" => return Err(only(name, "disable: Kerberos is not supported")),
            _ => return Err(unsupported(name)),
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<(), String> {
        let (hosts, addresses) = (self.config.get_hosts().len(), self.config.get_hostaddrs().len());
        let ports = self.config.get_ports().len();
        if self.hosts() == 0 {
            return Err(format!("the URL names no host; {EXAMPLE}"));
        }
        if self.config.get_hosts().iter().any(|host| *host == Host::Tcp(String::new())) {
            return Err(format!("the URL names an empty host; {EXAMPLE}"));
        }
        if self.config.get_ports().contains(&0) {
            return Err(only("port", PORTS));
        }
        if hosts > 0 && addresses > 0 && hosts != addresses {
            return Err(format!(
                "the URL names {hosts} as host and {addresses} as hostaddr; give each host its address"
            ));
        }
        if ports > 1 && ports != self.hosts() {
            return Err(format!(
                "the URL names {ports} ports for {} hosts; write one port, or one for each host",
                self.hosts()
            ));
        }
        Ok(())
    }

    fn check_tls(&mut self) -> Result<(), String> {
        match (&self.tls.cert, &self.tls.key) {
            (Some(_), None) => return Err("the URL has sslcert without sslkey; add it".into()),
            (None, Some(_)) => return Err("the URL has sslkey without sslcert; add it".into()),
            _ => {}
        }
        if self.tls.root_cert == Some(RootCert::System) {
            use SslMode::{Disable, Prefer, VerifyCa};
            if let Some(Disable | Prefer | VerifyCa) = self.tls.mode {
                return Err("the URL's sslrootcert=system needs sslmode=verify-full: those \
                            authorities vouch for names"
                    .into());
            }
            self.tls.mode = Some(SslMode::VerifyFull);
        }
        // Whoever asks for TLS from the first byte must not get a connection without any.
        let has_tls = matches!(self.tls.mode, Some(mode) if ![SslMode::Disable, SslMode::Prefer].contains(&mode));
        if self.config.get_ssl_negotiation() == SslNegotiation::Direct && !has_tls {
            return Err("the URL's sslnegotiation=direct needs sslmode=require, verify-ca or \
                        verify-full; add it"
                .into());
        }
        Ok(())
    }

    /// Of several servers only one takes writes, and Fleetgate writes; what another says may be old.
    fn one_that_writes(&self, wanted: Option<WantedServer>) -> WantedServer {
        match wanted {
            None | Some(WantedServer::Any) if self.hosts() > 1 => WantedServer::ReadWrite,
            wanted => wanted.unwrap_or(WantedServer::Any),
        }
    }
}

fn wanted_server(value: &str) -> Result<WantedServer, String> {
    match value {
        "any" => Ok(WantedServer::Any),
        "read-write" => Ok(WantedServer::ReadWrite),
        "primary" => Ok(WantedServer::Primary),
        _ => Err("the URL's part \"target_session_attrs\" takes read-write, primary or any; \
                  Fleetgate writes, so a read-only server or a standby does not do"
            .into()),
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, String> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        // "allow" too: whoever wants TLS only where it is forced gets it with "prefer".
        _ => return Err(only("sslmode", "disable, prefer, require, verify-ca or verify-full")),
    })
}

fn unsupported(name: &str) -> String {
    match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
        Some((name, instead)) => {
            format!("the URL's part {name:?} is not supported; {instead}")
        }
        None => not_a_url(),
    }
}

/// As long as `database.connect_timeout` may be, in seconds.
const LONGEST_CONNECT_TIMEOUT: u32 = 60;
/// Milliseconds, and what follows: Linux refuses the connection for more.
const LONGEST_USER_TIMEOUT: u32 = 2_147_483_647;
const LONGEST_KEEPALIVE: u32 = 32_767;
const MOST_KEEPALIVES: u32 = 127;

/// `None` for 0, with which libpq leaves it to the default.
fn whole(name: &str, value: &str, what: &str, most: u32) -> Result<Option<u32>, String> {
    let number = value.trim().parse().ok().filter(|number: &u32| *number <= most);
    let number =
        number.ok_or_else(|| only(name, &format!("a number of {what}, {most} at most")))?;
    Ok(Some(number).filter(|number| *number > 0))
}

fn seconds(name: &str, value: &str, most: u32) -> Result<Option<Duration>, String> {
    let seconds = whole(name, value, "seconds", most)?;
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
}

const PORTS: &str = "a number from 1 to 65535, or as many of them as hosts, separated by commas";

/// Which values the parts take that tokio-postgres reads.
const VALUES: &[(&str, &str)] = &[
    ("port", PORTS),
    ("hostaddr", "IP addresses separated by commas"),
    ("sslnegotiation", "postgres or direct"),
    ("channel_binding", "disable, prefer or require"),
    ("load_balance_hosts", "disable or random"),
    ("keepalives", "0 or 1"),
];

/// Passes on which part is bad. All else the parser says may quote the text, and so the password.
fn unreadable(error: &tokio_postgres::Error) -> String {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    let name = cause
        .strip_prefix("invalid value for option `")
        .and_then(|rest| rest.strip_suffix('`'))
        .and_then(|name| VALUES.iter().find(|(known, _)| *known == name));
    match name {
        Some((name, values)) => only(name, values),
        None => not_a_url(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> DatabaseUrl {
        url.parse().map_err(|error: String| format!("{url}: {error}")).unwrap()
    }

    fn refused(url: &str) -> String {
        url.parse::<DatabaseUrl>().map(|_| url).unwrap_err()
    }

    #[test]
    fn both_forms_say_the_same() {
        let forms = [
            "postgres://u:p%40x@one:5433,two:5434/db?sslmode=verify-ca&sslrootcert=%2Fetc%2Fca%20x.pem&application_name=me&sslcert=c&sslkey=k&connect_timeout=7",
            "host=one,two port=5433,5434 user=u password=p@x dbname=db sslmode=verify-ca sslrootcert='/etc/ca x.pem' application_name=me sslcert = c sslkey=k connect_timeout=7",
        ];
        for url in forms.map(parsed) {
            assert_eq!(url.config.get_hosts(), ["one", "two"].map(|h| Host::Tcp(h.into())));
            assert_eq!(url.config.get_ports(), [5433, 5434]);
            assert_eq!(url.config.get_password(), Some(&b"p@x"[..]));
            assert_eq!(url.config.get_application_name(), Some("me"));
            assert_eq!(url.connect_timeout, Some(Duration::from_secs(7)));
            let file = |path: &str| Some(PathBuf::from(path));
            assert_eq!(
                url.tls,
                UrlTls {
                    mode: Some(SslMode::VerifyCa),
                    root_cert: file("/etc/ca x.pem").map(RootCert::File),
                    cert: file("c"),
                    key: file("k")
                }
            );
        }
    }

    #[test]
    fn quotes_and_backslashes_are_kept_for_the_parser() {
        let url = parsed(r"host=/run/x password='it\'s = sslmode' dbname=a\ b sslmode='disable'");
        assert_eq!(url.config.get_password(), Some(&b"it's = sslmode"[..]));
        assert_eq!(url.config.get_dbname(), Some("a b"));
        assert_eq!(url.tls.mode, Some(SslMode::Disable));
    }

    #[test]
    fn of_several_hosts_one_that_writes_is_wanted() {
        use WantedServer::{Any, Primary, ReadWrite};
        let wanted = |url| parsed(url).wanted;
        assert_eq!(wanted("host=a"), Any);
        assert_eq!(wanted("host=a target_session_attrs=read-write"), ReadWrite);
        assert_eq!(wanted("postgres://u@a,b/x"), ReadWrite);
        assert_eq!(wanted("postgres://u@a,b/x?target_session_attrs=any"), ReadWrite);
        assert_eq!(wanted("hostaddr=10.0.0.1,::1 target_session_attrs=primary"), Primary);
        for value in ["read-only", "standby", "prefer-standby", "x"] {
            let error = refused(&format!("host=a target_session_attrs={value}"));
            assert!(error.contains("read-write") && error.contains("target_session_attrs"));
        }
    }

    #[test]
    fn what_is_not_supported_is_named_without_its_value() {
        for (name, _) in UNSUPPORTED {
            for url in
                [format!("host=h {name}=topsecret"), format!("postgres://h/x?{name}=topsecret")]
            {
                let error = refused(&url);
                assert!(error.contains(name) && !error.contains("topsecret"), "{error}");
            }
        }
        for name in ["sslmode", "port", "keepalives", "client_encoding", "gssencmode", "ssl"] {
            let error = refused(&format!("host=h {name}=topsecret"));
            assert!(error.contains(name) && !error.contains("topsecret"), "{error}");
        }
        assert!(refused("host=h sslmode=allow").contains("prefer"));
        for url in
            ["host=h password=top topsecret=x", "host=h top secret", "postgres://h/?topsecret"]
        {
            assert!(!refused(url).contains("secret"), "{url}");
        }
    }

    #[test]
    fn hosts_addresses_and_ports_fit_together() {
        assert!(refused("user=u").contains("no host"));
        assert!(refused("host=a,b hostaddr=10.0.0.1").contains("2 as host and 1 as hostaddr"));
        assert!(refused("host=a port=1,2").contains("2 ports for 1 hosts"));
        for url in ["postgres://u@h,,/x", "postgres://u@:5432/x", "host=a,", "host=''"] {
            assert!(refused(url).contains("empty host"), "{url}");
        }
        for url in ["postgres://u@h:0/x", "host=h port=0"] {
            assert!(refused(url).contains("from 1 to 65535"), "{url}");
        }
        parsed("host=a,b port=1");
    }

    #[test]
    fn certificates_belong_together() {
        assert!(refused("host=h sslcert=c").contains("sslkey"));
        assert!(refused("host=h sslkey=c").contains("sslcert"));
        assert!(refused("host=h sslmode=verify-ca sslrootcert=system").contains("verify-full"));
        let system = parsed("host=h sslrootcert=system").tls;
        assert_eq!(
            (system.mode, system.root_cert),
            (Some(SslMode::VerifyFull), Some(RootCert::System))
        );
    }

    #[test]
    fn units_and_names_are_those_of_libpq() {
        let url = parsed("host=h tcp_user_timeout=1500 keepalives_count=4 client_encoding=UTF8");
        assert_eq!(url.config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
        assert_eq!(url.config.get_keepalives_retries(), Some(4));
        assert_eq!(parsed("host=h connect_timeout=0").connect_timeout, None);
    }

    #[test]
    fn numbers_are_bounded() {
        let name_and_most = [
            ("connect_timeout", "60"),
            ("tcp_user_timeout", "2147483647"),
            ("keepalives_idle", "32767"),
            ("keepalives_interval", "32767"),
            ("keepalives_count", "127"),
            ("keepalives_retries", "127"),
        ];
        for (name, most) in name_and_most {
            parsed(&format!("host=h {name}={most}"));
            for number in [&format!("{most}0"), "18446744073709551615", "-1", "x"] {
                let refused = refused(&format!("postgres://h/x?{name}={number}"));
                assert!(refused.contains(name) && refused.contains(most), "{number}: {refused}");
            }
        }
    }

    #[test]
    fn an_at_sign_that_could_belong_to_a_password_is_refused() {
        for url in [
            "postgres://u:Sup3r@S3cretTail@127.0.0.1:1/x",
            "postgres://u:Sup3r@/S3cretTail@h/x",
            "postgres://u:Sup3r?S3cretTail@h/x",
            "postgres://h/x?user=u&password=Sup3r@S3cretTail",
            "postgres://u@tenant@h/x",
        ] {
            let refused = refused(url);
            assert!(refused.contains("%40") && refused.contains("%3F"), "{url}: {refused}");
            assert!(!refused.contains("3cret") && !refused.contains("up3r"), "{refused}");
        }
        let url = parsed("postgres://u%40t:p/#:%40%3F@h/x?application_name=a@b");
        assert_eq!((url.config.get_user(), url.config.get_dbname()), (Some("u@t"), Some("x")));
        assert_eq!(url.config.get_password(), Some(&b"p/#:@?"[..]));
        assert_eq!(url.config.get_application_name(), Some("a@b"));
    }

    #[test]
    fn tls_from_the_first_byte_is_tls() {
        for rest in ["", "&sslmode=disable", "&sslmode=prefer", "&sslrootcert=ca.pem"] {
            let url = format!("postgres://h/x?sslnegotiation=direct{rest}");
            assert!(refused(&url).contains("verify-full"), "{url}");
        }
        for rest in ["sslmode=require", "sslmode=verify-ca", "ssl=true", "sslrootcert=system"] {
            parsed(&format!("postgres://h/x?{rest}&sslnegotiation=direct"));
        }
    }

    #[test]
    fn names_may_be_percent_encoded() {
        let url = parsed("postgres://h/x?%73slmode=require&connect%5Ftimeout=7");
        assert_eq!(url.tls.mode, Some(SslMode::Require));
        assert_eq!(url.connect_timeout, Some(Duration::from_secs(7)));
        assert!(refused("postgres://h/x?%73slcrl=x").contains("sslcrl"));
        assert!(!refused("postgres://h/x??sslmode=require").contains("sslmode"));
    }
}
