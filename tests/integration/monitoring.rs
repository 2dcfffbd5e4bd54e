//! Alerts, recording rules and the dashboard read what a running service exports.
//!
//! Whether the alerts fire when they should is promtool's to tell: `make monitoring-check`.

mod promql;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use self::promql::{Expression, Selector, read};
use crate::secrets::Secrets;
use crate::support::app::{TestApp, eventually, start_with};
use crate::support::bus::{connected, disconnected, message};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;

/// What EMQX 5.8 and 6 export at /api/v5/prometheus/stats, as far as it is used here. There is no EMQX
/// to ask in a test.
const OF_EMQX: [&str; 8] = [
    "emqx_cert_expiry_at",
    "emqx_delivery_dropped",
    "emqx_live_connections_count",
    "emqx_messages_dropped",
    "emqx_messages_dropped_no_subscribers",
    "emqx_messages_received",
    "emqx_messages_sent",
    "emqx_packets_connect",
];
/// What Prometheus makes itself.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
/// Labels that Prometheus or EMQX gives.
const FOREIGN_LABELS: [&str; 7] =
    ["job", "instance", "alertname", "alertstate", "severity", "listener_type", "listener_name"];

fn docker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

fn text(path: &str) -> String {
    let path = docker().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn alerts() -> String {
    text("prometheus/rules/fleetgate.alerts.yml")
}

fn recordings() -> String {
    text("prometheus/rules/fleetgate.rules.yml")
}

fn dashboard() -> Value {
    serde_json::from_str(&text("grafana/dashboards/fleetgate.json")).unwrap()
}

/// Every panel but the rows' titles.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// The expressions of a rule file. It is read by its indentation; as many have to come out as there
/// are rules.
fn rule_expressions(rules: &str) -> Vec<String> {
    let mut expressions = Vec::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim_start().strip_prefix("expr: ") else { continue };
        let mut expression = expression.trim_start_matches('|').to_owned();
        let depth = indentation(line);
        while let Some(more) = lines.next_if(|next| indentation(next) > depth) {
            expression = format!("{expression} {}", more.trim());
        }
        expressions.push(expression);
    }
    let rules = names(rules, "- alert: ").len() + names(rules, "- record: ").len();
    assert_eq!(expressions.len(), rules);
    expressions
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn names<'a>(rules: &'a str, key: &str) -> BTreeSet<&'a str> {
    rules.lines().filter_map(|line| line.trim_start().strip_prefix(key)).collect()
}

fn panel_expressions(dashboard: &Value) -> Vec<String> {
    panels(dashboard)
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// Has every counter with labels counted something.
async fn live(app: &TestApp, fleet: &Fleet, emqx: &FakeEmqx) {
    fleet.device("t").await.bind("t", "main", Some("t/state"), None).await;
    let secret = fleet.secret("t").await;
    eventually("the login is allowed", || async { app.logs_in("t", &secret).await == "allow" })
        .await;
    assert_eq!(app.logs_in("t", "wrong").await, "deny");
    assert_eq!(app.publishes("t", "elsewhere").await, "deny");
    assert_eq!(app.event(&connected("t", "t", 2_000)).await.status, 204);
    assert_eq!(app.event(&message("t", "t/state", 2_000, "1", "1")).await.status, 204);
    let late = disconnected("t", "t", 1_000, 1_500, "tcp_closed");
    assert_eq!(app.event(&late).await.status, 204);
    assert_eq!(app.event(&json!({"event": "client.connected"})).await.status, 400);
    emqx.connect("t", "t", 2_000);
    fleet.enabled("t", false).await;
    emqx.deleted("t").await;
}

#[tokio::test]
async fn what_rules_and_panels_read_is_exported() {
    let emqx = FakeEmqx::start().await;
    let settings = emqx.settings();
    let secrets = Secrets::made();
    let (app, fleet, _database) = start_with(|config| {
        config.emqx.api = Some(settings);
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        config.api.tls_certificate = Some(secrets.file("emqx/tls/server.pem"));
        config.api.tls_key = Some(secrets.file("emqx/tls/server.key"));
    })
    .await;
    live(&app, &fleet, &emqx).await;
    let swept =
        || async { app.metric("fleetgate_sweep_last_success_timestamp_seconds").await > 0.0 };
    eventually("the first sweep is over", swept).await;
    let scraped = app.get("/metrics").await.body;
    promtool_reads(&scraped);
    let exported: Vec<Selector> = scraped
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| read(line.rsplit_once(' ').unwrap().0).selectors)
        .collect();
    let (alerts, recordings, dashboard) = (alerts(), recordings(), dashboard());
    let recorded = names(&recordings, "- record: ");
    let mut read_expressions = 0;
    for text in
        [rule_expressions(&alerts), rule_expressions(&recordings), panel_expressions(&dashboard)]
            .iter()
            .flatten()
    {
        check(text, &read(text), &exported, &recorded);
        read_expressions += 1;
    }
    assert!(read_expressions > 80, "{read_expressions}");
}

