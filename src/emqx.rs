//! EMQX's REST API: kicks clients out, lists clients, and configures ([`setup`]). What it sends and how it
//! reads answers is in docs/EMQX.md ("REST"); nothing else
//! of the API is used.
//!
//! # What it keeps
//! 1. A call ends within a bounded time: [`CONNECT_TIMEOUT`], [`CALL_TIMEOUT`], [`ATTEMPTS`].
//! 2. A page of a list, and what is read or replaced of the configuration, is asked for again after a short wait
//!    if no answer comes: the list, or a run of `emqx apply`, would have to begin anew. A kick-out is made once,
//!    because the work queue repeats it ([`crate::work`]); so is what creates something.
//! 3. An answer takes bounded memory.
//!
//! EMQX may start after Fleetgate (`docker/compose.yaml` has it so): until it has answered once, for
//! [`STARTING`] at most, it is awaited, and that it does not answer is nothing to complain about.
//!
//! Nothing that decides a login or an action calls this.

mod clients;
pub mod configuration;
mod error;
mod publish;
pub mod setup;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use percent_encoding::utf8_percent_encode;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};

use crate::backoff::exponential;
use crate::config::EmqxApi as Settings;
use crate::http_client::{self, UNRESERVED};
use crate::metrics::EmqxMetrics;
use crate::secret::Secret;

pub use clients::{ClientPage, ConnectedClient, Place};
pub use error::EmqxError;
pub use publish::{CommandPublish, Published, Subscription};

/// Time to reach EMQX.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for one call, its answer included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a call is attempted that is made again.
pub const ATTEMPTS: u32 = 3;
/// How long EMQX may take to answer for the first time.
pub const STARTING: Duration = Duration::from_secs(60);

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(500);
/// Idle connections kept: as many as commands use at once; kick-outs use fewer.
const IDLE_CONNECTIONS: usize = 16;
/// How long they are kept: less than EMQX keeps them, so that no call meets one that is being closed.
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Largest answer in bytes. A thousand clients with every field that EMQX has come to 2 MB.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Longest part of a refusal that is read: only its code and message matter.
const MAX_REFUSAL_BYTES: usize = 4 << 10;

/// What became of a kick-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KickOut {
    /// The session has ended now.
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
    began: Instant,
    /// Whether EMQX has answered yet.
    answered: AtomicBool,
    /// Whether the log says that it is awaited.
    is_wait_logged: AtomicBool,
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
            .pool_idle_timeout(IDLE_TIME)
            .build()
            .map_err(|error| EmqxError::Settings(format!("emqx.api_url: {error}")))?;
        Ok(Self {
            http,
            url: settings.url.clone(),
            key: settings.key.clone(),
            secret: settings.secret.clone(),
            began: Instant::now(),
            answered: AtomicBool::new(false),
            is_wait_logged: AtomicBool::new(false),
            metrics,
        })
    }

    /// Whether EMQX has not answered yet and need not have.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.answered.load(Ordering::Relaxed) && self.began.elapsed() < STARTING
    }

    /// Ends the session of a client id.
    ///
    /// # Errors
    /// When EMQX did not say that it has ended.
    pub async fn kick_out(&self, client_id: &str) -> Result<KickOut, EmqxError> {
        // As path segments these two mean directories, however they are encoded.
        if matches!(client_id, "." | "..") {
            return self.kick_out_all(&[client_id]).await.map(|()| KickOut::Disconnected);
        }
        let path = format!("clients/{}", utf8_percent_encode(client_id, UNRESERVED));
        match self.call("kick_out", self.request(Method::DELETE, &path)).await {
            Ok(_) => Ok(KickOut::Disconnected),
            Err(EmqxError::NotFound { code }) if code == "CLIENTID_NOT_FOUND" => {
                Ok(KickOut::WasNotThere)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the sessions of all these client ids; those that have none are no error.
    ///
    /// # Errors
    /// When EMQX did not say that they have ended.
    pub async fn kick_out_all(&self, client_ids: &[&str]) -> Result<(), EmqxError> {
        let request = self.request(Method::POST, "clients/kickout/bulk").json(client_ids);
        self.call("kick_out_all", request).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v5/{path}", self.url);
        self.http.request(method, url).basic_auth(&self.key, Some(self.secret.expose()))
    }

    /// Makes a call that may be made twice, again where EMQX gave no answer.
    async fn call_again(
        &self,
        name: &'static str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Vec<u8>, EmqxError> {
        for attempt in 0..ATTEMPTS - 1 {
            match self.call(name, request()).await {
                Err(error) if error.is_away() => {
                    tracing::debug!(%error, call = name, "EMQX is asked again");
                    tokio::time::sleep(exponential(FIRST_RETRY, LAST_RETRY, attempt)).await;
                }
                outcome => return outcome,
            }
        }
        self.call(name, request()).await
    }

    /// Makes a call and returns the body of a 2xx.
    async fn call(
        &self,
        name: &'static str,
        request: RequestBuilder,
    ) -> Result<Vec<u8>, EmqxError> {
        let began = Instant::now();
        let outcome = exchange(request).await;
        let unfit = outcome.as_ref().err().filter(|error| !error.is_about_the_call());
        if unfit.is_none() {
            self.answered.store(true, Ordering::Relaxed);
        } else if self.is_awaited() && !self.is_wait_logged.swap(true, Ordering::Relaxed) {
            tracing::info!("waiting for EMQX's REST API");
        }
        self.metrics.failing.set(i64::from(unfit.is_some()));
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

/// Whether a status says that EMQX itself fails, rather than that the request is wrong.
fn is_server_error(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_stay_in_their_path_segment() {
        let encoded = |id: &str| utf8_percent_encode(id, UNRESERVED).to_string();
        assert_eq!(encoded("thermo-1_a.b~c"), "thermo-1_a.b~c");
        assert_eq!(encoded("a b?c%2F\"#/+&=:@;\\"), "a%20b%3Fc%252F%22%23%2F%2B%26%3D%3A%40%3B%5C");
        assert_eq!(encoded("gerät\u{1f600}\n"), "ger%C3%A4t%F0%9F%98%80%0A");
    }
}
