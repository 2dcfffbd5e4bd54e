//! `fleetgate lock`, and how locks travel between replicas.

use serde_json::{Value, json};

use crate::support::app::{TestApp, config, eventually, login_body, start, start_with};
use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, fresh_database};

async fn tries(app: &TestApp, address: &str, name: &str, password: &str) -> String {
    let mut body = login_body(name, name, password, "");
    body["peerhost"] = json!(address);
    app.post("/emqx/authn", &body.to_string()).await.result()
}

fn command(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    let mut command = fleetgate(arguments);
    command.env("FLEETGATE_DATABASE_URL", &database.url);
    run(command)
}

fn listed(database: &TestDatabase, arguments: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) =
        command(database, &[&["--json", "lock", "list"], arguments].concat());
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

async fn rows(fleet: &Fleet) -> i64 {
    fleet.value("SELECT count(*) FROM login_locks").await
}

/// Two replicas over one registry.
async fn replicas() -> (TestApp, TestApp, Fleet, TestDatabase) {
    let (one, fleet, database) = start().await;
    let other = TestApp::start(config(&database.url)).await;
    other.ready().await;
    (one, other, fleet, database)
}

#[tokio::test]
async fn a_lock_is_known_to_every_replica_and_cleared_on_all_at_once() {
    let (one, other, fleet, database) = replicas().await;
    fleet.device("relay").await.password("relay", "correct horse").await;
    one.hears(2.0).await;
    // Long enough to outlast the test.
    fleet
        .sql(
            "INSERT INTO login_locks VALUES ('relay', '192.0.2.66', 5, now() + interval '10 minutes')",
            &[],
        )
        .await;
    let held = "fleetgate_login_locks{kind=\"device_address\"}";
    for app in [&one, &other] {
        eventually("the lock is heard of", || async { app.metric(held).await == 1.0 }).await;
        assert_eq!(tries(app, "192.0.2.66", "relay", "correct horse").await, "deny");
    }
    assert_eq!(tries(&one, "192.0.2.7", "relay", "correct horse").await, "allow", "elsewhere");
    let list = listed(&database, &[]);
    assert_eq!(list.len(), 1);
    assert_eq!((&list[0]["name"], &list[0]["address"]), (&json!("relay"), &json!("192.0.2.66")));
    assert_eq!((&list[0]["failures"], &list[0]["locked"]), (&json!(5), &json!(true)));
    assert!((500..=600).contains(&list[0]["seconds_left"].as_i64().unwrap()));
    assert!(listed(&database, &["--name", "other"]).is_empty());
    assert_eq!(listed(&database, &["--address", "192.0.2.0/24"]).len(), 1);
    let (code, text, _) = command(&database, &["lock", "list"]);
    assert!(code == 0 && text.contains("relay") && text.contains("WRONG PASSWORDS"), "{text}");

    let (code, stdout, stderr) = command(&database, &["lock", "clear", "--name", "relay"]);
    assert_eq!((code, stdout.trim()), (0, "1 lock is cleared."), "{stderr}");
    for app in [&one, &other] {
        let open = || async { tries(app, "192.0.2.66", "relay", "correct horse").await == "allow" };
        eventually("it is cleared", open).await;
    }
    assert_eq!(rows(&fleet).await, 0);
}

#[tokio::test]
async fn wrong_passwords_become_a_row_and_a_right_one_ends_it() {
    let (one, other, fleet, database) = replicas().await;
    fleet.device("relay").await.password("relay", "correct horse").await;
    one.hears(2.0).await;
    other.hears(2.0).await;
    assert_eq!(tries(&one, "2001:db8::66", "relay", "wrong").await, "deny");
    eventually("it is a row", || async { rows(&fleet).await == 1 }).await;
    let list = listed(&database, &["--address", "2001:db8::1"]);
    assert_eq!((&list[0]["name"], &list[0]["address"]), (&json!("relay"), &json!("2001:db8::/64")));
    // A name that nobody has is a row as well, if it looks like a chosen password.
    for n in 0..12 {
        tries(&one, "192.0.2.9", &format!("made-up-{n}"), "wrong").await;
    }
    eventually("made-up names too", || async { rows(&fleet).await > 1 }).await;
    let open = || async { tries(&other, "2001:db8::1", "relay", "correct horse").await == "allow" };
    eventually("the wait is over", open).await;
    let gone = || async { listed(&database, &["--name", "relay"]).is_empty() };
    eventually("a right password ends it", gone).await;
    let (code, stdout, _) = command(&database, &["lock", "clear", "--all", "--json"]);
    assert_eq!(code, 0);
    assert!(serde_json::from_str::<Value>(&stdout).unwrap()["cleared"].is_u64(), "{stdout}");
    assert_eq!(rows(&fleet).await, 0);
}

#[tokio::test]
async fn locks_are_read_at_the_start_and_rows_that_are_over_go() {
    let (app, fleet, database) = start().await;
    fleet.device("relay").await.password("relay", "correct horse").await;
    app.stop().unwrap();
    fleet
        .sql(
            "INSERT INTO login_locks VALUES
                ('relay', '192.0.2.66', 9, now() + interval '100 years'),
                ('gone', '192.0.2.66', 9, now() - interval '16 minutes')",
            &[],
        )
        .await;
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let held = "fleetgate_login_locks{kind=\"device_address\"}";
    eventually("it is read", || async { app.metric(held).await == 1.0 }).await;
    assert_eq!(tries(&app, "192.0.2.66", "relay", "correct horse").await, "deny");
    eventually("the other is deleted", || async { rows(&fleet).await == 1 }).await;
    fleet.sql("TRUNCATE login_locks", &[]).await;
    let open = || async { tries(&app, "192.0.2.66", "relay", "correct horse").await == "allow" };
    eventually("psql clears as well", open).await;
}

#[tokio::test]
async fn an_address_that_many_devices_share_is_told_and_read_again() {
    let (app, fleet, database) = start().await;
    for n in 0..21 {
        let name = format!("d{n}");
        fleet.device(&name).await;
        let secret = fleet.secret(&name).await;
        assert_eq!(tries(&app, "192.0.2.1", &name, &secret).await, "allow");
    }
    let shared =
        || async { fleet.value::<i64>("SELECT count(*) FROM shared_addresses").await == 1 };
    eventually("it is a row", shared).await;
    app.stop().unwrap();
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let metric = "fleetgate_login_shared_addresses";
    eventually("it is read", || async { app.metric(metric).await == 1.0 }).await;
}

#[tokio::test]
async fn what_to_clear_has_to_be_said() {
    let database = fresh_database().await;
    for arguments in [
        &["lock", "clear"][..],
        &["lock", "clear", "--all", "--name", "x"],
        &["lock", "clear", "--address", "nowhere"],
        &["lock", "clear", "--name", "a/b"],
    ] {
        assert_eq!(command(&database, arguments).0, 2, "{arguments:?}");
    }
    let (code, stdout, _) = command(&database, &["lock", "clear", "--name", "nobody"]);
    assert!(code == 0 && stdout.contains("No lock"), "{stdout}");
}

#[tokio::test]
async fn without_limits_rows_lock_nobody() {
    let (app, fleet, _database) = start_with(|config| config.logins.limits = false).await;
    fleet.device("relay").await.password("relay", "correct horse").await;
    let row =
        "INSERT INTO login_locks VALUES ('relay', '192.0.2.66', 5, now() + interval '9 minutes')";
    fleet.sql(row, &[]).await;
    app.hears(2.0).await;
    assert_eq!(tries(&app, "192.0.2.66", "relay", "correct horse").await, "allow");
}
