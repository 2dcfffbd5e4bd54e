//! `POST /emqx/authz`: EMQX's HTTP authorizer.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use crate::authz::{AccessRequest, Decision};
use crate::domain::acl::Action;
use crate::domain::json_object::Object;
use crate::http::AppState;
use crate::http::connections::ActiveRequest;
use crate::http::emqx::{Answer, DECISION_LIMIT, receive};
use crate::metrics::Outcome;

/// The body, as `emqx-config/` asks EMQX to build it. Further fields are fine.
#[derive(Deserialize)]
pub struct AuthzRequest<'a> {
    /// The client's user name; `""` when it gave none.
    #[serde(borrow)]
    pub username: Cow<'a, str>,
    /// `publish` or `subscribe`.
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    /// A topic name or a topic filter; EMQX has taken `$share/…` and the like off, 6.x not `$queue/` and `$stream/`.
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
}

/// Reads a body.
///
/// # Errors
/// When it is not JSON or not of this shape.
pub fn parse(body: &[u8]) -> Result<AuthzRequest<'_>, serde_json::Error> {
    serde_json::from_slice(body).map(|Object(request)| request)
}

/// Answers one authorization request.
pub async fn handle(state: Data<AppState>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let began = Instant::now();
    let active = ActiveRequest::begin(&request);
    let answer =
        match receive(&request, &active, payload, &state.webhook_tokens, DECISION_LIMIT).await {
            Ok(body) => answer(&state, &body).await,
            Err(answer) => answer,
        };
    answer.count(&request, &state.metrics.authz, began.elapsed().as_secs_f64())
}

async fn answer(state: &AppState, body: &[u8]) -> Answer {
    let request = match parse(body) {
        Ok(request) => request,
        Err(error) => return Answer::malformed("EMQX's HTTP authorizer", &error),
    };
    match state.authorizer.authorize(&access_request(&request)).await {
        Ok(Decision::Allow) => {
            tracing::debug!(device = ?request.username, topic = ?request.topic, "allowed");
            Answer::allow()
        }
        Ok(Decision::Deny(refusal)) => {
            tracing::debug!(device = ?request.username, action = ?request.action, topic = ?request.topic, reason = refusal.label(), "refused an action");
            state.metrics.authz.refused(refusal.label());
            Answer::deny()
        }
        Err(error) => Answer::unavailable(Outcome::Unavailable, &error.to_string()),
    }
}

fn access_request<'a>(request: &'a AuthzRequest<'a>) -> AccessRequest<'a> {
    AccessRequest {
        user_name: &request.username,
        action: match &*request.action {
            "publish" => Some(Action::Publish),
            "subscribe" => Some(Action::Subscribe),
            _ => None,
        },
        topic: &request.topic,
    }
}
