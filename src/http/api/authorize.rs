//! May a device do something? The answer that EMQX would get, and why.

use actix_web::post;
use actix_web::web::{Data, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::body::{Body, one};
use super::problem::Problems;
use super::{Api, InPart, Problem, Read};
use crate::authz::{self, AccessRequest, explain};
use crate::domain::acl;
use crate::domain::rights::Right;
use crate::domain::topic::strip_subscription_prefix;
use crate::fleet::rights::{self, DecidingRow};

/// What a device may do with topics.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// Publish to a topic.
    Publish,
    /// Subscribe to a topic filter.
    Subscribe,
}

impl From<Action> for acl::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Publish => Self::Publish,
            Action::Subscribe => Self::Subscribe,
        }
    }
}

/// An action of a device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The device, by name.
    #[schema(example = "thermo-1")]
    device: String,
    /// What it wants to do.
    action: Action,
    /// The topic of a publish, the filter of a subscribe.
    #[schema(example = "lab/1/thermo-1/temperature/state")]
    topic: String,
}

/// Whether it may.
#[derive(Serialize, ToSchema)]
struct Answer {
    /// Whether it may.
    allowed: bool,
    /// Why not: `unknown_device`, `disabled`, `malformed_topic`, `not_granted`.
    refused: Option<&'static str>,
    /// What allows it: `state_topic`, `command_topic`, `reply_topic`, `availability_topic`, `grant`.
    right: Option<&'static str>,
    /// The topic of that binding, or the filter of that grant.
    topic: Option<String>,
    /// The rows that say so.
    rows: Vec<DecidingRow>,
}

/// Ask whether a device may do something
///
/// Decided as EMQX's question would be. A login is not part of it.
#[utoipa::path(
    tag = "authorize",
    request_body = Question,
    responses((status = 200, description = "The answer.", body = Answer), Problems)
)]
#[post("/authorize")]
async fn authorize(
    caller: Caller<InPart<Read>>,
    Body(question): Body<Question>,
    api: Data<Api>,
) -> Result<Json<Answer>, Problem> {
    let name = one("/device", &question.device)?;
    if !caller.part().is_whole() {
        api.see_device(&caller, &name, async |_| Ok(())).await?;
    }
    let action = acl::Action::from(question.action);
    let request =
        AccessRequest { user_name: &question.device, action: Some(action), topic: &question.topic };
    let device =
        api.authorizer.device(&question.device).await.map_err(|error| Problem::away(&error))?;
    let right = match explain(device.as_deref(), &request) {
        Ok(right) => right,
        Err(refusal) => {
            let refused = Some(refusal.label());
            let answer =
                Answer { allowed: false, refused, right: None, topic: None, rows: Vec::new() };
            return Ok(Json(answer));
        }
    };
    let topic = match action {
        acl::Action::Publish => question.topic.as_str(),
        acl::Action::Subscribe => strip_subscription_prefix(&question.topic),
    };
    let grant = device.as_ref().and_then(|device| match action {
        acl::Action::Publish => device.rights.publish_grant(topic),
        acl::Action::Subscribe => device.rights.subscribe_grant(topic),
    });
    let decides = api.see(&caller, async |fleet, part| {
        for right in [Some(right), grant].into_iter().flatten() {
            let mut rows = rights::rows(fleet, &name, action, right, topic).await?;
            let owners: Vec<&str> = rows.iter().map(|row| row.device.as_str()).collect();
            let inside = part.inside(fleet, &owners).await?;
            rows.retain(|row| inside.contains(&row.device));
            // Not a gateway's right to a topic of a child outside: that there is such a child is not told.
            if part.is_whole() || matches!(right, Right::Grant(_)) || !rows.is_empty() {
                return Ok(Some((right, rows)));
            }
        }
        Ok(None)
    });
    let Some((right, rows)) = decides.await? else {
        let refused = Some(authz::Refusal::NotGranted.label());
        let rows = Vec::new();
        return Ok(Json(Answer { allowed: false, refused, right: None, topic: None, rows }));
    };
    let (word, topic) = match right {
        Right::StateTopic => ("state_topic", topic),
        Right::CommandTopic => ("command_topic", topic),
        Right::ReplyTopic => ("reply_topic", topic),
        Right::AvailabilityTopic => ("availability_topic", topic),
        Right::Grant(filter) => ("grant", filter),
    };
    let (right, topic) = (Some(word), Some(topic.to_owned()));
    Ok(Json(Answer { allowed: true, refused: None, right, topic, rows }))
}

pub(super) fn register(service: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    service.service(authorize);
}
