//! What means something else to EMQX than it says: refused when it is written, and never sent.

use serde_json::json;

use crate::support::app::{login_body, start_with};
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::fleet::Fleet;
use crate::support::postgres::fresh_database;

#[tokio::test]
async fn names_and_topics_that_emqx_reads_otherwise_are_refused_with_a_word() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await;
    let refused = |arguments: &[&str], word: &str| {
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", &database.url);
        let (code, _, stderr) = run(command);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
    };
    for name in ["undefined", "http_api"] {
        refused(&["device", "add", name, "--kind", "sensor"], "is reserved: EMQX writes");
        let client_id = ["device", "add", "x", "--kind", "sensor", "--client-id", name];
        refused(&client_id, "is reserved: EMQX writes");
    }
    for (topic, word) in [
        ("eq lab", "write the topic without it"),
        ("lab/%u/state", "mosquitto"),
        ("%c", "mosquitto"),
        ("lab/${username}", "placeholder"),
    ] {
        refused(&["grant", "add", "t", "subscribe", topic], word);
        refused(&["grant", "add", "t", "publish", topic], word);
        refused(&["binding", "add", "t", "main", "--state-topic", topic], word);
        refused(&["binding", "add", "t", "main", "--command-topic", topic], word);
        let state = format!("main={topic}");
        refused(&["device", "add", "x", "--kind", "sensor", "--state-topic", &state], word);
    }
    refused(&["grant", "add", "t", "publish", "$delayed/5/lab"], "follows the seconds");
    refused(&["grant", "add", "t", "subscribe", "$share/g/lab"], "the filter that follows it");
}

#[tokio::test]
async fn the_database_refuses_them_as_well() {
    let (_database, client) = Database::migrated().await;
    client.batch_execute("INSERT INTO devices (name, kind) VALUES ('t', 'sensor')").await.unwrap();
    for (statement, constraint) in [
        ("INSERT INTO devices (name, kind) VALUES ('undefined', 'x')", "devices_name_reserved"),
        ("UPDATE devices SET name = 'http_api'", "devices_name_reserved"),
        ("UPDATE devices SET client_id = 'undefined'", "devices_client_id_reserved"),
        (
            "INSERT INTO topic_grants (device_id, action, topic_filter) SELECT id, 'subscribe', 'eq lab/#' FROM devices",
            "topic_grants_topic_filter_form",
        ),
        (
            "INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, 'main', 'a/%c' FROM devices",
            "topic_bindings_state_topic_form",
        ),
    ] {
        let error = client.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().constraint(), Some(constraint), "{statement}");
    }
}

/// Rows that came in past the rules: from an older release, or by a restore without constraints.
#[tokio::test]
async fn what_is_there_all_the_same_grants_nothing() {
    let (app, fleet, _database) = start_with(|config| config.emqx.acl_in_login = true).await;
    fleet.device("t").await;
    let secret = fleet.secret("t").await;
    fleet.sql("ALTER TABLE topic_grants DROP CONSTRAINT topic_grants_topic_filter_form", &[]).await;
    fleet
        .sql(
            "INSERT INTO topic_grants (device_id, action, topic_filter)
             SELECT id, action, filter FROM devices, unnest(ARRAY['publish', 'subscribe']) AS action,
                 unnest(ARRAY['eq lab/#', 'lab/${username}', 'lab/%u', '$delayed/5/lab', '$share/g/lab', 'ok/#']) AS filter",
            &[],
        )
        .await;
    let body = login_body("t", "t", &secret, "").to_string();
    let answer: serde_json::Value =
        serde_json::from_str(&app.post("/emqx/authn", &body).await.body).unwrap();
    let rule = |action| json!({"permission": "allow", "action": action, "topic": "ok/#"});
    assert_eq!(answer["acl"], json!([rule("publish"), rule("subscribe")]));
    for topic in ["lab/#", "eq lab/#", "lab/t", "lab/${username}", "lab/%u", "lab"] {
        assert_eq!(app.action("t", "subscribe", topic).await.result(), "deny", "{topic}");
    }
}
