//! Files of other forms and other brokers: what they become, what is left out, and who can log in then.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use tokio_postgres::Client;

use crate::support::app::start;
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::postgres::connect;

/// A directory with files, and a database that they are imported into.
struct Move {
    directory: tempfile::TempDir,
    url: String,
}

impl Move {
    fn to(url: &str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), url: url.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn import(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = fleetgate(&["import"]);
        command.args(arguments).env("FLEETGATE_DATABASE_URL", &self.url);
        run(command)
    }
}

async fn text(client: &Client, query: &str) -> String {
    let row = client.query_one(query, &[]).await.unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

/// Every device with what belongs to it.
const DEVICES: &str = "SELECT string_agg(concat_ws(' ', name, kind, area, floor, client_id, enabled::text, meta::text,
        (SELECT string_agg(concat_ws(':', name, state_topic, command_topic), ',' ORDER BY name) FROM topic_bindings WHERE device_id = id),
        (SELECT string_agg(action || ' ' || topic_filter, ', ' ORDER BY action, topic_filter) FROM topic_grants WHERE device_id = devices.id),
        (SELECT string_agg(kind, ',' ORDER BY id) FROM device_credentials WHERE device_id = devices.id)), E'\n' ORDER BY name)
    FROM devices";

#[tokio::test]
async fn csv_becomes_devices_with_topics_and_passwords_and_secrets() {
    let (app, _fleet, database) = start().await;
    let client = connect(&database.owner_url()).await;
    client
        .batch_execute("INSERT INTO capabilities (name, state_schema) VALUES ('temperature', '{}'), ('light', NULL)")
        .await
        .unwrap();
    let moving = Move::to(&database.owner_url());
    let file = moving.write(
        "devices.csv",
        "\u{feff}name,kind,area,floor,client_id,enabled,meta.room,bind.temperature,state_topic.light,secret,generate\r\n\
         t1,sensor,lab,2,,,\"101, left\",yes,,correct horse,\r\n\
         \"u,\"\"2\",plug,,,c2,no,,,old/light,,yes\r\n\
         u3,plug,,,,,,,,,yes\r\n",
    );
    let file = ["--format", "csv", file.as_str()];
    let (status, out, err) = moving.import(&[&file[..], &["--dry-run"]].concat());
    assert_eq!(status, 0, "{err}");
    let planned =
        "line 2: device t1 (sensor), password in plain text, which is hashed, bound to temperature";
    assert!(out.contains(planned) && out.contains("It would be: 3 added"), "{out}");
    assert!(err.contains("hashing 1 passwords takes"), "{err}");
    assert_eq!(text(&client, DEVICES).await, "");

    let (status, _, err) = moving.import(&file);
    assert!(status == 2 && err.contains("--secrets-out"), "{err}");
    let secrets = moving.text("secrets.csv");
    let (status, out, err) = moving.import(&[&file[..], &["--secrets-out", &secrets]].concat());
    assert_eq!((status, out.trim()), (0, "3 added, 0 updated, 0 left as they were."), "{err}");
    assert_eq!(
        text(&client, DEVICES).await,
        "t1 sensor lab 2 true {\"room\": \"101, left\"} temperature:lab/2/t1/temperature/state password\n\
         u,\"2 plug c2 false {} light:old/light secret\n\
         u3 plug true {} secret"
    );
    let mode = std::fs::metadata(&secrets).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let told = std::fs::read_to_string(&secrets).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "name,secret"));
    assert!(lines[1].starts_with("\"u,\"\"2\","), "{}", lines[1]);
    assert!(app.lets_in("t1", "correct horse").await);
    assert!(app.lets_in("u3", lines[2].strip_prefix("u3,").unwrap()).await);
    assert!(!app.lets_in("t1", "wrong").await);
    assert!(!out.contains(&lines[2][3..]) && !err.contains(&lines[2][3..]));
}

