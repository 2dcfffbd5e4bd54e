//! Reads and changes EMQX's configuration.
//!
//! A PUT or DELETE may be made twice. A POST is made once: when its answer is lost, only looking tells whether
//! it was carried out ([`super::setup`] does).

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::emqx::{EmqxApi, EmqxError};

/// Time for one change. EMQX opens all connections of a pool before it answers, and waits for a
/// server that does not answer.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// How EMQX calls an object that is not there; a path that it does not serve has no code.
const NO_SUCH_OBJECT: &str = "NOT_FOUND";

impl EmqxApi {
    /// What stands at a path below `/api/v5/`; `None`: EMQX has no such object.
    ///
    /// # Errors
    /// When EMQX does not answer, or not with JSON.
    pub async fn configuration(&self, path: &str) -> Result<Option<Value>, EmqxError> {
        match self.call_again("read_configuration", || self.request(Method::GET, path)).await {
            Ok(body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| EmqxError::UnreadableConfiguration(error.to_string())),
            Err(EmqxError::NotFound { code }) if code == NO_SUCH_OBJECT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes what stands at a path below `/api/v5/`.
    ///
    /// # Errors
    /// When EMQX did not say that it is done. After [`EmqxError::Away`] it may be done all the same.
    pub async fn change(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), EmqxError> {
        let request = || {
            let request = self.request(method.clone(), path).timeout(CHANGE_TIMEOUT);
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        let name = "change_configuration";
        let answer = match *method {
            Method::POST => self.call(name, request()).await,
            _ => self.call_again(name, request).await,
        };
        answer.map(drop)
    }
}
