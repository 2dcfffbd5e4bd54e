//! The command line as people and scripts use it: the real binary against a real database.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::commands::fleetgate;
use crate::support::database::Database;
use serde_json::Value;

/// What a command left behind.
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// It failed with this code, said all of this on standard error and nothing on standard output.
    #[track_caller]
    fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{:?} does not say {part:?}", self.stderr);
        }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn run_on(url: &str, arguments: &[&str], stdin: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fleetgate"))
        .args(arguments)
        .env_clear()
        .env("FLEETGATE_DATABASE_URL", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that doesn't read may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A migrated database and the command line on it.
struct Fleet {
    database: Database,
}

impl Fleet {
    async fn new() -> Self {
        let (database, _) = Database::migrated().await;
        Self { database }
    }

    /// Runs a command line, split at spaces.
    fn run(&self, line: &str) -> Outcome {
        self.run_with_input(line, "")
    }

    fn run_with_input(&self, line: &str, stdin: &str) -> Outcome {
        run_on(&self.database.url(), &line.split(' ').collect::<Vec<_>>(), stdin)
    }

    fn show(&self, device: &str) -> Value {
        self.run(&format!("--json device show {device}")).ok().json()
    }
}

fn schema_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn migrating_twice_is_fine() {
    let url = Database::empty().await.url();
    run_on(&url, &["device", "list"], "").failed(1, &["fleetgate migrate"]);
    let first = run_on(&url, &["migrate"], "").ok();
    assert!(first.stdout.contains("V1__registry"), "{}", first.stdout);
    let second = run_on(&url, &["migrate", "--json"], "").ok().json();
    assert_eq!(second["applied"], serde_json::json!([]));
}

#[tokio::test]
async fn a_device_is_provisioned_by_the_convention() {
    let fleet = Fleet::new().await;
    let schema = schema_file(r#"{"type": "number"}"#);
    let schema = schema.path().display();
    fleet.run(&format!("capability add temperature --state-schema {schema}")).ok();
    fleet.run(&format!("capability add relay --command-schema {schema}")).ok();
    fleet.run("capability add light").ok();
    let added = fleet.run(
        "device add thermo-1 --kind sensor --area lab --floor 2 --bind temperature --bind relay --bind light \
         --bind main --state-topic main=elsewhere/thermo-1 --generate --json",
    );
    let added = added.ok().json();
    assert_eq!(added["secret"].as_str().unwrap().len(), 43);
    let topics: Vec<_> = added["bindings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| (b["name"].as_str(), b["state_topic"].as_str(), b["command_topic"].as_str()))
        .collect();
    assert_eq!(
        topics,
        [
            (Some("light"), Some("lab/2/thermo-1/light/state"), Some("lab/2/thermo-1/light/set")),
            (Some("main"), Some("elsewhere/thermo-1"), Some("lab/2/thermo-1/main/set")),
            (Some("relay"), None, Some("lab/2/thermo-1/relay/set")),
            (Some("temperature"), Some("lab/2/thermo-1/temperature/state"), None),
        ]
    );
    let shown = fleet.show("thermo-1");
    assert_eq!(shown["credentials"][0]["kind"], "secret");
    assert!(shown.get("secret").is_none() && !shown.to_string().contains("argon2id"));
    let text = fleet.run("device show thermo-1").ok().stdout;
    assert!(text.contains("lab/2/thermo-1/light/set") && text.contains("Grants:\nnone"), "{text}");

    let bare = fleet.run("device add thermo-2 --kind sensor --area lab --floor 2").ok();
    assert!(bare.stderr.contains("fleetgate binding add thermo-2 main"), "{}", bare.stderr);
    fleet.run("binding add thermo-2 main").ok();
    assert_eq!(fleet.show("thermo-2")["bindings"][0]["state_topic"], "lab/2/thermo-2/main/state");
}

#[tokio::test]
async fn a_device_is_shown_with_what_it_reported() {
    let fleet = Fleet::new().await;
    fleet.run("device add thermo --kind sensor").ok();
    let client = fleet.database.connect().await;
    client
        .batch_execute(
            r#"INSERT INTO device_state (device_id, last_seen, state, last_violation)
               SELECT id, '2026-11-22T14:00:00Z', '{"main": {"value": {"c": 21.50}, "at": 0, "id": "00"}}',
                      '{"at": 0, "binding": "main", "pointer": "/c", "message": "breaks it"}' FROM devices"#,
        )
        .await
        .unwrap();
    let shown = fleet.run("device show thermo").ok().stdout;
    for part in ["2026-11-22T14:00:00Z", r#"{"c":21.50}"#, "main at /c breaks it", "d ago"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(fleet.show("thermo")["last_violation"]["pointer"], "/c");
}

/// P3: from the command line to the registry and back, whatever the number.
#[tokio::test]
async fn every_digit_of_a_number_in_meta_is_kept() {
    let fleet = Fleet::new().await;
    let numbers = "[89441100680000000001,9007199254740993,0.1000,1.0,1,-12345678901234567890.09]";
    let meta = format!(r#"{{"iccid":89441100680000000001,"n":{numbers}}}"#);
    let add = ["device", "add", "sim", "--kind", "modem", "--meta", &meta];
    run_on(&fleet.database.url(), &add, "").ok();
    let text = fleet.run("device show sim").ok().stdout;
    assert!(text.contains(&meta), "{text}");
    assert_eq!(fleet.show("sim")["meta"].to_string(), meta);
    let list = fleet.run("--json device list").ok().stdout;
    assert!(list.contains("\"iccid\": 89441100680000000001"), "{list}");
    for (bad, why) in [(r#"{"a":"\u0000"}"#, "U+0000"), (r#"{"a":1e200000}"#, "digits")] {
        let refused = run_on(
            &fleet.database.url(),
            &["device", "add", "x", "--kind", "y", "--meta", bad],
            "",
        );
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
}

/// P9: what the reports of a binding do can be said and seen.
#[tokio::test]
async fn a_binding_says_whether_its_reports_merge() {
    let fleet = Fleet::new().await;
    fleet.run("device add plug --kind relay --state-topic main=s/plug --merge main").ok();
    assert_eq!(fleet.show("plug")["bindings"][0]["merge"], true);
    fleet.run("binding set plug main --replace").ok();
    let listed = fleet.run("binding list plug").ok().stdout;
    assert!(listed.contains("REPORTS") && listed.contains("replace"), "{listed}");
    fleet.run("binding set plug main --merge").ok();
    assert_eq!(fleet.show("plug")["bindings"][0]["merge"], true);
    fleet.run("binding remove plug main").ok();
    fleet.run("binding add plug main --state-topic s/plug --merge").ok();
    assert!(fleet.run("device show plug").ok().stdout.contains("merge"));
    fleet.run("binding set plug light --merge").failed(3, &["\"light\"", "binding list"]);
    fleet.run("binding set plug main").failed(2, &["--merge", "--replace"]);
    let none = fleet.run("device add p2 --kind relay --command-topic main=x --merge main");
    none.failed(2, &["\"main\"", "--merge", "--state-topic"]);
}

/// A device that is moved or renamed keeps its topics until somebody moves them, and is told so.
#[tokio::test]
async fn a_device_is_changed_and_its_topics_are_moved_by_a_word() {
    let fleet = Fleet::new().await;
    fleet.run("device add t1 --kind sensor --area lab --floor 2 --bind main").ok();
    fleet.run("device set t1").failed(2, &["--area", "--no-client-id", "--meta"]);
    fleet.run("device set t1 --area roof --no-area").failed(2, &["cannot be used with"]);
    let moved = fleet.run("--json device set t1 --area roof --name t2 --client-id c:2").ok();
    let hint = "fleetgate binding set t2 main --conventional";
    assert!(moved.stderr.contains(hint), "{}", moved.stderr);
    let moved = moved.json();
    let place = (&moved["name"], &moved["area"], &moved["floor"], &moved["client_id"]);
    assert_eq!(place, (&"t2".into(), &"roof".into(), &"2".into(), &"c:2".into()));
    assert_eq!(moved["left_behind"], serde_json::json!(["main"]));
    assert_eq!(moved["bindings"][0]["state_topic"], "lab/2/t1/main/state");
    let bound = fleet.run("--json binding set t2 main --conventional").ok().json();
    assert_eq!(bound["command_topic"], "roof/2/t2/main/set");
    let exact = "--json binding set t2 main --no-command-topic --state-topic x/y";
    let bound = fleet.run(exact).ok().json();
    assert_eq!((&bound["state_topic"], &bound["command_topic"]), (&"x/y".into(), &Value::Null));
    fleet.run("binding set t2 main --no-state-topic").failed(2, &["\"main\"", "at least one"]);
    let clear = "device set t2 --no-area --no-floor --no-client-id --kind servise";
    let cleared = fleet.run(clear).ok();
    assert!(cleared.stderr.contains("device set NAME --kind service"), "{}", cleared.stderr);
    let shown = fleet.show("t2");
    let place = (&shown["area"], &shown["floor"], &shown["client_id"]);
    assert_eq!(place, (&Value::Null, &Value::Null, &"t2".into()));
    fleet.run("binding set t2 main --conventional").failed(2, &["\"t2\"", "no area or no floor"]);
    fleet.run("device set nobody --kind x").failed(3, &["\"nobody\"", "device list"]);

    // A script may say the same again, and is told when it says something else.
    fleet.run("binding add t2 main --state-topic x/y").ok();
    fleet.run("binding add t2 main --state-topic x/z").failed(1, &["binding set"]);
}

#[tokio::test]
async fn secrets_stand_alone_on_standard_output() {
    let fleet = Fleet::new().await;
    let added = fleet.run("device add a --kind sensor --generate").ok();
    let again = fleet.run("credential add a --generate --label spare --expires 90d").ok();
    for outcome in [&added, &again] {
        assert_eq!(outcome.stdout.trim_end().len(), 43, "{}", outcome.stdout);
        assert!(outcome.stderr.contains("stored nowhere"), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains(outcome.stdout.trim_end()));
    }
    assert_ne!(added.stdout, again.stdout);
    let list = fleet.run("--json credential list a").ok().json();
    assert_eq!((&list[0]["label"], &list[1]["label"]), (&Value::Null, &"spare".into()));
    assert!(list[1]["expires_at"].is_string() && list[1]["valid"] == true);
}

#[tokio::test]
async fn stored_hashes_are_those_of_the_secrets() {
    use argon2::{Argon2, Params};
    use base64ct::{Base64Unpadded, Encoding};
    let fleet = Fleet::new().await;
    let secret = fleet.run("device add a --kind sensor --generate").ok().stdout;
    fleet.run_with_input("credential add a --password-stdin", "correct horse\r\n").ok();
    let client = fleet.database.connect().await;
    let rows = client.query("SELECT hash FROM device_credentials ORDER BY id", &[]).await.unwrap();
    let expected = [(secret.trim_end(), "m=8,t=1,p=1"), ("correct horse", "m=19456,t=2,p=1")];
    for (row, (password, costs)) in rows.iter().zip(expected) {
        let phc: String = row.get(0);
        let [_, "argon2id", "v=19", cost, salt, digest] = phc.split('$').collect::<Vec<_>>()[..]
        else {
            panic!("{phc}")
        };
        assert_eq!(cost, costs);
        let numbers: Vec<u32> = cost.split(',').map(|part| part[2..].parse().unwrap()).collect();
        let params = Params::new(numbers[0], numbers[1], numbers[2], None).unwrap();
        let mut again = [0; 32];
        Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into(
                password.as_bytes(),
                &Base64Unpadded::decode_vec(salt).unwrap(),
                &mut again,
            )
            .unwrap();
        assert_eq!(Base64Unpadded::encode_string(&again), digest);
    }
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn credentials_are_refused_where_they_make_no_sense() {
    let fleet = Fleet::new().await;
    fleet.run("device add a --kind sensor").ok();
    let weak = fleet.run_with_input("credential add a --password-stdin", "short\n");
    weak.failed(2, &["5 characters", "--allow-weak"]);
    assert!(!weak.stderr.contains("short"), "{}", weak.stderr);
    fleet.run_with_input("credential add a --password-stdin", "").failed(2, &["empty"]);
    // Wherever the reading ends, within a character too.
    for before in 0..4 {
        let long = format!("{}{}", "x".repeat(before), "\u{20ac}".repeat(2_000));
        let refused = fleet.run_with_input("credential add a --password-stdin", &long);
        refused.failed(2, &["longer than 4096 bytes"]);
    }
    fleet
        .run("credential add a")
        .failed(2, &["--generate", "--password-stdin", "--certificate-cn"]);
    fleet.run("credential add a --generate --password-stdin").failed(2, &["cannot be used with"]);
    fleet.run("credential add a --generate --required").failed(2, &["--required", "--generate"]);
    fleet.run("credential add a --certificate-cn x --allow-weak").failed(2, &["--allow-weak"]);
    fleet.run("credential add a --generate --expires soon").failed(2, &["soon", "90d"]);
    fleet.run("credential add a --generate --expires 2020-01-01").failed(2, &["past"]);
    fleet
        .run("credential add a --certificate-cn undefined")
        .failed(2, &["common name", "undefined"]);
    fleet.run("credential add a --generate --expires 1d --not-before 2d").failed(2, &["later end"]);
    fleet.run("credential add nobody --generate").failed(3, &["\"nobody\"", "device list"]);
    assert_eq!(fleet.show("a")["credentials"], serde_json::json!([]));

    fleet.run_with_input("credential add a --password-stdin --allow-weak", "short").ok();
    fleet.run("credential add a --certificate-cn device-1 --required").ok();
    assert_eq!(fleet.show("a")["credentials"][1]["certificate_required"], true);
    // Its number is not 1: the rows that were refused above have used some up.
    let id = &fleet.show("a")["credentials"][0]["id"];
    let revoke = || fleet.run(&format!("--json credential revoke {id}")).ok().json();
    assert_eq!(revoke()["was_valid"], true);
    assert_eq!(revoke()["was_valid"], false);
    assert_eq!(fleet.show("a")["credentials"][0]["valid"], false);
    fleet.run("credential revoke 999").failed(3, &["no credential 999"]);
    fleet.run("credential revoke x").failed(2, &["<ID>", "credential's number"]);
}

#[tokio::test]
async fn what_devices_may_do_is_added_and_taken_away() {
    let fleet = Fleet::new().await;
    fleet.run("device add dash --kind service").ok();
    fleet.run("capability add light").ok();
    let grant = fleet.run("--json grant add dash subscribe lab/#").ok().json();
    fleet.run("grant add dash publish lab/+/set").ok();
    let twice = fleet.run("grant add dash publish lab/+/set").ok();
    assert!(twice.stdout.contains("may already publish lab/+/set"), "{}", twice.stdout);
    fleet.run("grant add dash publish a+").failed(2, &["a+", "wildcard"]);
    fleet.run("grant add nobody publish a").failed(3, &["\"nobody\""]);
    fleet.run(&format!("grant remove {}", grant["id"])).ok();
    fleet.run(&format!("grant remove {}", grant["id"])).failed(3, &["no grant"]);
    fleet.run("grant remove dash publish lab/+/set").ok();
    fleet.run("grant remove dash publish lab/+/set").failed(3, &["no grant", "lab/+/set"]);
    fleet.run("grant remove dash").failed(2, &["number"]);
    fleet.run("grant remove dash publish").failed(2, &["<FILTER>"]);

    fleet.run("binding add dash light").failed(2, &["--area", "--state-topic"]);
    fleet.run("binding add dash light --state-topic a/+").failed(2, &["a/+", "wildcard"]);
    fleet.run("binding add dash fly --state-topic a").failed(3, &["\"fly\"", "capability add"]);
    fleet.run("binding add dash light --state-topic a").ok();
    fleet
        .run("binding add dash light --state-topic b")
        .failed(1, &["\"light\"", "remove it first"]);
    fleet.run("capability remove light").failed(1, &["devices still have it: 1", "device list"]);
    let list = fleet.run("binding list dash").ok().stdout;
    assert!(list.contains("STATE TOPIC") && list.contains("light"), "{list}");
    fleet.run("binding remove dash light").ok();
    fleet.run("binding remove dash light").failed(3, &["no binding"]);
    fleet.run("capability remove light").ok();
    fleet.run("capability remove light").failed(3, &["\"light\""]);
}

#[tokio::test]
async fn devices_are_listed_switched_and_removed() {
    let fleet = Fleet::new().await;
    for name in ["a", "b", "c"] {
        fleet.run(&format!("device add {name} --kind sensor --area lab")).ok();
    }
    let page = fleet.run("--json device list --limit 2").ok().json();
    assert_eq!((page["devices"].as_array().unwrap().len(), page["next"].as_str()), (2, Some("b")));
    let page = fleet.run("--json device list --after b --area lab --offline --enabled").ok().json();
    assert_eq!((page["devices"][0]["name"].as_str(), page["next"].as_str()), (Some("c"), None));
    let selected = |selector: &str| {
        let devices = fleet.run(&format!("--json device list --selector {selector}")).ok().json();
        let names = devices["devices"].as_array().unwrap().iter();
        names
            .map(|device| device["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(selected("area=lab,name!=b"), "a c");
    assert_eq!(selected(r#"{"name":{"prefix":"b"}}"#), "b");
    fleet.run("device list --selector=").failed(2, &["is empty; write {} for every device"]);
    let wrong = "device list --selector colour=red";
    fleet.run(wrong).failed(2, &["/colour: is not a field", "name, kind"]);
    fleet.run("device list --limit 0").failed(2, &["--limit", "from 1 to 1000"]);
    fleet.run("--config nowhere.toml check-config --config other.toml").failed(2, &["other.toml"]);
    fleet.run("--config nowhere.toml --config other.toml check-config").failed(2, &["other.toml"]);
    fleet.run("health --address nonsense").failed(2, &["nonsense", "127.0.0.1:8080"]);
    fleet.run("dev --listen 8080").failed(2, &["8080", "127.0.0.1:8080"]);
    fleet.run("device list --online --offline").failed(2, &["--offline"]);

    fleet.run("device disable a").ok();
    assert_eq!(fleet.show("a")["enabled"], false);
    fleet.run("device enable a").ok();
    assert_eq!(fleet.show("a")["enabled"], true);
    fleet.run("device disable nobody").failed(3, &["\"nobody\""]);

    fleet.run("device remove a").failed(2, &["--yes"]);
    fleet.run("device show a").ok();
    fleet.run("device remove a --yes").ok();
    fleet.run("device show a").failed(3, &["\"a\""]);
    fleet.run("device remove a --yes").failed(3, &["\"a\""]);
}

#[tokio::test]
async fn a_device_that_breaks_a_rule_is_not_added() {
    let fleet = Fleet::new().await;
    fleet.run("device add dash --kind service").ok();
    fleet.run("device add a/b --kind sensor").failed(2, &["a/b", "contains '/'"]);
    fleet.run("device add a").failed(2, &["--kind"]);
    fleet.run("device add a --kind sensor --meta [1]").failed(2, &["--meta", "no object"]);
    fleet.run("device add a --kind sensor --meta {").failed(2, &["--meta", "not valid JSON"]);
    fleet.run("device add a --kind sensor --area x/y").failed(2, &["--area", "'/'"]);
    fleet.run("device add a --kind sensor --bind main").failed(2, &["--area", "--floor"]);
    fleet
        .run("device add a --kind sensor --capability fly")
        .failed(3, &["\"fly\"", "capability add"]);
    fleet.run("device add a --kind sensor --state-topic main").failed(2, &["CAPABILITY=TOPIC"]);
    fleet.run("device add a --kind sensor --state-topic fly=x").failed(3, &["\"fly\""]);
    fleet
        .run("device add a --kind sensor --state-topic main=x --state-topic main=y")
        .failed(2, &["twice", "main"]);
    fleet
        .run("device add a --kind sensor --client-id dash:1")
        .failed(1, &["service \"dash\"", "rename"]);
    fleet.run("device add dash --kind sensor --generate").failed(1, &["\"dash\"", "another name"]);
    let devices = fleet.run("--json device list").ok().json();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);

    let no_schema = schema_file("[1]");
    let no_json = schema_file("{");
    let file = |file: &tempfile::NamedTempFile| file.path().display().to_string();
    let add = |path: &str| fleet.run(&format!("capability add x --state-schema {path}"));
    add(&file(&no_schema)).failed(1, &[&file(&no_schema), "JSON object"]);
    let unusable = schema_file(r#"{"type": "nonsense"}"#);
    add(&file(&unusable)).failed(1, &[&file(&unusable), "not a usable JSON Schema", "/type"]);
    add(&file(&no_json)).failed(1, &[&file(&no_json), "line 1"]);
    add("/nowhere").failed(1, &["/nowhere", "cannot be read"]);
    let pipes = tempfile::tempdir().unwrap();
    let pipe = pipes.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.display().to_string();
    add(&pipe).failed(1, &[&pipe, "nobody wrote"]);
    fleet.run("capability add main").failed(2, &["\"main\"", "another name"]);
}

#[tokio::test]
async fn errors_are_json_for_programs() {
    let fleet = Fleet::new().await;
    fleet.run("capability add light").ok();
    fleet.run("device add a --kind sensor --capability light").ok();
    for (line, code, kind) in [
        ("--json device show nobody", 3, "not_found"),
        ("--json device add", 2, "usage"),
        ("device add a/b --kind x --json", 2, "usage"),
        ("--json capability add main", 2, "invalid"),
        ("--json device add a --kind sensor", 1, "conflict"),
        ("--json capability remove light", 1, "refused"),
    ] {
        let outcome = fleet.run(line);
        outcome.failed(code, &[]);
        let error: Value = serde_json::from_str(&outcome.stderr).unwrap();
        assert_eq!(error["error"]["kind"], kind, "{line}");
        let field = ["invalid", "conflict"].contains(&kind).then_some("name");
        assert_eq!(error["error"]["field"].as_str(), field, "{line}");
    }
    let away = "postgresql://nobody:top-secret@127.0.0.1:1/x";
    let outcome = run_on(away, &["--json", "device", "list"], "");
    outcome.failed(4, &["unavailable", "check that PostgreSQL runs"]);
    assert!(!outcome.stderr.contains("top-secret"), "{}", outcome.stderr);
}

/// A pipe, as a shell's `<(…)`, gives what it holds once.
#[test]
fn a_configuration_in_a_pipe_is_read_once() {
    let checked = |text: &str, arguments: &[&str]| {
        let mut command = fleetgate(&[&["--config", "/dev/stdin"], arguments].concat());
        command.stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let good = "database.url = 'host=127.0.0.1 port=1 user=u dbname=x connect_timeout=1'\n\
                emqx.webhook_token = '0123456789abcdef'\n";
    assert_eq!(checked(good, &["check-config"]), (Some(0), String::new()));
    let text = format!("{good}tokens.verification_keys = ['/etc/passwd']\n");
    let (code, error) = checked(&text, &["check-config", "--json"]);
    assert_eq!(code, Some(2), "{error}");
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["kind"], "configuration", "{error}");
    // Others that ask for it more than once.
    let send = ["command", "send", "light", "1", "--device", "a", "--wait"];
    let (code, error) = checked(good, &send);
    assert!(code == Some(4) && error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn help_tells_the_exit_codes_and_shells_get_completions() {
    let help = run_on("", &["--help"], "").ok().stdout;
    assert!(help.contains("Exit codes:") && help.contains("4  the database"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run_on("", &["completions", shell], "").ok().stdout;
        assert!(script.contains("credential"), "{shell}");
    }
    run_on("", &["completions", "dos"], "").failed(2, &["bash"]);
}