#[tokio::test]
async fn a_file_of_another_form_takes_nothing_away() {
    let (database, client) = Database::migrated().await;
    let moving = Move::to(&database.url());
    client
        .batch_execute(
            "INSERT INTO devices (name, kind, area, meta) VALUES ('a', 'old', 'lab', '{\"x\": \"1\"}');
             INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, 'main', 'a/state' FROM devices;
             INSERT INTO topic_grants (device_id, action, topic_filter) SELECT id, 'publish', 'old/#' FROM devices",
        )
        .await
        .unwrap();
    let file = moving
        .write("a.csv", "name,kind,floor,meta.y,state_topic.main\na,new,2,2,\nb,new,,,b/state\n");
    let import = |how: &str| moving.import(&["--format", "csv", &file, "--on-conflict", how]);
    let (status, _, err) = import("fail");
    assert!(status == 1 && err.contains("line 2: device \"a\""), "{err}");
    assert_eq!(text(&client, "SELECT count(*)::text FROM devices").await, "1");
    let (status, out, _) = import("skip");
    assert_eq!((status, out.trim()), (0, "1 added, 0 updated, 1 left as they were."));
    let (status, out, _) = import("update");
    assert_eq!((status, out.trim()), (0, "0 added, 2 updated, 0 left as they were."));
    let passwords = moving.write("passwords", "a:plain password\n");
    let acl = moving.write("acl", "user a\ntopic read new/#\n");
    let (status, out, err) = moving.import(&[
        "--format",
        "mosquitto",
        &passwords,
        "--acl",
        &acl,
        "--on-conflict",
        "update",
    ]);
    assert_eq!((status, out.trim()), (0, "0 added, 1 updated, 0 left as they were."), "{err}");
    assert_eq!(
        text(&client, DEVICES).await,
        "a new lab 2 true {\"x\": \"1\", \"y\": \"2\"} main:a/state publish old/#, subscribe new/# password\n\
         b new true {} main:b/state"
    );
}

#[tokio::test]
async fn secrets_are_written_for_devices_that_are_made_and_for_no_others() {
    let (database, client) = Database::migrated().await;
    let moving = Move::to(&database.url());
    client.batch_execute("INSERT INTO devices (name, kind) VALUES ('d3', 'x')").await.unwrap();
    let mut file = "name,kind,generate\n".to_owned();
    (0..600).for_each(|number| file += &format!("d{number},x,yes\n"));
    let wrong = moving.write("wrong.csv", &file.replace("d550,x", "d/550,x"));
    let right = moving.write("right.csv", &file);
    let secrets = moving.text("secrets.csv");
    let import = |file: &str, more: &[&str]| {
        let arguments =
            ["--format", "csv", file, "--on-conflict", "skip", "--secrets-out", &secrets];
        moving.import(&[&arguments[..], more].concat())
    };
    let (status, _, err) = import(&wrong, &[]);
    assert!(status == 1 && err.contains("line 552: column 1: name contains '/'"), "{err}");
    assert!(err.contains("go on with --from-line 502"), "{err}");
    let lines = || std::fs::read_to_string(&secrets).unwrap().lines().count();
    assert_eq!(lines(), 1 + 499, "a header and the first 500 but for the one that was there");
    let (status, _, err) = import(&right, &[]);
    assert!(status == 1 && err.contains("is there; name another file"), "{err}");
    let (status, out, err) = import(&right, &["--from-line", "502"]);
    assert_eq!((status, out.trim()), (0, "100 added, 0 updated, 0 left as they were."), "{err}");
    assert_eq!(lines(), 1 + 599);
    // What others may read is no place for secrets, nor is what somebody else points at.
    let other = moving.write("other.csv", "");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
    let link = moving.text("link.csv");
    symlink(&secrets, &link).unwrap();
    for place in [&other, &link] {
        let arguments = ["--format", "csv", &right, "--from-line", "602", "--secrets-out", place];
        assert_eq!(moving.import(&arguments).0, 1, "{place}");
    }
    let arguments = ["--format", "csv", &right, "--on-conflict", "update", "--from-line", "601"];
    let (status, out, _) = moving.import(&[&arguments[..], &["--secrets-out", "-"]].concat());
    assert!(status == 0 && out.starts_with("d599,"), "{out}");
}

