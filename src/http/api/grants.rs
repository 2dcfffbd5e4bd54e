//! Rights of devices beyond their bindings.

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::authorize::Action;
use super::body::{Body, one};
use super::devices::device_name;
use super::etag::Conditions;
use super::problem::Problems;
use super::{Api, Devices, InPart, Problem, Read, lock_device};
use crate::domain::acl;
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::grants::{self, GrantRow};
use crate::fleet::{Added, Part};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(list_grants).service(add_grant).service(delete_grant).service(delete_by_id);
}

/// A grant.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GrantDocument {
    action: Action,
    /// On which topics: a topic filter with `+` and `#`.
    #[schema(example = "lab/#")]
    topic_filter: String,
}

/// List a device's grants
///
/// By action and filter.
#[utoipa::path(
    tag = "grants",
    responses((status = 200, description = "Its grants.", body = Vec<GrantRow>), Problems)
)]
#[get("/devices/{device}/grants")]
async fn list_grants(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<Vec<GrantRow>>, Problem> {
    let name = device_name(&path.0)?;
    Ok(Json(api.see_device(&caller, &name, async |fleet| grants::list(fleet, &name).await).await?))
}

/// Give a device a right
///
/// Giving it again changes nothing.
#[utoipa::path(
    tag = "grants",
    request_body = GrantDocument,
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses(
        (status = 200, description = "It has it already.", body = GrantRow),
        (status = 201, description = "It has it now.", body = GrantRow),
        Problems
    )
)]
#[post("/devices/{device}/grants")]
async fn add_grant(
    caller: Caller<Devices>,
    path: Path<(String,)>,
    Body(document): Body<GrantDocument>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = device_name(&path.0)?;
    let filter = one("/topic_filter", &document.topic_filter)?;
    let action = acl::Action::from(document.action);
    let conditions = Conditions::of_device(&request);
    let added = api.change(&caller, async |transaction| {
        lock_device(transaction, &Part::whole(), &name, &conditions).await?;
        Ok(grants::add(transaction, &name, action, &filter).await?)
    });
    let (mut answer, id) = match added.await? {
        Added::New(id) => (HttpResponse::Created(), id),
        Added::Same(id) => (HttpResponse::Ok(), id),
    };
    let (action, topic_filter) = (action.word().to_owned(), document.topic_filter);
    Ok(answer.json(GrantRow { id, action, topic_filter }))
}

/// Take a right away
///
/// The sessions of the device end.
#[utoipa::path(
    tag = "grants",
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses((status = 204, description = "It was taken away."), Problems)
)]
#[delete("/devices/{device}/grants/{id}")]
async fn delete_grant(
    caller: Caller<Devices>,
    path: Path<(String, i64)>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (device, id) = path.into_inner();
    let name = device_name(&device)?;
    let conditions = Conditions::of_device(&request);
    let removed = api.change(&caller, async |transaction| {
        lock_device(transaction, &Part::whole(), &name, &conditions).await?;
        let all = grants::list(transaction, &name).await?;
        if all.iter().all(|grant| grant.id != id) {
            return Err(FleetError::NotFound(Thing::GrantId(id)).into());
        }
        Ok(grants::remove(transaction, id).await?)
    });
    removed.await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Take a right away by the number of its grant alone
///
/// As at its device's path.
#[utoipa::path(
    tag = "grants",
    responses((status = 204, description = "It was taken away."), Problems)
)]
#[delete("/grants/{id}")]
async fn delete_by_id(
    caller: Caller<Devices>,
    path: Path<(i64,)>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let removed =
        api.change(&caller, async |transaction| Ok(grants::remove(transaction, path.0).await?));
    removed.await?;
    Ok(HttpResponse::NoContent().finish())
}
