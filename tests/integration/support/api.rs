//! The HTTP API as a client sees it.

use std::net::SocketAddr;

use fleetgate::domain::api_token::{Scope, Scopes};
use fleetgate::fleet::api_tokens::{self, NewApiToken};
use serde_json::Value;

use super::app::{TestApp, start_with};
use super::fleet::Fleet;
use super::postgres::{TestDatabase, as_owner, connect};
use super::wire::{Connection, Response};

/// Somebody with a token, or without.
pub(crate) struct ApiClient {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

/// A service with an API, and somebody who may do everything.
pub(crate) async fn start_api() -> (TestApp, ApiClient, Fleet, TestDatabase) {
    let (app, fleet, database) =
        start_with(|config| config.api.listen = Some(([127, 0, 0, 1], 0).into())).await;
    let token = make_token(&database.url, "root", &[Scope::Admin]).await;
    let client = ApiClient { address: app.api_address.unwrap(), token };
    (app, client, fleet, database)
}

/// Makes a token that sees everything.
pub(crate) async fn make_token(url: &str, name: &str, scopes: &[Scope]) -> String {
    make_token_for(url, name, scopes, None).await
}

/// Makes a token, with a selector perhaps.
pub(crate) async fn make_token_for(
    url: &str,
    name: &str,
    scopes: &[Scope],
    selector: Option<&str>,
) -> String {
    let client = connect(&as_owner(url)).await;
    let scopes = Scopes::new(scopes.iter().copied());
    let (name, selector) = (name.parse().unwrap(), selector.map(|text| text.parse().unwrap()));
    let new = NewApiToken { name, scopes, selector, expires_at: None };
    api_tokens::add(&client, &new).await.unwrap().0.expose().to_owned()
}

impl ApiClient {
    /// The same with another token.
    pub(crate) fn with(&self, token: &str) -> Self {
        Self { address: self.address, token: token.to_owned() }
    }

    /// A request as bytes; `path` is below `/api/v1`.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Vec<u8> {
        let mut all = vec![("host", self.address.to_string())];
        if !self.token.is_empty() {
            all.push(("authorization", format!("Bearer {}", self.token)));
        }
        if !body.is_empty() {
            let patch = if method == "PATCH" { "merge-patch+" } else { "" };
            all.push(("content-type", format!("application/{patch}json")));
            all.push(("content-length", body.len().to_string()));
        }
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let headers: String =
            all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} /api/v1{path} HTTP/1.1\r\n{headers}\r\n{body}").into_bytes()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let request = self.request(method, path, headers, body);
        Connection::open(self.address).await.exchange(&request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Response {
        self.send("PUT", path, &[], &body.to_string()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[], &body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Response {
        self.send("PATCH", path, &[], &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.send("DELETE", path, &[], "").await
    }
}

impl Response {
    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The word and the pointers of a problem with this status.
    pub(crate) fn problem(&self, status: u16) -> (String, Vec<String>) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        let request = self.header("x-request-id").unwrap();
        assert_eq!(problem["instance"], format!("urn:fleetgate:request:{request}"));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        let word = problem["type"].as_str().unwrap();
        let word = word.strip_prefix("urn:fleetgate:problem:").unwrap().to_owned();
        let errors = problem["errors"].as_array().unwrap().iter();
        (word, errors.map(|error| error["pointer"].as_str().unwrap().to_owned()).collect())
    }
}
