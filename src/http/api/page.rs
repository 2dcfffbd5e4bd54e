//! Pages of long lists.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;

/// Most entries of a page.
pub(super) const MAX_LIMIT: u16 = 1000;
const DEFAULT_LIMIT: u16 = 100;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The entries.
    pub(super) items: Vec<T>,
    /// `after` of the next page; `null`: this is the last one.
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    /// A page of `limit` entries at most, each of which is after the one before by its key.
    pub(super) fn new(items: Vec<T>, limit: u16, key: impl Fn(&T) -> &str) -> Self {
        let is_full = items.len() >= usize::from(limit);
        let last = items.last().filter(|_| is_full);
        let next = last.map(|last| Base64UrlUnpadded::encode_string(key(last).as_bytes()));
        Self { items, next }
    }
}

/// # Errors
/// A limit that is out of bounds.
pub(super) fn limit(given: Option<u16>) -> Result<u16, Problem> {
    match given {
        None => Ok(DEFAULT_LIMIT),
        Some(limit @ 1..=MAX_LIMIT) => Ok(limit),
        Some(_) => Err(Problem::query(format!("limit must be 1 to {MAX_LIMIT}"))),
    }
}

/// The key after which a page begins.
///
/// # Errors
/// It was not made by [`Page::new`].
pub(super) fn after(given: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(given) = given else { return Ok(None) };
    let key = Base64UrlUnpadded::decode_vec(given).ok().and_then(|key| String::from_utf8(key).ok());
    match key.filter(|key| !key.contains('\0')) {
        Some(key) => Ok(Some(key)),
        None => Err(Problem::query("after must be `next` of the page before")),
    }
}
