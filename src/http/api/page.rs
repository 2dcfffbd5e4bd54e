//! Pages of long lists.

use base64ct::{Base64UrlUnpadded, Encoding};

use super::Problem;

/// Most entries of a page.
pub(super) const MAX_LIMIT: u16 = 1000;
const DEFAULT_LIMIT: u16 = 100;

/// `after` of the page behind one of `limit` entries at most; `None`: that one is the last. Each entry is behind the one
/// before by its key.
pub(super) fn next<T>(items: &[T], limit: u16, key: impl Fn(&T) -> String) -> Option<String> {
    let last = items.last().filter(|_| items.len() >= usize::from(limit))?;
    Some(Base64UrlUnpadded::encode_string(key(last).as_bytes()))
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
/// It was not made by [`next`].
pub(super) fn after(given: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(given) = given else { return Ok(None) };
    let key = Base64UrlUnpadded::decode_vec(given).ok().and_then(|key| String::from_utf8(key).ok());
    match key.filter(|key| !key.contains('\0')) {
        Some(key) => Ok(Some(key)),
        None => Err(not_next()),
    }
}

/// A page begins with what was not told.
pub(super) fn not_next() -> Problem {
    Problem::query("after must be `next` of the page before")
}
