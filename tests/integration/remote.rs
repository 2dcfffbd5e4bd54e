//! `fleetgate --api URL`: the command line over the HTTP API says what it says over the database.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use fleetgate::domain::api_token::Scope;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::secrets::Secrets;
use crate::support::api::make_token;
use crate::support::app::{TestApp, start_with};
use crate::support::commands::fleetgate;
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;
use crate::support::postgres::TestDatabase;

/// Every command that works over the API.
const OVER_THE_API: &[&str] = &[
    "api-token add",
    "api-token list",
    "api-token revoke",
    "audit follow",
    "audit list",
    "binding add",
    "binding list",
    "binding remove",
    "binding set",
    "capability add",
    "capability list",
    "capability remove",
    "capability set",
    "command cancel",
    "command list",
    "command pause",
    "command pauses",
    "command resume",
    "command retry",
    "command send",
    "command show",
    "completions",
    "credential add",
    "credential list",
    "credential revoke",
    "device add",
    "device disable",
    "device enable",
    "device list",
    "device remove",
    "device set",
    "device show",
    "export",
    "grant add",
    "grant list",
    "grant remove",
    "import",
    "lock clear",
    "lock list",
    "rule add",
    "rule disable",
    "rule enable",
    "rule list",
    "rule remove",
    "rule set",
    "rule show",
    "rule test",
];

/// Every other command, with the least that has to be said.
const ON_THE_MACHINE: &[(&str, &str)] = &[
    ("certificate issue", "--device lamp --out ."),
    ("check-config", ""),
    ("dev", ""),
    ("doctor", ""),
    ("emqx apply", ""),
    ("health", ""),
    ("migrate", ""),
    ("secrets init", "--directory ."),
    ("secrets show", "--directory . webhook"),
    ("serve", ""),
    ("sweep", ""),
    ("token issue", "lamp"),
    ("token key generate", "--out key"),
    ("token key show", "key"),
];

