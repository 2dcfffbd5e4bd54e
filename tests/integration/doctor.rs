//! `fleetgate doctor`: finds what is wrong, and nothing where all is well.

use std::time::{Duration, Instant};

use fleetgate::cli::doctor::{LIMIT, Report, Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::Sources;

use crate::secrets::Secrets;
use crate::support::app::{TestApp, config};
use crate::support::bus::connected;
use crate::support::commands::{fleetgate, run};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;
use crate::support::postgres::{SERVING_ROLE, TestDatabase, fresh_database, new_server};

fn sources(url: &str, more: &[(&str, &str)]) -> Sources {
    let needed = [
        ("FLEETGATE_DATABASE_URL", url),
        ("FLEETGATE_DATABASE_CONNECT_TIMEOUT", "1s"),
        ("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef"),
    ];
    let all = needed.iter().chain(more);
    let environment = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Sources { file: None, environment: environment.collect(), ..Sources::default() }
}

async fn report(url: &str, more: &[(&str, &str)]) -> Report {
    examine(&sources(url, more), &Clock::System).await
}

/// How the first finding of a check ended, and its words.
fn found(report: &Report, check: &str) -> (Status, String) {
    let finding = report.findings.iter().find(|finding| finding.check == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check} in\n{report}"));
    (finding.status, format!("{} {}", finding.found, finding.remedy.as_deref().unwrap_or("")))
}

async fn registry() -> (TestDatabase, Fleet) {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    (database, fleet)
}

#[tokio::test]
async fn a_healthy_system_has_nothing_to_say() {
    let (database, fleet) = registry().await;
    fleet.device("a").await.secret("a").await;
    let report = report(&database.url, &[]).await;
    assert!(report.findings.iter().all(|finding| finding.status == Status::Ok), "{report}");
    assert_eq!(report.findings.len(), 29, "{report}");
    assert!(found(&report, "listen and notify").1.contains("arrives after"));
}

#[tokio::test]
async fn the_end_of_the_certificate_of_the_api_is_told() {
    let of_api = async |directory: &Secrets, more: &[(&str, &str)]| {
        let certificate = directory.file("emqx/tls/server.pem").display().to_string();
        let key = directory.file("emqx/tls/server.key").display().to_string();
        let tls = [
            ("FLEETGATE_API_TLS_CERTIFICATE", certificate.as_str()),
            ("FLEETGATE_API_TLS_KEY", &key),
        ];
        found(&report("host=/nowhere", &[&tls, more].concat()).await, "certificate of the API")
    };
    let fresh = Secrets::made();
    let end = fleetgate::tls::end_of(&fresh.file("emqx/tls/server.pem")).unwrap();
    let days = (end - Clock::System.now().as_second()) / 86_400;
    let (status, words) = of_api(&fresh, &[]).await;
    assert_eq!(status, Status::Ok, "{words}");
    assert!(words.contains("for ") && words.contains(" days more"), "{words}");
    for (left, wanted) in [(20, Status::Warning), (2, Status::Failure), (-2, Status::Failure)] {
        let secrets = Secrets::made_days_ago(days - left);
        let (status, words) = of_api(&secrets, &[]).await;
        assert_eq!(status, wanted, "{words}");
        for said in ["server.pem", "secrets init", "api.tls_key"] {
            assert!(words.contains(said), "{words}");
        }
        let (status, words) = of_api(&secrets, &[("FLEETGATE_API_LISTEN", "off")]).await;
        assert_eq!(status, Status::Ok, "{words}");
    }
    std::fs::write(fresh.file("emqx/tls/server.pem"), "nonsense").unwrap();
    let (status, words) = of_api(&fresh, &[]).await;
    assert_eq!(status, Status::Failure, "{words}");
    assert!(words.contains("api.tls_certificate") && words.contains("server.pem"), "{words}");
}

#[tokio::test]
async fn kick_outs_that_wait_are_named() {
    let (database, fleet) = registry().await;
    fleet
        .sql(
            "INSERT INTO work_queue (kind, key, payload, changed_at, attempts, last_error)
             SELECT 'kick_out', key, jsonb_build_object('reason', reason), now() - age::interval, attempts, why
             FROM (VALUES ('just now', 'test', '0', 0, NULL),
                          ('a b', 'grant_removed', '1 hour', 4, 'EMQX is away'),
                          ('c', 'device_disabled', '9 days', 0, NULL)) AS work (key, reason, age, attempts, why)",
            &[],
        )
        .await;
    let (status, words) = found(&report(&database.url, &[]).await, "kick-outs");
    assert_eq!(status, Status::Warning, "{words}");
    for said in
        ["2 clients", "\"a b\" (grant_removed, since 2", "4 attempts: EMQX is away", "\"c\" ("]
    {
        assert!(words.contains(said), "{words}");
    }
    assert!(words.contains("emqx.api_url") && !words.contains("just now"), "{words}");
}

#[tokio::test]
async fn a_replica_that_does_not_hear_of_changes_is_named() {
    let (database, fleet) = registry().await;
    fleet
        .sql(
            "INSERT INTO replicas (id, started_at, listening, heard_until, bound) VALUES
                 ('fine', now(), true, now(), '1 min'),
                 ('cut off', now() - interval '1 h', false, now() - interval '30 s', '1 min')",
            &[],
        )
        .await;
    let (status, words) = found(&report(&database.url, &[]).await, "replicas");
    assert_eq!(status, Status::Warning, "{words}");
    assert!(words.contains("1 of 2") && words.contains("cut off"), "{words}");
}

#[tokio::test]
async fn what_depends_on_an_unreachable_database_is_skipped() {
    let report = report("host=/nowhere user=fleetgate", &[]).await;
    assert_eq!(report.failures(), 1);
    assert_eq!(found(&report, "database").0, Status::Failure);
    for check in ["server version", "clock", "listen and notify", "schema", "stored hashes"] {
        assert_eq!(found(&report, check).0, Status::Skipped, "{check}");
    }
    assert_eq!(found(&report, "webhook token").0, Status::Ok);
}

#[tokio::test]
async fn a_wrong_configuration_is_told_whole() {
    let wrong = [("FLEETGATE_HTTP_LISTEN", "here"), ("FLEETGATE_HTTP_WORKERS", "none")];
    let report = report("host=/nowhere", &wrong).await;
    let failures: Vec<_> =
        report.findings.iter().filter(|finding| finding.status == Status::Failure).collect();
    assert_eq!(failures.len(), 2, "{report}");
    assert_eq!(found(&report, "database").0, Status::Skipped);
}

#[tokio::test]
async fn missing_settings_are_failures() {
    let report = examine(&Sources::default(), &Clock::System).await;
    assert_eq!(found(&report, "webhook token").0, Status::Failure);
    let of_configuration: Vec<_> =
        report.findings.iter().filter(|finding| finding.check == "configuration").collect();
    let [one] = of_configuration.as_slice() else { panic!("it contradicts itself: {report}") };
    assert!(one.found.contains("database.url") && one.status == Status::Failure, "{report}");
    assert!(one.remedy.as_ref().unwrap().contains("FLEETGATE_DATABASE_URL"), "{report}");
    assert_eq!(found(&report, "database").0, Status::Skipped);
}

#[tokio::test]
async fn clocks_apart_are_found() {
    let (database, _fleet) = registry().await;
    for (ahead, expected) in [(40, Status::Failure), (5, Status::Warning)] {
        let clock = Clock::manual(Clock::System.now());
        clock.advance(Duration::from_secs(ahead));
        let report = examine(&sources(&database.url, &[]), &clock).await;
        assert_eq!(found(&report, "clock").0, expected, "{report}");
    }
}

#[tokio::test]
async fn another_schema_is_found() {
    let (database, fleet) = registry().await;
    fleet.sql("UPDATE fleetgate_schema_history SET version = version + 1000", &[]).await;
    let newer = report(&database.url, &[]).await;
    assert!(found(&newer, "schema").1.contains("newer fleetgate"), "{newer}");
    assert_eq!(found(&newer, "privileges").0, Status::Skipped);
    fleet.sql("DELETE FROM fleetgate_schema_history", &[]).await;
    let older = report(&database.url, &[]).await;
    assert!(found(&older, "schema").1.contains("fleetgate migrate"), "{older}");
}

#[tokio::test]
async fn missing_privileges_are_found() {
    let (database, fleet) = registry().await;
    fleet.sql("CREATE ROLE doctor_reader LOGIN", &[]).await;
    let url = database.url.replace(&format!("user={SERVING_ROLE} "), "user=doctor_reader ");
    let nothing = report(&url, &[]).await;
    assert_eq!(found(&nothing, "schema").0, Status::Failure, "{nothing}");
    fleet.sql("GRANT SELECT ON fleetgate_schema_history TO doctor_reader", &[]).await;
    let little = report(&url, &[]).await;
    assert_eq!(found(&little, "privileges").0, Status::Failure, "{little}");
    assert_eq!(found(&little, "stored hashes").0, Status::Skipped);
    fleet.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO doctor_reader", &[]).await;
    let reading = report(&url, &[]).await;
    let (status, words) = found(&reading, "privileges");
    assert!(status == Status::Failure && words.contains("UPDATE on devices"), "{reading}");
    // The remedy is what an owner can type.
    let grants = words.split_once("which says: ").unwrap().1;
    fleet.batch(grants).await;
    let serving = report(&url, &[]).await;
    let (status, words) = found(&serving, "privileges");
    assert_eq!(status, Status::Warning, "{serving}");
    assert!(words.contains("INSERT on devices"), "{words}");
    assert_eq!(found(&serving, "stored hashes").0, Status::Ok);
    // That is enough indeed.
    fleet.device("thermo").await.bind("thermo", "main", Some("t"), None).await;
    let app = TestApp::start(config(&url)).await;
    app.ready().await;
    assert_eq!(app.publishes("thermo", "t").await, "allow");
    assert_eq!(app.event(&connected("thermo", "thermo", 1_000)).await.status, 204);
    assert!(fleet.value::<bool>("SELECT online FROM devices WHERE name = 'thermo'").await);
    let grants = words.split_once("which says: ").unwrap().1;
    fleet.batch(grants).await;
    assert_eq!(found(&report(&url, &[]).await, "privileges").0, Status::Ok);
}

#[tokio::test]
async fn too_small_a_server_is_found() {
    let (database, _fleet) = registry().await;
    let report = report(&database.url, &[("FLEETGATE_DATABASE_POOL_SIZE", "999")]).await;
    assert_eq!(found(&report, "connections").0, Status::Failure, "{report}");
}

#[tokio::test]
async fn credentials_that_need_care_are_counted() {
    let (database, fleet) = registry().await;
    let impossible = "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA";
    fleet.device("broken").await.hash("broken", "secret", impossible).await;
    fleet.device("ending").await.secret("ending").await;
    fleet.sql("UPDATE device_credentials SET expires_at = now() + interval '13 days' WHERE device_id = (SELECT id FROM devices WHERE name = 'ending')", &[]).await;
    fleet.device("bare").await.certificate("bare", "cn", true).await;
    fleet.device("off").await.enabled("off", false).await;
    let report = report(&database.url, &[]).await;
    let (status, words) = found(&report, "stored hashes");
    assert_eq!(status, Status::Failure, "{report}");
    assert!(words.contains("1 of 2") && words.contains("\"broken\""), "{words}");
    let (status, words) = found(&report, "expiring credentials");
    assert!(status == Status::Warning && words.contains("\"ending\""), "{words}");
    let (status, words) = found(&report, "devices without credential");
    assert!(status == Status::Warning && words.starts_with("1 ") && words.contains("\"bare\""));
}

#[tokio::test]
async fn guessing_and_its_limits_are_told() {
    let (database, fleet) = registry().await;
    let locked = |count: i64| {
        format!(
            "INSERT INTO login_locks SELECT 'd' || n, '192.0.2.7', 5, now() + interval '9 minutes'
             FROM generate_series(1, {count}) AS n ON CONFLICT DO NOTHING"
        )
    };
    fleet.sql(&locked(1), &[]).await;
    let shared = "INSERT INTO shared_addresses VALUES ('172.18.0.1', now() + interval '9 minutes')";
    fleet.sql(shared, &[]).await;
    let calm = report(&database.url, &[]).await;
    let (status, words) = found(&calm, "locks of logins");
    assert!(status == Status::Ok && words.contains("d1 from 192.0.2.7"), "{words}");
    let (status, words) = found(&calm, "shared addresses");
    assert!(status == Status::Ok && words.contains("172.18.0.1"), "{words}");
    fleet.sql(&locked(50), &[]).await;
    let more = [("FLEETGATE_HASHING_QUEUE", "64")];
    let report = report(&database.url, &more).await;
    let (status, words) = found(&report, "locks of logins");
    assert!(status == Status::Warning && words.contains("fleetgate lock list"), "{words}");
    let (status, words) = found(&report, "password checks");
    assert!(status == Status::Warning && words.contains("hashing.queue is 64"), "{words}");
    for (queue, expected) in [("8", Status::Ok), ("9", Status::Warning)] {
        let report = self::report(&database.url, &[("FLEETGATE_HASHING_QUEUE", queue)]).await;
        assert_eq!(found(&report, "password checks").0, expected, "{queue}");
    }
}

#[tokio::test]
async fn who_hears_what_is_for_others_is_told() {
    let (database, fleet) = registry().await;
    for device in ["a", "b", "c"] {
        fleet.device(device).await;
        fleet.bind(device, "main", None, Some("all/set")).await;
    }
    fleet.enabled("c", false).await;
    let own = ["fleetgate/results/a/+", "fleetgate/commands/#", "lab/+/x"];
    for filter in own {
        fleet.grant("a", "subscribe", filter).await;
    }
    fleet.grant("b", "publish", "#").await;
    let calm = report(&database.url, &[]).await;
    let (status, words) = found(&calm, "shared command topics");
    assert!(
        status == Status::Ok && words.contains("1 topic with several") && words.contains("all/set"),
        "{words}"
    );
    assert!(found(&calm, "results of commands").1.starts_with("only the service"), "{calm}");
    for filter in ["#", "+/results/+/+", "fleetgate/#", "fleetgate/results/b/x"] {
        fleet.sql("DELETE FROM topic_grants", &[]).await;
        fleet.grant("a", "subscribe", filter).await;
        let report = report(&database.url, &[]).await;
        let (status, words) = found(&report, "results of commands");
        assert!(
            status == Status::Ok && words.contains("1 device may") && words.contains("\"a\""),
            "{filter}: {words}"
        );
    }
    let mut command = fleetgate(&["grant", "add", "b", "subscribe", "fleetgate/#"]);
    command.env("FLEETGATE_DATABASE_URL", &database.url);
    let (status, out, err) = run(command);
    assert!(status == 0 && err.contains("below fleetgate/results/"), "{out}{err}");
}

#[tokio::test]
async fn paused_commands_are_told() {
    let (database, fleet) = registry().await;
    let calm = report(&database.url, &[]).await;
    assert_eq!(found(&calm, "paused commands"), (Status::Ok, "none ".to_owned()));
    let pause =
        "INSERT INTO command_pauses (capability, paused_by) VALUES ('', 'mara'), ('light', 'tom')";
    fleet.sql(pause, &[]).await;
    let paused = report(&database.url, &[]).await;
    let (status, words) = found(&paused, "paused commands");
    assert_eq!(status, Status::Warning);
    assert!(
        words.contains("all since") && words.contains("by mara, of \"light\" since"),
        "{words}"
    );
    assert!(words.contains("command resume"), "{words}");
}

#[tokio::test]
async fn keys_and_rights_are_looked_at() {
    let (database, fleet) = registry().await;
    fleet.device("a").await;
    fleet
        .sql("INSERT INTO device_credentials (device_id, kind, not_before) SELECT id, 'token', now() FROM devices", &[])
        .await;
    let without_keys = report(&database.url, &[]).await;
    assert_eq!(found(&without_keys, "token credentials").0, Status::Warning, "{without_keys}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let more = [
        ("FLEETGATE_TOKENS_VERIFICATION_KEYS", path),
        ("FLEETGATE_TOKENS_SIGNING_KEY", path),
        ("FLEETGATE_EMQX_ACL_IN_LOGIN", "true"),
    ];
    let report = report(&database.url, &more).await;
    assert_eq!(found(&report, "verification keys").0, Status::Failure, "{report}");
    assert_eq!(found(&report, "signing key").0, Status::Warning, "{report}");
    let (status, words) = found(&report, "rights in login");
    assert!(status == Status::Warning && words.contains("until they reconnect"), "{words}");
}

#[tokio::test]
async fn emqx_is_asked_whether_it_takes_the_key() {
    let (database, _fleet) = registry().await;
    let none = report(&database.url, &[]).await;
    assert!(found(&none, "EMQX's REST API").1.contains("keep rights"), "{none}");
    let emqx = FakeEmqx::start().await;
    let api = emqx.settings();
    let more = |secret| {
        [
            ("FLEETGATE_EMQX_API_URL", api.url.as_str()),
            ("FLEETGATE_EMQX_API_KEY", api.key.as_str()),
            ("FLEETGATE_EMQX_API_SECRET", secret),
        ]
    };
    let good = report(&database.url, &more(api.secret.expose())).await;
    assert_eq!(found(&good, "EMQX's REST API").0, Status::Ok, "{good}");
    assert!(found(&good, "rights in login").1.starts_with("on"), "{good}");
    let wrong = report(&database.url, &more("wrong")).await;
    let (status, words) = found(&wrong, "EMQX's REST API");
    assert!(status == Status::Failure && words.contains("emqx.api_secret"), "{words}");
    emqx.go_away();
    let away = report(&database.url, &more(api.secret.expose())).await;
    let (status, words) = found(&away, "EMQX's REST API");
    assert!(status == Status::Failure && words.contains("emqx.api_url"), "{words}");
}

#[tokio::test]
async fn a_frozen_server_does_not_hold_it_up() {
    let mut server = new_server().await;
    server.pause().unwrap();
    let began = Instant::now();
    let report = report(&server.connection_string("postgres"), &[]).await;
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    assert_eq!(found(&report, "database").0, Status::Failure, "{report}");
}

#[tokio::test]
async fn a_locked_table_costs_the_time_of_one_check() {
    let (database, fleet) = registry().await;
    fleet.sql("BEGIN", &[]).await;
    fleet.sql("LOCK TABLE devices", &[]).await;
    let began = Instant::now();
    let report = report(&database.url, &[]).await;
    assert!(began.elapsed() < LIMIT * 2, "{:?}", began.elapsed());
    let (status, words) = found(&report, "stored hashes");
    assert!(status == Status::Failure && words.contains("no answer within 5s"), "{words}");
    assert_eq!(found(&report, "expiring credentials").0, Status::Skipped, "{report}");
}
