//! What devices can do.

use std::time::Duration;

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, put};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks, Patch, one};
use super::etag::Conditions;
use super::problem::Problems;
use super::{Api, Devices, InPart, Problem, Read};
use crate::domain::delivery::Confirmation;
use crate::domain::name::CapabilityName;
use crate::domain::schema::UsableSchema;
use crate::fleet::capabilities::{
    self, CapabilityChange, CapabilityRow, CommandTerms, NewCapability, TermsChange,
};
use crate::fleet::error::{FleetError, Rule, Thing};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_capabilities)
        .service(show_capability)
        .service(put_capability)
        .service(patch_capability)
        .service(delete_capability);
}

/// What makes a command succeed.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Confirm {
    /// EMQX had a subscriber for it.
    Sent,
    /// The device acknowledged it.
    #[default]
    Delivered,
    /// The device then reported what it was told to be.
    State,
    /// The device said so on its reply topic.
    Reply,
}

impl From<Confirm> for Confirmation {
    fn from(confirm: Confirm) -> Self {
        match confirm {
            Confirm::Sent => Self::Sent,
            Confirm::Delivered => Self::Delivered,
            Confirm::State => Self::State,
            Confirm::Reply => Self::Reply,
        }
    }
}

fn sixty() -> u32 {
    60
}

fn thirty() -> u32 {
    30
}

/// A capability.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CapabilityDocument {
    /// What it is, in a few words.
    #[serde(default)]
    description: String,
    /// JSON Schema of the payload that reports its state; left out: any payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_schema: Option<Value>,
    /// JSON Schema of the payload that commands it; left out: any payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command_schema: Option<Value>,
    /// What makes its commands succeed.
    #[serde(default)]
    confirm: Confirm,
    /// Seconds until one expires unless it says otherwise: 1 to 30 days.
    #[serde(default = "sixty")]
    #[schema(minimum = 1, maximum = 2592000, default = 60)]
    command_expiry: u32,
    /// Seconds until one without receipt is sent again: 5 to 600.
    #[serde(default = "thirty")]
    #[schema(minimum = 5, maximum = 600, default = 30)]
    ack_timeout: u32,
    /// Seconds after its receipt in which one has to be answered, where it is confirmed by that: 1 to 3600.
    #[serde(default = "thirty")]
    #[schema(minimum = 1, maximum = 3600, default = 30)]
    answer_in: u32,
    /// Whether one goes down as `{"id", "value"}`.
    #[serde(default)]
    envelope: bool,
    /// Whether one replaces those of the same device that have not been sent yet, or have no receipt in time.
    #[serde(default)]
    only_latest: bool,
}

impl CapabilityDocument {
    fn check(self, name: &CapabilityName) -> Result<NewCapability, Problem> {
        let mut checks = Checks::default();
        let mut usable = |pointer, schema: Option<Value>| {
            let schema = schema.map(UsableSchema::new).transpose();
            schema.unwrap_or_else(|error| {
                checks.add(pointer, format!("is not a usable JSON Schema: {error}"));
                None
            })
        };
        let state_schema = usable("/state_schema", self.state_schema);
        let command_schema = usable("/command_schema", self.command_schema);
        checks.end()?;
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let commands = CommandTerms {
            confirm: self.confirm.into(),
            expiry: seconds(self.command_expiry),
            ack_timeout: seconds(self.ack_timeout),
            answer_in: seconds(self.answer_in),
            envelope: self.envelope,
            only_latest: self.only_latest,
        };
        let (description, name) = (self.description, name.clone());
        Ok(NewCapability { name, description, state_schema, command_schema, commands })
    }
}

fn as_change(wanted: NewCapability) -> CapabilityChange {
    let CommandTerms { confirm, expiry, ack_timeout, answer_in, envelope, only_latest } =
        wanted.commands;
    CapabilityChange {
        description: Some(wanted.description),
        state_schema: Some(wanted.state_schema),
        command_schema: Some(wanted.command_schema),
        commands: TermsChange {
            confirm: Some(confirm),
            expiry: Some(expiry),
            ack_timeout: Some(ack_timeout),
            answer_in: Some(answer_in),
            envelope: Some(envelope),
            only_latest: Some(only_latest),
        },
    }
}

fn capability_name(text: &str) -> Result<CapabilityName, Problem> {
    text.parse().map_err(|_| Problem::not_found("capability"))
}