/// What is done to two fleets that are equal, one after the other. A line may have what is typed behind `<`. `SCHEMA` is a file
/// with a JSON Schema, `ID` the id of the newest command.
const STORY: &[&str] = &[
    "device list",
    "credential list --foreign",
    "capability add switch --command-schema SCHEMA --description 'On and off'",
    "capability add light --confirm state --command-expiry 5m --envelope yes",
    "capability add switch",
    "capability add main",
    "capability add short --command-expiry 100d",
    "capability list",
    "capability set light --state-schema SCHEMA --ack-timeout 10s --only-latest yes",
    "capability set light --no-state-schema --description ''",
    "capability set light",
    "capability set nothing --description x",
    "device add lamp --kind relay --area lab --floor 1 --bind switch --bind main --generate",
    r#"device add sim --kind modem --meta '{"iccid":89441100680000000001,"n":[9007199254740993,0.1000,1.0,1,-12345678901234567890.09],"none":null}'"#,
    "device add lamp --kind relay",
    "device add other --kind relay --client-id lamp",
    "device add bare --kind servise",
    "device add none --kind sensor --capability unknown",
    "device add none --kind sensor --bind switch",
    "device add none --kind sensor --gateway unknown",
    "device add child --kind relay --gateway lamp --availability-topic gw/child --state-topic main=gw/child/main --merge main --capability switch",
    "device add mixed --kind relay --area a --floor b --bind light --command-topic light=x/y --state-topic main=x/z --disabled",
    "device show lamp",
    "device show sim",
    "device show child",
    "device show unknown",
    "device list",
    "device list --limit 2",
    "device list --limit 2 --after lamp",
    "device list --area lab --kind relay --offline --enabled",
    "device list --selector 'area=lab,!online'",
    "device set lamp --area attic --name desk",
    r#"device set sim --meta '{"a":null,"b":{"c":null}}' --kind sensor"#,
    "device set child --no-gateway",
    "device set child --gateway child",
    "device set desk --gateway child",
    "device set desk --name sim",
    "device set unknown --area lab",
    "device set desk --area lab --name lamp --client-id 'the lamp' --no-floor",
    "device set lamp --floor 1 --no-client-id",
    "device disable sim",
    "device enable sim",
    "device enable unknown",
    "binding add sim light --command-topic sim/light --reply-topic sim/reply",
    "binding add sim light --command-topic sim/light --reply-topic sim/reply",
    "binding add sim light --command-topic sim/other",
    "binding add sim main",
    "binding add sim main --state-topic fleetgate/x",
    "binding add sim unknown --state-topic x",
    "binding add unknown main --state-topic x",
    "binding list sim",
    "binding list unknown",
    "binding set sim light --no-reply-topic --state-topic sim/state --merge",
    "binding set sim light --no-state-topic",
    "binding set sim light --conventional",
    "binding set lamp main --conventional",
    "binding set lamp main --reply-topic lamp/reply --replace",
    "binding set lamp light --merge",
    "binding set unknown light --merge",
    "binding remove lamp main",
    "binding remove lamp main",
    "binding remove unknown main",
    "grant add lamp subscribe lab/#",
    "grant add lamp subscribe lab/#",
    "grant add lamp publish lab/+/x",
    "grant add lamp publish fleetgate/results/#",
    "grant add unknown publish x",
    "grant add lamp publish '$share/a'",
    "grant list lamp",
    "grant list unknown",
    "grant remove 1",
    "grant remove 1",
    "grant remove lamp publish lab/+/x",
    "grant remove lamp publish lab/+/x",
    "grant remove unknown publish x",
    "credential add lamp --generate --label first --expires 2999-01-01",
    "credential add lamp --password-stdin < a long password",
    "credential add lamp --password-stdin < short",
    "credential add lamp --password-stdin --allow-weak < short",
    "credential add lamp --password-stdin",
    "credential add lamp --certificate-cn lamp --required",
    "credential add lamp --certificate-cn undefined",
    "credential add lamp --generate --not-before 2999-01-01 --expires 2998-01-01",
    "credential add unknown --generate",
    "credential list lamp",
    "credential list unknown",
    "credential list --foreign",
    "credential revoke 2",
    "credential revoke 2",
    "credential revoke 999",
    "rule add all --capability switch --selector 'area in (lab,attic)' --priority 3",
    "rule add all --capability switch",
    "rule add none --capability unknown",
    "rule add one --capability switch --strategy any",
    "rule list",
    "rule list --capability light",
    "rule show all",
    "rule show unknown",
    r#"rule set all --selector '{"area":"lab","meta":{"/n":1.50}}' --strategy first"#,
    "rule set all --selector kind=relay",
    "rule set unknown --priority 1",
    "rule disable one",
    "rule enable one",
    "rule disable unknown",
    "rule test all",
    "rule test one",
    "rule test unknown",
    "command pause",
    "command pause --capability unknown",
    "command pauses",
    "command resume --capability unknown",
    "command resume --capability switch",
    r#"command send switch '{"a":"on","b":1.50}' --device lamp --expires 1h"#,
    "command send switch 17 --device lamp --dry-run",
    r#"command send switch '{}' --device lamp --device lamp --dry-run"#,
    r#"command send switch '{}' --device sim"#,
    r#"command send switch '{}' --device unknown"#,
    r#"command send switch '{}' --rule one --dry-run"#,
    r#"command send switch '{}' --selector area=nowhere"#,
    r#"command send light 1"#,
    r#"command send unknown 1 --device lamp"#,
    r#"command send switch '{}' --device lamp --expires 40d"#,
    r#"command send switch '{}' --device lamp --expires 100ms"#,
    "command list",
    "command list --device lamp --limit 1",
    "command list --limit 1 --after ID",
    "command list --after no-id",
    "command list --after 00000000-0000-4000-8000-000000000000",
    "command list --device unknown",
    "command show ID",
    "command show no-id",
    "command show 00000000-0000-4000-8000-000000000000",
    "command cancel ID",
    "command cancel ID",
    "command cancel no-id",
    "command retry ID",
    "command retry no-id",
    r#"command send switch '{}' --device lamp --expires 1s --wait"#,
    "command retry ID",
    "command resume",
    "command resume",
    "lock list",
    "lock clear --all",
    "lock clear --name lamp --address 192.0.2.0/24",
    "api-token add dashboard --scope read,commands --expires 2999-01-01",
    "api-token add dashboard --scope read",
    "api-token list",
    "api-token revoke dashboard",
    "api-token revoke unknown",
    "rule remove one",
    "rule remove one",
    "capability remove switch",
    "capability remove unknown",
    "capability remove short",
    "export",
    r#"import - < {"capability": {"name": "moved"}}"#,
    r#"import - < {"capability": {"name": "moved"}}"#,
    r#"import - --on-conflict skip --dry-run < {"capability": {"name": "moved"}}"#,
    r#"import - --on-conflict update < {"capability": {"name": "moved", "description": "x"}}"#,
    "import /nowhere",
    "import - --from-line 2 < {}",
    "device remove lamp",
    "device remove lamp --yes",
    "device remove lamp --yes",
    "audit list --limit 3",
    "audit list --limit 1000",
    "audit list --device sim --since 1h",
    "audit list --actor nobody",
    "completions bash",
];

