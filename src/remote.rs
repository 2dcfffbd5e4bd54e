//! The fleet over the HTTP API of another Fleetgate: what `fleetgate --api URL` works with in place of the database.
//!
//! One file a subject, as in [`crate::fleet`], with functions of the same names that give the same outcomes, read from the
//! API's answers. A refusal comes back as the [`FleetError`] that it was there, so that the same words are said of it here.
//!
//! What it keeps:
//! * The token goes only to a server whose certificate is trusted, or to this machine itself: plain HTTP is spoken to loopback
//!   addresses alone, and no redirect or proxy is followed.
//! * A request is sent once. Whether a change was made that no answer came to is not known, and said.
//! * An answer takes bounded time and memory.

pub mod api_tokens;
pub mod audit;
pub mod bindings;
pub mod capabilities;
pub mod commands;
pub mod credentials;
pub mod devices;
pub mod exports;
pub mod grants;
pub mod imports;
pub mod locks;
mod problem;
pub mod rules;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use reqwest::header::{CONTENT_TYPE, IF_NONE_MATCH};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::causes::causes;
use crate::fleet::FleetError;
use crate::fleet::wire::ROOT;
use crate::http_client::{self, UNRESERVED};
use crate::secret::Secret;
use crate::tls;

/// Time to reach the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one request, its answer included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer in bytes: a page of a thousand devices with the largest meta has a few.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Why something was not done over the API.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The fleet refused it there.
    #[error("{0}")]
    Fleet(#[from] FleetError),
    /// The API refused it.
    #[error("{detail}")]
    Refused {
        /// The status of the answer.
        status: u16,
        /// What kind of problem it is: `scope_missing`.
        word: String,
        /// What failed and what to do, in the API's own words.
        detail: String,
        /// The member of the request that is wrong.
        field: Option<String>,
        /// Of an import: the wrong lines.
        lines: Vec<WrongLine>,
        /// Of an import: how many lines are wrong; `lines` may have some of them only.
        wrong_lines: usize,
    },
    /// Nobody answered; the text says why, and what to do.
    #[error("{0}")]
    Unreachable(String),
    /// What answered is not an API that this release understands.
    #[error("{0}")]
    NotUnderstood(String),
    /// What was said of the API on the command line cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// A line of an import that is wrong.
#[derive(Debug)]
pub struct WrongLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum Wrong {
    /// The fleet refuses it.
    Refused(FleetError),
    /// Something else, in the API's own words.
    Other(String),
}

impl RemoteError {
    /// Whether the same may succeed a little later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refused { status: 429 | 503, .. })
    }
}

/// An API, and the token that it is asked with.
pub struct Remote {
    http: Client,
    url: String,
    token: Secret,
}

impl Remote {
    /// An API that was not asked yet: the URL of a service, and whom to trust instead of the authorities of the operating system.
    ///
    /// # Errors
    /// A URL that is none, or not encrypted to another machine; a file of authorities that cannot be used.
    pub fn new(url: &str, ca_file: Option<&Path>, token: Secret) -> Result<Self, RemoteError> {
        let url = check(url).map_err(RemoteError::Unusable)?;
        let tls = tls::trusting(ca_file).map_err(RemoteError::Unusable)?;
        let http = http_client::builder(tls)
            .connect_timeout(CONNECT_TIMEOUT)
            // Plain HTTP is spoken to it, so no resolver may lead elsewhere. The port is the URL's.
            .resolve_to_addrs(
                "localhost",
                &[(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()],
            )
            .build()
            .map_err(|error| RemoteError::Unusable(causes(&error)))?;
        Ok(Self { http, url, token })
    }

    fn get(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::GET, path)
    }

    fn put(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::PUT, path)
    }

    fn post(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::POST, path)
    }

    fn patch(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    fn delete(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    fn call(&self, method: Method, path: &[&str]) -> Call<'_> {
        let mut url = format!("{}{ROOT}", self.url);
        for segment in path {
            url.push('/');
            url.extend(utf8_percent_encode(segment, UNRESERVED));
        }
        // These two mean directories, however they are encoded.
        let unwritable = path.iter().find(|segment| matches!(**segment, "." | ".."));
        Call {
            remote: self,
            method,
            url,
            separator: '?',
            unwritable: unwritable.map(|name| (*name).to_owned()),
            body: None,
            timeout: CALL_TIMEOUT,
            only_new: false,
        }
    }

    fn unreachable(
        &self,
        method: &Method,
        timeout: Duration,
        error: &reqwest::Error,
    ) -> RemoteError {
        let why = match (error.is_timeout(), error.is_connect()) {
            (true, true) => format!("no connection came about within {CONNECT_TIMEOUT:?}"),
            (true, false) => format!("it did not answer within {timeout:?}"),
            (false, _) => causes(error),
        };
        self.away(*method != Method::GET && !error.is_connect(), &why)
    }

    /// `may_be_done`: a change that was asked for may have been made all the same.
    fn away(&self, may_be_done: bool, why: &str) -> RemoteError {
        let unknown = match may_be_done {
            true => ", and whether the change was made is not known",
            false => "",
        };
        RemoteError::Unreachable(format!(
            "the API at {} cannot be asked{unknown}: {why}; see that `fleetgate serve` runs there with api.listen, and what \
             --api and --api-ca say",
            self.url
        ))
    }

    fn not_understood(&self, why: impl Display) -> RemoteError {
        RemoteError::NotUnderstood(format!(
            "{} does not answer as the API of this release does: {why}; see what --api says, and which release serves there",
            self.url
        ))
    }
}

