//! Who asks.

use actix_web::get;
use actix_web::web::Json;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::access::Caller;
use super::problem::Problems;
use super::{AnyToken, InPart};

/// The token of a request.
#[derive(Serialize, ToSchema)]
struct WhoAmI {
    /// What the token is called.
    #[schema(example = "dashboard")]
    token: String,
    /// What it may do.
    #[schema(example = json!(["read"]))]
    scopes: Vec<&'static str>,
    /// Which devices it sees and changes, services never; `null`: all, and everything else.
    #[schema(value_type = Option<Object>)]
    selector: Option<Value>,
    /// When it expires; `null`: never.
    expires_at: Option<Timestamp>,
}

/// Tell which token this is
///
/// Works with any valid token.
#[utoipa::path(tag = "whoami", responses((status = 200, description = "The token.", body = WhoAmI), Problems))]
#[get("/whoami")]
pub(super) async fn whoami(caller: Caller<InPart<AnyToken>>) -> Json<WhoAmI> {
    let token = caller.token;
    Json(WhoAmI {
        token: token.name.clone(),
        scopes: token.scopes.words(),
        selector: token.selector.clone(),
        expires_at: token.expires_at,
    })
}
