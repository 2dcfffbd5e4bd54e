//! Several devices on one command topic: one message to all of them, and what each makes of it.

use fleetgate::fleet::commands::{self, CommandDetails, NewCommand};
use fleetgate::fleet::error::Rule;
use fleetgate::fleet::routing::{SharedTopic, To};
use fleetgate::fleet::{FleetError, Part};
use serde_json::{Value, json};

use crate::commands::{Bench, name, new};
use crate::support::app::{TestApp, config, eventually};
use crate::support::bus::{connected, message, now};
use crate::support::commands::{fleetgate, run};

const TOPIC: &str = "lamps/set";

/// A bench with further devices on one command topic.
async fn with_lamps(lamps: &[&str]) -> Bench {
    let bench = Bench::start().await;
    for lamp in lamps {
        bench.fleet.device(lamp).await;
        let (state_topic, client_id) = (format!("{lamp}/state"), *lamp);
        bench.fleet.bind(lamp, "switch", Some(&state_topic), Some(TOPIC)).await;
        bench.emqx.subscribe(client_id, TOPIC, 1);
    }
    bench
}

async fn connects(bench: &Bench, app: &TestApp, device: &str) {
    let at = now();
    bench.emqx.connect(device, device, at);
    assert_eq!(app.event(&connected(device, device, at)).await.status, 204);
}

fn to(devices: &[&str], payload: &str) -> NewCommand {
    let devices = devices.iter().map(|device| name(device)).collect();
    NewCommand { to: To::Devices(devices), ..new(payload) }
}

async fn show(bench: &Bench, id: &str) -> CommandDetails {
    commands::show(&bench.client, &Part::whole(), id).await.unwrap()
}

/// The state and the attempts of each delivery.
async fn states(bench: &Bench, id: &str) -> Vec<(String, &'static str, u32)> {
    let deliveries = show(bench, id).await.deliveries;
    deliveries.into_iter().map(|it| (it.device, &*it.state.leak(), it.attempts)).collect()
}

fn state(device: &str, state: &'static str, attempts: u32) -> (String, &'static str, u32) {
    (device.to_owned(), state, attempts)
}

#[tokio::test]
async fn one_message_reaches_all_on_a_topic_and_each_acknowledges_for_itself() {
    let mut bench = with_lamps(&["a", "b", "c"]).await;
    for lamp in ["a", "b"] {
        connects(&bench, &bench.app, lamp).await;
    }
    bench.online_and_subscribed().await;
    let id = bench.send_new(to(&["a", "relay", "b", "c"], "1")).await;
    let sent = [bench.emqx.published(1).await, bench.emqx.published(2).await];
    let of = |topic: &str| sent.iter().find(|message| message.topic == topic).unwrap().clone();
    let lamps = of(TOPIC);
    let details = show(&bench, &id).await;
    let messages: Vec<&str> = details.deliveries.iter().map(|it| it.message.as_str()).collect();
    let shared = lamps.correlation.as_str();
    assert_eq!(messages, [shared, &of("relay/set").correlation, shared, shared]);
    assert_eq!(details.deliveries[0].id, shared, "that of the first");

    // Who is not meant, or is another of them, acknowledges for nobody else.
    bench.tells("message.acked", "relay", "relay", shared, 1).await;
    bench.tells("message.acked", "a", "a", shared, 1).await;
    eventually("one has it", || async {
        states(&bench, &id).await
            == [
                state("a", "delivered", 1),
                state("relay", "sent", 1),
                state("b", "sent", 1),
                state("c", "queued", 0),
            ]
    })
    .await;
    bench.tells("message.acked", "b", "b", shared, 1).await;
    bench.acks(&of("relay/set").correlation).await;
    // Who was offline gets it once more, with the same id, and the others are asked for nothing.
    connects(&bench, &bench.app, "c").await;
    let again = bench.emqx.published(3).await;
    assert_eq!((again.topic.as_str(), again.correlation.as_str()), (TOPIC, shared));
    bench.tells("message.acked", "c", "c", shared, 1).await;
    let ended = ["a", "relay", "b", "c"].map(|device| state(device, "delivered", 1));
    eventually("all have it", || async { states(&bench, &id).await == ended }).await;
    assert_eq!(bench.emqx.all_published().len(), 3);
}

