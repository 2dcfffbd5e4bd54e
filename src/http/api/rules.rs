//! Routing rules: which devices get a capability's commands where nobody names them.

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks, Parameters, Patch, one, query_value, wrong};
use super::capabilities::without;
use super::etag::Conditions;
use super::problem::Problems;
use super::{Api, Devices, Problem, Read};
use crate::domain::name::{CapabilityName, RuleName};
use crate::domain::routing::Strategy;
use crate::domain::selector::{Selector, SelectorError};
use crate::fleet::error::{FleetError, Rule, Thing};
use crate::fleet::rules::{self, NewRule, RuleChange, RuleRow, Trial};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_rules)
        .service(show_rule)
        .service(test_rule)
        .service(put_rule)
        .service(patch_rule)
        .service(delete_rule);
}

/// Which of the devices that match get a command.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Which {
    /// Every one.
    #[default]
    All,
    /// One: an online one if there is one, and of those the one that was commanded longest ago.
    Any,
    /// The first by name.
    First,
}

impl From<Which> for Strategy {
    fn from(which: Which) -> Self {
        match which {
            Which::All => Self::All,
            Which::Any => Self::Any,
            Which::First => Self::First,
        }
    }
}

fn every_device() -> Value {
    json!({})
}

fn yes() -> bool {
    true
}

/// A routing rule.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    /// Whose commands it routes; stays what it is.
    #[schema(example = "switch")]
    capability: String,
    /// Which devices: a selector as JSON object or as text; left out: every device that has the capability.
    #[serde(default = "every_device")]
    #[schema(example = "area=lab,online")]
    selector: Value,
    #[serde(default)]
    strategy: Which,
    /// The higher comes first: -1000000 to 1000000.
    #[serde(default)]
    #[schema(minimum = -1000000, maximum = 1000000, default = 0)]
    priority: i32,
    /// Whether it is asked at all.
    #[serde(default = "yes")]
    enabled: bool,
}

struct Wanted {
    capability: CapabilityName,
    selector: Selector,
    strategy: Strategy,
    priority: i32,
    enabled: bool,
}

impl RuleDocument {
    fn check(self) -> Result<Wanted, Problem> {
        let mut checks = Checks::default();
        let capability = checks.value("/capability", &self.capability);
        let selector = selector(&self.selector, "/selector", &mut checks);
        checks.end()?;
        let (Some(capability), Some(selector)) = (capability, selector) else {
            return Err(Problem::failed());
        };
        let (strategy, priority, enabled) = (self.strategy.into(), self.priority, self.enabled);
        Ok(Wanted { capability, selector, strategy, priority, enabled })
    }
}

/// Reads a selector, as text or JSON.
pub(super) fn selector(given: &Value, pointer: &str, checks: &mut Checks) -> Option<Selector> {
    let parsed = match given {
        Value::String(text) if text.trim().is_empty() => {
            let message = "is empty; write {} for every device".to_owned();
            Err(SelectorError { pointer: String::new(), message })
        }
        Value::String(text) => text.parse::<Selector>(),
        json => Selector::from_json(json),
    };
    let note = |SelectorError { pointer: at, message }: SelectorError| {
        let at = if at.starts_with('/') { format!("{pointer}{at}") } else { pointer.to_owned() };
        checks.add(&at, format!("{message}; see docs/SELECTORS.md"));
    };
    parsed.map_err(note).ok()
}

fn rule_name(text: &str) -> Result<RuleName, Problem> {
    text.parse().map_err(|_| Problem::not_found("routing rule"))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only those of this capability.
    capability: Option<String>,
}

/// List routing rules
///
/// In the order in which they are asked.
#[utoipa::path(
    tag = "rules",
    params(ListQuery),
    responses((status = 200, description = "The rules.", body = Vec<RuleRow>), Problems)
)]
#[get("/rules")]
async fn list_rules(
    caller: Caller<Read>,
    Parameters(query): Parameters<ListQuery>,
    api: Data<Api>,
) -> Result<Json<Vec<RuleRow>>, Problem> {
    let capability = query_value("capability", query.capability.as_deref())?;
    Ok(Json(
        api.read(&caller, async |client| rules::list(client, capability.as_ref()).await).await?,
    ))
}

