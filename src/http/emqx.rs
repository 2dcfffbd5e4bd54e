//! EMQX's own requests: who may make them, how they are read, how they are answered.
//!
//! A decision is always `200` with `{"result":"allow"|"deny"}`. Any other status makes EMQX treat the
//! call as "no answer", which refuses a login and, with `no_match = deny`, an action (docs/EMQX.md).

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;
use tracing::field::display;

use crate::http::connections::ActiveRequest;
use crate::logging::{LogThrottle, throttle};
use crate::metrics::{EndpointMetrics, Outcome};
use crate::registry::connection::KNOWN_AWAY;
use crate::secret::Secret;

pub mod authn;
pub mod authz;
pub mod events;
pub mod shorten;

/// Largest body in bytes of a login or action. A login with a 4 KiB password has 5 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// For readers of an answer who do not see the log.
const SEE_LOG: &str = "; the log says why, and when it is back";

/// How large a body may be.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    /// In bytes; a larger one is answered 413.
    pub(crate) bytes: usize,
    /// How larger ones are read all the same, where they are.
    pub(crate) larger: Option<LargeBodies>,
}

/// Larger bodies lose their long strings while they are read ([`shorten`]), and are then as any other.
#[derive(Clone, Copy)]
pub(crate) struct LargeBodies {
    /// Longest string in bytes that stays.
    pub(crate) string: usize,
    /// Most bytes that stay in all.
    pub(crate) kept: usize,
    /// Largest body in bytes that is read to its end.
    pub(crate) bytes: usize,
}

/// The limit of logins and actions.
pub(crate) const DECISION_LIMIT: Limit = Limit { bytes: MAX_BODY_BYTES, larger: None };

/// Longest time between the head of a request and the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A response and what it is counted as.
pub(crate) struct Answer {
    outcome: Outcome,
    response: HttpResponse,
}

impl Answer {
    fn decision(outcome: Outcome, body: impl Serialize) -> Self {
        Self { outcome, response: HttpResponse::Ok().json(body) }
    }

    fn allow() -> Self {
        Self::decision(Outcome::Allow, serde_json::json!({ "result": "allow" }))
    }

    /// 204: an event is dealt with.
    fn accepted() -> Self {
        Self { outcome: Outcome::Accepted, response: HttpResponse::NoContent().finish() }
    }

    fn deny() -> Self {
        Self::decision(Outcome::Deny, serde_json::json!({ "result": "deny" }))
    }

    /// No decision can be made at present: EMQX asks again or refuses.
    fn unavailable(outcome: Outcome, why: &str) -> Self {
        let cause = if why.ends_with(KNOWN_AWAY) { SEE_LOG } else { "" };
        let why = format!("{why}{cause}");
        let mut answer = Self::error(StatusCode::SERVICE_UNAVAILABLE, outcome, &why);
        answer.response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        answer
    }

    fn error(status: StatusCode, outcome: Outcome, why: &str) -> Self {
        let response = HttpResponse::build(status).json(serde_json::json!({ "error": why }));
        Self { outcome, response }
    }

    fn malformed(caller: &str, error: &serde_json::Error) -> Self {
        let why = format!("the body is not what {caller} sends: {}", describe(error));
        Self::error(StatusCode::BAD_REQUEST, Outcome::BadRequest, &why)
    }

    /// Counts it, and logs once a minute what was wrong with requests.
    fn count(self, request: &HttpRequest, metrics: &EndpointMetrics, seconds: f64) -> HttpResponse {
        metrics.observe(self.outcome, seconds);
        if let Some(throttle) = throttle_of(self.outcome)
            && let Some(suppressed) = throttle.now()
        {
            let peer = request.peer_addr().map(|peer| display(peer.ip()));
            let (path, status) = (request.path(), self.response.status().as_u16());
            tracing::warn!(path, status, peer, suppressed, "rejected a request");
        }
        self.response
    }
}