/// A message to several waits for the turn of each: none hears it before what it was told earlier.
#[tokio::test]
async fn a_message_waits_until_it_is_the_turn_of_all_on_the_topic() {
    let mut bench = with_lamps(&["a", "b"]).await;
    connects(&bench, &bench.app, "a").await;
    connects(&bench, &bench.app, "b").await;
    let first = bench.send_new(to(&["b"], "1")).await;
    let alone = bench.emqx.published(1).await;
    let both = bench.send_new(to(&["a", "b"], "2")).await;
    let waits =
        "SELECT EXISTS (SELECT FROM work_queue WHERE last_error LIKE 'others on its topic%')";
    eventually("it waits", || async { bench.fleet.value::<bool>(waits).await }).await;
    assert_eq!(states(&bench, &both).await, ["a", "b"].map(|lamp| state(lamp, "queued", 0)));
    assert_eq!(bench.emqx.all_published().len(), 1);
    bench.tells("message.acked", "b", "b", &alone.correlation, 1).await;
    bench.ended(&first).await;
    let message = bench.emqx.published(2).await;
    for lamp in ["a", "b"] {
        bench.tells("message.acked", lamp, lamp, &message.correlation, 1).await;
    }
    eventually("both have it", || async { bench.is_noted(&both).await }).await;
    assert_eq!(states(&bench, &both).await, ["a", "b"].map(|lamp| state(lamp, "delivered", 1)));
    assert_eq!(bench.emqx.all_published().len(), 2);
}

/// A device that is online and has not subscribed yet hears nothing: that is no attempt.
#[tokio::test]
async fn a_device_that_has_not_subscribed_is_not_counted() {
    let mut bench = with_lamps(&["a"]).await;
    bench.fleet.device("b").await;
    bench.fleet.bind("b", "switch", None, Some(TOPIC)).await;
    connects(&bench, &bench.app, "a").await;
    connects(&bench, &bench.app, "b").await;
    let id = bench.send_new(to(&["b", "a"], "1")).await;
    let message = bench.emqx.published(1).await;
    bench.tells("message.acked", "a", "a", &message.correlation, 1).await;
    eventually("one has it", || async {
        states(&bench, &id).await == [state("b", "queued", 0), state("a", "delivered", 1)]
    })
    .await;
    bench.emqx.subscribe("b", TOPIC, 1);
    let again = bench.emqx.published(2).await;
    assert_eq!(again.correlation, message.correlation);
}

/// Replicas side by side, each with a part of the lines: one message still.
#[tokio::test]
async fn replicas_send_one_message_to_many_on_a_topic() {
    let bench = Bench::start().await;
    let mut settings = config(&bench.database.url);
    settings.emqx.api = Some(bench.emqx.settings());
    let other = TestApp::start(settings).await;
    other.ready().await;
    // As a batch of lines is 500, both have some.
    bench
        .sql(
            "INSERT INTO devices (name, kind, online) SELECT 'd' || n, 'light', true FROM generate_series(1, 600) AS n;
             INSERT INTO device_capabilities (device_id, capability)
             SELECT id, 'switch' FROM devices WHERE kind = 'light';
             INSERT INTO topic_bindings (device_id, name, command_topic)
             SELECT id, 'switch', 'lamps/set' FROM devices WHERE kind = 'light'",
        )
        .await;
    for n in 1..=600 {
        bench.emqx.connect(&format!("d{n}"), &format!("d{n}"), now());
        bench.emqx.subscribe(&format!("d{n}"), TOPIC, 1);
    }
    let mut client = crate::support::postgres::connect(&bench.database.url).await;
    let to = To::Selector("kind=light".parse().unwrap());
    let sent = commands::send(&mut client, &NewCommand { to, ..new("1") }).await.unwrap();
    assert_eq!(sent.deliveries.len(), 600);
    bench.emqx.published(1).await;
    eventually("each line waits for its receipt", || async {
        let waiting = "SELECT (SELECT count(*) FROM command_deliveries WHERE published_at IS NOT NULL AND attempts = 1),
            (SELECT count(*) FROM work_queue WHERE due_at > now() + interval '10 seconds')";
        let row = bench.client.query_one(waiting, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1)) == (600, 600)
    })
    .await;
    assert_eq!(bench.emqx.all_published().len(), 1);
    drop(other);
}

