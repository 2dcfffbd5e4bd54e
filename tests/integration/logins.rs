//! `POST /emqx/authn` over a real database.

use std::time::Duration;

use fleetgate::clock::Clock;
use fleetgate::config::Config;
use fleetgate::domain::password_hash::{Cost, hash_password};
use serde_json::{Value, json};

use crate::support::app::{TOKEN, eventually, login_body, start, start_with};
use crate::support::wire::{Connection, post};

#[tokio::test]
async fn every_credential_kind_logs_in_and_refuses_what_is_wrong() {
    let (app, fleet, _database) = start().await;
    fleet.device("sensor").await;
    let secret = fleet.secret("sensor").await;
    fleet.device("chosen").await.password("chosen", "correct horse").await;
    fleet.device("card").await.certificate("card", "card-cn", false).await;
    assert_eq!(app.logs_in("sensor", &secret).await, "allow");
    assert_eq!(app.logs_in("sensor", "wrong").await, "deny");
    assert_eq!(app.logs_in("sensor", "").await, "deny");
    assert_eq!(app.logs_in("chosen", "correct horse").await, "allow");
    assert_eq!(app.logs_in("chosen", "correct horse").await, "allow", "from the digest");
    assert_eq!(app.logs_in("chosen", &secret).await, "deny");
    for (common_name, result) in [("card-cn", "allow"), ("Card-cn", "deny"), ("", "deny")] {
        let body = login_body("card", "card", "", common_name).to_string();
        assert_eq!(app.post("/emqx/authn", &body).await.result(), result, "{common_name:?}");
    }
}

#[tokio::test]
async fn a_client_id_belongs_to_one_device() {
    let (app, fleet, _database) = start().await;
    fleet.device("a").await.device("b").await.client_id("b", "b-client").await;
    fleet.device_of_kind("dash", "service").await;
    let (a, b, dash) =
        (fleet.secret("a").await, fleet.secret("b").await, fleet.secret("dash").await);
    let cases = [
        ("a", "a", &a, "allow"),
        ("b", "a", &a, "deny"),
        ("a:1", "a", &a, "deny"),
        ("b-client", "b", &b, "allow"),
        ("b", "b", &b, "deny"),
        ("dash", "dash", &dash, "allow"),
        ("dash:1", "dash", &dash, "allow"),
        ("dash:", "dash", &dash, "deny"),
        ("dash:#", "dash", &dash, "deny"),
        ("dashboard", "dash", &dash, "deny"),
        ("a", "dash", &dash, "deny"),
    ];
    for (client_id, name, secret, result) in cases {
        let body = login_body(client_id, name, secret, "").to_string();
        assert_eq!(app.post("/emqx/authn", &body).await.result(), result, "{client_id} as {name}");
    }
}

#[tokio::test]
async fn the_answer_carries_attributes_expiry_and_rights() {
    let (app, fleet, _database) = start_with(|config| config.emqx.acl_in_login = true).await;
    fleet.device_of_kind("dash", "service").await;
    let secret = fleet.secret("dash").await;
    fleet.sql("UPDATE device_credentials SET expires_at = '2100-01-01T00:00:00.7Z'", &[]).await;
    fleet.bind("dash", "main", Some("dash/state"), Some("dash/set")).await;
    for filter in ["lab/+/temp", "lab/#", "lab/+", "#", "a/+/#"] {
        fleet.grant("dash", "subscribe", filter).await;
    }
    fleet.grant("dash", "publish", "lab/+/set").await;
    let answer: Value = serde_json::from_str(&app.login("dash", &secret).await.body).unwrap();
    let rule = |action: &str, topic: &str| json!({ "permission": "allow", "action": action, "topic": topic });
    assert_eq!(answer["client_attrs"], json!({ "device": "dash", "kind": "service" }));
    assert_eq!(answer["expire_at"], json!(4_102_444_800_i64));
    let mut rules = answer["acl"].as_array().unwrap().clone();
    rules.sort_by_key(ToString::to_string);
    let mut expected = vec![
        rule("publish", "eq dash/state"),
        rule("publish", "lab/+/set"),
        rule("subscribe", "eq dash/set"),
        rule("subscribe", "lab/+/temp"),
        rule("subscribe", "lab/#"),
        rule("subscribe", "fleetgate/results/dash/#"),
    ];
    expected.sort_by_key(ToString::to_string);
    assert_eq!(rules, expected, "what EMQX would widen stays with the authorizer");
}

