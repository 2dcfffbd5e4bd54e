//! What requests say: bodies and queries, read within bounds, wrong ones told where they are wrong.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{BytesMut, Query};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;
use futures_util::future::{Ready, ready};
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::Problem;
use super::problem::Wrong;
use crate::domain::json_object::Object;
use crate::domain::json_pointer;
use crate::http::connections::ActiveRequest;

/// Largest body in bytes.
const MAX_BODY_BYTES: usize = 512 * 1024;
/// Longest time between the head of a request and the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A body of JSON that is what it should be.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest for Body<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let bytes = receive(&request, payload, &[JSON]).await?;
            let Object(body) = parse(&mut serde_json::Deserializer::from_slice(&bytes))?;
            Ok(Self(body))
        })
    }
}

/// A change: members, and what is to become of them.
pub(super) enum Patch {
    /// A JSON merge patch (RFC 7396): objects are merged, member by member, and no `null` is left in them.
    Merge(Value),
    /// Each member takes the place of what is there as a whole; `null` takes that away.
    Members(Map<String, Value>),
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

impl FromRequest for Patch {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let bytes = receive(&request, payload, &[MERGE_PATCH, JSON]).await?;
            let patch: Value = parse(&mut serde_json::Deserializer::from_slice(&bytes))?;
            match patch {
                Value::Object(members) if media_type(&request).eq_ignore_ascii_case(JSON) => {
                    Ok(Self::Members(members))
                }
                Value::Object(_) => Ok(Self::Merge(patch)),
                _ => Err(wrong("", "must be a JSON object")),
            }
        })
    }
}

impl Patch {
    /// Whether it names this member.
    pub(super) fn names(&self, member: &str) -> bool {
        match self {
            Self::Merge(patch) => patch.get(member).is_some(),
            Self::Members(members) => members.contains_key(member),
        }
    }

    /// What it makes of a document.
    ///
    /// # Errors
    /// The result is not what it should be.
    pub(super) fn apply<T: DeserializeOwned>(self, document: Value) -> Result<T, Problem> {
        let mut document = document;
        match self {
            Self::Merge(patch) => merge(&mut document, patch),
            Self::Members(members) => {
                let present = document.as_object_mut().ok_or_else(Problem::failed)?;
                present.extend(members);
                present.retain(|_, value| !value.is_null());
            }
        }
        read(document)
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Some(members) = target.as_object_mut() {
        for (name, value) in patch {
            match value {
                Value::Null => drop(members.remove(&name)),
                value => merge(members.entry(name).or_insert(Value::Null), value),
            }
        }
    }
}

/// Reads what is JSON already.
fn read<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    at_place(serde_path_to_error::deserialize(value))
}

fn parse<'de, T, R>(deserializer: &mut serde_json::Deserializer<R>) -> Result<T, Problem>
where
    T: DeserializeOwned,
    R: serde_json::de::Read<'de>,
    for<'a> &'a mut serde_json::Deserializer<R>: Deserializer<'de, Error = serde_json::Error>,
{
    let parsed = at_place(serde_path_to_error::deserialize(&mut *deserializer))?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(parsed)
}

fn at_place<T>(
    parsed: Result<T, serde_path_to_error::Error<serde_json::Error>>,
) -> Result<T, Problem> {
    parsed.map_err(|error| {
        let pointer = json_pointer::of_path(error.path());
        let error = error.into_inner();
        if !error.is_data() {
            return not_json(&error);
        }
        let text = error.to_string();
        let detail = text.split(" at line ").next().unwrap_or_default().to_owned();
        wrong(pointer, detail)
    })
}

fn not_json(error: &serde_json::Error) -> Problem {
    let detail = format!("the body is not JSON: {error}");
    Problem::new(StatusCode::BAD_REQUEST, "not_json", detail)
}

/// One member is wrong, or the body as a whole.
pub(super) fn wrong(pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
    Problem::wrong(vec![Wrong::at(pointer, detail)])
}

