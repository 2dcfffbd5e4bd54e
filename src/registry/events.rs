//! What a batch of events writes, in one statement (`sql/V6__event_batches.sql`).

use deadpool_postgres::ClientWrapper;

use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;
use crate::registry::presence::{Applied, MoveColumns, SessionMove};
use crate::registry::reports::{NewsColumns, NewsItem, Partial, PartialColumns};

/// What a committed batch had in it that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outdated {
    /// Moves of sessions that brought nothing new.
    pub sessions: u64,
    /// Reports that were not newer than what was known.
    pub reports: u64,
}

/// Sessions first: that is the order of locks.
const WRITE: &str = "
    SELECT moved,
        fleetgate_merge_reports($12, $13, $14, $15::text[]::jsonb[], $16, $17, $18)
        + fleetgate_write_news($6, $7, $8, $9::text[]::jsonb[], $10::text[]::jsonb[], $11) AS outdated
    FROM fleetgate_move_sessions($1, $2, $3, $4, $5) AS moved";

/// Writes moves, at most one a client id, news as `merge` gives them, and partial reports in any order. When this returns, they are
/// committed: the statement is a transaction of its own, and its answer ends with PostgreSQL being
/// ready again, which comes after the commit.
///
/// # Errors
/// A client id that is no name, a value that jsonb cannot hold, moments beyond the year 9998, a
/// database that is away. Nothing was written then, unless the connection broke: nobody knows.
pub async fn write(
    client: &ClientWrapper,
    moves: &[&SessionMove],
    news: &[NewsItem<'_>],
    partials: &[(DeviceId, &Partial)],
) -> Result<Outdated, RegistryError> {
    let on_events = || RegistryError::on("a batch of events");
    let (sessions, items) = (MoveColumns::new(moves)?, NewsColumns::new(news)?);
    let merges = PartialColumns::new(partials, &items.device_ids);
    let statement = client.prepare_cached(WRITE).await.map_err(on_events())?;
    let row = client
        .query_one(
            &statement,
            &[
                &sessions.client_ids,
                &sessions.device_ids,
                &sessions.began,
                &sessions.ended,
                &sessions.inferences,
                &items.device_ids,
                &items.seen,
                &items.bindings,
                &items.reports,
                &items.violations,
                &items.turns,
                &merges.locked,
                &merges.device_ids,
                &merges.bindings,
                &merges.patches,
                &merges.stamps,
                &merges.ids,
                &merges.most_bytes,
            ],
        )
        .await
        .map_err(on_events())?;
    let outdated: i64 = row.get("outdated");
    Ok(Outdated {
        sessions: Applied::of(moves.len(), row.get("moved")).ignored,
        reports: u64::try_from(outdated).unwrap_or(0),
    })
}
