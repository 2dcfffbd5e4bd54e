//! What devices log in with.

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Transaction;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks, Parameters};
use super::devices::device_name;
use super::etag::Conditions;
use super::problem::Problems;
use super::{Api, Credentials, InPart, Problem, Read, page};
use crate::domain::credential::CredentialId;
use crate::fleet::Part;
use crate::fleet::credentials::{
    self, CredentialRow, ForeignCredential, NewCredential, Revocation, Terms,
};
use crate::fleet::error::{FleetError, Thing};
use crate::secret::Secret;

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_credentials)
        .service(list_foreign)
        .service(add_credential)
        .service(revoke_credential)
        .service(revoke_by_id);
}

/// What kind of credential is made.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A generated secret, which is shown once.
    Secret,
    /// A password that somebody chose.
    Password,
    /// A client certificate.
    Certificate,
}

/// A credential to be made. No `Debug`: it may hold a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialDocument {
    kind: Kind,
    /// The password, of `password`: one line, 8 characters or more.
    #[schema(format = Password)]
    password: Option<String>,
    /// Take a password of fewer characters.
    #[serde(default)]
    allow_weak: bool,
    /// The subject's common name, of `certificate`.
    common_name: Option<String>,
    /// Of `certificate`: whether another credential is needed besides. Otherwise the certificate is enough alone.
    #[serde(default)]
    required: bool,
    /// What you call it.
    label: Option<String>,
    /// The first timestamp at which it is valid; left out: at once.
    not_before: Option<Timestamp>,
    /// When it expires; left out: never.
    expires_at: Option<Timestamp>,
}

impl CredentialDocument {
    pub(super) fn terms(&self) -> Terms {
        Terms {
            label: self.label.clone(),
            not_before: self.not_before,
            expires_at: self.expires_at,
        }
    }
}

/// A credential that was made.
#[derive(Serialize, ToSchema)]
struct NewCredentialAnswer {
    /// Its number, by which it is revoked.
    id: i64,
    /// `secret`, `password` or `certificate`.
    kind: &'static str,
    /// The generated secret, which is shown this once and stored nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// When it expires.
    expires_at: Option<Timestamp>,
}

/// List a device's credentials
///
/// Revoked and expired ones included, oldest first. Secrets and hashes are shown nowhere.
#[utoipa::path(
    tag = "credentials",
    responses((status = 200, description = "Its credentials.", body = Vec<CredentialRow>), Problems)
)]
#[get("/devices/{device}/credentials")]
async fn list_credentials(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<Vec<CredentialRow>>, Problem> {
    let name = device_name(&path.0)?;
    Ok(Json(
        api.see_device(&caller, &name, async |fleet| credentials::list(fleet, &name).await).await?,
    ))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ForeignQuery {
    /// Most credentials of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// Where the page begins: `next` of the page before.
    after: Option<String>,
}

/// A page of credentials that have the hash of another broker.
#[derive(Serialize, ToSchema)]
struct ForeignPage {
    /// The credentials.
    items: Vec<ForeignCredential>,
    /// `after` of the next page; `null`: this is the last one.
    next: Option<String>,
}

/// List credentials that still have the hash of another broker
///
/// Those that were imported and that nobody has logged in with since, oldest first. What a hash is is told, itself it is shown
/// nowhere.
#[utoipa::path(
    tag = "credentials",
    params(ForeignQuery),
    responses((status = 200, description = "A page of them.", body = ForeignPage), Problems)
)]
#[get("/credentials/foreign")]
async fn list_foreign(
    caller: Caller<InPart<Read>>,
    Parameters(query): Parameters<ForeignQuery>,
    api: Data<Api>,
) -> Result<Json<ForeignPage>, Problem> {
    let limit = page::limit(query.limit)?;
    let after = page::after(query.after.as_deref())?.map(|after| after.parse()).transpose();
    let after = after.map_err(|_| page::not_next())?.map(CredentialId);
    let look = async |fleet: &mut Transaction<'_>, part: &Part| {
        credentials::foreign(fleet, part, after, limit).await
    };
    let items = api.see(&caller, look).await?;
    let next = page::next(&items, limit, |one| one.id.to_string());
    Ok(Json(ForeignPage { items, next }))
}

