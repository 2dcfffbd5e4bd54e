//! Selectors in PostgreSQL: the condition that one compiles to says what the evaluator says, and the database accepts
//! what the parser accepts.

use std::collections::{BTreeMap, BTreeSet};

use fleetgate::clock::Clock;
use fleetgate::domain::selector::Selector;
use fleetgate::registry::selector::{Condition, values};
use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::database::Database;
use crate::support::postgres::{as_owner, connect, fresh_database};
use crate::support::selector_model::{Report, Subject, holds};

/// The time that tests of age turn on is far from that of any report: it does not matter when the test runs.
const AGES: [(&str, i64); 4] = [("0s", 0), ("5m", 300), ("2h", 7_200), ("999999d", 86_399_913_600)];
const SEEN_SECONDS_AGO: [i64; 3] = [60, 3_600, 864_000];

const NAMES: [&str; 8] = ["lab", "la", "lab\u{10ffff}", "hall", "Lab", "a'b", "\u{e9}", "%_"];
const PREFIXES: [&str; 6] = ["la", "lab\u{10ffff}", "\u{10ffff}", "%", "a'", "L"];
const TOKENS: [&str; 12] =
    ["a", "b", "0", "1", "-1", "01", "", "a~1b", "~01", "~0", "99999999999", "'"];

fn scalar() -> impl Strategy<Value = Value> {
    let numbers = [
        "0",
        "-0",
        "1",
        "1.0",
        "100e-2",
        "-1",
        "0.1",
        "9007199254740992",
        "9007199254740993",
        "1e400",
        "2e400",
        "1e-400",
    ];
    let numbers = numbers.map(|number| serde_json::from_str::<Value>(number).unwrap());
    let others = [
        json!(null),
        json!(true),
        json!(false),
        json!("1"),
        json!(""),
        json!("x"),
        json!("null"),
        json!("\u{10ffff}"),
        json!("\u{1}"),
        json!("'\"\\"),
    ];
    prop::sample::select([numbers.to_vec(), others.to_vec()].concat())
}

fn document() -> impl Strategy<Value = Value> {
    let member =
        prop::sample::select(vec!["a", "b", "0", "1", "-1", "01", "", "a/b", "~1", "~", "'"]);
    scalar().prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(member.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    document().prop_map(|value| match value {
        object @ Value::Object(_) => object,
        other => json!({"a": other}),
    })
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned)
}

fn pointer() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..4)
        .prop_map(|tokens| tokens.iter().map(|token| format!("/{token}")).collect())
}

fn text_test() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        name().prop_map(Value::from),
        prop::collection::vec(name(), 1..4).prop_map(Value::from),
        Just(json!(null)),
        prop::sample::select(PREFIXES.to_vec()).prop_map(|prefix| json!({"prefix": prefix})),
    ];
    leaf.prop_recursive(2, 4, 1, |inner| inner.prop_map(|test| json!({"not": test})))
}

fn value_test(is_state: bool) -> impl Strategy<Value = Value> {
    let comparison = prop::sample::select(vec!["lt", "le", "gt", "ge"]);
    let number = scalar().prop_filter("a number", Value::is_number);
    let age = prop::sample::select(AGES.to_vec()).prop_map(move |(age, _)| match is_state {
        true => json!({"within": age}),
        false => json!({"exists": true}),
    });
    let leaf = prop_oneof![
        3 => scalar(),
        1 => prop::collection::vec(scalar(), 1..4).prop_map(Value::Array),
        1 => any::<bool>().prop_map(|exists| json!({"exists": exists})),
        2 => (comparison, number).prop_map(|(how, number)| json!({how: number})),
        1 => age,
    ];
    leaf.prop_recursive(2, 4, 1, |inner| {
        inner.prop_map(|test| json!({"not": test, "exists": true}))
    })
}

fn test() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(vec!["name", "kind", "area", "floor"]);
    let age = prop::sample::select(AGES.to_vec()).prop_map(|(age, _)| age);
    let seen = prop::sample::select(vec!["within", "before"]);
    let state = (name(), pointer(), value_test(true));
    prop_oneof![
        3 => (field, text_test()).prop_map(|(field, test)| json!({field: test})),
        1 => prop::collection::vec(name(), 1..3).prop_map(|names| json!({"capability": names})),
        1 => any::<bool>().prop_map(|online| json!({"online": online})),
        1 => any::<bool>().prop_map(|enabled| json!({"enabled": enabled})),
        1 => (seen, age).prop_map(|(seen, age)| json!({"seen": {seen: age}})),
        4 => (pointer(), value_test(false)).prop_map(|(at, test)| json!({"meta": {at: test}})),
        4 => state.prop_map(|(binding, at, test)| json!({"state": {format!("{binding}{at}"): test}})),
    ]
}