/// Outcomes that are worth a log line beyond the metrics, one a minute. A decision that could not be made is
/// logged where it could not be made.
fn throttle_of(outcome: Outcome) -> Option<&'static LogThrottle> {
    match outcome {
        Outcome::Unauthorized => Some(throttle!("requests without the webhook token (401)")),
        Outcome::BadRequest => Some(throttle!("requests that are not EMQX's (400)")),
        Outcome::TooLarge => Some(throttle!("requests that are too large (413)")),
        Outcome::Timeout => Some(throttle!("requests whose body was late (408)")),
        Outcome::Overloaded => Some(throttle!("requests that were too many (503)")),
        _ => None,
    }
}

const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Says where a body is wrong without repeating what it says: the value may be a password.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!("line {} column {}", error.line(), error.column());
    match (error.classify(), text.split('`').collect::<Vec<_>>().as_slice()) {
        (serde_json::error::Category::Data, ["missing field ", field, ..]) => {
            format!("the field {field} is missing")
        }
        (serde_json::error::Category::Data, _) => format!("a value of the wrong type at {place}"),
        _ => format!("not JSON at {place}"),
    }
}

/// Reads the body of a request that carries the webhook token.
///
/// The token is checked before a byte of the body is read.
///
/// # Errors
/// The finished answer: 401, 408, 413, or 400 for a body that broke off.
pub(crate) async fn receive(
    request: &HttpRequest,
    active: &ActiveRequest,
    payload: Payload,
    tokens: &[Secret],
    limit: Limit,
) -> Result<Bytes, Answer> {
    if !has_token(request, tokens) {
        let why = "the authorization header must be `Bearer` and the webhook token";
        return Err(Answer::error(StatusCode::UNAUTHORIZED, Outcome::Unauthorized, why));
    }
    active.authenticated();
    match timeout(BODY_TIMEOUT, read(payload, limit)).await {
        Ok(body) => {
            active.body_complete();
            body
        }
        Err(_) => Err(Answer::error(
            StatusCode::REQUEST_TIMEOUT,
            Outcome::Timeout,
            "the body did not arrive within 5 s",
        )),
    }
}

fn has_token(request: &HttpRequest, tokens: &[Secret]) -> bool {
    let token_text = request.headers().get(AUTHORIZATION).and_then(|value| {
        let (scheme, token_text) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token_text)
    });
    // Each is compared, whichever it is.
    token_text
        .is_some_and(|text| tokens.iter().fold(false, |found, token| found | token.matches(text)))
}

async fn read(mut payload: Payload, limit: Limit) -> Result<Bytes, Answer> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        body.extend_from_slice(&piece.map_err(|error| broken_off(&error))?);
        if body.len() > limit.bytes {
            let Some(larger) = limit.larger else { return Err(too_large(limit.bytes)) };
            return read_larger(&body, payload, larger).await;
        }
    }
    Ok(body.freeze())
}

/// Goes on reading a body that is larger than most. It is read to its end even if nothing of it can be
/// kept: the connection then stays usable, with the requests that wait on it.
async fn read_larger(
    begun: &[u8],
    mut payload: Payload,
    larger: LargeBodies,
) -> Result<Bytes, Answer> {
    let mut shortener = shorten::Shortener::new(larger.string, larger.kept);
    shortener.take(begun);
    let mut size = begun.len();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| broken_off(&error))?;
        size += piece.len();
        if size > larger.bytes {
            return Err(too_large(larger.bytes));
        }
        shortener.take(&piece);
    }
    shortener.finish().map(Bytes::from).ok_or_else(|| too_large(larger.kept))
}

fn broken_off(error: &PayloadError) -> Answer {
    let why = format!("the body broke off: {error}");
    Answer::error(StatusCode::BAD_REQUEST, Outcome::BadRequest, &why)
}

fn too_large(most: usize) -> Answer {
    let why = format!("the body is larger than {most} bytes");
    Answer::error(StatusCode::PAYLOAD_TOO_LARGE, Outcome::TooLarge, &why)
}
