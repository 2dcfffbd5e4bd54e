//! The certificate that EMQX's TLS listener shows, and how long it is still valid.
//!
//! It is only read here, not trusted: whether a client trusts it is for the client to say.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::{LIMIT, SECONDS_A_DAY};
use crate::clock::Clock;
use crate::tls::{self, Demand};

const CERTIFICATE: &str = "TLS certificate";
/// MQTT over TLS (IANA), where `emqx-config/` listens.
const PORT: u16 = 8883;

/// Looks at the listener on the host of EMQX's REST API.
pub(super) async fn examine(api_url: &str, clock: &Clock) -> Finding {
    let host = reqwest::Url::parse(api_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let Some(host) = host else {
        return Finding::ok(CERTIFICATE, "emqx.api_url names no host: nothing to look at");
    };
    let now = clock.now().as_second();
    let shown = tokio::task::spawn_blocking(move || (not_after(&host, PORT), host)).await;
    match shown {
        Ok((Ok(end), host)) => finding_of(&host, (end - now).div_euclid(SECONDS_A_DAY)),
        Ok((Err(problem), host)) => without(&host, &problem),
        Err(error) => Finding::error(CERTIFICATE, error),
    }
}

/// Why no certificate was read.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// Nobody listens.
    Absent(String),
    /// Somebody does, and shows no certificate.
    Broken(String),
}

fn without(host: &str, problem: &Problem) -> Finding {
    match problem {
        Problem::Absent(error) => Finding::ok(
            CERTIFICATE,
            format!(
                "no TLS listener that answers at {host}:{PORT} ({error}): devices use plain MQTT"
            ),
        ),
        Problem::Broken(error) => Finding::failure(
            CERTIFICATE,
            format!("{host}:{PORT} listens, and shows none ({error}): no device connects over TLS"),
            "look for the listener's certificate files in EMQX's log; `fleetgate secrets init` makes those of \
             the stack that are missing",
        ),
    }
}

fn finding_of(host: &str, days: i64) -> Finding {
    let remedy = "run `fleetgate secrets init` (`docker compose up -d` does), or give EMQX a new \
                  certificate; clients that check it cannot connect after its end";
    Finding::certificate(CERTIFICATE, &format!("{host}:{PORT} shows one that"), days, remedy)
}

/// The end of the certificate shown at an address, in Unix seconds. Blocks for [`LIMIT`] at most a step.
fn not_after(host: &str, port: u16) -> Result<i64, Problem> {
    // As a URL writes an IPv6 address.
    let host = host.trim_matches(['[', ']']);
    let socket = connected(host, port).map_err(|error| Problem::Absent(error.to_string()))?;
    let shown = certificate(host, socket).map_err(Problem::Broken)?;
    let parsed = x509_parser::parse_x509_certificate(&shown);
    let (_, parsed) = parsed.map_err(|error| Problem::Broken(error.to_string()))?;
    Ok(parsed.validity().not_after.timestamp())
}

fn connected(host: &str, port: u16) -> io::Result<TcpStream> {
    let address = (host, port).to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
    let socket = TcpStream::connect_timeout(&address, step())?;
    socket.set_read_timeout(Some(step()))?;
    socket.set_write_timeout(Some(step()))?;
    Ok(socket)
}

fn certificate(host: &str, mut socket: TcpStream) -> Result<CertificateDer<'static>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    // Any certificate will do: nothing is sent over the connection.
    let reader = tls::client(None, Demand::Nothing, None)?;
    let mut session =
        ClientConnection::new(Arc::new(reader), name).map_err(|error| error.to_string())?;
    let mut ended = Ok(());
    while session.is_handshaking() && ended.is_ok() {
        ended = session.complete_io(&mut socket).map(drop);
    }
    // A listener that wants a client's certificate breaks off, after it has shown its own.
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let reason =
        || ended.err().map_or_else(|| "it sent none".to_owned(), |error| error.to_string());
    shown.map(|shown| shown.clone().into_owned()).ok_or_else(reason)
}

fn step() -> Duration {
    LIMIT / 2
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::cli::doctor::Status;

    /// A listener that shows a certificate until 2100; returns its port.
    fn listener() -> u16 {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let certificate = wanted.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut session = ServerConnection::new(Arc::new(config)).unwrap();
            while session.is_handshaking() && session.complete_io(&mut socket).is_ok() {}
        });
        port
    }

    #[test]
    fn the_end_of_a_certificate_is_read_whoever_signed_it() {
        assert_eq!(not_after("localhost", listener()), Ok(4_102_444_800));
    }

    #[test]
    fn an_ipv6_address_of_a_url_is_an_address() {
        let Err(Problem::Absent(why)) = not_after("[::1]", 1) else { panic!("somebody is there") };
        assert!(!why.contains("lookup"), "{why}");
    }

    #[test]
    fn a_listener_that_shows_none_is_told_from_one_that_is_not_there() {
        assert!(matches!(not_after("localhost", 1), Err(Problem::Absent(_))));
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        std::thread::spawn(move || drop(silent.accept().unwrap()));
        let problem = not_after("127.0.0.1", port).unwrap_err();
        assert!(matches!(problem, Problem::Broken(_)), "{problem:?}");
        let finding = without("emqx", &problem);
        assert_eq!(finding.status, Status::Failure);
        assert!(finding.remedy.unwrap().contains("secrets init"));
        assert_eq!(without("emqx", &Problem::Absent("refused".to_owned())).status, Status::Ok);
    }

    #[test]
    fn the_days_left_decide() {
        for (days, status) in
            [(-1, Status::Failure), (3, Status::Failure), (21, Status::Warning), (22, Status::Ok)]
        {
            assert_eq!(finding_of("emqx", days).status, status, "{days}");
        }
    }
}