fn merged(tests: Vec<Value>) -> Value {
    let mut all = serde_json::Map::new();
    for test in tests {
        for (field, value) in test.as_object().unwrap() {
            match (all.get_mut(field), value) {
                (Some(Value::Object(known)), Value::Object(more))
                    if field == "meta" || field == "state" =>
                {
                    known.extend(more.clone());
                }
                _ => drop(all.insert(field.clone(), value.clone())),
            }
        }
    }
    Value::Object(all)
}

fn selector() -> impl Strategy<Value = Value> {
    let tests = prop::collection::vec(test(), 0..4).prop_map(merged);
    tests.prop_recursive(2, 8, 3, |inner| {
        let any = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            inner.clone().prop_map(|selector| json!({"not": selector})),
            any.prop_map(|selectors| json!({"any": selectors})),
            (test(), inner).prop_map(|(test, inner)| merged(vec![test, json!({"not": inner})])),
        ]
    })
}

fn subject() -> impl Strategy<Value = Subject> {
    let report = (prop::option::of(document()), prop::sample::select(SEEN_SECONDS_AGO.to_vec()));
    let state = prop::collection::btree_map(name(), report, 0..4);
    let seen = prop::option::of(prop::sample::select(SEEN_SECONDS_AGO.to_vec()));
    let row = (name(), prop::option::of(name()), prop::option::of(name()));
    let capabilities = prop::collection::btree_set(name(), 0..4);
    let all = (row, capabilities, any::<bool>(), any::<bool>(), seen, object(), state);
    all.prop_map(|((kind, area, floor), capabilities, online, enabled, seen, meta, state)| {
        let now = Clock::System.now();
        let ago = |seconds| now - SignedDuration::from_secs(seconds);
        let reported = |(value, seconds)| Report { value, at: ago(seconds) };
        let state =
            state.into_iter().map(|(binding, report)| (binding, reported(report))).collect();
        let seen = seen.map(ago);
        Subject {
            name: String::new(),
            kind,
            area,
            floor,
            capabilities,
            online,
            enabled,
            seen,
            meta,
            state,
        }
    })
}

fn draw<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

async fn insert(client: &Client, device: &Subject) {
    let row = client
        .query_one(
            "INSERT INTO devices (name, kind, area, floor, enabled, meta) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb)
             RETURNING id",
            &[&device.name, &device.kind, &device.area, &device.floor, &device.enabled, &device.meta.to_string()],
        )
        .await
        .unwrap();
    let id: i64 = row.get(0);
    client
        .execute("UPDATE devices SET online = $2 WHERE id = $1", &[&id, &device.online])
        .await
        .unwrap();
    for capability in &device.capabilities {
        let give = "INSERT INTO device_capabilities VALUES ($1, $2)";
        client.execute(give, &[&id, capability]).await.unwrap();
    }
    if device.seen.is_none() && device.state.is_empty() {
        return;
    }
    let state: BTreeMap<&str, Value> = device
        .state
        .iter()
        .map(|(binding, report)| {
            let mut entry = json!({"at": report.at.as_millisecond(), "id": "0A"});
            if let Some(value) = &report.value {
                entry["value"] = value.clone();
            }
            (binding.as_str(), entry)
        })
        .collect();
    let state = serde_json::to_string(&state).unwrap();
    let insert =
        "INSERT INTO device_state (device_id, last_seen, state) VALUES ($1, $2, $3::text::jsonb)";
    client.execute(insert, &[&id, &device.seen, &state]).await.unwrap();
}

