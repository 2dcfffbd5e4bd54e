//! `fleetgate doctor` on EMQX's configuration.

use fleetgate::cli::doctor::{Report, Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::Sources;
use fleetgate::emqx::EmqxApi;
use fleetgate::emqx::setup::{Setup, Target};
use fleetgate::metrics::Metrics;
use fleetgate::secret::Secret;
use serde_json::json;

use crate::support::fake_emqx::FakeEmqx;
use crate::support::fake_emqx_config::{Broker, Caches};

const TOKEN: &str = "0123456789abcdef-token";
const CHECKS: [&str; 8] = [
    "EMQX authenticator",
    "EMQX authorization",
    "EMQX sources",
    "EMQX connector",
    "EMQX action",
    "EMQX rules",
    "EMQX's token",
    "EMQX's limits",
];

/// Only EMQX matters here: there is no database.
async fn report(emqx: &FakeEmqx) -> Report {
    let api = emqx.settings();
    let environment = [
        ("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN),
        ("FLEETGATE_EMQX_API_URL", &api.url),
        ("FLEETGATE_EMQX_API_KEY", &api.key),
        ("FLEETGATE_EMQX_API_SECRET", api.secret.expose()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sources = Sources { file: None, environment: environment.into(), ..Sources::default() };
    let report = examine(&sources, &Clock::System).await;
    assert!(!report.to_string().contains(TOKEN), "{report}");
    report
}

async fn configured() -> FakeEmqx {
    let emqx = FakeEmqx::start().await;
    let api = EmqxApi::new(&emqx.settings(), Metrics::new().unwrap().emqx).unwrap();
    let target = Target::new("http://10.0.0.7:8080", Secret::new(TOKEN.to_owned()));
    let outcome = Setup::new(&api, &target, false).apply().await;
    assert!(outcome.failed.is_none(), "{:?}", outcome.failed);
    emqx.broker(|broker| broker.calls.clear());
    emqx
}

/// The findings of a check: the worst status, and all words.
fn found(report: &Report, check: &str) -> (Status, String) {
    let findings: Vec<_> = report.findings.iter().filter(|found| found.check == check).collect();
    let rank = |status: &Status| match status {
        Status::Ok => 0,
        Status::Skipped => 1,
        Status::Warning => 2,
        Status::Failure => 3,
    };
    let worst = findings.iter().map(|finding| finding.status).max_by_key(rank);
    let words = findings.iter().map(|finding| {
        format!("{} {}", finding.found, finding.remedy.as_deref().unwrap_or_default())
    });
    (worst.unwrap_or_else(|| panic!("no {check} in\n{report}")), words.collect())
}

#[tokio::test]
async fn a_broker_as_it_should_be_is_well_and_not_changed() {
    let emqx = configured().await;
    let report = report(&emqx).await;
    for check in CHECKS {
        assert_eq!(found(&report, check).0, Status::Ok, "{report}");
    }
    assert!(found(&report, "EMQX's token").1.contains("cannot be told"), "{report}");
    assert_eq!(emqx.broker(|broker| broker.calls.len()), 0);
}

#[tokio::test]
async fn a_fresh_broker_lacks_everything() {
    let emqx = FakeEmqx::start().await;
    let report = report(&emqx).await;
    for check in &CHECKS[..6] {
        let (status, words) = found(&report, check);
        assert_eq!(status, Status::Failure, "{report}");
        assert!(words.contains("fleetgate emqx apply --fleetgate-url http://fleetgate:8080"));
    }
    assert!(found(&report, "EMQX sources").1.contains("source file decides"), "{report}");
}

/// Makes it an EMQX 6.2 on which nothing is remembered.
fn caches_off(broker: &mut Broker) -> &mut Caches {
    let caches = broker.caches.insert(Caches::since_6_2());
    caches.logins["node_cache"]["enable"] = json!(false);
    caches.actions["enable"] = json!(false);
    caches
}

#[tokio::test]
async fn a_broker_that_is_configured_by_the_file_is_well() {
    let emqx = configured().await;
    emqx.broker(Broker::made_by_file);
    let report = report(&emqx).await;
    for check in CHECKS {
        assert_eq!(found(&report, check).0, Status::Ok, "{report}");
    }
}

#[tokio::test]
async fn a_broker_of_6_2_that_remembers_nothing_is_well() {
    let emqx = configured().await;
    emqx.broker(|broker| {
        caches_off(broker);
    });
    let report = report(&emqx).await;
    for check in CHECKS {
        assert_eq!(found(&report, check).0, Status::Ok, "{report}");
    }
}

/// A broker that differs: what is done to it, the check that tells, how, and a word of it.
type Fault = (fn(&mut Broker), &'static str, Status, &'static str);

const FAULTS: [Fault; 23] = [
    (
        |b| caches_off(b).logins["node_cache"]["enable"] = json!(true),
        "EMQX authenticator",
        Status::Failure,
        "whose secret was revoked gets in again",
    ),
    (
        |b| caches_off(b).actions["enable"] = json!(true),
        "EMQX authorization",
        Status::Warning,
        "rights that were taken away",
    ),
    (
        |b| b.authenticators[0]["enable"] = json!(false),
        "EMQX authenticator",
        Status::Failure,
        "enable is false",
    ),
    (
        |b| b.authenticators[0]["url"] = json!("http://10.0.0.7:8080/mqtt/auth"),
        "EMQX authenticator",
        Status::Failure,
        "--fleetgate-url http://10.0.0.7:8080 --replace-others",
    ),
    (
        |b| b.authenticators[0]["enable_pipelining"] = json!(100),
        "EMQX authenticator",
        Status::Warning,
        "one request at a time",
    ),
    (
        |b| b.authenticators.insert(0, json!({"id": "jwt", "enable": true})),
        "EMQX authenticator",
        Status::Failure,
        "not the first",
    ),
    (
        |b| b.authenticators.push(json!({"id": "jwt", "enable": true})),
        "EMQX authenticator",
        Status::Warning,
        "authenticator jwt decides whenever",
    ),
    (
        |b| b.authenticator_status["status"] = json!("disconnected"),
        "EMQX authenticator",
        Status::Failure,
        "every client is refused",
    ),
    (
        |b| b.settings["no_match"] = json!("allow"),
        "EMQX authorization",
        Status::Failure,
        "should be \"deny\"",
    ),
    (
        |b| b.settings["cache"]["enable"] = json!(true),
        "EMQX authorization",
        Status::Warning,
        "rights that were taken away",
    ),
    (
        |b| b.sources.push(json!({"type": "file", "enable": true, "rules": "{allow, all}.\n"})),
        "EMQX sources",
        Status::Failure,
        "decides whatever Fleetgate does not",
    ),
    (
        |b| b.sources.push(json!({"type": "file", "enable": true, "rules": "{deny, all}.\n"})),
        "EMQX sources",
        Status::Warning,
        "decides whatever Fleetgate does not",
    ),
    (
        |b| b.connector.as_mut().unwrap()["url"] = json!("http://10.0.0.8:8080"),
        "EMQX connector",
        Status::Failure,
        "should be \"http://10.0.0.7:8080\"",
    ),
    (
        |b| b.action.as_mut().unwrap()["resource_opts"]["request_ttl"] = json!("45s"),
        "EMQX action",
        Status::Warning,
        "events that wait longer are lost",
    ),
    (
        |b| {
            let action = b.action.as_mut().unwrap();
            action["status"] = json!("connecting");
            action["status_reason"] = json!("econnrefused");
        },
        "EMQX action",
        Status::Failure,
        "econnrefused",
    ),
    (
        |b| drop(b.rules.remove("fleetgate_presence")),
        "EMQX rules",
        Status::Failure,
        "no rule for presence",
    ),
    (
        |b| drop(b.rules.remove("fleetgate_commands")),
        "EMQX rules",
        Status::Failure,
        "no rule for commands",
    ),
    (
        |b| b.rules["fleetgate_messages"]["enable"] = json!(false),
        "EMQX rules",
        Status::Failure,
        "enable is false",
    ),
    (
        |b| {
            let settings = json!({
                "enable": true, "max_count": 15, "window_time": "1m", "ban_time": "5m",
            });
            b.zone = Some(json!({"flapping_detect": settings}));
        },
        "EMQX's limits",
        Status::Warning,
        "a stranger locks any device out",
    ),
    (
        |b| b.zone = Some(json!({"flapping_detect": {"by_peerhost": {"max_count": 15}}})),
        "EMQX's limits",
        Status::Warning,
        "by_peerhost",
    ),
    (
        |b| {
            let (by, reason) = ("flapping detector", "flapping is detected");
            b.bans = vec![json!({"as": "clientid", "who": "t\u{1b}", "by": by, "reason": reason})];
        },
        "EMQX's limits",
        Status::Warning,
        "locks out \"t\\u{1b}\"",
    ),
    (
        |b| b.listeners[1]["max_conn_rate"] = json!("100/s"),
        "EMQX's limits",
        Status::Warning,
        "\"tcp:default\" takes 100/s",
    ),
    (
        |b| {
            let (open, limit) = (json!(950), json!(1000));
            b.listeners[1]["status"] =
                json!({"current_connections": open, "max_connections": limit, "running": true});
        },
        "EMQX's limits",
        Status::Warning,
        "950 of 1000",
    ),
];

#[tokio::test]
async fn each_fault_is_told_by_its_check_alone() {
    for (fault, check, status, part) in FAULTS {
        let emqx = configured().await;
        emqx.broker(fault);
        let report = report(&emqx).await;
        let (worst, words) = found(&report, check);
        assert!(worst == status && words.contains(part), "{check}, {part}:\n{report}");
        for other in CHECKS.iter().filter(|other| **other != check) {
            assert_eq!(found(&report, other).0, Status::Ok, "{check}, {part}:\n{report}");
        }
    }
}

#[tokio::test]
async fn limits_that_harm_nobody_are_no_finding() {
    let emqx = configured().await;
    emqx.broker(|broker| {
        broker.zone = Some(json!({"flapping_detect": {"enable": false, "max_count": 15}}));
        broker.bans = vec![json!({"as": "peerhost", "who": "192.0.2.1", "by": "admin"})];
        broker.listeners[0]["max_conn_rate"] = json!("1/s"); // it is not enabled
        broker.listeners[1]["max_conn_rate"] = json!("infinity");
    });
    assert_eq!(found(&report(&emqx).await, "EMQX's limits").0, Status::Ok);
    emqx.broker(|broker| broker.forbidden = Some("listeners"));
    assert_eq!(found(&report(&emqx).await, "EMQX's limits").0, Status::Ok, "the key may not look");
}

#[tokio::test]
async fn counters_tell_of_a_token_that_is_refused() {
    let emqx = configured().await;
    for (taken, refused, status) in
        [(5, 0, Status::Ok), (5, 2, Status::Warning), (0, 2, Status::Failure)]
    {
        emqx.broker(|broker| {
            broker.authenticator_status["metrics"]["success"] = json!(taken);
            broker.action_metrics["metrics"]["failed"] = json!(refused);
        });
        let report = report(&emqx).await;
        let (found, words) = found(&report, "EMQX's token");
        assert_eq!(found, status, "{report}");
        assert_eq!(words.contains("--rotate-token"), refused > 0, "{words}");
    }
}

#[tokio::test]
async fn without_the_api_nothing_of_it_is_checked() {
    let emqx = configured().await;
    emqx.go_away();
    let report = report(&emqx).await;
    for check in CHECKS {
        assert_eq!(found(&report, check).0, Status::Skipped, "{report}");
    }
}