/// List capabilities
///
/// All of them, by name.
#[utoipa::path(
    tag = "capabilities",
    responses((status = 200, description = "The capabilities.", body = Vec<CapabilityRow>), Problems)
)]
#[get("/capabilities")]
async fn list_capabilities(
    caller: Caller<InPart<Read>>,
    api: Data<Api>,
) -> Result<Json<Vec<CapabilityRow>>, Problem> {
    Ok(Json(api.see(&caller, async |fleet, _| capabilities::list(fleet).await).await?))
}

/// Show a capability
#[utoipa::path(
    tag = "capabilities",
    responses((status = 200, description = "The capability.", body = CapabilityRow), Problems)
)]
#[get("/capabilities/{capability}")]
async fn show_capability(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<CapabilityRow>, Problem> {
    let name = capability_name(&path.0)?;
    Ok(Json(api.see(&caller, async |fleet, _| capabilities::show(fleet, &name).await).await?))
}

/// Make or replace a capability
///
/// Also while devices have it. What was stored stays as it is; the next report is judged by the new schema.
#[utoipa::path(
    tag = "capabilities",
    request_body = CapabilityDocument,
    params(("If-None-Match" = Option<String>, Header, description = "`*`: only if there is none of this name.")),
    responses(
        (status = 200, description = "It was replaced.", body = CapabilityRow),
        (status = 201, description = "It was made.", body = CapabilityRow),
        Problems
    )
)]
#[put("/capabilities/{capability}")]
async fn put_capability(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    Body(document): Body<CapabilityDocument>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name: CapabilityName = one("", &path.0)?;
    let wanted = document.check(&name)?;
    let done = api.change(&caller, async |transaction| {
        match capabilities::lock(transaction, &name).await {
            Ok(_) => {
                let thing = Thing::Capability(name.clone());
                Conditions::of(&request).refuse_another(thing, Rule::CapabilityExists)?;
                let changed = capabilities::set(transaction, &name, &as_change(wanted)).await?;
                Ok((HttpResponse::Ok(), changed))
            }
            Err(FleetError::NotFound(_)) => {
                Ok((HttpResponse::Created(), capabilities::add(transaction, &wanted).await?))
            }
            Err(error) => Err(error.into()),
        }
    });
    let (mut answer, row) = done.await?;
    Ok(answer.json(row))
}

/// Change a capability
///
/// A JSON merge patch (RFC 7396) of what `PUT` takes, schemas included. As `application/json` each member takes the place of
/// what is there as a whole.
#[utoipa::path(
    tag = "capabilities",
    request_body(description = "Members of what `PUT` takes.", content(
        (Object = "application/merge-patch+json", example = json!({"command_expiry": 30})),
        (Object = "application/json", example = json!({"state_schema": {"type": "number"}})))),
    responses((status = 200, description = "It was changed.", body = CapabilityRow), Problems)
)]
#[patch("/capabilities/{capability}")]
async fn patch_capability(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    patch: Patch,
    api: Data<Api>,
) -> Result<Json<CapabilityRow>, Problem> {
    let name = capability_name(&path.0)?;
    let changed = api.change(&caller, async |transaction| {
        let present = capabilities::lock(transaction, &name).await?;
        let present = serde_json::to_value(present).map_err(|_| Problem::failed())?;
        // A schema that somebody wrote in `psql` may not be usable; one that is not named stays as it is.
        let [keeps_state, keeps_command] =
            ["state_schema", "command_schema"].map(|schema| !patch.names(schema));
        let mut left_out = vec!["name"];
        left_out.extend(keeps_state.then_some("state_schema"));
        left_out.extend(keeps_command.then_some("command_schema"));
        let present = without(present, &left_out);
        let wanted = patch.apply::<CapabilityDocument>(present)?.check(&name)?;
        let mut change = as_change(wanted);
        change.state_schema = change.state_schema.filter(|_| !keeps_state);
        change.command_schema = change.command_schema.filter(|_| !keeps_command);
        Ok(capabilities::set(transaction, &name, &change).await?)
    });
    Ok(Json(changed.await?))
}

/// A document without what is not part of what `PUT` takes, and without what is not there.
pub(super) fn without(mut document: Value, names: &[&str]) -> Value {
    if let Some(members) = document.as_object_mut() {
        members.retain(|name, value| !names.contains(&name.as_str()) && !value.is_null());
    }
    document
}

/// Remove a capability
///
/// One that devices have, or that routing rules name, stays.
#[utoipa::path(
    tag = "capabilities",
    responses((status = 204, description = "It was removed."), Problems)
)]
#[delete("/capabilities/{capability}")]
async fn delete_capability(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = capability_name(&path.0)?;
    let removed = api
        .change(&caller, async |transaction| Ok(capabilities::remove(transaction, &name).await?));
    removed.await?;
    Ok(HttpResponse::NoContent().finish())
}