/// The URL of a service, without what is not part of it.
fn check(text: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        format!(
            "the URL of the API {why}; write one such as https://fleet.example.net, without a path to a resource"
        )
    };
    // Never the text itself: it may hold a password.
    let url = Url::parse(text).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "holds a user name or password, and is asked with a token instead (--api-token-file)",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or fragment"));
    }
    let Some(host) = url.host_str() else { return Err(wrong("names no host")) };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = address.map_or(host == "localhost", |address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if is_here => {}
        "http" => {
            return Err(wrong(
                "is not encrypted, and anybody on the way could read the token; plain http is only for this machine itself",
            ));
        }
        _ => return Err(wrong("is neither https nor http")),
    }
    let url = url.as_str().trim_end_matches('/');
    Ok(url.strip_suffix(ROOT).unwrap_or(url).to_owned())
}

/// A request that is put together.
struct Call<'a> {
    remote: &'a Remote,
    method: Method,
    url: String,
    separator: char,
    /// A name in the path that no URL can say.
    unwritable: Option<String>,
    body: Option<(&'static str, serde_json::Result<String>)>,
    timeout: Duration,
    only_new: bool,
}

/// What came back, and was no refusal.
struct Answer {
    status: StatusCode,
    body: Value,
}

impl Call<'_> {
    /// Adds a parameter that has a value.
    fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.url.push(self.separator);
            self.url.push_str(name);
            self.url.push('=');
            self.url.extend(utf8_percent_encode(&value.to_string(), UNRESERVED));
            self.separator = '&';
        }
        self
    }

    /// Says this. In a PATCH each member takes the place of what is there as a whole.
    fn json(mut self, body: &impl Serialize) -> Self {
        self.body = Some(("application/json", serde_json::to_string(body)));
        self
    }

    /// Says these lines of JSON.
    fn lines(mut self, lines: String) -> Self {
        self.body = Some(("application/x-ndjson", Ok(lines)));
        self
    }

    /// Takes so long at most.
    fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Only if there is no such thing yet.
    fn only_new(mut self) -> Self {
        self.only_new = true;
        self
    }

    /// The answer, if it is no refusal, before its body is read.
    async fn respond(self) -> Result<Response, RemoteError> {
        let remote = self.remote;
        if let Some(name) = &self.unwritable {
            return Err(RemoteError::Unusable(format!(
                "the name {name:?} cannot stand in a URL; work on the database for this one (without --api)"
            )));
        }
        let unreachable =
            |error: reqwest::Error| remote.unreachable(&self.method, self.timeout, &error);
        let mut request = remote.http.request(self.method.clone(), &self.url);
        request = request.timeout(self.timeout);
        request = request.bearer_auth(remote.token.expose());
        if self.only_new {
            request = request.header(IF_NONE_MATCH, "*");
        }
        if let Some((kind, body)) = self.body {
            let body = body.map_err(|error| RemoteError::Unusable(error.to_string()))?;
            request = request.header(CONTENT_TYPE, kind).body(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = http_client::read(response, MAX_ANSWER_BYTES).await.map_err(unreachable)?;
        Err(problem::read(status, &body.unwrap_or_default()).unwrap_or_else(|| match status {
            // A proxy says so.
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let why = format!("what stands before it answers {status}");
                remote.away(self.method != Method::GET, &why)
            }
            _ => remote.not_understood(format!("{status}, without a problem")),
        }))
    }

    async fn send(self) -> Result<Answer, RemoteError> {
        let (remote, method, timeout) = (self.remote, self.method.clone(), self.timeout);
        let response = self.respond().await?;
        let status = response.status();
        let body = http_client::read(response, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| remote.unreachable(&method, timeout, &error))?;
        let body = body.ok_or_else(|| {
            remote.not_understood(format!("its answer is longer than {MAX_ANSWER_BYTES} bytes"))
        })?;
        let body = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body).map_err(|error| {
                remote.not_understood(format!("its answer is not JSON: {error}"))
            })?,
        };
        Ok(Answer { status, body })
    }

    /// What the answer tells.
    async fn read<T: DeserializeOwned>(self) -> Result<T, RemoteError> {
        let remote = self.remote;
        let answer = self.send().await?;
        answer.read(remote)
    }

    /// Whatever the answer tells.
    async fn done(self) -> Result<(), RemoteError> {
        self.send().await.map(drop)
    }
}

impl Answer {
    /// Takes a member out; one that is not there is `null`.
    fn take<T: DeserializeOwned>(&mut self, remote: &Remote, name: &str) -> Result<T, RemoteError> {
        let value = self.body.get_mut(name).map(Value::take).unwrap_or_default();
        serde_json::from_value(value).map_err(|error| remote.not_understood(error))
    }

    fn read<T: DeserializeOwned>(self, remote: &Remote) -> Result<T, RemoteError> {
        serde_json::from_value(self.body).map_err(|error| remote.not_understood(error))
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
}

/// Adds a member that has a value.
fn member(members: &mut Map<String, Value>, name: &str, value: Option<impl Serialize>) {
    members.extend(value.map(|value| (name.to_owned(), json!(value))));
}
