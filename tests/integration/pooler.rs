//! A pooler in session mode between Fleetgate and PostgreSQL, as it comes: with no setting of its own.

use fleetgate::cli::doctor::{Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::Sources;
use fleetgate::registry::error::RegistryError;
use fleetgate::registry::pool::Postgres;
use futures_util::future::FutureExt;
use tokio::runtime::Handle;

use crate::support::app::{TestApp, config, eventually};
use crate::support::bus::message;
use crate::support::fleet::Fleet;
use crate::support::pgbouncer::Pgbouncer;
use crate::support::postgres::{OWNER, SERVING_ROLE, fresh_database, socket_path};

#[tokio::test]
async fn behind_a_pooler_in_session_mode_everything_works_and_doctor_says_so() {
    let database = fresh_database().await;
    let pooler = Pgbouncer::start(&socket_path().await, &[OWNER, SERVING_ROLE], &[]).await;
    let url = pooler.url(&database.url);
    let app = TestApp::start(config(&url)).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    let secret = fleet.secret("t").await;
    eventually("it logs in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    let event = message("t", "t/main", 1_795_356_000_000, "0A", "1");
    assert_eq!(app.event(&event).await.status, 204);
    fleet.enabled("t", false).await;
    eventually("changes are heard", || async { app.logs_in("t", &secret).await == "deny" }).await;
    let environment = [
        ("FLEETGATE_DATABASE_URL", url.as_str()),
        ("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sources = Sources { file: None, environment: environment.into(), ..Sources::default() };
    let report = examine(&sources, &Clock::System).await;
    for check in ["database", "listen and notify", "schema"] {
        let finding = report.findings.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(finding.status, Status::Ok, "{report}");
    }
}

#[tokio::test]
async fn look_ups_are_planned_once_behind_a_pooler_as_well() {
    let database = fresh_database().await;
    let pooler = Pgbouncer::start(&socket_path().await, &[SERVING_ROLE], &[]).await;
    let direct = format!("{} options='-c plan_cache_mode=auto'", database.url);
    for (url, mode) in [(pooler.url(&database.url), "force_generic_plan"), (direct, "auto")] {
        let pool = Postgres::new(&config(&url).database, Handle::current()).unwrap();
        let shown = pool.run(|client| {
            async move {
                let row = client.query_one("SHOW plan_cache_mode", &[]).await;
                Ok(row.map_err(RegistryError::on("plans"))?.get::<_, String>(0))
            }
            .boxed()
        });
        assert_eq!(shown.await.unwrap(), mode, "{url}");
    }
}