/// A fleet, and how it is reached.
struct Side {
    app: TestApp,
    fleet: Fleet,
    database: TestDatabase,
    emqx: FakeEmqx,
    token: tempfile::NamedTempFile,
    over_the_api: bool,
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

impl Side {
    async fn start(over_the_api: bool) -> Self {
        let emqx = FakeEmqx::start().await;
        let api = emqx.settings();
        let (app, fleet, database) = start_with(|config| {
            config.emqx.api = Some(api);
            config.api.listen = Some(([127, 0, 0, 1], 0).into());
        })
        .await;
        let token = file(&make_token(&database.url, "root", &[Scope::Admin]).await);
        Self { app, fleet, database, emqx, token, over_the_api }
    }

    fn url(&self) -> String {
        format!("http://{}", self.app.api_address.unwrap())
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = fleetgate(arguments);
        if self.over_the_api {
            command.env("FLEETGATE_API", self.url());
            command.env("FLEETGATE_API_TOKEN_FILE", self.token.path());
        } else {
            let settings = self.emqx.settings();
            command.env("FLEETGATE_DATABASE_URL", &self.database.url);
            command.env("FLEETGATE_EMQX_API_URL", &settings.url);
            command.env("FLEETGATE_EMQX_API_KEY", &settings.key);
            command.env("FLEETGATE_EMQX_API_SECRET", settings.secret.expose());
        }
        command
    }

