//! `POST /emqx/authn`: EMQX's HTTP authenticator.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::authn::{Allowed, Decision, Login, LoginError};
use crate::domain::acl::{Action, AllowRule, allow_rules};
use crate::domain::address::Address;
use crate::domain::json_object::Object;
use crate::domain::topic::LITERALLY;
use crate::http::AppState;
use crate::http::connections::ActiveRequest;
use crate::http::emqx::{Answer, DECISION_LIMIT, receive};
use crate::metrics::Outcome;

mod pace;

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

/// The answer that lets a device in:
///
/// ```json
/// {"result":"allow","client_attrs":{"device":"thermo-1","kind":"sensor"},"expire_at":1800000000,
///  "acl":[{"permission":"allow","action":"publish","topic":"eq lab/2/thermo-1/temperature"}]}
/// ```
#[derive(Serialize)]
struct AllowAnswer<'a> {
    result: &'static str,
    client_attrs: ClientAttributes<'a>,
    /// When EMQX ends the session, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_at: Option<i64>,
    /// The device's rights, if `emqx.acl_in_login` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    acl: Option<Vec<Rule<'a>>>,
}

/// They stay with the client in EMQX and show in its events.
#[derive(Serialize)]
struct ClientAttributes<'a> {
    device: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
struct Rule<'a> {
    permission: &'static str,
    action: &'static str,
    topic: Cow<'a, str>,
}

impl<'a> AllowAnswer<'a> {
    fn new(allowed: &'a Allowed, with_acl: bool) -> Self {
        let device = &allowed.device;
        Self {
            result: "allow",
            client_attrs: ClientAttributes {
                device: device.name.as_str(),
                kind: device.kind.as_str(),
            },
            expire_at: allowed.expires_at.map(Timestamp::as_second),
            acl: with_acl.then(|| allow_rules(&device.rights).map(Rule::from).collect()),
        }
    }
}

impl<'a> From<AllowRule<'a>> for Rule<'a> {
    fn from(rule: AllowRule<'a>) -> Self {
        let action = match rule.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        };
        let topic = if rule.literal {
            Cow::Owned(format!("{LITERALLY}{}", rule.topic))
        } else {
            Cow::Borrowed(rule.topic)
        };
        Self { permission: "allow", action, topic }
    }
}

/// Reads a body.
///
/// # Errors
/// When it is not JSON or not of this shape.
pub fn parse(body: &[u8]) -> Result<AuthnRequest<'_>, serde_json::Error> {
    serde_json::from_slice(body).map(|Object(request)| request)
}

/// Answers one login.
pub async fn handle(state: Data<AppState>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let began = Instant::now();
    let active = ActiveRequest::begin(&request);
    let answer =
        match receive(&request, &active, payload, &state.webhook_tokens, DECISION_LIMIT).await {
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
            Answer::decision(Outcome::Allow, AllowAnswer::new(&allowed, state.acl_in_login))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::device::{DeviceId, DeviceRecord};
    use crate::domain::rights::Rights;

    fn allowed(name: &str, expires_at: Option<i64>, rights: Rights) -> Allowed {
        let device = DeviceRecord {
            id: DeviceId(1),
            name: name.parse().unwrap(),
            client_id: None,
            kind: "sensor".parse().unwrap(),
            enabled: true,
            credentials: Box::default(),
            rights,
        };
        let expires_at = expires_at.map(|end| Timestamp::from_second(end).unwrap());
        Allowed { device: Arc::new(device), expires_at }
    }

    fn answer(allowed: &Allowed, with_acl: bool) -> Value {
        serde_json::to_value(AllowAnswer::new(allowed, with_acl)).unwrap()
    }

    #[test]
    fn rights_travel_as_rules_in_their_order() {
        let rights = Rights::new(
            vec![("lab/a\"b\\c".parse().unwrap(), "main".into())],
            vec!["lab/set".parse().unwrap()],
            vec!["logs/#".parse().unwrap()],
            vec!["alarms/+/läb".parse().unwrap(), "wider/+".parse().unwrap()],
        );
        let rule = |action: &str, topic: &str| json!({"permission": "allow", "action": action, "topic": topic});
        let rules = [
            rule("publish", "eq lab/a\"b\\c"),
            rule("subscribe", "eq lab/set"),
            rule("publish", "logs/#"),
            rule("subscribe", "alarms/+/läb"),
        ];
        let attributes = json!({"device": "u\"v\\w", "kind": "sensor"});
        let allowed = allowed("u\"v\\w", Some(1_800_000_000), rights);
        let expected = json!({"result": "allow", "client_attrs": attributes,
            "expire_at": 1_800_000_000, "acl": rules});
        assert_eq!(answer(&allowed, true), expected);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let attributes = json!({"device": "thermo-1", "kind": "sensor"});
        let bare = allowed("thermo-1", None, Rights::default());
        assert_eq!(answer(&bare, false), json!({"result": "allow", "client_attrs": attributes}));
        assert_eq!(answer(&bare, true)["acl"], json!([]));
    }
}