#[tokio::test]
async fn no_session_lasts_longer_than_the_longest() {
    let hour = Duration::from_secs(3600);
    let (app, fleet, _database) = start_with(|config| config.emqx.max_session = Some(hour)).await;
    fleet.device("t").await;
    let secret = fleet.secret("t").await;
    let end = async || {
        let answer: Value = serde_json::from_str(&app.login("t", &secret).await.body).unwrap();
        answer["expire_at"].as_i64().unwrap() - Clock::System.now().as_second()
    };
    let left = end().await;
    assert!((3500..=3600).contains(&left), "{left}");
    // An earlier end of the credential prevails.
    let soon = "UPDATE device_credentials SET expires_at = now() + interval '10 minutes'";
    fleet.sql(soon, &[]).await;
    eventually("the credential's end is told", || async { (500..=600).contains(&end().await) })
        .await;
}

#[tokio::test]
async fn refusals_look_the_same_and_are_counted_apart() {
    let (app, fleet, _database) = start().await;
    fleet.device("off").await.device("on").await;
    let secret = fleet.secret("off").await;
    fleet.secret("on").await;
    fleet.enabled("off", false).await;
    let mut answers = Vec::new();
    for (name, password) in [("off", secret.as_str()), ("on", "wrong"), ("nobody", "wrong")] {
        let answer = app.login(name, password).await;
        answers.push((answer.status, answer.body, answer.headers.len()));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    for reason in ["disabled", "wrong_credential", "unknown_device"] {
        let name = format!("fleetgate_refusals_total{{endpoint=\"authn\",reason=\"{reason}\"}}");
        assert_eq!(app.metric(&name).await, 1.0, "{reason}");
    }
}

#[tokio::test]
async fn a_stored_hash_that_cannot_be_used_allows_nothing_and_breaks_nothing() {
    let (app, fleet, _database) = start().await;
    fleet.device("odd").await;
    fleet.hash("odd", "password", "$argon2id$v=19$m=19456,t=2,p=1$A$B").await;
    fleet
        .hash(
            "odd",
            "password",
            "$argon2id$v=19$m=4194304,t=900,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        )
        .await;
    assert_eq!(app.logs_in("odd", "anything").await, "deny");
    fleet.password("odd", "correct horse").await;
    eventually("the good credential counts", || async {
        app.logs_in("odd", "correct horse").await == "allow"
    })
    .await;
}

#[tokio::test]
async fn a_full_hash_queue_sheds_at_once_and_slows_nobody_else() {
    let (app, fleet, _database) = start_with(|config| config.hashing.queue = 2).await;
    fleet.device("chosen").await;
    // Expensive enough to keep the one hash thread busy while the queue fills.
    let hash = hash_password(b"correct horse", &[7; 16], Cost::Chosen);
    fleet.hash("chosen", "password", &hash).await;
    fleet.device("sensor").await;
    let secret = fleet.secret("sensor").await;
    app.logs_in("sensor", &secret).await;
    let storm: Vec<_> = (0..40)
        .map(|n| {
            let (address, body) =
                (app.address, login_body("chosen", "chosen", &format!("wrong {n}"), ""));
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let request = post("/emqx/authn", TOKEN, &body.to_string());
                connection.exchange(&request).await
            })
        })
        .collect();
    let calm = tokio::time::timeout(Duration::from_secs(5), app.logs_in("sensor", &secret)).await;
    assert_eq!(calm.unwrap(), "allow");
    let mut statuses = Vec::new();
    for answer in storm {
        let answer = answer.await.unwrap();
        if answer.status == 503 {
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        statuses.push(answer.status);
    }
    let shed = statuses.iter().filter(|status| **status == 503).count();
    assert!(shed > 0 && statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    let counted = app.metric("fleetgate_hash_shed_total").await;
    assert_eq!(counted, f64::from(u32::try_from(shed).unwrap()));
}

#[tokio::test]
async fn a_client_that_went_away_costs_no_hash() {
    let settings = |config: &mut Config| {
        config.logins.limits = false;
        // A quarter of the places is one name's.
        config.hashing.queue = 4 * 60;
    };
    let (app, fleet, _database) = start_with(settings).await;
    fleet.device("chosen").await.password("chosen", "correct horse").await;
    let mut clients = Vec::new();
    for n in 0..60 {
        let body = login_body("chosen", "chosen", &format!("wrong {n}"), "").to_string();
        let mut client = app.connect().await;
        client.send(&post("/emqx/authn", TOKEN, &body)).await;
        clients.push(client);
    }
    let depth = "fleetgate_hash_queue_depth";
    eventually("many wait", || async { app.metric(depth).await >= 30.0 }).await;
    drop(clients);
    eventually("nobody waits", || async { app.metric(depth).await == 0.0 }).await;
    let hashed = app.metric("fleetgate_hash_duration_seconds_count").await;
    let abandoned = app.metric("fleetgate_hash_abandoned_total").await;
    assert!(abandoned >= 20.0 && hashed + abandoned <= 60.0, "{hashed} hashed, {abandoned} not");
}
