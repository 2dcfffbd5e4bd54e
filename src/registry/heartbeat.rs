//! A heartbeat of the [listener](super::changes): what its answer contains, and whether PostgreSQL is there
//! although it does not come back.
//!
//! # Design
//! When a heartbeat times out, the listener has to know whether PostgreSQL is there. So a fresh session asks
//! while the heartbeat is late: the answer costs no time beyond the time-out.

use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tokio_postgres::SimpleQueryMessage;

use crate::registry::connection::Target;

/// The part of the time-out after which a heartbeat is late.
const LATE: u32 = 4;

/// Waits for `echo`, `limit` at most (`None`: it did not come), and asks meanwhile whether PostgreSQL is
/// there.
pub(super) async fn or_else_asked<T>(
    asking: &Target,
    echo: impl Future<Output = T>,
    limit: Duration,
) -> (Option<T>, bool) {
    let mut echo = pin!(timeout(limit, echo));
    let late = limit / LATE;
    let asked = async {
        sleep(late).await;
        answers(asking, limit - late).await
    };
    tokio::select! {
        biased;
        echoed = &mut echo => (echoed.ok(), false),
        is_there = asked => (echo.await.ok(), is_there),
    }
}

/// Whether PostgreSQL takes a connection and answers on it within `limit`.
pub(super) async fn answers(asking: &Target, limit: Duration) -> bool {
    let asked = async {
        let session = asking.open_guarded().await.ok()?;
        session.simple_query("SELECT 1").await.ok()
    };
    matches!(timeout(limit, asked).await, Ok(Some(_)))
}

/// Whether the session may not write, as a heartbeat's answer says.
pub(super) fn is_read_only(answer: &[SimpleQueryMessage]) -> bool {
    answer
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(1) == Some("t")))
}

/// The time by PostgreSQL's clock, which a heartbeat's answer has in microseconds.
pub(super) fn database_time(answer: &[SimpleQueryMessage]) -> Option<Timestamp> {
    let micros = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Timestamp::from_microsecond(micros?).ok()
}
