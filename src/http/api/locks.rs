//! Locks after wrong passwords.

use actix_web::web::{Data, Json};
use actix_web::{delete, get};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Parameters, query_value};
use super::problem::Problems;
use super::{Api, Credentials, Problem, Read};
use crate::domain::address::AddressRange;
use crate::domain::name::DeviceName;
use crate::fleet::locks::{self, Lock, LockScope};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(list_locks).service(clear_locks);
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only those of this name, whether a device has it or not.
    name: Option<String>,
    /// Only those of this address or network, such as `192.0.2.0/24`.
    address: Option<String>,
}

fn scope(name: Option<&str>, address: Option<&str>) -> Result<LockScope, Problem> {
    let name: Option<DeviceName> = query_value("name", name)?;
    let address: Option<AddressRange> = query_value("address", address)?;
    Ok(LockScope { name, address: address.map(|range| range.0) })
}

/// List locks after wrong passwords
///
/// Expired ones that are remembered included, those that last longest first; 10000 at most.
#[utoipa::path(
    tag = "locks",
    params(ListQuery),
    responses((status = 200, description = "The locks.", body = Vec<Lock>), Problems)
)]
#[get("/locks")]
async fn list_locks(
    caller: Caller<Read>,
    Parameters(query): Parameters<ListQuery>,
    api: Data<Api>,
) -> Result<Json<Vec<Lock>>, Problem> {
    let scope = scope(query.name.as_deref(), query.address.as_deref())?;
    Ok(Json(api.read(&caller, async |client| locks::list(client, &scope).await).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ClearQuery {
    /// Those of this name, from everywhere.
    name: Option<String>,
    /// Those of this address or network; with `name`, of that name there.
    address: Option<String>,
    /// All of them: neither of the others then.
    #[serde(default)]
    all: bool,
}

/// How many locks were ended.
#[derive(Serialize, ToSchema)]
struct Cleared {
    /// Those that held.
    cleared: u64,
}

/// End locks at once
///
/// On every replica.
#[utoipa::path(
    tag = "locks",
    params(ClearQuery),
    responses((status = 200, description = "They are ended.", body = Cleared), Problems)
)]
#[delete("/locks")]
async fn clear_locks(
    caller: Caller<Credentials>,
    Parameters(query): Parameters<ClearQuery>,
    api: Data<Api>,
) -> Result<Json<Cleared>, Problem> {
    if query.all == (query.name.is_some() || query.address.is_some()) {
        return Err(Problem::query("say which: name, address or both; or all=true"));
    }
    let scope = scope(query.name.as_deref(), query.address.as_deref())?;
    let cleared =
        api.change(&caller, async |transaction| Ok(locks::clear(transaction, &scope).await?));
    Ok(Json(Cleared { cleared: cleared.await? }))
}
