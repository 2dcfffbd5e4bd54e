//! EMQX's REST API: ends sessions, lists clients, and configures ([`setup`]). What it sends and how it
//! reads answers is in docs/EMQX.md ("REST"); nothing else
//! of the API is used.
//!
//! # What it keeps
//! 1. A call ends within a bounded time: [`CONNECT_TIMEOUT`], [`CALL_TIMEOUT`], [`ATTEMPTS`].
//! 2. A call that failed for no lasting reason is made again after a short wait, if it may be made
//!    twice: a session that has ended ends no further. What creates something is made once.
//! 3. While EMQX is away, no call is made at all except one now and then that finds out whether it is
//!    back ([`circuit`]), so that nothing piles up on either side.
//! 4. An answer takes bounded memory.
//!
//! Nothing that decides a login or an action calls this.

pub mod circuit;
mod clients;
pub mod configuration;
mod error;
pub mod setup;

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};

use crate::backoff::exponential;
use crate::config::EmqxApi as Settings;
use crate::emqx::circuit::Circuit;
use crate::http_client;
use crate::metrics::EmqxMetrics;
use crate::secret::Secret;

pub use clients::{ClientPage, ConnectedClient, Place};
pub use error::EmqxError;

/// Time to reach EMQX.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for one attempt, its answer included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a call is attempted.
pub const ATTEMPTS: u32 = 3;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(500);
/// Idle connections kept: as many as evictions use at once.
const IDLE_CONNECTIONS: usize = 8;
/// Largest answer in bytes. A thousand clients with every field that EMQX has come to 2 MB.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Longest part of a refusal that is read: only its code and message matter.
const MAX_REFUSAL_BYTES: usize = 4 << 10;

/// What stands for itself in a path (RFC 3986, unreserved).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It has ended now.
    Disconnected,
    /// There was none.
    WasNotThere,
}

/// EMQX's REST API. Cheap calls share connections; use one for the process.
pub struct EmqxApi {
    http: Client,
    url: String,
    key: String,
    secret: Secret,
    circuit: Circuit,
    metrics: EmqxMetrics,
}

impl EmqxApi {
    /// An API that has not been called yet.
    ///
    /// # Errors
    /// When the CA file cannot be used.
    pub fn new(settings: &Settings, metrics: EmqxMetrics) -> Result<Self, EmqxError> {
        let tls = crate::tls::trusting(settings.ca_file.as_deref())
            .map_err(|problem| EmqxError::Settings(format!("emqx.api_ca_file: {problem}")))?;
        let http = http_client::builder(tls)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build()
            .map_err(|error| EmqxError::Settings(format!("emqx.api_url: {error}")))?;
        let circuit = Circuit::new(metrics.circuit_open.clone());
        let (url, key, secret) =
            (settings.url.clone(), settings.key.clone(), settings.secret.clone());
        Ok(Self { http, url, key, secret, circuit, metrics })
    }

    /// Whether EMQX is there.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Ends the session of a client id.
    ///
    /// # Errors
    /// When EMQX did not say that it has ended.
    pub async fn disconnect(&self, client_id: &str) -> Result<Gone, EmqxError> {
        // As path segments these two mean directories, however they are encoded.
        if matches!(client_id, "." | "..") {
            return self.disconnect_all(&[client_id]).await.map(|()| Gone::Disconnected);
        }
        let path = format!("clients/{}", utf8_percent_encode(client_id, PATH));
        let call = || self.request(Method::DELETE, &path);
        match self.call("disconnect", call).await {
            Ok(_) => Ok(Gone::Disconnected),
            Err(EmqxError::NotFound { code }) if code == "CLIENTID_NOT_FOUND" => {
                Ok(Gone::WasNotThere)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the sessions of all these client ids; those that have none are no error.
    ///
    /// # Errors
    /// When EMQX did not say that they have ended.
    pub async fn disconnect_all(&self, client_ids: &[&str]) -> Result<(), EmqxError> {
        let call = || self.request(Method::POST, "clients/kickout/bulk").json(client_ids);
        self.call("disconnect_all", call).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v5/{path}", self.url);
        self.http.request(method, url).basic_auth(&self.key, Some(self.secret.expose()))
    }

    /// Makes a call, again where that may help, and returns the body of a 2xx.
    async fn call(
        &self,
        name: &'static str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Vec<u8>, EmqxError> {
        let mut attempt = 0;
        loop {
            let error = match self.attempt(name, request()).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            attempt += 1;
            if attempt >= ATTEMPTS || !error.may_pass() || self.circuit.is_open() {
                return Err(error);
            }
            tracing::debug!(%error, call = name, "EMQX is asked again");
            tokio::time::sleep(exponential(FIRST_RETRY, LAST_RETRY, attempt - 1)).await;
        }
    }

    async fn attempt(
        &self,
        name: &'static str,
        request: RequestBuilder,
    ) -> Result<Vec<u8>, EmqxError> {
        let passage = self.circuit.pass().ok_or(EmqxError::CircuitOpen)?;
        let began = Instant::now();
        let outcome = exchange(request).await;
        match &outcome {
            Err(error) if error.is_emqx_unfit() => passage.failed(),
            _ => passage.succeeded(),
        }
        let label = outcome.as_ref().map_or_else(EmqxError::label, |_| "ok");
        self.metrics.call(name, label, began.elapsed().as_secs_f64());
        outcome
    }
}

async fn exchange(request: RequestBuilder) -> Result<Vec<u8>, EmqxError> {
    let response = request.send().await.map_err(|error| EmqxError::away(&error))?;
    let status = response.status();
    if status.is_success() {
        return read(response, MAX_ANSWER_BYTES).await?.ok_or(EmqxError::TooLarge);
    }
    let body = read(response, MAX_REFUSAL_BYTES).await?.unwrap_or_default();
    Err(EmqxError::refusal(status, &body))
}

async fn read(response: Response, limit: usize) -> Result<Option<Vec<u8>>, EmqxError> {
    http_client::read(response, limit).await.map_err(|error| EmqxError::away(&error))
}

/// Whether a status says that EMQX itself is unwell rather than the request wrong.
fn is_unwell(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_stay_in_their_path_segment() {
        let encoded = |id: &str| utf8_percent_encode(id, PATH).to_string();
        assert_eq!(encoded("thermo-1_a.b~c"), "thermo-1_a.b~c");
        assert_eq!(encoded("a b?c%2F\"#/+&=:@;\\"), "a%20b%3Fc%252F%22%23%2F%2B%26%3D%3A%40%3B%5C");
        assert_eq!(encoded("gerät\u{1f600}\n"), "ger%C3%A4t%F0%9F%98%80%0A");
    }
}
