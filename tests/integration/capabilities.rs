//! P7: schemas of several files, and capabilities that change while devices have them.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use fleetgate::cli::doctor::{Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::Sources;
use serde_json::{Value, json};

use crate::support::app::{eventually, start};
use crate::support::bus::{message, state};
use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::postgres::fresh_database;

const AT: i64 = 1_795_356_000_000;

fn command(url: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = fleetgate(arguments);
    command.env("FLEETGATE_DATABASE_URL", url);
    run(command)
}

fn write(directory: &Path, name: &str, schema: &Value) -> String {
    let path = directory.join(name);
    std::fs::write(&path, schema.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_several_files_judges_reports_and_can_be_changed_in_use() {
    let (app, fleet, database) = start().await;
    let directory = tempfile::tempdir().unwrap();
    let parts = directory.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    let celsius = json!({"$defs": {"c": {"type": "number", "maximum": 50}}});
    write(&parts, "celsius.json", &celsius);
    write(
        &parts,
        "room.json",
        &json!({"properties": {"t": {"$ref": "celsius.json#/$defs/c"}}, "required": ["t"]}),
    );
    let main = write(directory.path(), "main.json", &json!({"$ref": "parts/room.json"}));
    let parts = parts.display().to_string();
    let url = database.url.as_str();

    let (code, _, error) = command(url, &["capability", "add", "room", "--state-schema", &main]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("parts/room.json") && error.contains("--schema-file"), "{error}");
    let add = ["capability", "add", "room", "--state-schema", &main, "--schema-file", &parts];
    let (code, _, error) = command(url, &add);
    assert_eq!(code, 0, "{error}");

    fleet.device("t").await.bind("t", "room", Some("t/room"), None).await;
    let mut at = AT;
    let mut stored = async |payload: &str| {
        at += 1;
        app.event(&message("t", "t/room", at, "00", payload)).await;
        state(&fleet, "t").await["room"]["at"] == at
    };
    assert!(stored(r#"{"t":20}"#).await);
    assert!(!stored(r#"{"t":60}"#).await);
    assert!(!stored("{}").await);
    let why: String = fleet.value("SELECT last_violation ->> 'message' FROM device_state").await;
    assert!(why.contains("the property \"t\" is missing"), "{why}");

    let other = write(directory.path(), "other.json", &json!({"type": "string"}));
    let set = ["capability", "set", "room", "--state-schema", &other, "--description", "a room"];
    let (code, text, error) = command(url, &set);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("1 device has it"), "{text}");
    let at = AtomicI64::new(at);
    eventually("the new schema is in force", || async {
        let at = at.fetch_add(1, Ordering::Relaxed) + 1;
        app.event(&message("t", "t/room", at, "00", "\"warm\"")).await;
        state(&fleet, "t").await["room"]["at"] == at
    })
    .await;
    let (code, ..) = command(url, &["capability", "set", "room", "--no-state-schema"]);
    assert_eq!(code, 0);
    let row: (Option<Value>, String) = (
        fleet.value("SELECT state_schema FROM capabilities WHERE name = 'room'").await,
        fleet.value("SELECT description FROM capabilities WHERE name = 'room'").await,
    );
    assert_eq!(row, (None, "a room".to_owned()));
    let (code, _, error) = command(url, &["capability", "set", "nothing", "--description", "x"]);
    assert_eq!(code, 3, "{error}");
    assert_eq!(command(url, &["capability", "set", "room"]).0, 2);
}

#[tokio::test]
async fn doctor_names_a_capability_whose_schema_does_not_compile() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let environment = [
        ("FLEETGATE_DATABASE_URL", database.url.as_str()),
        ("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sources = Sources {
        file: None,
        environment: environment.into_iter().collect(),
        ..Sources::default()
    };
    let found = async || {
        let report = examine(&sources, &Clock::System).await;
        let finding = report.findings.iter().find(|one| one.check == "capability schemas");
        let finding = finding.unwrap_or_else(|| panic!("{report}"));
        (finding.status, finding.found.clone())
    };
    fleet.device("t").await.bind("t", "good", Some("t/good"), None).await;
    fleet.sql("UPDATE capabilities SET state_schema = '{\"type\":\"number\"}'", &[]).await;
    assert_eq!(found().await.0, Status::Ok);
    let deep = format!("{}{}", r#"{"not":"#.repeat(200), "{}".to_owned() + &"}".repeat(200));
    for schema in [r#"{"type":"nonsense"}"#, r#"{"$ref":"http://127.0.0.1:9/far.json"}"#, &deep] {
        fleet.sql("UPDATE capabilities SET state_schema = $1::text::jsonb", &[&schema]).await;
        let (status, text) = found().await;
        assert_eq!(status, Status::Failure);
        assert!(text.contains("state schema of \"good\" (1 devices)"), "{text}");
    }
}
