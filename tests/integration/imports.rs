//! Export and import: what goes out comes back in, and what is wrong is named and changes nothing.

use std::io::Write;
use std::process::Stdio;

use fleetgate::fleet::exports::export;
use fleetgate::fleet::imports::{Chunk, Item, OnConflict, import};
use fleetgate::fleet::{Actor, FleetError, act};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::app::eventually;
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

async fn lines(client: &mut Client) -> Vec<String> {
    let mut lines = Vec::new();
    let write = |line: &str| {
        lines.push(line.to_owned());
        Ok::<(), FleetError>(())
    };
    export(client, true, write).await.unwrap();
    lines
}

/// Imports lines as one chunk; which were wrong.
async fn take(client: &mut Client, lines: &[String], on_conflict: OnConflict) -> Vec<usize> {
    let items: Vec<Item> = lines.iter().map(|line| Item::read(line).ok().unwrap()).collect();
    let items: Vec<&Item> = items.iter().collect();
    let chunk = act(client, &Actor::System, async |transaction| {
        import(transaction, &items, on_conflict).await
    });
    match chunk.await.unwrap() {
        Chunk::Done(_) => Vec::new(),
        Chunk::Refused(wrong) => wrong.into_iter().map(|(position, _)| position).collect(),
    }
}

fn maybe(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), prop::sample::select(words).prop_map(Value::from)]
}

fn credential() -> impl Strategy<Value = Value> {
    let until = maybe(&["2040-01-01T00:00:00.123456Z", "2020-02-29T23:59:59Z"]);
    (0..4, until, maybe(&["lab", "ü \"'"])).prop_map(|(kind, until, label)| match kind {
        0 => json!({"kind": "secret", "hash": HASH, "expires_at": until, "label": label}),
        1 => json!({"kind": "password", "hash": HASH.replace("BAAA", "CAAA"), "revoked_at": until}),
        2 => json!({"kind": "token", "not_before": "2019-01-01T00:00:00Z", "label": label}),
        _ => json!({"kind": "certificate", "common_name": "cn, \u{fe}", "certificate_required": label.is_null()}),
    })
}

/// A device by its number; every fifth is a gateway, and those that follow may be behind it.
fn device(number: usize) -> impl Strategy<Value = Value> {
    let place = || maybe(&["lab", "a'b", "\u{10ffff}"]);
    let metas = prop::sample::select(vec![
        json!({}),
        json!({"n": serde_json::from_str::<Value>("12345678901234567890.10").unwrap(), "x": null}),
        json!({"deep": [{"a": [1, null, "\u{1}"]}]}),
    ]);
    let bindings = prop::collection::btree_map(
        prop::sample::select(vec!["main", "light", "fan"]),
        (0..4usize, any::<bool>()),
        0..3,
    );
    let grants = prop::collection::btree_set(
        (
            prop::sample::select(vec!["publish", "subscribe"]),
            prop::sample::select(vec!["#", "a/+/b"]),
        ),
        0..3,
    );
    let credentials = prop::collection::vec(credential(), 0..3);
    (place(), place(), metas, bindings, grants, credentials, any::<(bool, bool)>()).prop_map(
        move |(area, floor, meta, bindings, grants, credentials, (enabled, is_child))| {
            let is_child = is_child && !number.is_multiple_of(5);
            let bindings: Vec<Value> = bindings
                .into_iter()
                .map(|(name, (form, merge))| {
                    let topic = |end: &str| format!("d{number}/{name}/{end}");
                    match form {
                        0 => json!({"name": name, "state_topic": topic("state"), "merge": merge}),
                        1 => json!({"name": name, "command_topic": "shared/set"}),
                        2 => json!({"name": name, "command_topic": topic("set"), "reply_topic": topic("reply")}),
                        _ => json!({"name": name, "state_topic": topic("state"), "command_topic": topic("set")}),
                    }
                })
                .collect();
            let grants: Vec<Value> = grants
                .into_iter()
                .map(|(action, filter)| json!({"action": action, "topic_filter": filter}))
                .collect();
            let gateway = is_child.then(|| format!("d{}", number - number % 5));
            json!({"device": {
                "name": format!("d{number}"), "area": area, "floor": floor, "meta": meta, "enabled": enabled,
                "kind": if is_child { "light" } else { "x" }, "bindings": bindings, "grants": grants,
                "client_id": number.is_multiple_of(3).then(|| format!("c{number}")), "gateway": gateway,
                "availability_topic": is_child.then(|| format!("d{number}/availability")),
                "capabilities": ["fan"], "credentials": if is_child { json!([]) } else { json!(credentials) },
            }})
        },
    )
}

