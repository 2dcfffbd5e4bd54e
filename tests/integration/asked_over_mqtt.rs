//! Services ask for commands over MQTT, and hear what became of them.

use std::time::Duration;

use fleetgate::domain::rights::Rights;
use serde_json::{Value, json};

use crate::commands::{Bench, name};
use crate::support::app::eventually;
use crate::support::bus::{message, now};
use crate::support::fake_emqx::Mood;

const TOPIC: &str = "fleetgate/commands/switch";

/// A bench with a service `panel` that may ask for commands of `switch`, and listens to its results.
async fn start() -> Bench {
    let bench = Bench::start().await;
    bench.fleet.device_of_kind("panel", "service").await;
    bench.fleet.grant("panel", "publish", TOPIC).await;
    eventually("the grant is heard", || async {
        bench.app.publishes("panel", TOPIC).await == "allow"
    })
    .await;
    listens(&bench);
    bench
}

fn listens(bench: &Bench) {
    bench.emqx.connect("panel", "panel", now());
    bench.emqx.subscribe("panel", "fleetgate/results/panel/+", 1);
}

async fn asks_at(bench: &Bench, payload: &str, id: &str, at: i64) {
    let event = message("panel", TOPIC, at, id, payload);
    assert_eq!(bench.app.event(&event).await.status, 204, "{event}");
}

async fn asks(bench: &Bench, payload: &Value, id: &str) {
    asks_at(bench, &payload.to_string(), id, now()).await;
}

/// The results so far, by the request's id, in their order.
fn results(bench: &Bench) -> Vec<(String, Value)> {
    let messages = bench.emqx.all_published().into_iter();
    messages
        .filter_map(|message| {
            let request = message.topic.strip_prefix("fleetgate/results/panel/")?.to_owned();
            Some((request, serde_json::from_str(&message.payload).unwrap()))
        })
        .collect()
}

/// The last result of a request that is in this state; waits for it.
async fn result(bench: &Bench, request: &str, state: &str) -> Value {
    let found = || {
        let is_it = |(id, result): &(String, Value)| id == request && result["state"] == state;
        results(bench).into_iter().rev().find(is_it).map(|(_, result)| result)
    };
    eventually(&format!("{request} is {state}: {:?}", results(bench)), || async {
        found().is_some()
    })
    .await;
    found().unwrap()
}

async fn commands(bench: &Bench) -> i64 {
    bench.fleet.value("SELECT count(*) FROM commands").await
}

/// The first command that went down to the device; waits for it.
async fn sent(bench: &Bench) -> (String, String) {
    let find =
        || bench.emqx.all_published().into_iter().find(|message| message.topic == "relay/set");
    eventually("a command went down", || async { find().is_some() }).await;
    let message = find().unwrap();
    (message.payload, message.correlation)
}

#[tokio::test]
async fn a_service_asks_and_hears_what_became_of_it() {
    let bench = start().await;
    bench.online_and_subscribed().await;
    let request =
        json!({"value": {"secret": 1}, "device": "relay", "id": "r-1", "expires_in": "5m"});
    asks(&bench, &request, "0A").await;
    let accepted = result(&bench, "r-1", "accepted").await;
    assert_eq!((&accepted["devices"], &accepted["id"]), (&json!(1), &json!("r-1")));
    let (payload, delivery) = sent(&bench).await;
    assert_eq!(payload, r#"{"secret":1}"#);
    bench.acks(&delivery).await;
    let ended = result(&bench, "r-1", "ended").await;
    let expected = json!({"state": "ended", "id": "r-1", "command": accepted["command"], "devices": 1,
        "succeeded": 1, "failed": {}});
    assert_eq!(ended, expected);
    let told = results(&bench);
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(_, result)| !result.to_string().contains("secret")), "{told:?}");
    let asked =
        bench.fleet.value::<String>("SELECT asked_by || ' ' || confirm FROM commands").await;
    assert_eq!(asked, "service panel delivered");
    let counted = bench.app.counted("fleetgate_command_requests_total{answer=\"accepted\"}").await;
    assert_eq!(counted, 1.0);

    // The same message again, and another with the same id.
    asks(&bench, &request, "0A").await;
    asks(&bench, &json!({"value": 2, "device": "relay", "id": "r-1"}), "0B").await;
    // Without an id EMQX's own is the request's.
    asks(&bench, &json!({"value": 3, "selector": {"name": "relay"}}), "0C").await;
    result(&bench, "0C", "accepted").await;
    assert_eq!(commands(&bench).await, 2);
    assert_eq!(results(&bench).len(), 3);
}