/// Children of a gateway on one topic: the gateway's receipt is one for all of them; each replies for itself.
#[tokio::test]
async fn a_gateway_acknowledges_for_its_children_on_a_topic() {
    let mut bench = Bench::start().await;
    bench
        .sql(
            "UPDATE capabilities SET confirm = 'reply', envelope = true;
             INSERT INTO devices (name, kind) VALUES ('bridge', 'bridge');
             INSERT INTO devices (name, kind, gateway)
             SELECT name, 'light', (SELECT id FROM devices WHERE name = 'bridge') FROM unnest('{x,y}'::text[]) AS name;
             INSERT INTO device_capabilities (device_id, capability)
             SELECT id, 'switch' FROM devices WHERE kind = 'light';
             INSERT INTO topic_bindings (device_id, name, command_topic, reply_topic)
             SELECT id, 'switch', 'lamps/set', name || '/reply' FROM devices WHERE kind = 'light'",
        )
        .await;
    bench.emqx.subscribe("bridge", TOPIC, 1);
    connects(&bench, &bench.app, "bridge").await;
    let id = bench.send_new(to(&["x", "y"], "true")).await;
    let sent = bench.emqx.published(1).await;
    let body: Value = serde_json::from_str(&sent.payload).unwrap();
    assert_eq!(body, json!({"id": sent.correlation, "value": true}));
    bench.tells("message.acked", "bridge", "bridge", &sent.correlation, 1).await;
    let reply = json!({"id": sent.correlation, "status": "ok"}).to_string();
    eventually("the bindings are known", || async {
        bench.app.publishes("bridge", "y/reply").await == "allow"
    })
    .await;
    let reply = message("bridge", "y/reply", now(), "0A", &reply);
    assert_eq!(bench.app.event(&reply).await.status, 204);
    eventually("one has replied", || async {
        states(&bench, &id).await == [state("x", "delivered", 1), state("y", "succeeded", 1)]
    })
    .await;
    assert_eq!(bench.emqx.all_published().len(), 1);
}

/// Who else hears what is sent is told before it is sent.
#[tokio::test]
async fn a_dry_run_names_who_shares_a_topic() {
    let bench = with_lamps(&["a", "b"]).await;
    let choice = commands::check_only(&bench.client, &to(&["a", "relay"], "1")).await.unwrap();
    let shared = SharedTopic { topic: TOPIC.to_owned(), devices: vec!["a".into(), "b".into()] };
    assert_eq!(choice.shared_topics, [shared]);
    bench.sql("UPDATE devices SET enabled = false WHERE name = 'b'").await;
    let choice = commands::check_only(&bench.client, &to(&["a"], "1")).await.unwrap();
    assert_eq!(choice.shared_topics, []);
    bench.sql("UPDATE devices SET enabled = true WHERE name = 'b'").await;
    let api = bench.emqx.settings();
    let run = |arguments: &[&str]| {
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", &bench.database.url);
        command.env("FLEETGATE_EMQX_API_URL", &api.url);
        command.env("FLEETGATE_EMQX_API_KEY", "key").env("FLEETGATE_EMQX_API_SECRET", "secret");
        let (status, out, err) = run(command);
        assert_eq!(status, 0, "{out}{err}");
        out + &err
    };
    let told = run(&["command", "send", "switch", "1", "--device", "a", "--dry-run"]);
    assert!(told.contains("All on the topic lamps/set get it: a, b."), "{told}");
    run(&["rule", "add", "r", "--capability", "switch", "--selector", "name=b"]);
    let told = run(&["rule", "test", "r"]);
    assert!(told.contains("All on the topic lamps/set get it: a, b."), "{told}");
}

/// What a gateway that is disabled will not pass on is refused when it is asked for.
#[tokio::test]
async fn a_child_of_a_disabled_gateway_gets_no_command() {
    let mut bench = Bench::start().await;
    bench
        .sql(
            "INSERT INTO devices (name, kind, enabled) VALUES ('bridge', 'bridge', false);
             UPDATE devices SET gateway = (SELECT id FROM devices WHERE name = 'bridge') WHERE name = 'relay'",
        )
        .await;
    let named = commands::send(&mut bench.client, &new("1")).await.map(drop);
    assert!(
        matches!(&named, Err(FleetError::Rule { rule: Rule::GatewayDisabled, .. })),
        "{named:?}"
    );
    let to = To::Selector("name=relay".parse().unwrap());
    let selected = NewCommand { to, ..new("1") };
    let selected = commands::send(&mut bench.client, &selected).await.map(drop);
    assert!(matches!(&selected, Err(FleetError::Rule { rule: Rule::NoMatch, .. })), "{selected:?}");
}
