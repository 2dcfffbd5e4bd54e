//! P9: bindings whose reports hold only what changed.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::support::app::{TestApp, eventually, start};
use crate::support::bus::{connected, last_seen, message, now, state};
use crate::support::fleet::Fleet;
use crate::support::postgres::TestDatabase;

const AT: i64 = 1_795_356_000_000;

async fn merging() -> (TestApp, Fleet, TestDatabase) {
    let (app, fleet, database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    fleet.sql("UPDATE topic_bindings SET merge = true", &[]).await;
    (app, fleet, database)
}

async fn report(app: &TestApp, at: i64, id: &str, payload: &str) {
    assert_eq!(app.event(&message("t", "t/main", at, id, payload)).await.status, 204, "{payload}");
}

async fn main_value(fleet: &Fleet) -> Option<Value> {
    state(fleet, "t").await["main"].get("value").cloned()
}

async fn violation(fleet: &Fleet) -> Option<String> {
    let violation: Option<Value> =
        fleet.value("SELECT (SELECT last_violation FROM device_state)").await;
    violation.map(|violation| violation["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn partial_reports_add_up_in_the_order_of_their_times() {
    let (app, fleet, _database) = merging().await;
    let shelly = |part: &str| format!(r#"{{"src":"s1","method":"NotifyStatus","params":{part}}}"#);
    report(
        &app,
        AT,
        "0A",
        &shelly(r#"{"ts":1.50,"switch:0":{"id":0,"output":true,"apower":12.70}}"#),
    )
    .await;
    report(&app, AT + 20, "0C", &shelly(r#"{"ts":3,"switch:0":{"apower":null}}"#)).await;
    report(
        &app,
        AT + 10,
        "0B",
        &shelly(r#"{"ts":2,"switch:0":{"output":false,"apower":9},"wifi":{"rssi":-60}}"#),
    )
    .await;
    let expected = json!({"src": "s1", "method": "NotifyStatus", "params": {
        "ts": 3, "switch:0": {"id": 0, "output": false}, "wifi": {"rssi": -60}}});
    let entry = state(&fleet, "t").await["main"].clone();
    assert_eq!(entry, json!({"value": expected, "at": AT + 20, "id": "0C"}));
    assert_eq!(last_seen(&fleet, "t").await, AT + 20);
    report(&app, AT + 10, "0B", &shelly("{}")).await;
    assert_eq!(main_value(&fleet).await, Some(expected), "again changes nothing");
    report(&app, AT + 30, "0D", "").await;
    report(&app, AT + 25, "0E", r#"{"late":1}"#).await;
    assert_eq!(main_value(&fleet).await, None, "a cleared value keeps late reports out");
    report(&app, AT + 40, "0F", r#"{"n":0.1000}"#).await;
    assert_eq!(main_value(&fleet).await.unwrap().to_string(), r#"{"n":0.1000}"#);
    report(&app, AT + 50, "10", "[1,2]").await;
    report(&app, AT + 45, "11", r#"{"late":1}"#).await;
    assert_eq!(main_value(&fleet).await, Some(json!([1, 2])), "what is no object replaces all");
}

#[tokio::test]
async fn a_binding_can_begin_to_merge_and_stop() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    report(&app, AT, "00", r#"{"a":{"b":1,"c":2}}"#).await;
    fleet.sql("UPDATE topic_bindings SET merge = true", &[]).await;
    let mut at = AT;
    eventually("the binding merges", || {
        at += 1;
        let (app, fleet) = (&app, &fleet);
        async move {
            report(app, at, "00", r#"{"a":{"b":3}}"#).await;
            let merged = main_value(fleet).await == Some(json!({"a": {"b": 3, "c": 2}}));
            if !merged {
                report(app, at, "01", r#"{"a":{"b":1,"c":2}}"#).await;
            }
            merged
        }
    })
    .await;
    fleet.sql("UPDATE topic_bindings SET merge = false", &[]).await;
    eventually("the binding replaces", || {
        at += 1;
        let (app, fleet) = (&app, &fleet);
        async move {
            report(app, at, "00", r#"{"d":4}"#).await;
            main_value(fleet).await == Some(json!({"d": 4}))
        }
    })
    .await;
    fleet.sql("UPDATE topic_bindings SET merge = true", &[]).await;
    eventually("it merges into what replaced", || {
        at += 1;
        let (app, fleet) = (&app, &fleet);
        async move {
            report(app, at, "00", r#"{"e":5}"#).await;
            let value = main_value(fleet).await;
            if value == Some(json!({"e": 5})) {
                report(app, at, "01", r#"{"d":4}"#).await;
            }
            value == Some(json!({"d": 4, "e": 5}))
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_merged_is_a_violation_and_the_value_stays() {
    let (app, fleet, _database) = merging().await;
    report(&app, AT, "00", r#"{"a":1}"#).await;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(17), "}".repeat(17));
    let many = Value::Object((0..1001).map(|i| (i.to_string(), json!(i))).collect()).to_string();
    for (at, (payload, why)) in (AT + 1..).zip([
        ("nan", "not JSON"),
        (r#"{"a":"\u0000"}"#, "U+0000"),
        (r#"{"a":1e200000}"#, "digits"),
        (&deep, "nested deeper than 16"),
        (&many, "more than 1000 members"),
    ]) {
        report(&app, at, "00", payload).await;
        let message = violation(&fleet).await.unwrap();
        assert!(message.contains(why), "{message}");
        assert_eq!(main_value(&fleet).await, Some(json!({"a": 1})));
    }
}

/// What is kept of a binding is bounded: first what was removed is forgotten, and then reports of that
/// time or before come too late; a value that is too large by itself is refused.
#[tokio::test]
async fn what_is_kept_of_a_merged_value_is_bounded() {
    let (app, fleet, _database) = merging().await;
    report(&app, AT, "00", r#"{"stays":1}"#).await;
    let batch = |round: i64, value: &Value| {
        let members = (0..900).map(|i| (format!("member-{round}-{i}"), value.clone()));
        Value::Object(members.collect()).to_string()
    };
    for round in 0..10 {
        report(&app, AT + 10 * round + 1, "00", &batch(round, &json!(1))).await;
        report(&app, AT + 10 * round + 2, "00", &batch(round, &Value::Null)).await;
    }
    assert_eq!(main_value(&fleet).await, Some(json!({"stays": 1})));
    let kept: i64 =
        fleet.value("SELECT pg_column_size(merges || '{}')::bigint FROM device_state").await;
    assert!(kept < 600 * 1024, "{kept}");
    assert_eq!(violation(&fleet).await, None);
    report(&app, AT + 5, "00", r#"{"stays":2}"#).await;
    assert_eq!(main_value(&fleet).await, Some(json!({"stays": 1})), "too late");
    let long = json!("x".repeat(30));
    for round in 20..30 {
        report(&app, AT + 10 * round, "00", &batch(round, &long)).await;
    }
    assert!(violation(&fleet).await.unwrap().contains("would be larger"));
    report(&app, AT + 1000, "00", "{\"stays\":3}").await;
    assert_eq!(main_value(&fleet).await.unwrap()["stays"], 3, "small ones go on");
}

/// Reports as large as they may be, by many callers at once: what they cost is not what others wait for.
#[tokio::test]
async fn many_large_partial_reports_hold_up_nobody() {
    let (app, fleet, _database) = start().await;
    let devices: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    for name in &devices {
        fleet.device(name).await.bind(name, "main", Some(&format!("{name}/main")), None).await;
    }
    fleet.sql("UPDATE topic_bindings SET merge = true", &[]).await;
    fleet.device("other").await;
    let payload = |n: usize| {
        let members = (0..500).map(|i| (format!("m{i}"), json!({ "a": n })));
        Value::Object(members.collect()).to_string()
    };
    let reports = (0..96).map(|n| {
        let name = &devices[n % devices.len()];
        message(name, &format!("{name}/main"), AT + n as i64, &format!("{n:03}"), &payload(n))
    });
    let others = (0..32).map(|n| connected("other", "other", AT + n));
    let events: Vec<Value> = reports.chain(others).collect();
    let answers = join_all(events.iter().map(|event| app.event(event))).await;
    for (event, answer) in events.iter().zip(answers) {
        assert_eq!(answer.status, 204, "{} {}", event["event"], event["username"]);
    }
    assert_eq!(app.metric("fleetgate_ingest_commit_failures_total").await, 0.0);
    for (n, name) in devices.iter().enumerate() {
        let last = 96 - devices.len() + n;
        assert_eq!(state(&fleet, name).await["main"]["value"]["m499"]["a"], last);
    }
}

/// An untrusted timestamp orders nothing, and no time is ever shown that lies ahead.
#[tokio::test]
async fn partial_reports_of_a_clock_that_is_ahead_freeze_nothing() {
    let (app, fleet, _database) = merging().await;
    const HOUR: i64 = 3_600_000;
    for ahead in [60_000, HOUR, 365 * 24 * HOUR] {
        report(&app, now() + ahead, "0A", r#"{"a":1,"b":1}"#).await;
        let entry = state(&fleet, "t").await["main"].clone();
        assert_eq!(entry["value"], json!({"a": 1, "b": 1}));
        assert!(entry["at"].as_i64().unwrap() <= now(), "{entry}");
        let bad = json!("x".repeat(60_000));
        let bad = json!({"a": bad}).to_string();
        for n in 0..10 {
            let member = format!("{{\"long{n}\":{bad}}}");
            report(&app, now() + ahead, "0B", &member).await;
        }
        let violation: Value = fleet.value("SELECT last_violation FROM device_state").await;
        assert!(violation["message"].as_str().unwrap().contains("would be larger"), "{violation}");
        assert!(violation["at"].as_i64().unwrap() <= now(), "{violation}");
        assert_eq!(
            violation.get("untrusted"),
            (ahead > 300_000).then_some(Value::Bool(true)).as_ref()
        );
        fleet.sql("UPDATE device_state SET last_violation = NULL", &[]).await;
        if ahead > 300_000 {
            report(&app, now() + 1, "0C", r#"{"a":2}"#).await;
            assert_eq!(main_value(&fleet).await.unwrap()["a"], 2, "{ahead}");
        }
        fleet.sql("DELETE FROM device_state", &[]).await;
    }
    // What replaced by such a clock is no barrier for what is merged later.
    fleet.sql("INSERT INTO device_state (device_id, state) SELECT id, jsonb_build_object('main',
        '{\"value\":{\"a\":1,\"b\":1},\"at\":5,\"stamp\":4000000000000,\"id\":\"0A\",\"untrusted\":true}'::jsonb) FROM devices", &[]).await;
    report(&app, now(), "00", r#"{"a":2}"#).await;
    assert_eq!(main_value(&fleet).await, Some(json!({"a": 2, "b": 1})));
}

/// A small generator of its own, so that the cases are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn patch(&mut self, levels: u64) -> Value {
        match self.below(if levels == 0 { 4 } else { 9 }) {
            0 => Value::Null,
            1 => json!([{"x": null}]),
            2 => json!("text"),
            3 => json!(self.below(5)),
            _ => {
                let members = (0..self.below(4)).map(|_| {
                    let name = ["a", "b", "c"][usize::try_from(self.below(3)).unwrap()];
                    (name.to_owned(), self.patch(levels - 1))
                });
                Value::Object(members.collect())
            }
        }
    }
}

/// RFC 7396 section 2, word for word.
fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let known = target.remove(name).unwrap_or_default();
            target.insert(name.clone(), merge_patch(known, value));
        }
    }
    Value::Object(target)
}

/// Any order, repetition and split of partial reports ends in what applying them in the order of their
/// times ends in.
#[tokio::test]
async fn any_order_repetition_and_split_of_partial_reports_ends_the_same() {
    let (_app, fleet, _database) = merging().await;
    let device: i64 = fleet.value("SELECT id FROM devices").await;
    let mut dice = Dice(0x00c0_ffee_1234_5678);
    for case in 0..150 {
        let reports: Vec<(i64, String, Option<String>)> = (0..1 + dice.below(7))
            .map(|i| (i64::try_from(dice.below(4)).unwrap(), format!("{i:02}")))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|(at, id)| {
                let patch = (dice.below(12) > 0).then(|| dice.patch(3).to_string());
                (AT + at, id, patch)
            })
            .collect();
        let expected = reports.iter().fold(None, |value: Option<Value>, (_, _, patch)| {
            let patch = serde_json::from_str(patch.as_ref()?).unwrap();
            Some(merge_patch(value.unwrap_or_default(), &patch))
        });
        for ahead in [false, false, true] {
            fleet.sql("UPDATE device_state SET state = '{}', merges = '{}'", &[]).await;
            let mut sent: Vec<_> = reports.iter().chain(&reports).cloned().collect();
            for from in (1..sent.len()).rev() {
                sent.swap(from, usize::try_from(dice.below(from as u64 + 1)).unwrap());
            }
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let size = 1 + usize::try_from(dice.below(rest.len() as u64)).unwrap();
                let (batch, after) = rest.split_at(size);
                write(&fleet, device, batch, ahead).await;
                rest = after;
            }
            let entry = state(&fleet, "t").await["main"].clone();
            let (at, id, _) = reports.last().unwrap();
            assert_eq!(entry.get("value"), expected.as_ref(), "case {case}: {sent:?}");
            let shown = if ahead { AT } else { *at };
            let stamp = (shown < *at).then(|| json!(at));
            assert_eq!((&entry["at"], &entry["id"]), (&json!(shown), &json!(id)), "{sent:?}");
            assert_eq!(entry.get("stamp"), stamp.as_ref());
        }
    }
}

async fn write(fleet: &Fleet, device: i64, batch: &[(i64, String, Option<String>)], ahead: bool) {
    let devices = vec![device; batch.len()];
    let bindings = vec!["main"; batch.len()];
    let patches: Vec<_> = batch.iter().map(|(_, _, patch)| patch.as_deref()).collect();
    let stamps: Vec<_> = batch.iter().map(|(at, _, _)| *at).collect();
    let ids: Vec<_> = batch.iter().map(|(_, id, _)| id.as_str()).collect();
    // Clocks may differ: what is stamped some ms ahead is merged in its order too.
    let noted = if ahead { 1_795_356_000.0 } else { 1_795_356_060.0 };
    let statement = "SELECT fleetgate_merge_reports(
        $1, $1, $2, $3::text[]::jsonb[], $4, $5, 100000, to_timestamp($6))";
    fleet.sql(statement, &[&devices, &bindings, &patches, &stamps, &ids, &noted]).await;
}
