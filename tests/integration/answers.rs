//! Commands that succeed only when the device has answered: by its state, or by a reply.

use std::time::Duration;

use fleetgate::domain::delivery::Confirmation;
use fleetgate::fleet::FleetError;
use fleetgate::fleet::bindings::{self, BindingChange};
use fleetgate::fleet::commands::{self, NewCommand};
use fleetgate::fleet::error::Rule;
use serde_json::{Value, json};

use crate::commands::{Bench, name, new};
use crate::support::app::eventually;
use crate::support::bus::{command, message, now};

fn by_state(payload: &str) -> NewCommand {
    NewCommand { confirm: Some(Confirmation::State), ..new(payload) }
}

fn by_reply(payload: &str) -> NewCommand {
    NewCommand { confirm: Some(Confirmation::Reply), ..new(payload) }
}

/// Gives the device of the bench a reply topic, connects it and subscribes it.
async fn start() -> Bench {
    let mut bench = Bench::start().await;
    let reply_topic = Some(Some("relay/reply".parse().unwrap()));
    let change = BindingChange { reply_topic, ..BindingChange::default() };
    let switch = "switch".parse().unwrap();
    bindings::set(&mut bench.client, &name("relay"), &switch, &change).await.unwrap();
    eventually("the change is heard", || async { may_reply(&bench).await }).await;
    bench.online_and_subscribed().await;
    bench
}

async fn may_reply(bench: &Bench) -> bool {
    bench.app.publishes("relay", "relay/reply").await == "allow"
}

/// What EMQX tells of the command being written to the device's connection, at a time of its clock.
fn written(delivery: &str, at: i64) -> Value {
    let mut event = command("message.delivered", "relay", "relay", delivery, 1);
    event["timestamp"] = json!(at);
    event
}

fn reply(correlation: Option<&str>, id: &str, payload: &Value) -> Value {
    let mut event = message("relay", "relay/reply", now(), id, &payload.to_string());
    event["correlation"] = json!(correlation.unwrap_or("undefined"));
    event
}

async fn told(bench: &Bench, event: &Value) {
    assert_eq!(bench.app.event(event).await.status, 204, "{event}");
}

async fn report(bench: &Bench, payload: &str, at: i64, id: &str) {
    told(bench, &message("relay", "relay/state", at, id, payload)).await;
}

