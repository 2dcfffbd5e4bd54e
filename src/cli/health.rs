//! `fleetgate health`: what a container's health check runs, so that its image needs no HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use reqwest::{Client, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::causes::causes;
use crate::cli::arguments::listen_address;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::http_client;
use crate::tls::{self, Demand};

/// Longest wait for the answer; less than what the health checks in `docker/` allow.
const LIMIT: Duration = Duration::from_secs(2);
/// More than `/readyz` ever answers.
const MAX_ANSWER_BYTES: usize = 4 << 10;

/// Ask a running `serve` whether it can decide (GET /readyz): exit code 0 if so, else 1.
#[derive(Args)]
pub(super) struct Arguments {
    /// Where it listens, such as 127.0.0.1:8080; otherwise `http.listen` of the configuration says it.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    address: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Health {
    address: SocketAddr,
    ready: bool,
    answer: Value,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let address = match self.address {
            Some(address) => address,
            None => address_of(context.settings()?.http.listen)?,
        };
        let asker = Asker::new().map_err(CliError::Failed)?;
        let answer = asker.ask(address).await;
        let (status, body) = answer.map_err(|error| unanswered(address, &error))?;
        let health = read(address, status, &body)?;
        context.output.result(&health, || format!("{address} is ready: {}", health.answer))
    }
}

fn not_well(address: SocketAddr, why: &str) -> CliError {
    CliError::Failed(format!(
        "{address} {why}; see the log of `fleetgate serve` and run `fleetgate doctor`"
    ))
}

/// Where `http.listen` is reached; nobody knows that of any free port.
fn address_of(listen: SocketAddr) -> Result<SocketAddr, CliError> {
    if listen.port() == 0 {
        let why = "http.listen takes any free port, so nobody knows which; say it with --address";
        return Err(CliError::Usage(why.to_owned()));
    }
    Ok(reachable(listen))
}

/// Where this machine reaches a service that listens there.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks services whether they are ready.
pub(super) struct Asker(Client);

impl Asker {
    pub(super) fn new() -> Result<Self, String> {
        // It speaks plain HTTP, so whom TLS would trust does not matter.
        let tls = tls::client(None, Demand::Nothing, None)?;
        let client = http_client::builder(tls).timeout(LIMIT).build();
        client.map(Self).map_err(|error| causes(&error))
    }

    /// The status of the answer and its text.
    pub(super) async fn ask(&self, address: SocketAddr) -> reqwest::Result<(StatusCode, String)> {
        let answer = self.0.get(format!("http://{address}/readyz")).send().await?;
        let status = answer.status();
        let body = http_client::read(answer, MAX_ANSWER_BYTES).await?.unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
    }
}

fn unanswered(address: SocketAddr, error: &reqwest::Error) -> CliError {
    if error.is_timeout() {
        not_well(address, &format!("gave no answer within {LIMIT:?}"))
    } else if error.is_connect() {
        not_well(address, &format!("cannot be asked: {}", causes(error)))
    } else {
        not_well(address, &format!("does not speak HTTP: is it fleetgate? ({})", causes(error)))
    }
}

/// Understands an answer.
fn read(address: SocketAddr, status: StatusCode, body: &str) -> Result<Health, CliError> {
    match status {
        StatusCode::OK => {
            let answer = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
            Ok(Health { address, ready: true, answer })
        }
        StatusCode::SERVICE_UNAVAILABLE => Err(not_well(address, &format!("is not ready: {body}"))),
        other => Err(not_well(address, &format!("answers {}: is it fleetgate?", other.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_service_that_listens_everywhere_is_found_on_the_loopback() {
        let of = |listen: &str| address_of(listen.parse().unwrap()).ok().map(|a| a.to_string());
        assert_eq!(of("0.0.0.0:8080").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(of("[::]:8080").as_deref(), Some("[::1]:8080"));
        assert_eq!(of("10.1.2.3:80").as_deref(), Some("10.1.2.3:80"));
        assert_eq!(of("127.0.0.1:0"), None);
    }

    /// What is made of an answer.
    async fn health(answer: &'static str) -> Result<Value, CliError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let asker = Asker::new().unwrap();
        let (_stream, answer) = tokio::join!(answering, asker.ask(address));
        let (status, body) = answer.map_err(|error| unanswered(address, &error))?;
        read(address, status, &body).map(|health| health.answer)
    }

    #[tokio::test]
    async fn only_a_200_is_healthy() {
        assert_eq!(
            health("HTTP/1.1 200 OK\r\na: b\r\n\r\n{\"ready\":true}\n").await.unwrap(),
            serde_json::json!({"ready": true}),
            "JSON, and not a text that holds JSON"
        );
        assert_eq!(health("HTTP/1.1 200 OK\r\n\r\nready").await.unwrap(), "ready");
        for (answer, said) in [
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"listening\":false}",
                "\"listening\":false",
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n", "302"),
            ("SSH-2.0\r\n", "does not speak HTTP"),
            ("", "does not speak HTTP"),
        ] {
            let error = health(answer).await.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