    fn run(&self, arguments: &[&str], typed: &str) -> Outcome {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // One that does not read may be gone already.
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        let output = child.wait_with_output().unwrap();
        Outcome {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn newest_command(&self) -> String {
        self.fleet.value("SELECT coalesce((SELECT id::text FROM commands ORDER BY asked_at DESC LIMIT 1), 'none')").await
    }
}

/// A text without what differs between any two fleets: times, random ids and secrets, who asked, and how wide columns are
/// because of that.
fn masked(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    let mut masked = String::new();
    for word in text.split_inclusive(|c: char| !is_part(c)) {
        let end = word.find(|c: char| !is_part(c)).unwrap_or(word.len());
        let (word, rest) = word.split_at(end);
        let is_time = word.len() > 10 && word.starts_with('2') && word.as_bytes()[10] == b'T';
        let is_id = word.len() == 36 && word.matches('-').count() == 4;
        let is_secret = word.len() == 43 && !word.contains([':', '.']) || word.starts_with("fg1_");
        masked.push_str(match () {
            () if is_time => "TIME",
            () if is_id => "ID",
            () if is_secret => "SECRET",
            () if word.starts_with("command-line:") || word.starts_with("token:1:") => "ACTOR",
            () => word,
        });
        masked.push_str(rest);
    }
    let masked = masked.replace("the command line", "WHO").replace("API token root", "WHO");
    let words =
        |line: &str| line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    // How much is left of a line that was shortened behind a time depends on how many digits that has.
    let line = |line: &str| match line.split_once("TIME") {
        Some((before, _)) if line.ends_with('…') => format!("{}TIME…", words(before)),
        _ => words(line),
    };
    masked.lines().map(line).collect::<Vec<_>>().join("\n")
}

async fn tell_the_story(json: bool) {
    let (here, there) = tokio::join!(Side::start(false), Side::start(true));
    let schema = file(r#"{"type": "object", "properties": {"a": {"default": null}}}"#);
    let (mut told, mut differ) = (BTreeSet::new(), Vec::new());
    for line in STORY {
        let (line, typed) = line.split_once(" < ").unwrap_or((line, ""));
        let mut outcomes = Vec::new();
        for side in [&here, &there] {
            let id = side.newest_command().await;
            let mut words = shlex::split(line).unwrap();
            for word in &mut words {
                match word.as_str() {
                    "SCHEMA" => *word = schema.path().display().to_string(),
                    "ID" => word.clone_from(&id),
                    _ => {}
                }
            }
            if json {
                words.push("--json".to_owned());
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let Outcome { code, stdout, stderr } = side.run(&words, typed);
            outcomes.push((code, masked(&stdout), masked(&stderr)));
        }
        if outcomes[0] != outcomes[1] {
            differ.push(format!(
                "{line}\n  database: {:?}\n  API:      {:?}",
                outcomes[0], outcomes[1]
            ));
        }
        let words: Vec<&str> = line.split(' ').collect();
        told.insert(words[..words.len().min(2)].join(" "));
        told.insert(words[0].to_owned());
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    for command in OVER_THE_API.iter().filter(|command| **command != "audit follow") {
        assert!(told.contains(*command), "{command} is not tried");
    }
}

#[tokio::test]
async fn people_read_the_same_over_the_api_as_over_the_database() {
    tell_the_story(false).await;
}

#[tokio::test]
async fn programs_read_the_same_over_the_api_as_over_the_database() {
    tell_the_story(true).await;
}

/// Every command without subcommands, as `--help` lists them.
fn leaves(above: &[&str]) -> Vec<String> {
    let output = fleetgate(&[above, &["--help"]].concat()).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let Some((_, listed)) = help.split_once("\nCommands:\n") else {
        return vec![above.join(" ")];
    };
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .flat_map(|name| leaves(&[above, &[name]].concat()))
        .collect()
}

#[tokio::test]
async fn every_command_either_works_over_the_api_or_says_why_not() {
    let there = Side::start(true).await;
    let listed = OVER_THE_API.iter().copied().chain(ON_THE_MACHINE.iter().map(|(name, _)| *name));
    let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
    let all: BTreeSet<String> = leaves(&[]).into_iter().collect();
    assert_eq!(listed, all, "a new command has its place in one of the tables here");
    for (name, rest) in ON_THE_MACHINE {
        let words: Vec<&str> = name.split(' ').chain(rest.split(' ')).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let Outcome { code, stdout, stderr } = there.run(&words, "");
        assert_eq!((code, stdout.as_str()), (2, ""), "{name}: {stderr}");
        assert!(stderr.contains("does not work over the API"), "{name}: {stderr}");
    }
}

#[tokio::test]
async fn the_log_is_followed_over_the_api() {
    let there = Side::start(true).await;
    there.fleet.device("before").await;
    let mut follow = tokio::process::Command::from(there.command(&["audit", "follow", "--json"]));
    let mut follow = follow.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // What comes is told from some time on; each name is new.
    let told = async {
        let mut number = 0;
        loop {
            number += 1;
            there.fleet.device(&format!("lamp-{number}")).await;
            if let Ok(line) = tokio::time::timeout(Duration::from_secs(1), lines.next_line()).await
            {
                return line.unwrap().unwrap();
            }
        }
    };
    let line = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(entry["device"].as_str().unwrap().starts_with("lamp-"), "{line}");
}

#[tokio::test]
async fn a_token_is_held_to_what_it_may_do_and_a_wrong_one_is_named() {
    let there = Side::start(true).await;
    let run = |token: &str, arguments: &[&str]| {
        let token = file(token);
        let mut command = there.command(arguments);
        command.env("FLEETGATE_API_TOKEN_FILE", token.path());
        crate::support::commands::run(command)
    };
    let reader = make_token(&there.database.url, "reader", &[Scope::Read]).await;
    assert_eq!(run(&format!("{reader}\n"), &["device", "list"]).0, 0);
    let (code, stdout, stderr) = run(&reader, &["device", "add", "a", "--kind", "sensor"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("lacks the scope \"devices\""), "{stderr}");
    let devices = make_token(&there.database.url, "devices", &[Scope::Devices]).await;
    let add = ["device", "add", "a", "--kind", "sensor", "--generate", "--json"];
    let (code, stdout, stderr) = run(&devices, &add);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["kind"], "scope_missing");
    assert!(stderr.contains("lacks the scope \\\"credentials\\\""), "{stderr}");
    assert_eq!(run(&devices, &["device", "add", "a", "--kind", "sensor"]).0, 0);

    let expired = make_token(&there.database.url, "expired", &[Scope::Admin]).await;
    there.fleet.sql("UPDATE api_tokens SET expires_at = now() WHERE name = 'expired'", &[]).await;
    for token in [&expired, "fg1_1_wrong"] {
        let (code, stdout, stderr) = run(token, &["device", "list"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(
            stderr.contains("wrong, expired or revoked") && !stderr.contains(token),
            "{stderr}"
        );
    }
    for (token, said) in [("", "holds no token"), ("two words", "holds no token")] {
        let (code, _, stderr) = run(token, &["device", "list"]);
        assert!(code == 2 && stderr.contains(said), "{stderr}");
    }
}

#[tokio::test]
async fn an_api_that_cannot_be_asked_is_named_with_the_remedy() {
    let there = Side::start(true).await;
    let run = |url: &str, arguments: &[&str]| {
        let mut command = there.command(&[arguments, &["device", "list"]].concat());
        command.env("FLEETGATE_API", "").args(["--api", url]);
        crate::support::commands::run(command)
    };
    assert_eq!(run(&there.url(), &[]).0, 0);
    assert_eq!(run(&format!("{}/", there.url()), &[]).0, 0);
    assert_eq!(run(&format!("{}/api/v1/", there.url()), &[]).0, 0);
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let nobody = format!("http://{}", { nobody.local_addr().unwrap() });
    let emqx_s = format!("http://{}", there.app.address);
    for (url, code, said) in [
        (nobody.as_str(), 4, "cannot be asked"),
        (&emqx_s, 1, "does not answer as the API"),
        ("http://192.0.2.1", 2, "is not encrypted"),
        ("http://localhost.example", 2, "is not encrypted"),
        ("https://me:secret@localhost", 2, "holds a user name or password"),
        ("fleet.example", 2, "is not a URL"),
        ("ftp://localhost", 2, "neither https nor http"),
        ("https://localhost/?a=b", 2, "has a query"),
    ] {
        let (was, stdout, stderr) = run(url, &[]);
        assert_eq!((was, stdout.as_str()), (code, ""), "{url}: {stderr}");
        assert!(stderr.contains(said) && !stderr.contains("secret"), "{url}: {stderr}");
    }
    let (code, _, stderr) = run(&there.url(), &["--api-token-file", "/nowhere"]);
    assert!(code == 2 && stderr.contains("/nowhere cannot be read"), "{stderr}");
    let mut command = there.command(&["device", "list"]);
    let (code, _, stderr) = crate::support::commands::run({
        command.env_remove("FLEETGATE_API_TOKEN_FILE");
        command
    });
    assert!(code == 2 && stderr.contains("--api-token-file"), "{stderr}");
    let (code, _, stderr) = {
        let mut command = there.command(&["device", "show", ".."]);
        command.env("NO_COLOR", "1");
        crate::support::commands::run(command)
    };
    assert!(code == 2 && stderr.contains("cannot stand in a URL"), "{stderr}");
}

/// Files of other forms, with the options that they need.
const FILES: &[(&str, &str, &str)] = &[
    (
        "csv",
        "name,kind,area,bind.switch,bind.main,meta.room,secret,generate,enabled\n\
         lamp,relay,lab,yes,,1,,yes,\nfan,relay,hall,,yes,\"2, left\",correct horse,,no\nplug,plug,,,,,,yes,\n",
        "--secrets-out -",
    ),
    ("csv", "name,kind,area,enabled\nlamp,relay,attic,\nnew,plug,,no\nlamp,relay,cellar,\n", ""),
    (
        "mosquitto",
        "lamp:a good password\nann:$7$101$AAE=$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n",
        "--kind service",
    ),
    (
        "emqx-users",
        r#"[{"user_id": "bob", "password_hash": "0000000000000000000000000000000000000000000000000000000000000000", "salt": "x"},
            {"user_id": "root", "password": "a good password", "is_superuser": true}]"#,
        "--algorithm sha256,prefix --superusers",
    ),
    (
        "mosquitto-dynsec",
        r#"{"clients": [{"username": "bob", "disabled": true}, {"username": "eve", "clientid": "e", "roles": [{"rolename": "r"}]}],
            "roles": [{"rolename": "r", "acls": [{"acltype": "publishClientSend", "topic": "up/#", "allow": true}]}]}"#,
        "--rename-from clientid",
    ),
    (
        "mosquitto",
        "good:a good password\nb/d:x\nb:$apr1$a$b\n\n# remark\nlamp:another password\n",
        "",
    ),
    ("csv", "name,kind,bind.unknown\n", ""),
    (
        "fleetgate",
        "{\"capability\": {\"name\": \"x\"}}\n{}\n\n{\"device\": 7}\n{\"device\": {\"name\": \"lamp\", \"kind\": \"x\"}}\n",
        "",
    ),
    // What is wrong is found by the fleet, which names what helps.
    (
        "fleetgate",
        "{\"device\": {\"name\": \"n1\", \"kind\": \"x\", \"capabilities\": [\"none\"]}}\n\
         {\"device\": {\"name\": \"n2\", \"kind\": \"x\", \"gateway\": \"nobody\"}}\n\
         {\"device\": {\"name\": \"n3\", \"kind\": \"service\", \"gateway\": \"lamp\"}}\n\
         {\"rule\": {\"name\": \"r\", \"capability\": \"none\"}}\n",
        "",
    ),
];

#[tokio::test]
async fn files_of_other_forms_are_imported_over_the_api_as_into_the_database() {
    let (here, there) = tokio::join!(Side::start(false), Side::start(true));
    let all = "SELECT coalesce(string_agg(concat_ws(' ', name, kind, area, client_id, enabled::text, meta::text,
            (SELECT string_agg(concat_ws(':', name, state_topic, command_topic), ',' ORDER BY name)
             FROM topic_bindings WHERE device_id = devices.id),
            (SELECT string_agg(action || ' ' || topic_filter, ',' ORDER BY action, topic_filter)
             FROM topic_grants WHERE device_id = devices.id),
            (SELECT string_agg(kind, ',' ORDER BY id) FROM device_credentials WHERE device_id = devices.id)),
            E'\n' ORDER BY name), '') FROM devices";
    for side in [&here, &there] {
        side.fleet
            .batch("INSERT INTO capabilities (name, state_schema) VALUES ('switch', '{}')")
            .await;
    }
    let mut imported = BTreeSet::new();
    for (format, text, more) in FILES {
        let written = file(text);
        let path = written.path().to_str().unwrap();
        for how in [
            "--dry-run",
            "--json --dry-run",
            "",
            "--on-conflict skip",
            "--on-conflict update --json",
        ] {
            let line = format!("import {path} --format {format} {how} {more}");
            let words: Vec<&str> = line.split_whitespace().collect();
            let outcomes = [&here, &there].map(|side| {
                let Outcome { code, stdout, stderr } = side.run(&words, "");
                // How long hashing takes here is measured anew each time.
                let told = |text: &str| {
                    let is_time = |line: &&str| !line.contains(" ms each, ");
                    masked(text).lines().filter(is_time).collect::<Vec<_>>().join("\n")
                };
                (code, told(&stdout).replace(path, "FILE"), told(&stderr).replace(path, "FILE"))
            });
            let without_times = |text: &str| text.split("\"times\":").next().unwrap().to_owned();
            let [ours, theirs] = outcomes
                .each_ref()
                .map(|(code, stdout, stderr)| (code, without_times(stdout), stderr.clone()));
            assert_eq!(ours, theirs, "{line}");
            let [ours, theirs] =
                [here.fleet.value::<String>(all).await, there.fleet.value::<String>(all).await];
            assert_eq!(ours, theirs, "{line}");
            imported.insert(ours);
        }
    }
    assert!(imported.len() > 5, "{imported:?}");
}

#[tokio::test]
async fn a_long_file_goes_over_the_api_in_chunks_and_on_where_it_was_wrong() {
    let (here, there) = tokio::join!(Side::start(false), Side::start(true));
    let lines = |wrong: &str| {
        let devices = (2..=560).map(|line| match line {
            530 => format!("{wrong},x,yes\n"),
            line => format!("d{line},x,yes\n"),
        });
        format!("name,kind,generate\n{}", devices.collect::<String>())
    };
    let (wrong, right) = (file(&lines("d/530")), file(&lines("d530")));
    let mut told = Vec::new();
    for side in [&here, &there] {
        let directory = tempfile::tempdir().unwrap();
        let secrets = directory.path().join("secrets.csv");
        let import = |file: &tempfile::NamedTempFile, more: &[&str]| {
            let arguments = ["import", file.path().to_str().unwrap(), "--format", "csv"];
            let out = ["--secrets-out", secrets.to_str().unwrap()];
            side.run(&[&arguments, &out[..], more].concat(), "")
        };
        let kept = || std::fs::read_to_string(&secrets).unwrap().lines().count();
        let Outcome { code, stderr, .. } = import(&wrong, &[]);
        assert!(code == 1 && stderr.contains("line 530: column 1: name contains"), "{stderr}");
        assert!(stderr.contains("(500 added") && stderr.contains("--from-line 502"), "{stderr}");
        assert_eq!(kept(), 501);
        // A name that is taken is in its line as well.
        side.fleet.device("d540").await;
        let Outcome { code, stderr, .. } = import(&right, &["--from-line", "502"]);
        assert!(code == 1 && stderr.contains("line 540: "), "{stderr}");
        assert_eq!(kept(), 501);
        let skip = ["--from-line", "502", "--on-conflict", "skip"];
        let Outcome { code, stdout, stderr } = import(&right, &skip);
        assert!(code == 0 && stdout.contains("58 added, 0 updated, 1 left"), "{stdout}{stderr}");
        assert_eq!(kept(), 1 + 558);
        assert_eq!(side.fleet.value::<i64>("SELECT count(*) FROM devices").await, 559);
        told.push(stderr);
    }
    assert_eq!(told[0], told[1]);
}

/// What answers as a proxy does whose service is away, and after so many requests as the service itself.
async fn proxy(
    service_address: std::net::SocketAddr,
    away: usize,
    status: &'static str,
) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            if number > 0 && number <= away {
                let mut head = [0; 4096];
                let _ = client.read(&mut head).await.unwrap();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                client.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            let mut service = tokio::net::TcpStream::connect(service_address).await.unwrap();
            // One request a connection, or the next one would not come here.
            let mut request = vec![0; 65536];
            let read = client.read(&mut request).await.unwrap();
            let request = String::from_utf8(request[..read].to_vec()).unwrap();
            let request = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            let request = request.replace(&address.to_string(), &service_address.to_string());
            service.write_all(request.as_bytes()).await.unwrap();
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut client, &mut service).await },
            );
        }
    });
    address
}

