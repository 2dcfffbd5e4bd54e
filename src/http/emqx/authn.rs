//! `POST /emqx/authn`: EMQX's HTTP authenticator.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use crate::authn::{Decision, Login, LoginError};
use crate::domain::address::Address;
use crate::http::AppState;
use crate::http::connections::ActiveRequest;
use crate::http::emqx::{Answer, DECISION_LIMIT, receive};
use crate::metrics::Outcome;

mod allow;
mod pace;

use allow::Allow;
use pace::until_next_step;

/// The body, as `emqx-config/` asks EMQX to build it. Every value is a string; what the client did
/// not send is `""` (docs/EMQX.md). Further fields are fine.
#[derive(Deserialize)]
pub struct AuthnRequest<'a> {
    /// The client id, possibly one that EMQX made up.
    #[serde(borrow)]
    pub clientid: Cow<'a, str>,
    /// The user name.
    #[serde(borrow)]
    pub username: Cow<'a, str>,
    /// The password.
    #[serde(borrow)]
    pub password: Cow<'a, str>,
    /// The common name of a client certificate that EMQX has verified.
    #[serde(borrow, default)]
    pub cert_common_name: Cow<'a, str>,
    /// The client's address, for limits and the log.
    #[serde(borrow, default)]
    pub peerhost: Cow<'a, str>,
}

/// Reads a body.
///
/// # Errors
/// When it is not JSON or not of this shape.
pub fn parse(body: &[u8]) -> Result<AuthnRequest<'_>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// Answers one login.
pub async fn handle(state: Data<AppState>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let began = Instant::now();
    let active = ActiveRequest::begin(&request);
    let answer =
        match receive(&request, &active, payload, &state.webhook_token, DECISION_LIMIT).await {
            Ok(body) => answer(&state, &body, began).await,
            Err(answer) => answer,
        };
    answer.count(&request, &state.metrics.authn, began.elapsed().as_secs_f64())
}

async fn answer(state: &AppState, body: &[u8], began: Instant) -> Answer {
    let request = match parse(body) {
        Ok(request) => request,
        Err(error) => return Answer::malformed("EMQX's HTTP authenticator", &error),
    };
    match state.authenticator.login(&state.devices, &login(&request)).await {
        Ok(Decision::Allow(allowed)) => {
            tracing::debug!(device = %allowed.device.name, peer = ?request.peerhost, "logged in");
            Answer::decision(Outcome::Allow, Allow::new(&allowed, state.acl_in_login))
        }
        Ok(Decision::Deny(refusal)) => {
            tracing::debug!(device = ?request.username, client_id = ?request.clientid, peer = ?request.peerhost, reason = refusal.label(), "refused a login");
            state.metrics.authn.refused(refusal.label());
            until_next_step(began).await;
            Answer::deny()
        }
        Err(error @ LoginError::Overloaded) => {
            until_next_step(began).await;
            Answer::unavailable(Outcome::Overloaded, &error.to_string())
        }
        Err(error) => Answer::unavailable(Outcome::Unavailable, &error.to_string()),
    }
}

fn login<'a>(request: &'a AuthnRequest<'a>) -> Login<'a> {
    Login {
        client_id: &request.clientid,
        user_name: &request.username,
        password: &request.password,
        certificate_common_name: Some(&*request.cert_common_name),
        address: Address::of_peer(&request.peerhost),
    }
}