/// What is over by the time it arrives does not run, however late EMQX brings it.
#[tokio::test]
async fn a_request_expires_from_when_emqx_received_it() {
    let bench = start().await;
    bench.online_and_subscribed().await;
    let open = json!({"value": "open", "device": "relay", "id": "late"}).to_string();
    asks_at(&bench, &open, "0A", now() - 86_400_000).await;
    result(&bench, "late", "expired").await;
    assert_eq!(commands(&bench).await, 0);
    let in_time =
        json!({"value": 1, "device": "relay", "id": "yet", "expires_in": "2d"}).to_string();
    asks_at(&bench, &in_time, "0B", now() - 86_400_000).await;
    result(&bench, "yet", "accepted").await;
    let left = "SELECT extract(epoch FROM expires_at - now())::float8 FROM commands";
    let left: f64 = bench.fleet.value(left).await;
    assert!((86_000.0..=86_400.0).contains(&left), "{left}");
    // A clock that is ahead gains nothing.
    let ahead =
        json!({"value": 1, "device": "relay", "id": "ahead", "expires_in": "1m"}).to_string();
    asks_at(&bench, &ahead, "0C", now() + 86_400_000).await;
    result(&bench, "ahead", "accepted").await;
    let furthest = "SELECT extract(epoch FROM min(expires_at) - now())::float8 FROM commands";
    let furthest: f64 = bench.fleet.value(furthest).await;
    assert!(furthest <= 60.0, "{furthest}");
}

#[tokio::test]
async fn only_a_service_that_is_granted_it_by_name_may_ask() {
    let bench = start().await;
    let asked = json!({"value": 1, "device": "relay", "id": "x"}).to_string();
    bench.fleet.device_of_kind("wide", "service").await;
    for grant in ["#", "fleetgate/#", "+/commands/switch"] {
        bench.fleet.grant("wide", "publish", grant).await;
    }
    bench.fleet.device("thing").await.grant("thing", "publish", "fleetgate/commands/#").await;
    bench.fleet.device_of_kind("other", "service").await;
    bench.fleet.grant("other", "publish", "fleetgate/commands/dim").await;
    for who in ["wide", "thing", "other", "nobody"] {
        let event = message(who, TOPIC, now(), "0A", &asked);
        assert_eq!(bench.app.event(&event).await.status, 204);
    }
    let mut foreign = message("panel", TOPIC, now(), "0B", &asked);
    foreign["clientid"] = json!("relay");
    assert_eq!(bench.app.event(&foreign).await.status, 204);
    let requests = "SELECT count(*) FROM command_requests";
    assert_eq!(bench.fleet.value::<i64>(requests).await, 0);
    // The service's own instances may.
    let mut instance = message("panel", TOPIC, now(), "0C", &asked);
    instance["clientid"] = json!("panel:2");
    assert_eq!(bench.app.event(&instance).await.status, 204);
    result(&bench, "x", "accepted").await;
    bench.fleet.enabled("panel", false).await;
    eventually("it is heard", || async { bench.app.publishes("panel", TOPIC).await == "deny" })
        .await;
    asks(&bench, &json!({"value": 1, "device": "relay", "id": "y"}), "0D").await;
    assert_eq!(bench.fleet.value::<i64>(requests).await, 1);
}

/// Revoking a service ends what it asked for, also what waits already.
#[tokio::test]
async fn what_a_service_may_not_ask_for_any_more_is_not_sent() {
    let bench = start().await;
    asks(&bench, &json!({"value": 1, "device": "relay", "id": "waits", "expires_in": "1h"}), "0A")
        .await;
    result(&bench, "waits", "accepted").await;
    bench.fleet.sql("DELETE FROM topic_grants", &[]).await;
    // Its session ends, and it may come back: it is not disabled.
    bench.emqx.deleted("panel").await;
    listens(&bench);
    bench.online_and_subscribed().await;
    let ended = result(&bench, "waits", "ended").await;
    assert_eq!(ended["failed"], json!({"relay": "cancelled"}));
    let why = "SELECT cancelled_why FROM command_deliveries";
    let why: String = bench.fleet.value(why).await;
    assert_eq!(why, "the service that asked for it may not ask for it any more");
    assert!(bench.emqx.all_published().iter().all(|message| message.topic != "relay/set"));
}

