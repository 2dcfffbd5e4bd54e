//! The description of the API (OpenAPI 3.1), collected from the routes that are registered.

use actix_web::dev::ResourceDef;
use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{self, Components, PathItem};
use utoipa_actix_web::OpenApiFactory;

use super::{Api, ROOT, problem, resources};

/// Where it is served.
pub const PATH: &str = "/api/v1/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fleetgate",
        description = "Devices of an EMQX broker: what they are, what they may log in with and do, and what they said.\n\n\
            Every request but that for this description carries a token: `Authorization: Bearer fg1_…`. \
            Errors are `application/problem+json` (RFC 9457). Members that a body does not take are errors.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "Where this description comes from.")),
    security(("token" = [])),
    tags(
        (name = "whoami", description = "The token of a request."),
        (name = "description", description = "This description."),
        (name = "devices", description = "Devices and services. A device's version is in its `ETag`; it is raised by changes of the \
            device, its credentials, capabilities, bindings and grants, not by presence and reports."),
        (name = "credentials", description = "What devices log in with."),
        (name = "bindings", description = "The exact topics of devices."),
        (name = "grants", description = "Rights beyond bindings."),
        (name = "state", description = "Presence and last values."),
        (name = "sessions", description = "Sessions of devices."),
        (name = "capabilities", description = "What devices can do."),
        (name = "rules", description = "Which devices get a capability's commands where nobody names them."),
        (name = "commands", description = "What devices are told to do, and what becomes of it."),
        (name = "locks", description = "Locks after wrong passwords."),
        (name = "tokens", description = "Tokens of this API."),
        (name = "authorize", description = "May a device do something?"),
        (name = "audit", description = "Who changed what."),
        (name = "bulk", description = "The whole registry as lines of JSON (`application/x-ndjson`), out and in again."),
        (name = "events", description = "What changes, as it happens.")
    )
)]
struct Base;

/// The description.
#[must_use]
pub fn document() -> openapi::OpenApi {
    let mut document = Base::openapi();
    let scope = utoipa_actix_web::scope(ROOT).configure(resources);
    let mut schemas = problem::schemas();
    scope.schemas(&mut schemas);
    document.paths = scope.paths();
    let mut components = Components::new();
    components.schemas.extend(schemas);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("fg1_<id>_<secret>")
        .description(Some("A token of `fleetgate api-token add`."))
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    document.components = Some(components);
    document
}

/// As it is served and committed (`docs/openapi.json`).
#[must_use]
pub fn text(document: &openapi::OpenApi) -> String {
    document.to_pretty_json().map_or_else(|error| error.to_string(), |text| text + "\n")
}

/// The description of this API
///
/// OpenAPI 3.1. Needs no token.
#[utoipa::path(
    tag = "description",
    security(()),
    responses((status = 200, description = "The description.", body = Object), problem::Problems)
)]
#[get("/openapi.json")]
pub(super) async fn show_description(api: Data<Api>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(api.document.clone())
}

/// Every path, and which methods it takes.
pub(super) struct Routes(Vec<(ResourceDef, Vec<String>)>);

impl Routes {
    pub(super) fn of(document: &openapi::OpenApi) -> Self {
        let routes = document.paths.paths.iter();
        Self(routes.map(|(path, item)| (ResourceDef::new(path.as_str()), methods(item))).collect())
    }

    /// What a path takes; nothing: there is no such path. `/commands/check` is itself, and no command's.
    pub(super) fn methods(&self, path: &str) -> &[String] {
        let of_path = |(pattern, _): &&(ResourceDef, _)| pattern.is_match(path);
        let itself = self.0.iter().find(|(pattern, _)| pattern.pattern() == Some(path));
        itself.or_else(|| self.0.iter().find(of_path)).map_or(&[], |(_, methods)| methods)
    }
}

fn methods(item: &PathItem) -> Vec<String> {
    let all = [
        ("GET", &item.get),
        ("PUT", &item.put),
        ("POST", &item.post),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    let there = all.iter().filter(|(_, operation)| operation.is_some());
    there.map(|(method, _)| (*method).to_owned()).collect()
}
