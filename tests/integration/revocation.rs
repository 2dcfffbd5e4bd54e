//! A right that is gone is gone everywhere within the bound, whatever fails.

use fleetgate::cli::doctor::{Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::Sources;

use crate::support::pgbouncer::Pgbouncer;
use crate::support::postgres::{fresh_database, socket_path};

/// PgBouncer in a pool mode, told to pass over the start-up parameters that Fleetgate sends.
async fn pgbouncer(pool_mode: &str) -> Pgbouncer {
    let settings = [("pool_mode", pool_mode), ("ignore_startup_parameters", "options")];
    Pgbouncer::start(&socket_path().await, &["fleetgate"], &settings).await
}

#[tokio::test]
async fn doctor_finds_a_pooler_that_loses_notices() {
    let database = fresh_database().await;
    for (pool_mode, expected) in [("session", Status::Ok), ("transaction", Status::Failure)] {
        let pooler = pgbouncer(pool_mode).await;
        let environment = [
            ("FLEETGATE_DATABASE_URL", pooler.url(&database.url)),
            ("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let sources = Sources { file: None, environment: environment.into() };
        let report = examine(&sources, &Clock::System).await;
        let finding = report.findings.iter().find(|found| found.check == "listen and notify");
        assert_eq!(finding.map(|finding| finding.status), Some(expected), "{pool_mode}: {report}");
    }
}
