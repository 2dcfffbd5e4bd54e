//! Everybody logs in at once after a cold start: what is known of nobody must be loaded.

use crate::bare;
use crate::plan::{Length, Traffic};
use crate::support::fleetgate::Fleetgate;
use crate::support::registry::connect;
use crate::table::{Bar, Row};
use crate::turns::{POOL, in_turn, load_and_watch};

pub(super) const DEVICES: u32 = 20_000;

/// Fleetgate's connections to PostgreSQL (`database.pool_size`).
const DATABASE_POOL: usize = 8;

const TURNS: usize = 3;

pub(super) async fn cold_start(url: &str) -> Row {
    // PostgreSQL's own memory is warm for both.
    bare::loads(url, DATABASE_POOL, DEVICES).await;
    let database = connect(url).await;
    let compared = in_turn(
        TURNS,
        async |_| {
            let pool = DATABASE_POOL.to_string();
            let service = Fleetgate::start(url, &[("FLEETGATE_DATABASE_POOL_SIZE", &pool)]).await;
            let logins = Traffic::Logins(0..DEVICES);
            load_and_watch(&service, &database, POOL, &logins, Length::Once).await
        },
        async |_| bare::loads(url, DATABASE_POOL, DEVICES).await,
    )
    .await;
    let name = "authn storm, 20,000 devices, nothing cached";
    Row::figure(name, compared.ratio, "of PostgreSQL's loads", Bar::AtLeast(0.5))
        .run(&compared.ours)
        .against("PostgreSQL", &compared.other)
}