/// The report may be heard before it is known when the command was written; what the device said before that counts not.
#[tokio::test]
async fn the_state_confirms_a_command_whatever_is_heard_first() {
    let mut bench = start().await;
    for report_first in [false, true] {
        let sent_before = bench.emqx.all_published().len();
        let id = bench.send_new(by_state(r#"{"on": true, "level": 1.0}"#)).await;
        let delivery = bench.emqx.published(sent_before + 1).await.correlation;
        let at = now();
        let confirming = r#"{"on": true, "level": 1, "power": 3}"#;
        report(&bench, confirming, at - 1, "0A").await;
        if !report_first {
            told(&bench, &written(&delivery, at)).await;
            bench.acks(&delivery).await;
            let waits = bench.delivery(&id).await;
            assert_eq!((waits.state.as_str(), waits.ended), ("delivered", false), "an old report");
        }
        report(&bench, r#"{"on": true}"#, at + 1, "0B").await;
        report(&bench, r#"{"on": false, "level": 1}"#, at + 2, "0C").await;
        report(&bench, confirming, at + 3, "0D").await;
        if report_first {
            assert!(!bench.delivery(&id).await.ended, "it is not known when it was written");
            told(&bench, &written(&delivery, at)).await;
        }
        let ended = bench.ended(&id).await;
        assert_eq!((ended.state.as_str(), ended.succeeded, ended.late), ("succeeded", true, false));
        told(&bench, &written(&delivery, at)).await;
        report(&bench, confirming, at + 3, "0D").await;
    }
    assert_eq!(bench.emqx.all_published().len(), 2, "none was sent again");
}

#[tokio::test]
async fn a_binding_that_merges_confirms_by_what_its_reports_add_up_to() {
    let mut bench = start().await;
    bench.sql("UPDATE topic_bindings SET merge = true").await;
    eventually("the change is heard", || async {
        report(&bench, r#"{"level": 0}"#, now(), "0A").await;
        bench.fleet.value::<bool>("SELECT merges ? 'switch' FROM device_state").await
    })
    .await;
    let id = bench.send_new(by_state(r#"{"on": true, "level": 7}"#)).await;
    let delivery = bench.emqx.published(1).await.correlation;
    let at = now() + 10;
    told(&bench, &written(&delivery, at)).await;
    report(&bench, r#"{"on": true}"#, at + 1, "0B").await;
    assert!(!bench.delivery(&id).await.ended);
    report(&bench, r#"{"level": 7}"#, at + 2, "0C").await;
    assert_eq!(bench.ended(&id).await.state, "succeeded");
}

/// What is told the device later is what its reports are about: they confirm nothing of before.
#[tokio::test]
async fn an_answer_that_comes_late_is_noted_unless_a_newer_command_was_sent() {
    let mut bench = start().await;
    bench.sql("UPDATE capabilities SET answer_in = 1").await;
    let mut late = Vec::new();
    for _ in 0..2 {
        let sent_before = bench.emqx.all_published().len();
        let id = bench.send_new(by_state("1")).await;
        let delivery = bench.emqx.published(sent_before + 1).await.correlation;
        told(&bench, &written(&delivery, now())).await;
        bench.acks(&delivery).await;
        let timed_out = bench.ended(&id).await;
        assert_eq!((timed_out.state.as_str(), timed_out.succeeded), ("timed_out", false));
        late.push(id);
    }
    report(&bench, "1", now() + 1, "0A").await;
    eventually("the late answer is noted", || async {
        bench.is_noted(&late[1]).await && bench.delivery(&late[1]).await.state == "succeeded"
    })
    .await;
    let newer = bench.delivery(&late[1]).await;
    assert!(newer.late && newer.succeeded);
    assert_eq!(bench.delivery(&late[0]).await.state, "timed_out");
    let states = "SELECT count(*) FROM command_deliveries WHERE awaits_report";
    assert_eq!(bench.fleet.value::<i64>(states).await, 1, "of the first only");
}

/// A request that came late is sent first: what was told the device later is what was sent to it later.
#[tokio::test]
async fn the_state_confirms_what_was_sent_last_whatever_was_stored_first() {
    let mut bench = Bench::start().await;
    bench.sql("UPDATE capabilities SET answer_in = 1").await;
    let second = bench.send_new(by_state("2")).await;
    let first = bench.send_new(by_state("1")).await;
    bench
        .sql(&format!(
            "UPDATE command_deliveries SET asked_at = asked_at - interval '1 minute' WHERE command_id = '{first}'"
        ))
        .await;
    bench.online_and_subscribed().await;
    for (number, (id, payload)) in [(&first, "1"), (&second, "2")].into_iter().enumerate() {
        let message = bench.emqx.published(number + 1).await;
        assert_eq!(message.payload, payload);
        let at = now();
        told(&bench, &written(&message.correlation, at)).await;
        bench.acks(&message.correlation).await;
        if number == 0 {
            assert_eq!(bench.ended(id).await.state, "timed_out");
        } else {
            // Also of the first, but that was told something else since.
            report(&bench, "1", at + 1, "0A").await;
            report(&bench, "2", at + 2, "0B").await;
            assert_eq!(bench.ended(id).await.state, "succeeded");
        }
    }
    assert_eq!(bench.delivery(&first).await.state, "timed_out");
}

#[tokio::test]
async fn a_reply_decides_by_correlation_or_by_an_id_in_it() {
    let mut bench = start().await;
    let cases = [
        (true, json!({"status": "ok"}), "succeeded"),
        (true, json!({"status": "error", "why": "jammed"}), "failed"),
        (false, json!({"status": 202}), "succeeded"),
        (false, json!({"status": 500}), "failed"),
    ];
    for (number, (correlated, payload, state)) in cases.into_iter().enumerate() {
        let id = bench.send_new(by_reply("1")).await;
        let delivery = bench.emqx.published(number + 1).await.correlation;
        // Of none of these can be known that they are about it.
        told(&bench, &reply(None, "0A", &json!({"status": "error"}))).await;
        told(&bench, &reply(Some(&delivery), "0B", &json!({"done": true}))).await;
        let mut foreign = reply(Some(&delivery), "0C", &json!({"status": "error"}));
        foreign["clientid"] = json!("relay:2");
        told(&bench, &foreign).await;
        let mut elsewhere = reply(Some(&delivery), "0D", &json!({"status": "error"}));
        elsewhere["topic"] = json!("relay/state");
        told(&bench, &elsewhere).await;
        assert!(!bench.delivery(&id).await.ended);
        // Before its receipt, which is noted all the same.
        let mut body = payload.clone();
        if !correlated {
            body["id"] = json!(delivery);
        }
        told(&bench, &reply(correlated.then_some(delivery.as_str()), "0E", &body)).await;
        let ended = bench.ended(&id).await;
        assert_eq!(ended.state, state);
        assert_eq!(ended.answer.as_deref(), Some(body.to_string().as_str()));
        bench.acks(&delivery).await;
        assert!(bench.delivery(&id).await.acked_at.is_some());
        told(&bench, &reply(Some(&delivery), "0F", &json!({"status": 599}))).await;
        assert_eq!(bench.delivery(&id).await.state, state, "the first answer stays");
    }
}

/// Of a command that is confirmed by its receipt a reply is shown, and changes nothing; so is a late one.
#[tokio::test]
async fn replies_that_do_not_decide_are_shown() {
    let mut bench = start().await;
    let id = bench.send("1").await;
    let delivery = bench.emqx.published(1).await.correlation;
    told(&bench, &reply(Some(&delivery), "0A", &json!({"status": "error"}))).await;
    let open = bench.delivery(&id).await;
    assert_eq!((open.state.as_str(), open.answer.is_some()), ("sent", true));
    bench.acks(&delivery).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");

    bench.sql("UPDATE capabilities SET answer_in = 1").await;
    let id = bench.send_new(by_reply("2")).await;
    let delivery = bench.emqx.published(2).await.correlation;
    bench.acks(&delivery).await;
    assert_eq!(bench.ended(&id).await.state, "timed_out");
    told(&bench, &reply(Some(&delivery), "0B", &json!({"status": "error"}))).await;
    let late = bench.ended(&id).await;
    assert_eq!((late.state.as_str(), late.late), ("failed", true));
}

#[tokio::test]
async fn an_envelope_carries_the_id_down() {
    let mut bench = start().await;
    bench.sql("UPDATE capabilities SET envelope = true").await;
    let id = bench.send_new(by_reply(r#"{"level": 3.50}"#)).await;
    let sent = bench.emqx.published(1).await;
    let delivery = bench.delivery(&id).await.id;
    assert_eq!(sent.payload, format!(r#"{{"id":"{delivery}","value":{{"level": 3.50}}}}"#));
    told(&bench, &reply(None, "0A", &json!({"id": delivery, "status": "ok"}))).await;
    assert_eq!(bench.ended(&id).await.state, "succeeded");
}

/// The right to reply travels with the login, and ends with the topic.
#[tokio::test]
async fn a_device_may_publish_to_its_reply_topic() {
    let mut bench = start().await;
    assert!(may_reply(&bench).await);
    let change = BindingChange { reply_topic: Some(None), ..BindingChange::default() };
    let switch = "switch".parse().unwrap();
    bindings::set(&mut bench.client, &name("relay"), &switch, &change).await.unwrap();
    bench.emqx.deleted("relay").await;
    assert!(!may_reply(&bench).await);
    let needs_one = commands::send(&mut bench.client, &by_reply("1")).await;
    assert!(matches!(needs_one, Err(FleetError::Rule { rule: Rule::NoReplyTopic(_), .. })));
    let change = BindingChange { state_topic: Some(None), ..BindingChange::default() };
    bindings::set(&mut bench.client, &name("relay"), &switch, &change).await.unwrap();
    let needs_one = commands::send(&mut bench.client, &by_state("1")).await;
    assert!(matches!(needs_one, Err(FleetError::Rule { rule: Rule::NoStateTopic(_), .. })));
    let change = BindingChange {
        state_topic: Some(Some("relay/state".parse().unwrap())),
        command_topic: Some(None),
        reply_topic: Some(Some("relay/reply".parse().unwrap())),
        ..BindingChange::default()
    };
    let nothing = bindings::set(&mut bench.client, &name("relay"), &switch, &change).await;
    assert!(matches!(nothing, Err(FleetError::Rule { rule: Rule::NothingToReplyTo, .. })));
}

/// A batch of events costs one look more, and none of its events waits for commands.
#[tokio::test]
async fn what_reports_may_still_confirm_is_bounded() {
    let mut bench = start().await;
    let short = NewCommand { expires_in: Some(Duration::from_secs(1)), ..by_state("1") };
    let id = bench.send_new(short).await;
    bench.ended(&id).await;
    let awaiting = "SELECT count(*) FROM command_deliveries WHERE awaits_report";
    assert_eq!(
        bench.fleet.value::<i64>(awaiting).await,
        1,
        "it may have been received all the same"
    );
    bench.sql("UPDATE command_deliveries SET ended_at = ended_at - interval '2 hours'").await;
    fleetgate::registry::commands::await_no_more(&bench.client).await.unwrap();
    assert_eq!(bench.fleet.value::<i64>(awaiting).await, 0);
}

/// Objects by their members at every level, anything else by value; nothing recurses without end.
#[tokio::test]
async fn what_a_report_says_of_a_command_is_compared_by_value() {
    let bench = Bench::start().await;
    let deep = |leaf: &str| format!("{}{leaf}{}", "{\"a\":".repeat(120), "}".repeat(120));
    for (command, report, is_reported) in [
        ("1", "1.0", true),
        ("1", "\"1\"", false),
        ("9007199254740993", "9007199254740992", false),
        ("1e400", "1e400", true),
        ("[1, 2]", "[1.0, 2]", true),
        ("[1]", "[1, 2]", false),
        ("{}", "{\"a\": 1}", true),
        ("{}", "1", false),
        ("null", "null", true),
        (r#"{"a": null}"#, "{}", false),
        (r#"{"a": {"b": 1}}"#, r#"{"a": {"b": 1, "c": 2}, "d": 3}"#, true),
        (r#"{"a": {"b": 1}}"#, r#"{"a": {"c": 2}}"#, false),
        (r#"{"": 1}"#, r#"{"": 1}"#, true),
        (&deep("1"), &deep("1"), true),
        (&deep("1"), &deep("2"), false),
    ] {
        let compare = "SELECT fleetgate_is_reported($1::text::jsonb, $2::text::jsonb)";
        let row = bench.client.query_one(compare, &[&command, &report]).await.unwrap();
        assert_eq!(row.get::<_, bool>(0), is_reported, "{command} in {report}");
    }
}
