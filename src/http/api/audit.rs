//! The audit log.

use actix_web::get;
use actix_web::web::{Data, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Parameters, query_value};
use super::problem::Problems;
use super::{Api, InPart, Problem, Read, page};
use crate::fleet::audit::{self, AuditFilter, AuditRow};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(list_audit);
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this device and of what it has or had, whatever it was called and also if it is gone.
    device: Option<String>,
    /// Only by this actor, in whole or up to one of its colons (`token`, `token:7`), or by this role of PostgreSQL.
    actor: Option<String>,
    /// Only since then.
    since: Option<Timestamp>,
    /// Most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// Where the page begins: `next` of the page before.
    after: Option<String>,
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
struct AuditPage {
    /// The entries.
    items: Vec<AuditRow>,
    /// `after` of the next page; `null`: this is the last one.
    next: Option<String>,
}

/// List who changed what
///
/// The newest first. No secret and no hash is in the log.
#[utoipa::path(
    tag = "audit",
    params(ListQuery),
    responses((status = 200, description = "A page of the log.", body = AuditPage), Problems)
)]
#[get("/audit")]
async fn list_audit(
    caller: Caller<InPart<Read>>,
    Parameters(query): Parameters<ListQuery>,
    api: Data<Api>,
) -> Result<Json<AuditPage>, Problem> {
    let limit = page::limit(query.limit)?;
    let device = query_value("device", query.device.as_deref())?;
    if query.actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
        return Err(Problem::query("actor contains U+0000"));
    }
    let after = page::after(query.after.as_deref())?.map(|after| after.parse()).transpose();
    let after = after.map_err(|_| page::not_next())?;
    let part = caller.part().clone();
    let filter = AuditFilter { device, actor: query.actor, since: query.since, part };
    let items =
        api.see(&caller, async |fleet, _| audit::list(fleet, &filter, after, limit).await).await?;
    let next = page::next(&items, limit, |entry| entry.id.to_string());
    Ok(Json(AuditPage { items, next }))
}