/// Without promtool nothing is checked, which may not pass silently; where nothing may be skipped it fails.
#[allow(clippy::explicit_write, reason = "the test harness keeps what eprintln! writes to itself")]
fn skipped(error: &std::io::Error) {
    let skipped = format!("SKIPPED: promtool ({error}); docker/install-checkers.sh installs it");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{skipped}");
    writeln!(std::io::stderr(), "{skipped}").unwrap();
}

/// Names, units and help texts as Prometheus asks for them.
fn promtool_reads(scraped: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = match command.spawn() {
        Ok(promtool) => promtool,
        Err(error) => return skipped(&error),
    };
    promtool.stdin.take().unwrap().write_all(scraped.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn check(text: &str, expression: &Expression, exported: &[Selector], recorded: &BTreeSet<&str>) {
    assert!(!expression.selectors.is_empty(), "reads nothing: {text}");
    for selector in &expression.selectors {
        let name = selector.metric.as_str();
        if OF_EMQX.contains(&name) || OF_PROMETHEUS.contains(&name) {
            continue;
        }
        if name.contains(':') {
            assert!(recorded.contains(name), "nobody records {name}: {text}");
            // The label values of requests are what is recorded under another name.
            check_values(text, selector, exported.iter());
            continue;
        }
        let mut same = exported.iter().filter(|other| other.metric == name).peekable();
        assert!(same.peek().is_some(), "{name} is not exported: {text}");
        check_values(text, selector, same);
    }
    for label in &expression.grouping {
        let known = label == "le"
            || FOREIGN_LABELS.contains(&label.as_str())
            || exported.iter().any(|series| series.value_of(label).is_some());
        assert!(known, "no label {label}: {text}");
    }
}

/// Every value that a label is compared with is one that it has.
fn check_values<'a>(text: &str, selector: &Selector, exported: impl Iterator<Item = &'a Selector>) {
    let exported: Vec<&Selector> = exported.collect();
    for (label, values) in &selector.labels {
        if FOREIGN_LABELS.contains(&label.as_str()) {
            continue;
        }
        for value in values.split('|') {
            let known = exported.iter().any(|series| series.value_of(label) == Some(value));
            assert!(known, "no {label} is {value}: {text}");
        }
    }
}

#[test]
fn every_alert_says_what_to_do_and_has_a_test() {
    let alerts = alerts();
    let tests: String = std::fs::read_dir(docker().join("prometheus/tests"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let blocks: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert_eq!(blocks.len(), names(&alerts, "- alert: ").len(), "two alerts share a name");
    for block in blocks {
        let name = block.lines().next().unwrap();
        for needed in ["summary: ", "description: ", "runbook: "] {
            assert!(block.contains(needed), "{name} has no {needed}");
        }
        let severity = ["critical", "warning"]
            .into_iter()
            .find(|severity| block.contains(&format!("labels: {{ severity: {severity} }}")))
            .unwrap_or_else(|| panic!("{name} has no severity"));
        let fires = format!("'{{alertname=\"{name}\", severity=\"{severity}\"}}'");
        assert!(tests.contains(&fires), "no test has {name} fire");
    }
}

#[test]
fn every_panel_has_a_title_a_unit_and_the_chosen_data_source() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for place in targets.iter().chain([panel]) {
            assert_eq!(place["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    assert!(ids.len() > 30, "{}", ids.len());
}

#[test]
fn panels_lie_side_by_side() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let side = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn grafana_finds_prometheus_and_the_dashboard() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let chosen = variables[0]["current"]["value"].as_str().unwrap();
    let datasource = text("grafana/provisioning/datasources/prometheus.yml");
    assert!(datasource.contains(&format!("uid: {chosen}\n")), "{chosen}");
    assert!(datasource.contains("url: http://prometheus:9090\n"));
    let provider = text("grafana/provisioning/dashboards/fleetgate.yml");
    assert!(provider.contains("path: /etc/grafana/dashboards\n"));
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    match Command::new("promtool").arg("--version").output() {
        Ok(version) => assert!(version.status.success()),
        Err(error) => return skipped(&error),
    }
    let prometheus = docker().join("prometheus");
    let tests: Vec<PathBuf> = std::fs::read_dir(prometheus.join("tests"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let mut check = Command::new("promtool");
    check.args(["check", "config"]).arg(prometheus.join("prometheus.yml"));
    let mut test = Command::new("promtool");
    test.args(["test", "rules"]).args(tests);
    for mut command in [check, test] {
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
}
