//! `fleetgate health`: what a container's health check runs, so that its image needs no HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::numbers::listen_address;

/// Longest wait for the answer; less than what the health checks in `docker/` allow.
const LIMIT: Duration = Duration::from_secs(2);
/// More than `/readyz` ever answers.
const MAX_ANSWER_BYTES: u64 = 4 << 10;

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
            None => reachable(context.settings()?.http().listen)?,
        };
        let answer = tokio::time::timeout(LIMIT, ask(address))
            .await
            .map_err(|_| not_well(address, &format!("gave no answer within {LIMIT:?}")))?
            .map_err(|error| not_well(address, &format!("cannot be asked: {error}")))?;
        let health = read(address, &answer)?;
        context.output.result(&health, || format!("{address} is ready: {}", health.answer))
    }
}

fn not_well(address: SocketAddr, why: &str) -> CliError {
    CliError::Failed(format!(
        "{address} {why}; see the log of `fleetgate serve` and run `fleetgate doctor`"
    ))
}

/// Where a service that listens there is found from the same machine.
fn reachable(listen: SocketAddr) -> Result<SocketAddr, CliError> {
    if listen.port() == 0 {
        let why = "http.listen takes any free port, so nobody knows which; say it with --address";
        return Err(CliError::Usage(why.to_owned()));
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Understands an HTTP answer.
fn read(address: SocketAddr, answer: &str) -> Result<Health, CliError> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let body = body.trim();
    match head.strip_prefix("HTTP/1.1 ").and_then(|head| head.get(..3)) {
        Some("200") => {
            let answer = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
            Ok(Health { address, ready: true, answer })
        }
        Some("503") => Err(not_well(address, &format!("is not ready: {body}"))),
        Some(status) => Err(not_well(address, &format!("answers {status}: is it fleetgate?"))),
        None => Err(not_well(address, "does not speak HTTP: is it fleetgate?")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_everywhere_is_found_on_the_loopback() {
        let of = |listen: &str| reachable(listen.parse().unwrap()).ok().map(|a| a.to_string());
        assert_eq!(of("0.0.0.0:8080").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(of("[::]:8080").as_deref(), Some("[::1]:8080"));
        assert_eq!(of("10.1.2.3:80").as_deref(), Some("10.1.2.3:80"));
        assert_eq!(of("127.0.0.1:0"), None);
    }

    #[test]
    fn only_a_200_is_healthy() {
        let address = "127.0.0.1:8080".parse().unwrap();
        let of = |answer: &str| read(address, answer).map(|health| health.answer);
        assert_eq!(
            of("HTTP/1.1 200 OK\r\na: b\r\n\r\n{\"ready\":true}").unwrap(),
            serde_json::json!({"ready": true}),
            "JSON, and not a text that holds JSON"
        );
        assert_eq!(of("HTTP/1.1 200 OK\r\n\r\nready").unwrap(), "ready");
        for (answer, said) in [
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"listening\":false}",
                "\"listening\":false",
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            ("SSH-2.0", "does not speak HTTP"),
            ("", "does not speak HTTP"),
        ] {
            let error = of(answer).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
