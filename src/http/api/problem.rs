//! What went wrong, as RFC 9457 has it: `application/problem+json`.

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::openapi::{RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::allow;
use crate::fleet::FleetError;
use crate::fleet::error::{ErrorKind, Field, Rule, Thing};
use crate::fleet::imports::Counts;
use crate::fleet::wire::PROBLEM;
use crate::logging::log_throttled;
use crate::registry::cache::CacheError;
use crate::wording;

/// Why a request was not done.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// One word for programs.
    word: String,
    detail: String,
    refusal: Option<Box<(Thing, Option<Rule>)>>,
    errors: Vec<Wrong>,
    headers: Vec<(HeaderName, String)>,
    /// What became of an import.
    import: Option<Box<EndOfImport>>,
}

/// How an import has ended.
#[derive(Debug, Default)]
struct EndOfImport {
    /// Its last line that is done, and what was done.
    done: Option<(u64, Counts)>,
    /// How many lines are wrong.
    wrong_lines: Option<usize>,
}

/// What is wrong in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Wrong {
    /// Where: a JSON pointer (RFC 6901) into the body, or into the line of an import; empty: that as a whole.
    #[schema(example = "/area")]
    pub pointer: String,
    /// What is wrong there, and what would be right.
    #[schema(
        example = "contains '/'; the characters + # / $ and control characters are not allowed"
    )]
    pub detail: String,
    /// The line of an import that it is about, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What of that line the fleet refuses, as of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({"capability": "relay"}))]
    pub thing: Option<Thing>,
    /// By which rule, as of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "name_taken")]
    pub rule: Option<Rule>,
}

impl Wrong {
    /// What is wrong at a pointer.
    pub(super) fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let (pointer, detail) = (pointer.into(), detail.into());
        Self { pointer, detail, line: None, thing: None, rule: None }
    }

    /// A line that the fleet refuses.
    pub(super) fn refused(line: Option<u64>, error: &FleetError) -> Self {
        let (thing, rule) = error.refusal().unzip();
        let (thing, rule) = (thing.cloned(), rule.flatten().cloned());
        Self { line, thing, rule, ..Self::at("", wording::in_words(error)) }
    }
}

/// Why a request was not done (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
struct Document<'a> {
    /// What kind of problem it is, for programs: `urn:fleetgate:problem:` and a word.
    #[schema(example = "urn:fleetgate:problem:not_found")]
    r#type: String,
    /// The kind in words.
    title: &'a str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What failed, on which thing, and what to do.
    detail: &'a str,
    /// What it is about, where the fleet refuses something: `{"device": "lamp"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({"device": "lamp"}))]
    thing: Option<&'a Thing>,
    /// Which rule refuses it: a word, or an object of that word and what the rule is about, `{"not_a_name": "area"}`. Left
    /// out where there is no such thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "name_taken")]
    rule: Option<&'a Rule>,
    /// Which request it was: `urn:fleetgate:request:` and its id, which the log has as well.
    instance: String,
    /// What in the request is wrong; empty where it is nothing in its body.
    errors: &'a [Wrong],
    /// Of an import: how many lines of the chunk are wrong; `errors` names the first 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong_lines: Option<usize>,
    /// Of an import: the last line that is imported; continue with the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_line: Option<u64>,
    /// Of an import: what was done up to that line.
    #[serde(skip_serializing_if = "Option::is_none")]
    imported: Option<Counts>,
}

impl Problem {
    /// A problem of this status and kind.
    pub(super) fn new(status: StatusCode, word: &str, detail: impl Into<String>) -> Self {
        let (word, detail) = (word.to_owned(), detail.into());
        Self {
            status,
            word,
            detail,
            refusal: None,
            errors: Vec::new(),
            headers: Vec::new(),
            import: None,
        }
    }

    /// Tells how far the import has come that it ended.
    pub(super) fn after(mut self, last_line: u64, counts: Counts) -> Self {
        self.import.get_or_insert_default().done = Some((last_line, counts));
        self
    }

    /// The same about these places.
    pub(super) fn about(self, errors: Vec<Wrong>) -> Self {
        Self { errors, ..self }
    }

    /// The same about these lines of so many.
    pub(super) fn about_lines(self, errors: Vec<Wrong>, count: usize) -> Self {
        let mut about = self.about(errors);
        about.import.get_or_insert_default().wrong_lines = Some(count);
        about
    }

