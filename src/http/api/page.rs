//! Pages of long lists.

use super::Problem;
use crate::domain::cursor::{self, cursor};

/// Most entries of a page.
pub(super) const MAX_LIMIT: u16 = 1000;
const DEFAULT_LIMIT: u16 = 100;

/// `after` of the page behind one of `limit` entries at most; `None`: that one is the last. Each entry is behind the one
/// before by its key.
pub(super) fn next<T>(items: &[T], limit: u16, key: impl Fn(&T) -> String) -> Option<String> {
    let last = items.last().filter(|_| items.len() >= usize::from(limit))?;
    Some(cursor(&key(last)))
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
    cursor::key(given).map(Some).ok_or_else(not_next)
}

/// A page begins with what was not told.
pub(super) fn not_next() -> Problem {
    Problem::query("after must be `next` of the page before")
}
