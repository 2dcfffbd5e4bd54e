//! TLS between Fleetgate and PostgreSQL, with certificates in both directions.

use std::path::{Path, PathBuf};

use fleetgate::registry::connection::Target;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

use crate::support::app::{config, eventually};
use crate::support::cluster::Cluster;

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, valid until the end of a year.
    fn sign(&self, host: Option<&str>, common_name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = host.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 12, 31);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Secured {
    cluster: Cluster,
    authority: Authority,
    ca: PathBuf,
}

impl Secured {
    /// A server that is reached over TCP with TLS alone: `plain` with no more, `guarded` with a certificate.
    async fn start() -> Self {
        let cluster = Cluster::start("").await;
        let admin = cluster.create("fleet").await;
        let roles = "CREATE ROLE plain LOGIN; CREATE ROLE guarded LOGIN";
        admin.batch_execute(roles).await.unwrap();
        let authority = Authority::new("test authority");
        let ca = cluster.write("ca.pem", &authority.pem);
        cluster.allow(
            "local all all trust\nhostssl all plain 127.0.0.1/32 trust\n\
             hostssl all guarded 127.0.0.1/32 cert\n",
        );
        cluster.configure(&format!(
            "ssl = on\nssl_cert_file = '{0}/server.pem'\nssl_key_file = '{0}/server.key'\nssl_ca_file = '{1}'",
            ca.parent().unwrap().display(),
            ca.display()
        ));
        let secured = Self { cluster, authority, ca };
        secured.present(Some("localhost"), 2100).await;
        secured
    }

    /// Has the server present a certificate for this host from now on.
    async fn present(&self, host: Option<&str>, until: i32) {
        let (certificate, key) = self.authority.sign(host, "server", until);
        self.cluster.write("server.pem", &certificate);
        self.cluster.write("server.key", &key);
        self.cluster.reload().await;
    }

    fn url(&self, role: &str, rest: &str) -> String {
        let port = self.cluster.port;
        format!("host=localhost hostaddr=127.0.0.1 port={port} user={role} dbname=fleet {rest}")
    }

    fn file(&self, name: &str, text: &str) -> String {
        self.cluster.write(name, text).display().to_string()
    }
}

/// Whether the session is encrypted, or why there is none.
async fn opened(url: &str) -> Result<bool, String> {
    let target = Target::new(&config(url).database).map_err(|error| error.to_string())?;
    let (client, _) = target.open(None).await.map_err(|error| error.to_string())?;
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(encrypted, &[]).await.unwrap().get(0))
}

async fn refused(url: &str, word: &str) {
    let error = opened(url).await.unwrap_err();
    assert!(error.contains(word), "{word:?} in: {error}");
    assert!(!error.contains("check that PostgreSQL runs"), "{error}");
}

fn as_url(keywords: &str) -> String {
    let words: Vec<(&str, &str)> =
        keywords.split_whitespace().map(|word| word.split_once('=').unwrap()).collect();
    let value = |name| words.iter().find(|(given, _)| *given == name).unwrap().1;
    let rest = words.iter().filter(|(name, _)| !["host", "port", "user", "dbname"].contains(name));
    let rest: Vec<String> =
        rest.map(|(name, value)| format!("{name}={}", value.replace('/', "%2F"))).collect();
    let (user, host, port) = (value("user"), value("host"), value("port"));
    format!("postgres://{user}@{host}:{port}/{}?{}", value("dbname"), rest.join("&"))
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    let secured = Secured::start().await;
    let trusted = format!("sslrootcert={}", secured.ca.display());
    let stranger = secured.file("other.pem", &Authority::new("another").pem);
    let stranger = format!("sslrootcert={stranger}");
    let url = |rest: &str| secured.url("plain", rest);
    refused(&url("sslmode=disable"), "sslmode=verify-full").await;
    assert_eq!(opened(&url("sslmode=prefer")).await, Ok(true));
    for mode in ["require", "verify-ca", "verify-full"] {
        let keywords = url(&format!("sslmode={mode} {trusted}"));
        assert_eq!(opened(&keywords).await, Ok(true), "{mode}");
        assert_eq!(opened(&as_url(&keywords)).await, Ok(true), "{mode}");
        refused(&url(&format!("sslmode={mode} {stranger}")), "an authority that we do not trust")
            .await;
    }
    refused(&url("sslrootcert=system"), "an authority that we do not trust").await;
    let mut by_setting = config(&url("")).database;
    by_setting.ca_file = Some(secured.ca.clone());
    Target::new(&by_setting).unwrap().open(None).await.unwrap();

    secured.present(Some("db.example.net"), 2100).await;
    let by_name = url(&format!("sslmode=verify-full {trusted}"));
    eventually("the certificate has changed", || async { opened(&by_name).await.is_err() }).await;
    refused(&by_name, "another name").await;
    assert_eq!(opened(&url(&format!("sslmode=verify-ca {trusted}"))).await, Ok(true));
    secured.present(Some("localhost"), 2021).await;
    let expired = || async { opened(&by_name).await.is_err_and(|error| error.contains("expired")) };
    eventually("an expired certificate is named", expired).await;
    refused(&url(&format!("sslmode=verify-ca {trusted}")), "expired").await;
}

#[tokio::test]
async fn a_certificate_of_our_own_is_shown_and_its_absence_named() {
    let secured = Secured::start().await;
    let (certificate, key) = secured.authority.sign(None, "guarded", 2100);
    let (cert, key) = (secured.file("our.pem", &certificate), secured.file("our.key", &key));
    let base = format!("sslmode=verify-full sslrootcert={}", secured.ca.display());
    let with = |cert: &str, key: &str| {
        secured.url("guarded", &format!("{base} sslcert={cert} sslkey={key}"))
    };
    assert_eq!(opened(&with(&cert, &key)).await, Ok(true));
    assert_eq!(opened(&as_url(&with(&cert, &key))).await, Ok(true));
    refused(&secured.url("guarded", &base), "sslcert and sslkey").await;
    let (foreign, foreign_key) = Authority::new("another").sign(None, "guarded", 2100);
    let foreign_key = secured.file("foreign.key", &foreign_key);
    let foreign = secured.file("foreign.pem", &foreign);
    refused(&with(&foreign, &foreign_key), "certificate").await;
    refused(&with(&cert, &foreign_key), "do not fit together").await;
    refused(&with(&cert, &secured.ca.display().to_string()), "no usable private key").await;
    assert!(!Path::new("/nowhere.pem").exists());
    refused(&with("/nowhere.pem", &key), "/nowhere.pem").await;
}

#[tokio::test]
async fn a_server_without_tls_is_said_to_be_without() {
    let cluster = Cluster::start("").await;
    cluster.create("fleet").await;
    let url = cluster.url("fleet");
    for mode in ["require", "verify-ca", "verify-full"] {
        refused(&format!("{url} sslmode={mode}"), "does not speak TLS").await;
    }
    assert_eq!(opened(&format!("{url} sslmode=prefer")).await, Ok(false));
    assert_eq!(opened(&url).await, Ok(false));
    // PostgreSQL speaks none on its socket, and libpq does not ask for it there.
    assert_eq!(
        opened(&format!("{} sslmode=verify-full", cluster.socket_url("fleet"))).await,
        Ok(false)
    );
}