/// Show a routing rule
#[utoipa::path(
    tag = "rules",
    responses((status = 200, description = "The rule.", body = RuleRow), Problems)
)]
#[get("/rules/{rule}")]
async fn show_rule(
    caller: Caller<Read>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<RuleRow>, Problem> {
    let name = rule_name(&path.0)?;
    Ok(Json(api.read(&caller, async |client| rules::show(client, &name).await).await?))
}

/// Try a routing rule
///
/// Tells who would get a command by it now, as if it were enabled, and whether another rule decides before it. Sends nothing.
#[utoipa::path(
    tag = "rules",
    responses((status = 200, description = "What it would do.", body = Trial), Problems)
)]
#[get("/rules/{rule}/test")]
async fn test_rule(
    caller: Caller<Read>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<Trial>, Problem> {
    let name = rule_name(&path.0)?;
    let bounds = api.bounds;
    Ok(Json(api.read(&caller, async |client| rules::test(client, &name, bounds).await).await?))
}

/// Make or replace a routing rule
#[utoipa::path(
    tag = "rules",
    request_body = RuleDocument,
    params(("If-None-Match" = Option<String>, Header, description = "`*`: only if there is none of this name.")),
    responses(
        (status = 200, description = "It was replaced.", body = RuleRow),
        (status = 201, description = "It was made.", body = RuleRow),
        Problems
    )
)]
#[put("/rules/{rule}")]
async fn put_rule(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    Body(document): Body<RuleDocument>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name: RuleName = one("", &path.0)?;
    let wanted = document.check()?;
    let done = api.change(&caller, async |transaction| {
        match rules::lock(transaction, &name).await {
            Ok(present) => {
                let thing = Thing::Rule(name.to_string());
                Conditions::of(&request).refuse_another(thing, Rule::RuleExists)?;
                let changed = set(transaction, &name, &present.capability, wanted).await?;
                return Ok((HttpResponse::Ok(), changed));
            }
            Err(FleetError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let Wanted { capability, selector, strategy, priority, enabled } = wanted;
        let new = NewRule { name: name.clone(), capability, selector, strategy, priority };
        let mut row = rules::add(transaction, &new).await?;
        if !enabled {
            let change = RuleChange { enabled: Some(false), ..RuleChange::default() };
            row = rules::set(transaction, &name, &change).await?;
        }
        Ok((HttpResponse::Created(), row))
    });
    let (mut answer, row) = done.await?;
    Ok(answer.json(row))
}

async fn set(
    transaction: &tokio_postgres::Transaction<'_>,
    name: &RuleName,
    capability: &str,
    wanted: Wanted,
) -> Result<RuleRow, super::Refusal> {
    if wanted.capability.as_str() != capability {
        let why = format!("is \"{capability}\" and stays so; make another rule");
        return Err(wrong("/capability", why).into());
    }
    let change = RuleChange {
        selector: Some(wanted.selector),
        strategy: Some(wanted.strategy),
        priority: Some(wanted.priority),
        enabled: Some(wanted.enabled),
    };
    Ok(rules::set(transaction, name, &change).await?)
}

/// Change a routing rule
///
/// A JSON merge patch (RFC 7396) of what `PUT` takes, the selector as JSON included. As `application/json` each member takes
/// the place of what is there as a whole.
#[utoipa::path(
    tag = "rules",
    request_body(description = "Members of what `PUT` takes.", content(
        (Object = "application/merge-patch+json", example = json!({"enabled": false})),
        (Object = "application/json", example = json!({"selector": {"area": "lab"}})))),
    responses((status = 200, description = "It was changed.", body = RuleRow), Problems)
)]
#[patch("/rules/{rule}")]
async fn patch_rule(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    patch: Patch,
    api: Data<Api>,
) -> Result<Json<RuleRow>, Problem> {
    let name = rule_name(&path.0)?;
    let changed = api.change(&caller, async |transaction| {
        let present = rules::lock(transaction, &name).await?;
        let capability = present.capability.clone();
        let present = serde_json::to_value(present).map_err(|_| Problem::failed())?;
        let wanted = patch.apply::<RuleDocument>(without(present, &["name"]))?.check()?;
        set(transaction, &name, &capability, wanted).await
    });
    Ok(Json(changed.await?))
}

/// Remove a routing rule
///
/// Commands that it has routed go on.
#[utoipa::path(tag = "rules", responses((status = 204, description = "It was removed."), Problems))]
#[delete("/rules/{rule}")]
async fn delete_rule(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = rule_name(&path.0)?;
    let removed =
        api.change(&caller, async |transaction| Ok(rules::remove(transaction, &name).await?));
    removed.await?;
    Ok(HttpResponse::NoContent().finish())
}