#[tokio::test]
async fn an_access_file_becomes_grants_and_what_cannot_be_expressed_is_told() {
    let (app, _fleet, database) = start().await;
    let client = connect(&database.owner_url()).await;
    let moving = Move::to(&database.owner_url());
    let passwords =
        moving.write("passwords", "# users\nann:a good password\nbob:another password\n");
    let acl = moving.write(
        "acl",
        "topic read news/#\nuser ann\ntopic read site/#\ntopic deny site/secret\ntopic write site/report\n\
         user nobody\ntopic x\npattern readwrite own/%u/#\n",
    );
    let arguments = ["--format", "mosquitto", passwords.as_str(), "--acl", &acl, "--kind", "thing"];
    for more in [&["--dry-run"][..], &[]] {
        let (status, out, err) = moving.import(&[&arguments[..], more].concat());
        assert_eq!(status, 0, "{err}");
        assert!(out.contains("2 added"), "{out}");
        for expected in [
            "not imported: line 2: line 3 of the access file, which allows subscribe \"site/#\": line 4 of the access file denies a part",
            "not imported: line 1: is for clients without user name",
            "not imported: the rules of \"nobody\"",
        ] {
            assert!(err.contains(expected), "{expected}\n{err}");
        }
    }
    assert_eq!(
        text(&client, DEVICES).await,
        "ann thing true {} publish own/ann/#, publish site/report, subscribe own/ann/# password\n\
         bob thing true {} publish own/bob/#, subscribe own/bob/# password"
    );
    assert!(app.lets_in("ann", "a good password").await);
    assert_eq!(app.publishes("ann", "own/ann/x").await, "allow");
    assert_eq!(app.publishes("ann", "own/bob/x").await, "deny");
}

#[tokio::test]
async fn options_and_files_that_make_no_sense_are_refused() {
    let (database, client) = Database::migrated().await;
    let moving = Move::to(&database.url());
    let csv = moving.write("a.csv", "name,kind\na,x\n");
    let passwords = moving.write("passwords", "a:x\nb\n:x\nc/d:pass\ne:$apr1$a$b\n");
    let acl = moving.write("acl", "user a\ntopics x\n");
    let conf = moving.write("acl.conf", "{allow, all}.\n");
    let users = moving.write("users.json", "[{\"user_id\": \"a\", \"password_hash\": \"00\"}]");
    let broken = moving.write("broken.json", "[\n{\"user_id\": 7}]");
    let empty = moving.write("empty", "");
    for (arguments, status, told) in [
        (
            vec!["--format", "csv", &csv, "--superusers"],
            2,
            "--superusers is for --format emqx-users",
        ),
        (vec![csv.as_str(), "--kind", "x"], 2, "--kind is for --format csv or emqx-users or"),
        (vec!["--format", "csv", &empty], 1, "the file is empty"),
        (vec!["--format", "csv", &passwords], 1, "is not known; the columns are name, kind"),
        (vec!["--format", "mosquitto", &passwords], 1, "line 2: column 1: has no colon"),
        (vec!["--format", "mosquitto", &passwords], 1, "line 3: column 1: user name \"\" is empty"),
        (
            vec!["--format", "mosquitto", &passwords],
            1,
            "line 4: column 1: user name \"c/d\" contains '/'",
        ),
        (vec!["--format", "mosquitto", &passwords], 1, "line 5: column 3: is an MD5 hash"),
        (
            vec!["--format", "mosquitto", &passwords, "--acl", &acl],
            1,
            "acl: line 2: must begin with user",
        ),
        (vec!["--format", "emqx-users", &users, "--acl", &conf], 1, "acl.conf"),
        (vec!["--format", "emqx-users", &users], 1, "user 1: has a hash; say with --algorithm"),
        (vec!["--format", "emqx-users", &users, "--algorithm", "md5,prefix"], 2, "md5 is broken"),
        (vec!["--format", "emqx-users", &broken], 1, "line 2, column 13: /0/user_id invalid type"),
        (vec!["--format", "mosquitto-dynsec", &users], 1, "invalid type"),
    ] {
        let (code, _, err) = moving.import(&arguments);
        assert!(code == status && err.contains(told), "{arguments:?}: {code} {err}");
    }
    assert_eq!(text(&client, "SELECT count(*)::text FROM devices").await, "0");
}
