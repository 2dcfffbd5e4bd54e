//! `POST /emqx/authn`: EMQX's HTTP authenticator.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};

use crate::authn::{Allowed, Decision, Login, LoginError};
use crate::domain::acl::{Action, AllowRule, allow_rules};
use crate::domain::rights::Rights;
use crate::http::Gate;
use crate::http::emqx::{Answer, DECISION_LIMIT, receive};
use crate::metrics::Outcome;

/// The body, as `emqx-config/` asks EMQX to build it. Every value is a string; what the client did
/// not send is `""` (CONTRACT.md). Further fields are fine.
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
    /// The client's address, for the log.
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
pub async fn handle(gate: Data<Gate>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let began = Instant::now();
    let _passage = gate.in_flight.enter();
    let answer = match receive(&request, payload, &gate.webhook_token, DECISION_LIMIT).await {
        Ok(body) => answer(&gate, &body).await,
        Err(answer) => answer,
    };
    answer.count(&gate.metrics.authn, began.elapsed().as_secs_f64())
}

async fn answer(gate: &Gate, body: &[u8]) -> Answer {
    let request = match parse(body) {
        Ok(request) => request,
        Err(error) => return Answer::malformed("EMQX's HTTP authenticator", &error),
    };
    match gate.authenticator.login(&gate.devices, &login(&request)).await {
        Ok(Decision::Allow(allowed)) => {
            tracing::debug!(device = %allowed.device.name, peer = ?request.peerhost, "logged in");
            allow(&allowed, gate.acl_in_login)
        }
        Ok(Decision::Deny(refusal)) => {
            tracing::debug!(device = ?request.username, client_id = ?request.clientid, peer = ?request.peerhost, reason = refusal.label(), "refused a login");
            gate.metrics.authn.refused(refusal.label());
            Answer::deny()
        }
        Err(error @ LoginError::Overloaded) => {
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
    }
}

/// What an allowed login tells EMQX (CONTRACT.md, authenticator).
#[derive(Serialize)]
struct AllowBody<'a> {
    result: &'static str,
    client_attrs: ClientAttrs<'a>,
    /// Unix seconds at which EMQX ends the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acl: Option<AclRules<'a>>,
}

/// Attributes that EMQX keeps with the client and shows in its events.
#[derive(Serialize)]
struct ClientAttrs<'a> {
    device: &'a str,
    kind: &'a str,
}

fn allow(allowed: &Allowed, with_acl: bool) -> Answer {
    let device = &allowed.device;
    let body = AllowBody {
        result: "allow",
        client_attrs: ClientAttrs { device: device.name.as_str(), kind: device.kind.as_str() },
        expire_at: allowed.expires_at,
        acl: with_acl.then_some(AclRules(&device.rights)),
    };
    match serde_json::to_vec(&body) {
        Ok(body) => Answer::decision(Outcome::Allow, body),
        Err(error) => Answer::unavailable(Outcome::Unavailable, &error.to_string()),
    }
}

/// A device's rights as EMQX's rules.
struct AclRules<'a>(&'a Rights);

impl Serialize for AclRules<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rules = serializer.serialize_seq(None)?;
        for rule in allow_rules(self.0) {
            rules.serialize_element(&AclRule {
                permission: "allow",
                action: match rule.action {
                    Action::Publish => "publish",
                    Action::Subscribe => "subscribe",
                },
                topic: rule,
            })?;
        }
        rules.end()
    }
}

#[derive(Serialize)]
struct AclRule<'a> {
    permission: &'static str,
    action: &'static str,
    #[serde(serialize_with = "rule_topic")]
    topic: AllowRule<'a>,
}

fn rule_topic<S: Serializer>(rule: &AllowRule<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    if rule.literal {
        serializer.collect_str(&format_args!("eq {}", rule.topic))
    } else {
        serializer.serialize_str(rule.topic)
    }
}