async fn matching(client: &Client, selector: &Selector) -> BTreeSet<String> {
    let condition = Condition::of(selector, 0);
    let statement = format!(
        "SELECT name FROM devices AS device LEFT JOIN device_state AS heard ON heard.device_id = device.id
         WHERE {}",
        condition.sql()
    );
    let values = values(&[], [&condition]);
    let rows = client.query(&statement, &values).await;
    let rows = rows.unwrap_or_else(|error| panic!("{}: {error:?}", selector.to_json()));
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_selector_says_the_same_in_postgresql() {
    let database = fresh_database().await;
    let client = connect(&as_owner(&database.url)).await;
    for capability in NAMES {
        client
            .execute("INSERT INTO capabilities (name) VALUES ($1)", &[&capability])
            .await
            .unwrap();
    }
    let mut runner = TestRunner::deterministic();
    let mut fleet = Vec::new();
    for number in 0..120 {
        let mut device = draw(&mut runner, &subject());
        device.name = format!("{}{number}", NAMES[number % NAMES.len()]);
        insert(&client, &device).await;
        fleet.push(device);
    }
    let strategy = selector();
    let (mut valid, mut some, mut all) = (0, 0, 0);
    for _ in 0..1_500 {
        let json = draw(&mut runner, &strategy);
        // Some are nested too deep.
        let Ok(selector) = Selector::from_json(&json) else { continue };
        valid += 1;
        let now = Clock::System.now();
        let holds = |device: &&Subject| holds(&selector, device, now);
        let expected: BTreeSet<String> =
            fleet.iter().filter(holds).map(|device| device.name.clone()).collect();
        assert_eq!(matching(&client, &selector).await, expected, "{json}");
        // What was stored as jsonb and is read again means the same.
        let stored: String = client
            .query_one("SELECT $1::text::jsonb::text", &[&json.to_string()])
            .await
            .unwrap()
            .get(0);
        let read = Selector::from_json(&serde_json::from_str(&stored).unwrap()).unwrap();
        assert_eq!(matching(&client, &read).await, expected, "{json}, stored");
        let text = selector.to_string();
        assert_eq!(
            text.parse::<Selector>().unwrap().to_json(),
            selector.to_json(),
            "{json} as {text}"
        );
        some += usize::from(!expected.is_empty() && expected.len() < fleet.len());
        all += usize::from(expected.len() == fleet.len());
    }
    assert!(
        valid > 1_000 && some > 250,
        "the selectors tell devices apart: {valid}, {some}, {all}"
    );
}

/// A selector, and what is nearly one.
/// What a pointer through arrays costs grows with its length alone.
#[tokio::test]
async fn a_long_pointer_is_a_short_statement() {
    let (_database, client) = Database::migrated().await;
    let deep = (0..60).fold(json!(1), |value, _| json!([value]));
    client
        .execute(
            "INSERT INTO devices (name, kind, meta) VALUES ('deep', 'x', $1)",
            &[&json!({"a": deep})],
        )
        .await
        .unwrap();
    let pointer = format!("/a{}", "/0".repeat(60));
    let selector = |value: i32| Selector::from_json(&json!({"meta": {&pointer: value}})).unwrap();
    assert!(Condition::of(&selector(1), 0).sql().len() < 500);
    assert_eq!(matching(&client, &selector(1)).await.len(), 1);
    assert_eq!(matching(&client, &selector(2)).await.len(), 0);
}

/// jsonb has no U+0000: no device is meant by a selector that has it, and neither side takes one.
#[tokio::test]
async fn a_selector_with_u_0000_is_refused() {
    let (_database, client) = Database::migrated().await;
    let in_key = json!({"meta": {"/a\0": 1}});
    for selector in [
        json!({"area": "a\0"}),
        json!({"area": ["a", "\0"]}),
        json!({"name": {"prefix": "\0"}}),
        json!({"meta": {"/a": "\0"}}),
        json!({"not": {"state": {"light": {"not": "\0"}}}}),
        in_key,
    ] {
        let refused = Selector::from_json(&selector).unwrap_err().to_string();
        assert!(refused.contains("U+0000"), "{selector}: {refused}");
        let text = selector.to_string();
        assert!(text.parse::<Selector>().is_err(), "{text}");
        let refused =
            client.query_one("SELECT fleetgate_selector_problem($1::text::jsonb)", &[&text]).await;
        assert!(refused.is_err(), "{text}");
    }
    assert!("area=a\0".parse::<Selector>().is_err());
}

fn anything() -> impl Strategy<Value = Value> {
    let wrong = prop::sample::select(vec![
        json!(null),
        json!(7),
        json!(true),
        json!("x"),
        json!(""),
        json!("a/b"),
        json!(" x"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([1, "x", null]),
        json!({"prefix": ""}),
        json!({"prefix": 1}),
        json!({"gt": "1"}),
        json!({"within": "5"}),
        json!({"within": "5m"}),
        json!({"within": "5m", "before": "1d"}),
        json!({"exists": 1}),
        json!({"not": {"not": {"not": {"not": 1}}}}),
        json!({"a": 1}),
        json!({"/a": {"lt": 1, "ge": 0}}),
        json!({"/~": 1}),
        json!({"a~2/": 1}),
        json!({"x/~1/~0": 1}),
        json!({"not": {}}),
        json!({"": 1}),
        json!({"/": 1}),
        Value::Array(vec![json!("x"); 101]),
        Value::Array(vec![json!({}); 9]),
        Value::Array(vec![json!({}); 8]),
        json!("x".repeat(129)),
        json!("x".repeat(1_025)),
        json!({"prefix": "x".repeat(1_025)}),
        json!(["x".repeat(1_025)]),
    ]);
    let fields = vec![
        "name",
        "kind",
        "area",
        "floor",
        "capability",
        "online",
        "enabled",
        "seen",
        "meta",
        "state",
        "any",
        "not",
        "colour",
        "a/b",
    ];
    let field = prop::sample::select(fields);
    let made = (field, prop_oneof![wrong, selector(), value_test(true), text_test()])
        .prop_map(|(field, value)| json!({field: value}));
    let deep = |depth: usize, inner: Value| {
        (0..depth).fold(inner, |inner, level| match level % 2 {
            0 => json!({"not": inner}),
            _ => json!({"any": [inner]}),
        })
    };
    let many = (1usize..5, 5usize..10).prop_map(|(selectors, tests)| {
        let tests: serde_json::Map<_, _> =
            (0..tests).map(|n| (format!("/{n}"), json!({"lt": 1, "gt": 0}))).collect();
        json!({"any": vec![json!({"meta": tests}); selectors]})
    });
    prop_oneof![
        6 => made.clone(),
        2 => (0usize..6, made).prop_map(move |(depth, inner)| deep(depth, inner)),
        1 => many,
        2 => selector(),
        1 => document(),
    ]
}

#[tokio::test]
async fn what_is_short_enough_here_is_short_enough_in_the_database() {
    let database = fresh_database().await;
    let client = connect(&as_owner(&database.url)).await;
    let statement =
        client.prepare("SELECT fleetgate_selector_problem($1::text::jsonb)").await.unwrap();
    let names = |bytes: usize| json!({"name": vec!["n".repeat(bytes); 100]}).to_string();
    let ones = format!("[{}]", vec!["1"; 100].join(","));
    for (text, fits) in [
        (names(78), true),
        (names(79), false),
        (format!(r#"{{"not":{{"meta":{{"/a":{ones},"/b":{ones}}}}}}}"#), true),
        (r#"{"meta":{"/a":1e4000,"/b":1e4000}}"#.to_owned(), true),
        (r#"{"meta":{"/a":1e5000,"/b":1e5000}}"#.to_owned(), false),
    ] {
        let json: Value = serde_json::from_str(&text).unwrap();
        let read = Selector::from_json(&json);
        assert_eq!(read.is_ok(), fits, "{read:?}: {text:.60}");
        let problem: Option<String> = client.query_one(&statement, &[&text]).await.unwrap().get(0);
        assert!(!fits || problem.is_none(), "{problem:?}: {text:.60}");
    }
}

#[tokio::test]
async fn the_database_accepts_the_selectors_that_the_parser_accepts() {
    let database = fresh_database().await;
    let client = connect(&as_owner(&database.url)).await;
    let mut runner = TestRunner::deterministic();
    let strategy = anything();
    let (mut valid, mut invalid) = (0, 0);
    let statement =
        client.prepare("SELECT fleetgate_selector_problem($1::text::jsonb)").await.unwrap();
    for _ in 0..4_000 {
        let json = draw(&mut runner, &strategy);
        let problem: Option<String> =
            client.query_one(&statement, &[&json.to_string()]).await.unwrap().get(0);
        match (Selector::from_json(&json), problem) {
            (Ok(_), None) => valid += 1,
            (Err(error), Some(problem)) => {
                assert!(problem.contains(&error.pointer), "{json}: {error} and {problem}");
                invalid += 1;
            }
            (parsed, problem) => panic!("{json}: {parsed:?} but {problem:?}"),
        }
    }
    assert!(valid > 500 && invalid > 500, "{valid} {invalid}");
    client.batch_execute("INSERT INTO capabilities (name) VALUES ('switch')").await.unwrap();
    let refused = client
        .batch_execute("INSERT INTO routing_rules (name, capability, selector) VALUES ('r', 'switch', '{\"area\": 7}')")
        .await
        .unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert_eq!(
        message,
        "the selector /area: must be a text, a list of texts, null (absent), {\"prefix\": \"x\"} or {\"not\": …}"
    );
}