    /// What only one may do at a time is being done by somebody else.
    pub(super) fn busy(detail: &str, retry_after: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail).with(RETRY_AFTER, retry_after)
    }

    fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The body is not what it should be.
    pub(super) fn wrong(errors: Vec<Wrong>) -> Self {
        let detail = match errors.as_slice() {
            [Wrong { pointer, detail, .. }] if pointer.is_empty() => format!("the body: {detail}"),
            [Wrong { pointer, detail, .. }] => format!("{pointer}: {detail}"),
            _ => format!("{} members of the body are wrong; see errors", errors.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }

    /// A parameter of the query is not what it should be.
    pub(super) fn query(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "a valid token is needed: `Authorization: Bearer fg1_…`; `fleetgate api-token add` makes one";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with(WWW_AUTHENTICATE, "Bearer realm=\"fleetgate\"")
    }

    pub(super) fn scope(needed: &str) -> Self {
        let detail = format!("the token lacks the scope \"{needed}\"; use one that has it");
        Self::new(StatusCode::FORBIDDEN, "scope_missing", detail).with(
            WWW_AUTHENTICATE,
            format!("Bearer realm=\"fleetgate\", error=\"insufficient_scope\", scope=\"{needed}\""),
        )
    }

    /// What is asked for concerns the whole fleet, and the token a part of it.
    pub(super) fn whole_fleet() -> Self {
        let detail = "this concerns more than the devices that the token's selector means; use a token without selector";
        Self::new(StatusCode::FORBIDDEN, "outside", detail)
    }

    pub(super) fn wrong_host() -> Self {
        let detail = "this service is not the host that the request is for; set api.public_url to the URL that clients use";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", detail)
    }

    pub(super) fn no_route() -> Self {
        let detail = "there is nothing at this path; /api/v1/openapi.json tells what there is";
        Self::new(StatusCode::NOT_FOUND, "no_such_path", detail)
    }

    /// What a path names cannot be there: it is not a valid name.
    pub(super) fn not_found(what: &str) -> Self {
        let detail =
            format!("there is no {what} of this name, and can be none: it is not a valid name");
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// What a login or action is decided by cannot be asked.
    pub(super) fn away(error: &CacheError) -> Self {
        log_throttled!(warn, "the API cannot load a device", %error);
        Self::unavailable()
    }

    fn unavailable() -> Self {
        let detail = "the registry cannot be asked at present; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).with(RETRY_AFTER, "1")
    }

    pub(super) fn method(methods: &[String]) -> Self {
        let detail = format!("this path takes {}", methods.join(", "));
        let (name, value) = allow(methods);
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with(name, value)
    }

    /// The same, and what the fleet would have said.
    pub(super) fn refusing(self, thing: Thing, rule: Rule) -> Self {
        Self { refusal: Some(Box::new((thing, Some(rule)))), ..self }
    }

    pub(super) fn precondition(detail: &str) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
    }

    /// A fault of this service.
    pub(super) fn failed() -> Self {
        let detail = "the service failed; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
    }

    /// What actix says itself.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::no_route(),
            status if status.is_client_error() => {
                Self::new(status, "bad_request", "the request cannot be understood")
            }
            _ => Self::failed(),
        }
    }

    /// The answer to the request of this id.
    pub(super) fn answer(&self, request_id: &str) -> HttpResponse {
        let import = self.import.as_deref();
        let document = Document {
            r#type: format!("{PROBLEM}{}", self.word),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            thing: self.refusal.as_ref().map(|refusal| &refusal.0),
            rule: self.refusal.as_ref().and_then(|refusal| refusal.1.as_ref()),
            instance: format!("urn:fleetgate:request:{request_id}"),
            errors: &self.errors,
            wrong_lines: import.and_then(|import| import.wrong_lines),
            last_line: import.and_then(|import| Some(import.done?.0)),
            imported: import.and_then(|import| Some(import.done?.1)),
        };
        let mut response = HttpResponse::build(self.status);
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.as_str()));
        }
        response.insert_header((CONTENT_TYPE, "application/problem+json")).json(document)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Made anew in [`super::guard`], which knows the request's id.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        self.answer("")
    }
}

impl From<FleetError> for Problem {
    fn from(error: FleetError) -> Self {
        let (status, word) = match error.kind() {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found".to_owned()),
            ErrorKind::Conflict | ErrorKind::Refused => (StatusCode::CONFLICT, rule_word(&error)),
            ErrorKind::Forbidden => (StatusCode::FORBIDDEN, rule_word(&error)),
            ErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, rule_word(&error)),
            ErrorKind::Unavailable => {
                log_throttled!(warn, "the API cannot ask PostgreSQL", %error);
                return Self::unavailable();
            }
            ErrorKind::Failed => {
                log_throttled!(error, "the registry failed a request of the API", %error);
                return Self::failed();
            }
        };
        let detail = wording::in_words(&error);
        let pointer = error.field().map(|field| format!("/{}", Field::name(field)));
        let detail_there = match &error {
            FleetError::Rule { rule, .. } => wording::sentence(rule),
            other => wording::in_words(other),
        };
        let errors = pointer.map(|pointer| Wrong::at(pointer, detail_there));
        let refusal = error.refusal();
        let refusal = refusal.map(|(thing, rule)| Box::new((thing.clone(), rule.cloned())));
        Self { refusal, errors: errors.into_iter().collect(), ..Self::new(status, &word, detail) }
    }
}

fn rule_word(error: &FleetError) -> String {
    match error {
        FleetError::Rule { rule, .. } => rule.word(),
        _ => error.kind().word().to_owned(),
    }
}

/// Why a transaction of the API is undone.
pub(super) enum Refusal {
    Fleet(FleetError),
    Problem(Problem),
}

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        Self::Fleet(error)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// The answers that every operation may give.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        let problem = |description: &str| {
            let content = utoipa::openapi::ContentBuilder::new()
                .schema(Some(utoipa::openapi::Ref::from_schema_name("Problem")))
                .build();
            RefOr::T(
                ResponseBuilder::new()
                    .description(description)
                    .content("application/problem+json", content)
                    .build(),
            )
        };
        [
            ("4XX", "The request was refused; nothing was changed."),
            ("5XX", "The service cannot do it at present; whether a change was made is not known."),
        ]
        .map(|(status, description)| (status.to_owned(), problem(description)))
        .into()
    }
}

/// The schema of problems, which no handler names.
pub(super) fn schemas() -> Vec<(String, RefOr<utoipa::openapi::Schema>)> {
    let mut schemas = vec![("Problem".to_owned(), Document::schema())];
    Document::schemas(&mut schemas);
    schemas
}
