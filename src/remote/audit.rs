//! The audit log.

use std::collections::BTreeSet;

use super::{Page, Remote, RemoteError};
use crate::domain::cursor::cursor;
use crate::fleet::audit::{AuditFilter, AuditRow, MAX_PAGE};

/// Lists entries, the newest first, those below `after` if it is given.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn list(
    api: &Remote,
    filter: &AuditFilter,
    after: Option<i64>,
    limit: u16,
) -> Result<Vec<AuditRow>, RemoteError> {
    let page: Page<AuditRow> = api
        .get(&["audit"])
        .with("device", filter.device.as_ref())
        .with("actor", filter.actor.as_ref())
        .with("since", filter.since)
        .with("limit", Some(limit))
        .with("after", after.map(|id| cursor(&id.to_string())))
        .read()
        .await?;
    Ok(page.items)
}

/// Follows the log: looks at its newest page again and again, and tells what is new there. An entry whose transaction is
/// committed when more than [`MAX_PAGE`] newer ones are there is not told.
pub struct Follower {
    filter: AuditFilter,
    /// Of those that may come again: told, or there before.
    told: BTreeSet<i64>,
}

impl Follower {
    /// Follows from now on.
    ///
    /// # Errors
    /// An API that is away, or refuses the token.
    pub async fn from_now(api: &Remote, filter: AuditFilter) -> Result<Self, RemoteError> {
        let there = list(api, &filter, None, MAX_PAGE).await?;
        Ok(Self { filter, told: there.iter().map(|entry| entry.id).collect() })
    }

    /// What is new, oldest first.
    ///
    /// # Errors
    /// An API that is away, or refuses the token.
    pub async fn next(&mut self, api: &Remote) -> Result<Vec<AuditRow>, RemoteError> {
        let (mut new, mut after) = (Vec::new(), None);
        loop {
            let page = list(api, &self.filter, after, MAX_PAGE).await?;
            let is_full = page.len() == usize::from(MAX_PAGE);
            let lowest = page.last().map(|entry| entry.id);
            let before = page.len();
            let unseen: Vec<_> =
                page.into_iter().filter(|entry| !self.told.contains(&entry.id)).collect();
            // A page of nothing else may have more of it behind.
            let goes_on = is_full && unseen.len() == before;
            new.extend(unseen);
            if !goes_on {
                break;
            }
            after = lowest;
        }
        self.told.extend(new.iter().map(|entry: &AuditRow| entry.id));
        while self.told.len() > 2 * usize::from(MAX_PAGE) {
            self.told.pop_first();
        }
        new.reverse();
        Ok(new)
    }
}