#[tokio::test]
async fn a_command_is_waited_for_although_the_api_is_away_meanwhile() {
    let there = Side::start(true).await;
    there.fleet.device("lamp").await.bind("lamp", "switch", None, Some("lamp/set")).await;
    let api = there.app.api_address.unwrap();
    for (away, status, told) in [
        (3, "502 Bad Gateway", "the command failed at 1 of 1 devices"),
        (1000, "500 Internal Server Error", "500 Internal Server Error, without a problem"),
    ] {
        let url = format!("http://{}", proxy(api, away, status).await);
        let mut command = there.command(&["command", "send", "switch", "1", "--device", "lamp"]);
        command.args(["--expires", "1s", "--wait"]).env("FLEETGATE_API", url);
        let run = tokio::task::spawn_blocking(|| crate::support::commands::run(command));
        let (code, stdout, stderr) = run.await.unwrap();
        assert!(code == 1 && stderr.contains(told), "{status}: {stdout}{stderr}");
        let is_told_which = stderr.contains("is on its way; see `fleetgate command show ");
        assert_eq!(is_told_which, away == 1000, "{stderr}");
    }
}

#[tokio::test]
async fn tls_is_spoken_to_the_authority_that_is_named_alone() {
    let (secrets, others) = (Secrets::made(), Secrets::made());
    let certificate = secrets.file("emqx/tls/server.pem");
    let key = secrets.file("emqx/tls/server.key");
    let (app, _fleet, database) = start_with(|config| {
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        config.api.tls_certificate = Some(certificate.clone());
        config.api.tls_key = Some(key.clone());
    })
    .await;
    let token = file(&make_token(&database.url, "root", &[Scope::Read]).await);
    let url = format!("https://localhost:{}", app.api_address.unwrap().port());
    let run = |ca: Option<PathBuf>| {
        let mut command = fleetgate(&["device", "list", "--api", &url]);
        command.arg("--api-token-file").arg(token.path());
        command.args(ca.iter().flat_map(|ca| ["--api-ca".into(), ca.clone().into_os_string()]));
        crate::support::commands::run(command)
    };
    let (code, _, stderr) = run(Some(secrets.file("emqx/tls/ca.pem")));
    assert_eq!(code, 0, "{stderr}");
    for ca in [Some(others.file("emqx/tls/ca.pem")), None] {
        let (code, stdout, stderr) = run(ca);
        assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
        assert!(stderr.contains("certificate") && stderr.contains("--api-ca"), "{stderr}");
    }
    let (code, _, stderr) = run(Some("/nowhere".into()));
    assert!(code == 2 && stderr.contains("/nowhere"), "{stderr}");
}