fn rest() -> Vec<String> {
    [
        json!({"capability": {"name": "light", "description": "ä", "state_schema": {"type": "object"}, "confirm": "state", "answer_in": 7}}),
        json!({"capability": {"name": "fan", "command_schema": true, "envelope": true, "only_latest": true, "ack_timeout": 9}}),
        json!({"rule": {"name": "r1", "capability": "fan", "selector": {"area": ["lab"]}, "strategy": "any", "priority": -5}}),
        json!({"rule": {"name": "r2", "capability": "light", "enabled": false}}),
    ]
    .map(|line| line.to_string())
    .to_vec()
}

#[tokio::test]
async fn what_is_exported_is_imported_to_the_same_rows() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..6 {
        let draw = |number: usize, runner: &mut TestRunner| {
            device(number).new_tree(runner).unwrap().current().to_string()
        };
        let mut all = rest();
        all.extend((0..25).map(|number| draw(number, &mut runner)));
        let (_first, mut first) = Database::migrated().await;
        assert_eq!(take(&mut first, &all, OnConflict::Fail).await, <[usize; 0]>::default());
        let out = lines(&mut first).await;
        assert_eq!(out.len(), 29);
        assert!(out[27].contains(r#"{"area": ["lab"]}"#), "as it was written: {}", out[27]);
        let (_second, mut second) = Database::migrated().await;
        assert_eq!(take(&mut second, &out, OnConflict::Fail).await, <[usize; 0]>::default());
        assert_eq!(lines(&mut second).await, out);
        second.batch_execute("DELETE FROM work_queue").await.unwrap();
        // Once more, in each way, and nothing is different.
        assert_eq!(take(&mut second, &out, OnConflict::Fail).await, (0..29).collect::<Vec<_>>());
        for on_conflict in [OnConflict::Skip, OnConflict::Update] {
            assert_eq!(take(&mut second, &out, on_conflict).await, <[usize; 0]>::default());
            assert_eq!(lines(&mut second).await, out, "{on_conflict:?}");
        }
        let kick_outs = "SELECT count(*) FROM work_queue";
        let kick_outs: i64 = second.query_one(kick_outs, &[]).await.unwrap().get(0);
        assert_eq!(kick_outs, 0, "nothing changed, so nobody is kicked out");
    }
}

#[tokio::test]
async fn an_update_makes_a_device_what_the_line_says() {
    let (_database, mut client) = Database::migrated().await;
    let mut old = rest();
    old.push(json!({"device": {
        "name": "a", "kind": "x", "area": "lab", "capabilities": ["fan"],
        "bindings": [{"name": "main", "state_topic": "a/state"}, {"name": "light", "state_topic": "a/light"}],
        "grants": [{"action": "publish", "topic_filter": "old/#"}], "credentials": [{"kind": "secret", "hash": HASH}],
    }}).to_string());
    assert_eq!(take(&mut client, &old, OnConflict::Fail).await, <[usize; 0]>::default());
    let new = json!({"device": {
        "name": "a", "kind": "y", "capabilities": [], "bindings": [{"name": "main", "state_topic": "a/other"}],
        "grants": [{"action": "publish", "topic_filter": "new/#"}],
    }});
    let changed = [new.to_string()];
    assert_eq!(take(&mut client, &changed, OnConflict::Skip).await, <[usize; 0]>::default());
    assert!(lines(&mut client).await[2].contains("old/#"));
    assert_eq!(take(&mut client, &changed, OnConflict::Update).await, <[usize; 0]>::default());
    let line: Value = serde_json::from_str(&lines(&mut client).await[2]).unwrap();
    let device = &line["device"];
    assert_eq!((&device["kind"], &device["area"]), (&json!("y"), &json!(null)));
    assert_eq!(device["capabilities"], json!([]));
    assert_eq!(device["bindings"].as_array().unwrap().len(), 1);
    assert_eq!(device["bindings"][0]["state_topic"], "a/other");
    assert_eq!(device["grants"], json!([{"action": "publish", "topic_filter": "new/#"}]));
    assert_eq!(device["credentials"].as_array().unwrap().len(), 1, "it can log in still");
}

#[tokio::test]
async fn lines_about_the_same_thing_are_done_one_after_the_other() {
    let (_database, mut client) = Database::migrated().await;
    let device = |name: &str, kind: &str| {
        let bindings = json!([{"name": "main", "state_topic": format!("{name}/{kind}")}]);
        json!({"device": {"name": name, "kind": kind, "bindings": bindings}}).to_string()
    };
    let all = [device("a", "x"), device("b", "x"), device("a", "y")];
    assert_eq!(take(&mut client, &all, OnConflict::Fail).await, [2]);
    assert_eq!(lines(&mut client).await, <[String; 0]>::default());
    assert_eq!(take(&mut client, &all, OnConflict::Skip).await, <[usize; 0]>::default());
    let kinds = async |client: &mut Client| {
        let kinds = "SELECT string_agg(name || kind, ' ' ORDER BY name) FROM devices";
        client.query_one(kinds, &[]).await.unwrap().get::<_, String>(0)
    };
    assert_eq!(kinds(&mut client).await, "ax bx");
    let again = [device("a", "z"), device("c", "z"), device("a", "w")];
    assert_eq!(take(&mut client, &again, OnConflict::Update).await, <[usize; 0]>::default());
    assert_eq!(kinds(&mut client).await, "aw bx cz");
}

/// In the order of presence, whatever the file's.
#[tokio::test]
async fn devices_that_change_are_locked_by_their_ids() {
    let (database, client) = Database::migrated().await;
    client
        .batch_execute("INSERT INTO devices (name, kind) VALUES ('first', 'x'), ('second', 'x')")
        .await
        .unwrap();
    let (mut late, other) = (database.connect().await, database.connect().await);
    other
        .batch_execute("BEGIN; SELECT FROM devices WHERE name = 'first' FOR UPDATE")
        .await
        .unwrap();
    let line = |name: &str| format!(r#"{{"device": {{"name": "{name}", "kind": "y"}}}}"#);
    let lines = [line("second"), line("first")];
    let taken = tokio::spawn(async move { take(&mut late, &lines, OnConflict::Update).await });
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the import waits", || async {
        client.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    let free = "SELECT FROM devices WHERE name = 'second' FOR UPDATE NOWAIT";
    other.batch_execute(free).await.expect("it waits for the first with nothing in hand");
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(taken.await.unwrap(), <[usize; 0]>::default());
}

#[tokio::test]
async fn nothing_is_asked_of_lines_that_are_passed_over() {
    let (_database, mut client) = Database::migrated().await;
    client
        .batch_execute("INSERT INTO devices (name, kind) VALUES ('lamp', 'light')")
        .await
        .unwrap();
    let device = |name: &str| {
        let bindings = r#"[{"name": "brightness", "state_topic": "s"}]"#;
        format!(
            r#"{{"device": {{"name": "{name}", "kind": "light", "gateway": "gone", "bindings": {bindings}}}}}"#
        )
    };
    let lines = [device("lamp"), device("other")];
    assert_eq!(take(&mut client, &lines[..1], OnConflict::Skip).await, <[usize; 0]>::default());
    assert_eq!(take(&mut client, &lines, OnConflict::Skip).await, [1], "it would be new");
}

/// Not even where it goes between two statements of the import: the import waits for the rename, or the rename for it.
#[tokio::test]
async fn a_child_is_never_imported_without_its_gateway() {
    let (database, mut client) = Database::migrated().await;
    client
        .batch_execute("INSERT INTO devices (name, kind) VALUES ('hub', 'bridge')")
        .await
        .unwrap();
    let (mut late, watcher) = (database.connect().await, database.connect().await);
    let open = client.transaction().await.unwrap();
    open.batch_execute("UPDATE devices SET name = 'other' WHERE name = 'hub'").await.unwrap();
    let line = r#"{"device": {"name": "lamp", "kind": "light", "gateway": "hub"}}"#.to_owned();
    let taken = tokio::spawn(async move { take(&mut late, &[line], OnConflict::Fail).await });
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the import waits", || async {
        watcher.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    open.commit().await.unwrap();
    assert_eq!(taken.await.unwrap(), [0], "the line is wrong");
    let there = "SELECT count(*) FROM devices WHERE name = 'lamp'";
    assert_eq!(watcher.query_one(there, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_is_named() {
    let (database, _client) = Database::migrated().await;
    let file = b"{\"capability\":{\"name\":\"a\",\"state_schema\":{\"type\":\"nonsense\"}}}\n";
    let (status, _, err) = run_with(&database, &["import", "-"], file);
    assert!(status == 1 && err.contains("state_schema is not a usable JSON Schema"), "{err}");
}

#[tokio::test]
async fn nothing_of_a_chunk_stays_that_has_a_line_which_cannot_be_read() {
    let (database, client) = Database::migrated().await;
    let file = b"{\"device\":{\"name\":\"a\",\"kind\":\"x\"}}\nnonsense\n";
    let (status, _, err) = run_with(&database, &["import", "-"], file);
    assert!(status == 1 && err.contains("line 2: column 2: is not JSON"), "{err}");
    assert!(err.contains("go on with --from-line 1"), "{err}");
    let devices = client.query_one("SELECT count(*) FROM devices", &[]).await.unwrap();
    assert_eq!(devices.get::<_, i64>(0), 0);
}

/// Runs the command with this on its standard input.
fn run_with(database: &Database, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = fleetgate(arguments);
    command.env("FLEETGATE_DATABASE_URL", database.url()).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have seen enough before the end.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_line_moves_a_registry() {
    let (old, client) = Database::migrated().await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind) VALUES ('a', 'x'), ('b', 'service');
             INSERT INTO device_credentials (device_id, kind, not_before) SELECT id, 'token', now() FROM devices",
        )
        .await
        .unwrap();
    let export = |database: &Database, arguments: &[&str]| {
        let mut command = fleetgate(&[&["export"], arguments].concat());
        command.env("FLEETGATE_DATABASE_URL", database.url());
        run(command)
    };
    let (status, bare, told) = export(&old, &[]);
    assert!(status == 0 && !bare.contains("token"), "{bare}");
    assert!(told.contains("2 lines. 2 credentials are left out"), "{told}");
    let (_, whole, told) = export(&old, &["--with-credentials"]);
    assert!(told.starts_with("2 lines.") && !told.contains("left out"), "{told}");
    let (new, _client) = Database::migrated().await;
    let (status, out, err) = run_with(&new, &["import", "-", "--dry-run"], whole.as_bytes());
    assert_eq!(
        (status, out.trim()),
        (0, "It would be: 2 added, 0 updated, 0 left as they were."),
        "{err}"
    );
    assert_eq!(export(&new, &[]).1, "", "nothing was changed");
    let (status, out, err) = run_with(&new, &["import", "-"], whole.as_bytes());
    assert_eq!((status, out.trim()), (0, "2 added, 0 updated, 0 left as they were."), "{err}");
    assert_eq!(export(&new, &["--with-credentials"]).1, whole);
    let (status, out, _) =
        run_with(&new, &["--json", "import", "-", "--on-conflict", "skip"], whole.as_bytes());
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &out["skipped"], &out["last_line"]), (0, &json!(2), &json!(2)));
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_of_its_chunk_stays() {
    let (database, client) = Database::migrated().await;
    let device = |name: &str| format!("{{\"device\":{{\"name\":\"{name}\",\"kind\":\"x\"}}}}");
    let mut file: Vec<Vec<u8>> =
        (0..600).map(|number| device(&format!("d{number}")).into_bytes()).collect();
    // Of the second chunk, each wrong in its own way; the lines between are right.
    file[501] = device("d7").into_bytes();
    file[503] =
        b"{\"device\": {\"name\": \"x\", \"kind\": \"y\", \"gateway\": \"nobody\"}}".to_vec();
    file[505] = b"{\"device\": {\"name\": \"x\", \"kind\": 7}}".to_vec();
    file[507] = b"{\"device\": {\"name\": \"\xff\"}}".to_vec();
    file[509] =
        [b"{\"device\": {\"name\": \"".to_vec(), vec![b'x'; 2 << 20], b"\"}}".to_vec()].concat();
    file[511] = b"{\"device\": {\"name\": \"x\", \"kind\": \"y\", \"capabilities\": [\"flying\"]}}"
        .to_vec();
    file[513] = b"{\"device\": {\"name\": \"x\", \"kind\": \"y\", \"credentials\": [{\"kind\": \"secret\", \"label\": \"\\u0000\"}]}}".to_vec();
    file[515] = b"{\"device\": {\"name\": \"x\\u0000\", \"kind\": \"y\"}}".to_vec();
    file[517] = [b"{\"device\": ".to_vec(), b"[".repeat(100_000)].concat();
    // As some editors write: with a mark in front and other ends of lines; and one line empty.
    file[0] = [b"\xef\xbb\xbf".to_vec(), file[0].clone()].concat();
    file[2] = Vec::new();
    let input = file.join(b"\r\n".as_slice());
    let (status, _, err) = run_with(&database, &["import", "-"], &input);
    assert_eq!(status, 1, "{err}");
    for (line, what) in [
        (502, "choose another name, or import with --on-conflict skip or update"),
        (504, "device \"nobody\""),
        (506, "/device/kind"),
        (508, "is not UTF-8 at byte"),
        (510, "has more than 1048576 bytes"),
        (512, "capability \"flying\""),
        (514, "line 514"),
        (516, "/device/name"),
        (518, "/device "),
    ] {
        let told = err.lines().find(|told| told.starts_with(&format!("line {line}: ")));
        assert!(
            told.is_some_and(|told| told.contains(what)),
            "{line}: {told:?}\n{}",
            err.chars().take(4000).collect::<String>()
        );
    }
    assert_eq!(err.lines().filter(|line| line.starts_with("line ")).count(), 9);
    assert!(err.contains("go on with --from-line 502"), "{err}");
    let count = async || -> i64 {
        client.query_one("SELECT count(*) FROM devices", &[]).await.unwrap().get(0)
    };
    assert_eq!(count().await, 500);
    // Corrected, it goes on where it stopped.
    for line in (501..519).step_by(2) {
        file[line] = device(&format!("d{line}")).into_bytes();
    }
    let input = file.join(b"\n".as_slice());
    let (status, out, err) = run_with(&database, &["import", "-", "--from-line", "502"], &input);
    assert_eq!((status, out.trim()), (0, "99 added, 0 updated, 0 left as they were."), "{err}");
    assert_eq!(count().await, 599);
}

/// An export of before a theft does not undo what was done after it.
#[tokio::test]
async fn what_was_revoked_does_not_come_back_with_an_old_file() {
    let (_database, mut client) = Database::migrated().await;
    let other = HASH.replace("BAAA", "CAAA");
    let line = json!({"device": {"name": "a", "kind": "x", "credentials": [
        {"kind": "secret", "hash": HASH, "label": "first"},
        {"kind": "password", "hash": other},
        {"kind": "certificate", "common_name": "a", "certificate_required": false},
        {"kind": "token", "not_before": "2019-01-01T00:00:00Z"}]}});
    let before = [line.to_string()];
    assert_eq!(take(&mut client, &before, OnConflict::Fail).await, <[usize; 0]>::default());
    client
        .batch_execute(
            "UPDATE device_credentials SET revoked_at = now(), label = 'stolen' WHERE kind <> 'token';
             UPDATE device_credentials SET revoked_at = now() WHERE kind = 'token'",
        )
        .await
        .unwrap();
    let after = lines(&mut client).await;
    assert_eq!(take(&mut client, &before, OnConflict::Update).await, <[usize; 0]>::default());
    assert_eq!(lines(&mut client).await, after);
    // One that was rehashed here is the same password still.
    client
        .batch_execute("DELETE FROM device_credentials WHERE kind <> 'password'; UPDATE device_credentials SET revoked_at = NULL")
        .await
        .unwrap();
    let foreign = json!({"device": {"name": "a", "kind": "x", "credentials": [
        {"kind": "imported", "hash": "$2y$05$yPX5YHdhOv1RIoHuxhNmfee9KSgnC5gEUDx/mi0JAyzTMG/8eN7.G"}]}});
    let after = lines(&mut client).await;
    let old = [foreign.to_string()];
    assert_eq!(take(&mut client, &old, OnConflict::Update).await, <[usize; 0]>::default());
    assert_eq!(lines(&mut client).await, after);
    // The other way round, a file tells what was revoked.
    let revoked = json!({"device": {"name": "a", "kind": "x", "credentials": [
        {"kind": "password", "hash": other, "revoked_at": "2026-01-01T00:00:00Z"}]}});
    let revoked = [revoked.to_string()];
    assert_eq!(take(&mut client, &revoked, OnConflict::Update).await, <[usize; 0]>::default());
    let count =
        "SELECT count(*) FILTER (WHERE revoked_at IS NULL), count(*) FROM device_credentials";
    let row = client.query_one(count, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 1));
}