#[tokio::test]
async fn a_request_that_is_wrong_is_refused_to_whoever_asked() {
    let bench = start().await;
    let schema = "UPDATE capabilities SET command_schema = '{\"type\": \"object\", \"properties\": {\"level\": {\"maximum\": 9}}}'";
    bench.sql(schema).await;
    let large = "x".repeat(600_000);
    let cases = [
        ("on", json!({"kind": "invalid", "pointer": ""})),
        ("\u{feff}{}", json!({"kind": "invalid", "pointer": ""})),
        (
            large.as_str(),
            json!({"kind": "invalid", "pointer": "", "message": "is not text, or is too large"}),
        ),
        (r#"{"value": {}, "topic": "a/b"}"#, json!({"kind": "invalid", "pointer": "/topic"})),
        (r#"{"value": {}, "a\u0000b": 1}"#, json!({"kind": "invalid", "pointer": "/a\\0b"})),
        (r#"{"value": {}, "selector": {"\u0000": 1}}"#, json!({"kind": "invalid"})),
        (r#"{"value": {"\u0000": 1}, "device": "relay"}"#, json!({"kind": "invalid"})),
        (
            r#"{"value": {}, "device": "nobody"}"#,
            json!({"kind": "not_found", "about": "device \"nobody\""}),
        ),
        (
            r#"{"value": {"level": 10}, "device": "relay"}"#,
            json!({"kind": "invalid", "rule": "payload", "pointer": "/value/level"}),
        ),
        (r#"{"value": {}}"#, json!({"kind": "refused", "rule": "no_rules"})),
        (
            r#"{"value": {}, "selector": {"area": "moon"}}"#,
            json!({"kind": "refused", "rule": "no_match"}),
        ),
        (
            r#"{"value": {}, "device": "relay", "expires_in": "31d"}"#,
            json!({"kind": "invalid", "rule": "expiry_out_of_range"}),
        ),
    ];
    for (number, (payload, expected)) in cases.iter().enumerate() {
        let id = format!("0{number}");
        asks_at(&bench, payload, &id, now()).await;
        let refused = result(&bench, &id, "refused").await;
        for (member, value) in expected.as_object().unwrap() {
            assert_eq!(&refused["error"][member], value, "{payload}: {refused}");
        }
    }
    bench.fleet.grant("panel", "publish", "fleetgate/commands/#").await;
    let unknown = "fleetgate/commands/fly";
    eventually("the grant is heard", || async {
        bench.app.publishes("panel", unknown).await == "allow"
    })
    .await;
    let topics = [
        (unknown, "not_found"),
        ("fleetgate/commands/a/b", "refused"),
        ("fleetgate/commands/", "refused"),
    ];
    for (number, (topic, kind)) in topics.into_iter().enumerate() {
        let id = format!("1{number}");
        let event = message("panel", topic, now(), &id, r#"{"value": 1}"#);
        assert_eq!(bench.app.event(&event).await.status, 204);
        assert!(
            ["invalid", kind]
                .contains(&result(&bench, &id, "refused").await["error"]["kind"].as_str().unwrap())
        );
    }
    assert_eq!(commands(&bench).await, 0);
}

/// A newer set-point is not undone by an older one that arrives later.
#[tokio::test]
async fn the_newest_request_is_the_one_that_emqx_received_last() {
    let bench = start().await;
    bench.sql("UPDATE capabilities SET only_latest = true").await;
    let at = now();
    let ask = async |value: u8, at: i64| {
        let request = json!({"value": value, "device": "relay", "id": format!("v{value}")});
        asks_at(&bench, &request.to_string(), &format!("0{value}"), at).await;
        result(&bench, &format!("v{value}"), "accepted").await;
    };
    ask(2, at - 20).await;
    ask(3, at - 10).await;
    ask(1, at - 30).await;
    for superseded in ["v1", "v2"] {
        let ended = result(&bench, superseded, "ended").await;
        assert_eq!(ended["failed"], json!({"relay": "superseded"}));
    }
    bench.online_and_subscribed().await;
    assert_eq!(sent(&bench).await.0, "3");
}

#[tokio::test]
async fn commands_of_requests_go_in_the_order_in_which_emqx_received_them() {
    let bench = start().await;
    let at = now();
    for (value, ms) in [(2, 20), (3, 30), (1, 10)] {
        let request = json!({"value": value, "device": "relay", "id": format!("v{value}")});
        asks_at(&bench, &request.to_string(), &format!("0{value}"), at - 100 + ms).await;
        result(&bench, &format!("v{value}"), "accepted").await;
    }
    bench.online_and_subscribed().await;
    for value in 1..=3 {
        let down = || {
            let all = bench.emqx.all_published();
            all.into_iter().filter(|message| message.topic == "relay/set").collect::<Vec<_>>()
        };
        eventually("the next went down", || async { down().len() == value }).await;
        let message = down().pop().unwrap();
        assert_eq!(message.payload, value.to_string());
        bench.acks(&message.correlation).await;
    }
}

/// Fleetgate alone publishes results, whatever grants say, and a service hears its own without any.
#[tokio::test]
async fn nobody_publishes_results_and_a_service_hears_its_own() {
    let bench = Bench::start_with(|config| config.emqx.acl_in_login = true).await;
    let secret = bench.fleet.device_of_kind("all", "service").await.secret("all").await;
    for grant in ["#", "fleetgate/#", "fleetgate/results/#", "fleetgate/commands/#"] {
        bench.fleet.grant("all", "publish", grant).await;
    }
    eventually("it is heard", || async {
        bench.app.publishes("all", "fleetgate/x").await == "allow"
    })
    .await;
    for topic in ["fleetgate/results/panel/x", "fleetgate/results/all/x"] {
        assert_eq!(bench.app.publishes("all", topic).await, "deny", "{topic}");
    }
    let login: Value = serde_json::from_str(&bench.app.login("all", &secret).await.body).unwrap();
    let rules: Vec<_> = login["acl"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            format!("{} {}", rule["action"].as_str().unwrap(), rule["topic"].as_str().unwrap())
        })
        .collect();
    assert_eq!(rules, ["publish fleetgate/commands/#", "subscribe fleetgate/results/all/#"]);
    let subscribes =
        async |name: &str, filter: &str| bench.app.action(name, "subscribe", filter).await.result();
    assert_eq!(subscribes("all", "fleetgate/results/all/+").await, "allow");
    assert_eq!(subscribes("all", "fleetgate/results/panel/+").await, "deny");
    assert_eq!(subscribes("relay", "fleetgate/results/relay/+").await, "deny");
    for column in ["state_topic", "command_topic", "reply_topic"] {
        let reserved = format!("UPDATE topic_bindings SET {column} = 'fleetgate/commands/switch'");
        let refused = bench.client.batch_execute(&reserved).await.unwrap_err();
        assert_eq!(refused.as_db_error().unwrap().constraint(), Some("topic_bindings_reserved"));
    }
}

/// A name that somebody else has by now hears nothing that is not meant for it.
#[tokio::test]
async fn results_go_to_the_service_by_the_name_that_it_has_now() {
    let bench = start().await;
    bench.emqx.set(Mood::Closing);
    asks(&bench, &json!({"value": 1, "device": "relay", "id": "r"}), "0A").await;
    eventually("the request is dealt with", || async { commands(&bench).await == 1 }).await;
    bench.sql("UPDATE devices SET name = 'board' WHERE name = 'panel'").await;
    bench.fleet.device_of_kind("panel", "service").await;
    bench.emqx.connect("board", "board", now());
    bench.emqx.subscribe("board", "fleetgate/results/board/+", 1);
    bench.emqx.set(Mood::Well);
    eventually("its result is told", || async {
        let topics = bench.emqx.all_published().into_iter().map(|message| message.topic);
        topics.collect::<Vec<_>>() == ["fleetgate/results/board/r"]
    })
    .await;
}

/// A service whose request takes PostgreSQL too long is told so, and holds up no other.
#[tokio::test]
async fn a_request_that_takes_too_long_holds_up_no_other_service() {
    let bench = start().await;
    bench.fleet.device_of_kind("other", "service").await;
    bench.fleet.grant("other", "publish", TOPIC).await;
    // Whoever asks by a rule for any device waits for this.
    let waits = "SELECT pg_advisory_lock(hashtextextended('fleetgate any switch', 0));
        INSERT INTO routing_rules (name, capability, strategy) VALUES ('any', 'switch', 'any')";
    bench.sql(waits).await;
    // Both at once, so that they are one batch.
    bench
        .sql(
            r#"BEGIN;
            INSERT INTO command_requests (service_id, service_name, request, capability, body, received_at, message_id)
            SELECT id, name, 'r', 'switch', CASE name WHEN 'panel' THEN '{"value": 1}' ELSE '{"value": 2, "device": "relay"}' END,
                   now(), '0A'
            FROM devices WHERE kind = 'service';
            SELECT fleetgate_queue_work('command_request', array_agg(lpad(id::text, 19, '0')), array_agg('{}'::jsonb))
            FROM devices WHERE kind = 'service';
            COMMIT"#,
        )
        .await;
    bench.online_and_subscribed().await;
    assert_eq!(sent(&bench).await.0, "2");
    let refused = result(&bench, "r", "refused").await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("it takes too long"), "{refused}");
}

#[tokio::test]
async fn results_wait_while_emqx_is_away_and_are_told_once_it_is_back() {
    let bench = start().await;
    bench.emqx.set(Mood::Closing);
    asks(&bench, &json!({"value": 1, "device": "relay", "id": "r"}), "0A").await;
    eventually("the request is dealt with", || async { commands(&bench).await == 1 }).await;
    eventually("its result waits", || async {
        let waits = "SELECT count(*) FROM work_queue WHERE kind = 'command_request' AND last_error IS NOT NULL";
        bench.fleet.value::<i64>(waits).await == 1
    })
    .await;
    bench.emqx.set(Mood::Well);
    result(&bench, "r", "accepted").await;
    assert_eq!(commands(&bench).await, 1);
}

/// What waits is bounded, and is deleted some time after its end.
#[tokio::test]
async fn what_a_service_can_make_wait_is_bounded() {
    let bench = start().await;
    bench.sql("INSERT INTO command_requests (service_id, service_name, request, capability, received_at, message_id)
        SELECT id, name, 'n' || n, 'switch', now(), 'n' FROM devices, generate_series(1, 1000) AS n WHERE name = 'panel'").await;
    asks(&bench, &json!({"value": 1, "device": "relay", "id": "more"}), "0A").await;
    let more =
        "SELECT answer -> 'error' ->> 'message' FROM command_requests WHERE request = 'more'";
    let refused: String = bench.fleet.value(more).await;
    assert!(refused.starts_with("1000 requests"), "{refused}");
    // Where even that is too much, it is dropped.
    bench.emqx.set(Mood::Closing);
    bench.sql("INSERT INTO command_requests (service_id, service_name, request, capability, received_at, message_id, answer)
        SELECT id, name, 'm' || n, 'switch', now(), 'm', '{}' FROM devices, generate_series(1, 10000) AS n WHERE name = 'panel'").await;
    asks(&bench, &json!({"value": 1, "device": "relay", "id": "most"}), "0C").await;
    let most = "SELECT count(*) FROM command_requests WHERE request = 'most'";
    assert_eq!(bench.fleet.value::<i64>(most).await, 0);
    bench.sql("DELETE FROM command_requests WHERE request = 'more'").await;
    bench.emqx.set(Mood::Well);
    bench
        .sql("UPDATE command_requests SET done_at = now() - interval '2 hours', answer = '{}'")
        .await;
    let hour = Duration::from_secs(3_600);
    let pruned = fleetgate::registry::requests::prune(&bench.client, hour, 400).await.unwrap();
    assert_eq!(pruned, 400);
    asks(&bench, &json!({"value": 1, "device": name("relay").as_str(), "id": "more"}), "0B").await;
    result(&bench, "more", "accepted").await;
}

/// Who may ask for commands is decided twice: when the request comes, and in the database when it is dealt with.
#[tokio::test]
async fn who_may_ask_is_one_rule_here_and_in_the_database() {
    let bench = Bench::start().await;
    bench.fleet.device_of_kind("panel", "service").await;
    let in_database =
        "SELECT fleetgate_may_command(id, 'switch') FROM devices WHERE name = 'panel'";
    for (filter, may) in [
        (TOPIC, true),
        ("fleetgate/commands/#", true),
        ("fleetgate/commands/+", true),
        ("fleetgate/commands/+/#", true),
        ("fleetgate/commands/switch/#", true),
        ("fleetgate/commands/switches", false),
        ("fleetgate/commands/switch/+", false),
        ("fleetgate/commands/+/+", false),
        ("fleetgate/+/switch", false),
        ("#", false),
    ] {
        bench.fleet.sql("DELETE FROM topic_grants", &[]).await;
        bench.fleet.grant("panel", "publish", filter).await;
        let grant = vec![filter.parse().unwrap()];
        let rights = Rights::new(vec![], vec![], grant, vec![]);
        assert_eq!(rights.may_command(TOPIC), may, "{filter}");
        assert_eq!(bench.fleet.value::<bool>(in_database).await, may, "{filter}");
    }
}

/// A name may look like a pattern of mosquitto's.
#[tokio::test]
async fn a_service_hears_its_results_whatever_its_name_looks_like() {
    let bench = Bench::start().await;
    for name in ["x%c", "%u", "100%cpu"] {
        bench.fleet.device_of_kind(name, "service").await;
        let own = format!("fleetgate/results/{name}/+");
        assert_eq!(bench.app.action(name, "subscribe", &own).await.result(), "allow", "{name}");
        let others = bench.app.action(name, "subscribe", "fleetgate/results/panel/+").await;
        assert_eq!(others.result(), "deny", "{name}");
    }
}