/// Give a device a credential
///
/// Others that it has stay valid, so that they can be rotated.
#[utoipa::path(
    tag = "credentials",
    request_body(content = CredentialDocument, example = json!({"kind": "secret", "label": "first"})),
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses(
        (status = 201, description = "It was made. A secret is in this answer and nowhere else.", body = NewCredentialAnswer),
        Problems
    )
)]
#[post("/devices/{device}/credentials")]
async fn add_credential(
    caller: Caller<InPart<Credentials>>,
    path: Path<(String,)>,
    Body(document): Body<CredentialDocument>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = device_name(&path.0)?;
    let terms = document.terms();
    let (secret, credential) = make(document, "", &api).await?;
    let conditions = Conditions::of_device(&request);
    let added = api.change_device(&caller, &name, &conditions, async |transaction, _| {
        Ok(credentials::add(transaction, &name, &credential, &terms).await?)
    });
    let CredentialId(id) = added.await?;
    let answer = NewCredentialAnswer {
        id,
        kind: credential.kind(),
        secret: secret.map(|secret| secret.expose().to_owned()),
        expires_at: terms.expires_at,
    };
    Ok(HttpResponse::Created().json(answer))
}

/// The credential, and the secret where one is generated. `place`: where in the body the document is.
pub(super) async fn make(
    document: CredentialDocument,
    place: &str,
    api: &Api,
) -> Result<(Option<Secret>, NewCredential), Problem> {
    let CredentialDocument { kind, password, allow_weak, common_name, required, .. } = document;
    let mut checks = Checks::default();
    let password = password.map(Secret::new);
    let belongs = |kind: &str| format!("belongs to the kind \"{kind}\" alone");
    if password.is_some() != (kind == Kind::Password) {
        let missing = "is needed for the kind \"password\"".to_owned();
        let why = if password.is_some() { belongs("password") } else { missing };
        checks.add(&format!("{place}/password"), why);
    }
    if common_name.is_some() != (kind == Kind::Certificate) {
        let missing = "is needed for the kind \"certificate\"".to_owned();
        let why = if common_name.is_some() { belongs("certificate") } else { missing };
        checks.add(&format!("{place}/common_name"), why);
    }
    if allow_weak && kind != Kind::Password {
        checks.add(&format!("{place}/allow_weak"), belongs("password"));
    }
    if required && kind != Kind::Certificate {
        checks.add(&format!("{place}/required"), belongs("certificate"));
    }
    checks.end()?;
    match (kind, password, common_name) {
        (Kind::Password, Some(password), _) => {
            Ok((None, api.hashing.hash(password, allow_weak).await?))
        }
        (Kind::Certificate, _, Some(common_name)) => {
            Ok((None, NewCredential::certificate(common_name, required)))
        }
        _ => {
            let (secret, credential) = NewCredential::generate();
            Ok((Some(secret), credential))
        }
    }
}

/// A credential that was revoked.
#[derive(Serialize, ToSchema)]
struct Revoked {
    /// Its number.
    id: i64,
    /// Whether it was valid until now, or would have been.
    was_valid: bool,
    outcome: Revocation,
}

/// Revoke a credential
///
/// For ever. The sessions of the device end. Doing it again changes nothing.
#[utoipa::path(
    tag = "credentials",
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses((status = 200, description = "It is revoked.", body = Revoked), Problems)
)]
#[delete("/devices/{device}/credentials/{id}")]
async fn revoke_credential(
    caller: Caller<InPart<Credentials>>,
    path: Path<(String, i64)>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<Json<Revoked>, Problem> {
    let (device, id) = path.into_inner();
    let name = device_name(&device)?;
    let conditions = Conditions::of_device(&request);
    let revoked = api.change_device(&caller, &name, &conditions, async |transaction, _| {
        let all = credentials::list(transaction, &name).await?;
        if all.iter().all(|credential| credential.id != id) {
            return Err(FleetError::NotFound(Thing::Credential(CredentialId(id))).into());
        }
        Ok(credentials::revoke(transaction, CredentialId(id)).await?)
    });
    Ok(Json(Revoked::of(id, revoked.await?)))
}

impl Revoked {
    fn of(id: i64, outcome: Revocation) -> Self {
        Self { id, was_valid: outcome == Revocation::Revoked, outcome }
    }
}

/// Revoke a credential by its number alone
///
/// As at its device's path.
#[utoipa::path(
    tag = "credentials",
    responses((status = 200, description = "It is revoked.", body = Revoked), Problems)
)]
#[delete("/credentials/{id}")]
async fn revoke_by_id(
    caller: Caller<InPart<Credentials>>,
    path: Path<(i64,)>,
    api: Data<Api>,
) -> Result<Json<Revoked>, Problem> {
    let id = path.0;
    let credential = CredentialId(id);
    let revoked = api.change_part(&caller, async |transaction, part| {
        let owner = credentials::owner(transaction, credential).await?;
        let not_found = || FleetError::NotFound(Thing::Credential(credential));
        let found = part.lock(transaction, &device_name(&owner)?).await?;
        found.ok_or_else(not_found)?;
        Ok(credentials::revoke(transaction, credential).await?)
    });
    Ok(Json(Revoked::of(id, revoked.await?)))
}
