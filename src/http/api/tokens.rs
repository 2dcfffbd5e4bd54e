//! Tokens of this API.

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, delete, get, post};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks};
use super::problem::Problems;
use super::rules::selector;
use super::{Admin, Api, Problem};
use crate::domain::api_token::{self, Scopes};
use crate::domain::name::ApiTokenName;
use crate::fleet::api_tokens::{self, ApiTokenRow, NewApiToken};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(list_tokens).service(add_token).service(revoke_token);
}

/// What a token may do.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Scope {
    /// See the fleet and who changed it, try what would be done.
    Read,
    /// Change devices, their bindings and grants; capabilities, routing rules.
    Devices,
    /// Make and revoke what devices log in with; end locks.
    Credentials,
    /// Send, cancel, repeat and pause commands.
    Commands,
    /// Everything, other tokens included.
    Admin,
}

impl From<Scope> for api_token::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Devices => Self::Devices,
            Scope::Credentials => Self::Credentials,
            Scope::Commands => Self::Commands,
            Scope::Admin => Self::Admin,
        }
    }
}

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenDocument {
    /// What it is called, for ever: no other token gets the name, also after this one is revoked.
    #[schema(example = "dashboard")]
    name: String,
    /// What it may do.
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
    /// Which devices it sees and changes, as JSON object or text; services never. It may test name, kind, area, floor,
    /// capability and meta, and a token with one may not have the scope `admin`. Left out: all, and everything else.
    #[schema(example = "area=lab")]
    selector: Option<Value>,
    /// When it expires; left out: never.
    expires_at: Option<Timestamp>,
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
struct NewToken {
    /// The token, which is shown this once and stored nowhere.
    token: String,
    /// What is known of it.
    #[serde(flatten)]
    row: ApiTokenRow,
}

/// List tokens
///
/// By name, revoked and expired ones included.
#[utoipa::path(
    tag = "tokens",
    responses((status = 200, description = "The tokens.", body = Vec<ApiTokenRow>), Problems)
)]
#[get("/tokens")]
async fn list_tokens(
    caller: Caller<Admin>,
    api: Data<Api>,
) -> Result<Json<Vec<ApiTokenRow>>, Problem> {
    Ok(Json(api.read(&caller, async |client| api_tokens::list(client).await).await?))
}

/// Make a token
///
/// Whoever may do this may do everything, by a token of the scope `admin`.
#[utoipa::path(
    tag = "tokens",
    request_body = TokenDocument,
    responses(
        (status = 201, description = "It was made. It is in this answer and nowhere else.", body = NewToken),
        Problems
    )
)]
#[post("/tokens")]
async fn add_token(
    caller: Caller<Admin>,
    Body(document): Body<TokenDocument>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let mut checks = Checks::default();
    let name: Option<ApiTokenName> = checks.value("/name", &document.name);
    if document.scopes.is_empty() {
        checks.add("/scopes", "must name one scope at least");
    }
    let given = document.selector.as_ref();
    let selector = given.and_then(|given| selector(given, "/selector", &mut checks));
    checks.end()?;
    let Some(name) = name else { return Err(Problem::failed()) };
    let scopes = Scopes::new(document.scopes.into_iter().map(api_token::Scope::from));
    let new = NewApiToken { name, scopes, selector, expires_at: document.expires_at };
    let made =
        api.change(&caller, async |transaction| Ok(api_tokens::add(transaction, &new).await?));
    let (token, row) = made.await?;
    Ok(HttpResponse::Created().json(NewToken { token: token.expose().to_owned(), row }))
}

/// Revoke a token
///
/// For ever; the next request with it is refused. Doing it again changes nothing.
#[utoipa::path(
    tag = "tokens",
    responses((status = 200, description = "It is revoked.", body = ApiTokenRow), Problems)
)]
#[delete("/tokens/{token}")]
async fn revoke_token(
    caller: Caller<Admin>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<ApiTokenRow>, Problem> {
    let name: ApiTokenName = path.0.parse().map_err(|_| Problem::not_found("token"))?;
    let revoked =
        api.change(&caller, async |transaction| Ok(api_tokens::revoke(transaction, &name).await?));
    Ok(Json(revoked.await?))
}
