//! The running replicas: the table `replicas`. Each tells what it has heard of changes, so that a
//! kick-out can be repeated where one may have let the client in again ([`super::kickouts`]).
//!
//! # What it keeps
//! 1. A replica that can load records tells so: its row is written through the same pool, every [`KEEP`]
//!    and whenever LISTEN begins or is lost. A row that is not written any more belongs to a replica that
//!    cannot load either, and so decides by what it has for its bound at most.
//! 2. A graceful stop deletes the row. That of a replica that died counts as one that hears nothing, and
//!    goes after twice its bound and [`FORGOTTEN`]: no kick-out waits for it any more then.
//!
//! # Races
//! - *A replica loads a record before its first row is written*: the first row is written before LISTEN is
//!   tried, as soon as the schema is up to date, which takes milliseconds from when the port is open. A change in
//!   that time is not repeated for it. (Longer only where the schema has to be made first, or the write fails.)
//! - *PostgreSQL was away when it started*: it loads nothing then, and writes no row. Both begin once LISTEN
//!   works, so it hears of what changes in the milliseconds between them; or once it is known to be deaf: then
//!   the row follows within [`KEEP`], and what is loaded until then is asked for again each time.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use futures_util::future::FutureExt;
use tokio_postgres::GenericClient;
use tokio_util::sync::CancellationToken;

use crate::logging::log_throttled;
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::hearing::{Heard, Hearing};
use crate::registry::live::LIVE_CHANNEL;
use crate::registry::pool::Postgres;

/// Time between two writes.
const KEEP: Duration = Duration::from_secs(2);

/// Added to twice a replica's bound before the row of one that died goes.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What is written of a replica.
struct Replica {
    id: String,
    age: Duration,
    heard: Heard,
    bound: Duration,
}

/// Tells what this replica has heard, again and again after it was [told](tell) first, until `stop` is
/// cancelled; then deletes its row.
pub async fn run(
    postgres: Postgres,
    freshness: Arc<Freshness>,
    hearing: Arc<Hearing>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = hearing.changed() => {}
            () = tokio::time::sleep(KEEP) => {}
        }
        tell(&postgres, &freshness, &hearing).await;
    }
    let id = hearing.id().to_owned();
    if let Err(error) = postgres.change(&id, |id, client| forget(client, id).boxed()).await {
        tracing::debug!(%error, "this replica's row is left behind");
    }
}

/// Tells what this replica has heard by now, unless PostgreSQL is away.
pub async fn tell(postgres: &Postgres, freshness: &Freshness, hearing: &Hearing) {
    if freshness.is_away() {
        return;
    }
    let (heard, bound) = (hearing.now(), freshness.bound());
    let replica = Replica { id: hearing.id().to_owned(), age: hearing.age(), heard, bound };
    let written = postgres.change(&replica, |replica, client| write(client, replica).boxed()).await;
    if let Err(error) = written {
        report(&error);
    }
}

fn report(error: &RegistryError) {
    log_throttled!(warn, "what this replica has heard cannot be written; kick-outs are repeated meanwhile", %error);
}

fn on_replicas() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the table of replicas")
}

/// One that died may have committed what it did not tell those who watch the fleet any more ([`super::live`]).
const WRITE: &str = "
    WITH forgotten AS (
        DELETE FROM replicas WHERE noted_at < now() - 2 * bound - $8 * interval '1 second' AND id <> $1
        RETURNING id),
    missed AS (SELECT count(pg_notify($9, 'all')) FROM forgotten)
    INSERT INTO replicas (id, started_at, noted_at, listening, heard_until, gap_from, gap_until, bound)
    SELECT $1, clock_timestamp() - $2 * interval '1 second', clock_timestamp(), $3,
           $4, $5, $6, $7 * interval '1 second'
    FROM missed
    ON CONFLICT (id) DO UPDATE SET
        noted_at = EXCLUDED.noted_at, listening = EXCLUDED.listening, heard_until = EXCLUDED.heard_until,
        gap_from = EXCLUDED.gap_from, gap_until = EXCLUDED.gap_until, bound = EXCLUDED.bound";

async fn write(client: &ClientWrapper, replica: &Replica) -> Result<(), RegistryError> {
    let Heard { until, gap, listening } = replica.heard;
    let (gap_from, gap_until) = gap.map(|gap| (gap.from, gap.until)).unzip();
    let (age, bound) = (replica.age.as_secs_f64(), replica.bound.as_secs_f64());
    let forgotten = FORGOTTEN.as_secs_f64();
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
        &replica.id,
        &age,
        &listening,
        &until,
        &gap_from,
        &gap_until,
        &bound,
        &forgotten,
        &LIVE_CHANNEL,
    ];
    client.execute(WRITE, &values).await.map(drop).map_err(on_replicas())
}

async fn forget(client: &ClientWrapper, id: &str) -> Result<(), RegistryError> {
    let deleted = client.execute("DELETE FROM replicas WHERE id = $1", &[&id]).await;
    deleted.map(drop).map_err(on_replicas())
}

/// A replica that does not hear of changes, as `doctor` tells.
#[derive(Debug)]
pub struct DeafReplica {
    /// Its id.
    pub id: String,
    /// For how many seconds nothing is known to have been heard there.
    pub seconds: f64,
}

/// How many replicas run, and those that have not heard of changes for ten seconds.
///
/// # Errors
/// A database that is away.
pub async fn deaf(client: &impl GenericClient) -> Result<(usize, Vec<DeafReplica>), RegistryError> {
    let rows = client
        .query(
            "SELECT id, extract(epoch FROM clock_timestamp() - coalesce(heard_until, started_at))::float8
             FROM replicas ORDER BY id",
            &[],
        )
        .await
        .map_err(on_replicas())?;
    let replicas = rows.iter().map(|row| DeafReplica { id: row.get(0), seconds: row.get(1) });
    let deaf = replicas.filter(|replica| replica.seconds > 10.0).collect();
    Ok((rows.len(), deaf))
}