/// Reads the only member that is checked here.
///
/// # Errors
/// It is wrong.
pub(super) fn one<T: FromStr<Err: Display>>(pointer: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|why: T::Err| wrong(pointer, why.to_string()))
}

/// What a body says that it is.
fn media_type(request: &HttpRequest) -> &str {
    let given = request.headers().get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    given.and_then(|given| given.split(';').next()).unwrap_or_default().trim()
}

/// Reads a body of one of these types to its end.
async fn receive(
    request: &HttpRequest,
    mut payload: Payload,
    media_types: &[&str],
) -> Result<BytesMut, Problem> {
    require_media_type(request, media_types)?;
    let active = ActiveRequest::begin(request);
    let reading = async {
        let mut body = BytesMut::new();
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|error| broken_off(&error))?;
            if body.len() + piece.len() > MAX_BODY_BYTES {
                return Err(too_large(MAX_BODY_BYTES));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    };
    match timeout(BODY_TIMEOUT, reading).await {
        Ok(body) => {
            active.body_complete();
            body
        }
        Err(_) => Err(late("the body did not arrive within 5 s")),
    }
}

/// # Errors
/// 415: the body is something else.
pub(super) fn require_media_type(
    request: &HttpRequest,
    media_types: &[&str],
) -> Result<(), Problem> {
    let given = media_type(request);
    if media_types.iter().any(|known| given.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    let detail = format!("the body must be {}; say so in Content-Type", media_types.join(" or "));
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail))
}

pub(super) fn broken_off(error: &PayloadError) -> Problem {
    let detail = format!("the body broke off: {error}");
    Problem::new(StatusCode::BAD_REQUEST, "broken_off", detail)
}

pub(super) fn too_large(most: usize) -> Problem {
    let detail = format!("the body is larger than {most} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
}

pub(super) fn late(detail: &str) -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "late", detail)
}

/// The parameters behind `?`.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest for Parameters<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let read = Query::<T>::from_query(request.query_string());
        ready(match read {
            Ok(query) => Ok(Self(query.into_inner())),
            Err(error) => Err(Problem::query(format!("the query is not understood: {error}"))),
        })
    }
}

/// Reads a parameter behind `?`, if it is given.
///
/// # Errors
/// It is wrong.
pub(super) fn query_value<T: FromStr<Err: Display>>(
    name: &str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    let value = text.map(str::parse).transpose();
    value.map_err(|why: T::Err| Problem::query(format!("{name} {why}")))
}

/// Reads members as the types that hold only what is valid, and notes all that are wrong.
#[derive(Default)]
pub(super) struct Checks {
    wrong: Vec<Wrong>,
    /// What is wrong besides.
    more: usize,
}

/// Most members of a body that are told to be wrong: a body has room for very many.
const MOST_WRONG: usize = 100;

impl Checks {
    /// A member that must be there.
    pub(super) fn value<T: FromStr<Err: Display>>(
        &mut self,
        pointer: &str,
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(why) => {
                self.add(pointer, why.to_string());
                None
            }
        }
    }

    /// A member that may be missing.
    pub(super) fn optional<T: FromStr<Err: Display>>(
        &mut self,
        pointer: &str,
        text: Option<&str>,
    ) -> Option<T> {
        text.and_then(|text| self.value(pointer, text))
    }

    pub(super) fn add(&mut self, pointer: &str, detail: impl Into<String>) {
        match self.wrong.len() < MOST_WRONG {
            true => self.wrong.push(Wrong::at(pointer, detail)),
            false => self.more += 1,
        }
    }

    /// # Errors
    /// All that was noted, if anything was.
    pub(super) fn end(self) -> Result<(), Problem> {
        let Self { mut wrong, more } = self;
        if more > 0 {
            wrong.push(Wrong::at("", format!("and {more} more members are wrong")));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Problem::wrong(wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patches_are_those_of_the_rfc() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, result) in cases {
            merge(&mut target, patch);
            assert_eq!(target, result);
        }
    }
}
