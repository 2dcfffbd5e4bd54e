//! Files of other forms and other brokers: what they become, what is left out, and who can log in then.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64ct::Encoding;
use serde_json::json;
use sha2::Digest;
use tokio_postgres::Client;

use crate::support::app::{TestApp, eventually, login_body, start, start_with};
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, connect};

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
            "INSERT INTO devices (name, client_id, kind, area, enabled, meta)
             VALUES ('a', 'c', 'old', 'lab', false, '{\"x\": \"1\"}');
             INSERT INTO topic_bindings (device_id, name, state_topic, command_topic, reply_topic, merge)
             SELECT id, 'main', 'a/state', 'a/set', 'a/reply', true FROM devices;
             INSERT INTO topic_grants (device_id, action, topic_filter) SELECT id, 'publish', 'old/#' FROM devices",
        )
        .await
        .unwrap();
    let file = moving
        .write("a.csv", "name,kind,client_id,area,floor,enabled,meta.y,state_topic.main\na,new,,,2,,2,a/new\nb,new,,,,,,b/state\n");
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
    let kept = "not stored, because their devices have or had one: 1;";
    assert!(!err.contains(kept), "{err}");
    let other = moving.write("other", "a:other\n");
    let again = ["--format", "mosquitto", &other, "--on-conflict", "update"];
    let (status, out, err) = moving.import(&again);
    assert_eq!((status, out.trim()), (0, "0 added, 1 updated, 0 left as they were."), "{err}");
    assert!(err.contains(kept), "{err}");
    let weak = "\nline 1: the password has 5 characters, fewer than 8";
    assert!(format!("\n{err}").contains(weak), "{err}");
    assert_eq!(
        text(&client, DEVICES).await,
        "a new lab 2 c false {\"x\": \"1\", \"y\": \"2\"} main:a/new:a/set publish old/#, subscribe new/# password\n\
         b new true {} main:b/state"
    );
    let rest = "SELECT reply_topic || ' ' || merge::text FROM topic_bindings WHERE command_topic IS NOT NULL";
    assert_eq!(text(&client, rest).await, "a/reply true");
}

#[tokio::test]
async fn a_password_that_was_revoked_does_not_come_back_with_an_old_file() {
    let (database, client) = Database::migrated().await;
    let moving = Move::to(&database.url());
    let file = moving.write(
        "passwords",
        "a:$2y$05$yPX5YHdhOv1RIoHuxhNmfee9KSgnC5gEUDx/mi0JAyzTMG/8eN7.G\nb:plain password\n",
    );
    let import = || moving.import(&["--format", "mosquitto", &file, "--on-conflict", "update"]);
    assert!(import().1.contains("2 added"));
    let credentials =
        "SELECT string_agg(kind || (revoked_at IS NULL), ' ' ORDER BY id) FROM device_credentials";
    assert_eq!(text(&client, credentials).await, "importedtrue passwordtrue");
    assert!(import().1.contains("2 updated"));
    assert_eq!(text(&client, credentials).await, "importedtrue passwordtrue", "none is doubled");
    client.batch_execute("UPDATE device_credentials SET revoked_at = now()").await.unwrap();
    assert!(import().1.contains("2 updated"));
    assert_eq!(text(&client, credentials).await, "importedfalse passwordfalse");
    let (status, _, err) = moving.import(&["--format", "mosquitto", &file, "--from-line", "4"]);
    assert!(status == 1 && err.contains("the file has 2 lines"), "{err}");
    let users = moving.write("users.json", r#"[{"user_id": "u", "password": "a password"}]"#);
    let roles = moving.write("roles.json", r#"{"clients": [{"username": "u"}]}"#);
    for (format, file) in [("emqx-users", &users), ("mosquitto-dynsec", &roles)] {
        let arguments = ["--format", format, file, "--dry-run", "--from-line"];
        let (status, _, err) = moving.import(&[&arguments[..], &["3"]].concat());
        assert!(status == 1 && err.contains("the file has 1 users"), "{format}: {err}");
        let (status, out, err) = moving.import(&[&arguments[..], &["2"]].concat());
        assert!(status == 0 && out.contains("0 added"), "{format}: {out}{err}");
    }
}

#[tokio::test]
async fn a_password_that_was_rehashed_is_not_imported_again() {
    let (app, fleet, database) = start_without_limits().await;
    let moving = Move::to(&database.owner_url());
    let path = moving.text("passwords");
    tool("mosquitto_passwd", &["-b", "-c", &path, "lamp", PASSWORD]);
    let import = |on_conflict: &str| {
        moving.import(&["--format", "mosquitto", &path, "--on-conflict", on_conflict])
    };
    assert!(import("fail").1.contains("1 added"));
    assert!(app.lets_in("lamp", PASSWORD).await);
    let valid = "SELECT string_agg(kind, ' ') FROM device_credentials WHERE revoked_at IS NULL";
    eventually("it is rehashed", || async { fleet.value::<String>(valid).await == "password" })
        .await;
    let (status, out, err) = import("update");
    assert!(status == 0 && out.contains("1 updated"), "{out}{err}");
    assert_eq!(fleet.value::<String>(valid).await, "password");
}

#[tokio::test]
async fn of_many_wrong_lines_some_are_told_and_all_are_counted() {
    let (database, _client) = Database::migrated().await;
    let moving = Move::to(&database.url());
    let lines: String = (0..1150).map(|number| format!("d/{number},x\n")).collect();
    let file = moving.write("wrong.csv", &format!("name,kind\n{lines}"));
    let (status, out, err) = moving.import(&["--format", "csv", &file, "--dry-run", "--json"]);
    assert_eq!(status, 1, "{err}");
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["wrong_lines"], &told["added"]), (&json!(1150), &json!(0)));
    assert_eq!(told["wrong"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn an_import_that_breaks_off_tells_where_to_go_on() {
    let (database, client) = Database::migrated().await;
    // It is lost in the second chunk.
    client
        .batch_execute(
            "CREATE FUNCTION breaks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.name = 'd700' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER breaks BEFORE INSERT ON devices FOR EACH ROW EXECUTE FUNCTION breaks()",
        )
        .await
        .unwrap();
    let moving = Move::to(&database.url());
    let lines: String = (1..=1000).map(|number| format!("d{number},x\n")).collect();
    let file = moving.write("devices.csv", &format!("name,kind\n{lines}"));
    let (status, out, err) = moving.import(&["--format", "csv", &file]);
    assert!(status != 0 && out.is_empty(), "{out}{err}");
    assert!(err.contains("500 added") && err.contains("go on with --from-line 502"), "{err}");
    assert_eq!(text(&client, "SELECT count(*)::text FROM devices").await, "500");
    let (_, out, _) = moving.import(&["--format", "csv", &file, "--from-line", "502", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["last_line"], 501, "{told}");
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
    // A line that was cut off in the middle stays one.
    let whole = std::fs::read_to_string(&secrets).unwrap();
    std::fs::write(&secrets, format!("{whole}d600,half-a-sec")).unwrap();
    let update = ["--format", "csv", &right, "--on-conflict", "update", "--from-line", "601"];
    let (status, _, err) = moving.import(&[&update[..], &["--secrets-out", &secrets]].concat());
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("1 secrets were made, also for devices that were there"), "{err}");
    let told = std::fs::read_to_string(&secrets).unwrap();
    let begun = format!("{whole}d600,half-a-sec\nd599,");
    assert!(told.starts_with(&begun) && told.ends_with('\n'), "{told}");
    assert_eq!(lines(), 1 + 601);
    // What others may read is no place for secrets, nor is what somebody else points at.
    let token = moving.write("token", "of-something-else");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = moving.write("other.csv", "");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
    let link = moving.text("link.csv");
    symlink(&secrets, &link).unwrap();
    for place in [&other, &link, &token] {
        let arguments = ["--format", "csv", &right, "--from-line", "602", "--secrets-out", place];
        assert_eq!(moving.import(&arguments).0, 1, "{place}");
    }
    assert_eq!(std::fs::read_to_string(&token).unwrap(), "of-something-else");
    let (status, out, _) = moving.import(&[&update[..], &["--secrets-out", "-"]].concat());
    assert!(status == 0 && out.starts_with("d599,"), "{out}");
}

#[tokio::test]
async fn no_device_is_made_whose_secret_nobody_was_told() {
    let (database, client) = Database::migrated().await;
    let moving = Move::to(&database.url());
    let file = moving.write("devices.csv", "name,kind,generate\na,x,yes\n");
    let mut command = fleetgate(&["import", "--format", "csv", &file, "--secrets-out", "-"]);
    command.env("FLEETGATE_DATABASE_URL", database.url());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As `| gpg` with a recipient that it does not know.
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && err.contains("standard output"), "{err}");
    assert_eq!(text(&client, "SELECT count(*)::text FROM devices").await, "0");
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
            "not imported: line 1 of the access file: is for clients without user name",
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

const PASSWORD: &str = "correct horse ü";

/// A wrong password makes no right one wait here.
async fn start_without_limits() -> (TestApp, Fleet, TestDatabase) {
    start_with(|config| config.logins.limits = false).await
}

fn tool(name: &str, arguments: &[&str]) {
    let mut command = Command::new(name);
    let status = command.args(arguments).stderr(Stdio::null()).status();
    let status = status
        .expect("docker/install-prerequisites.sh --for-tests installs mosquitto and apache2-utils");
    assert!(status.success(), "{name} {arguments:?}");
}

#[tokio::test]
async fn users_of_password_files_log_in_as_before() {
    let (app, fleet, database) = start_without_limits().await;
    let moving = Move::to(&database.owner_url());
    let path = moving.text("passwords");
    tool("mosquitto_passwd", &["-b", "-c", &path, "seven", PASSWORD]);
    tool("mosquitto_passwd", &["-H", "sha512", "-b", &path, "six", PASSWORD]);
    let upgraded = moving.write("upgraded", &format!("upgraded:{PASSWORD}\n"));
    tool("mosquitto_passwd", &["-U", &upgraded]);
    let htpasswd = moving.text("htpasswd");
    tool("htpasswd", &["-bBc", "-C", "6", &htpasswd, "apache", PASSWORD]);
    let read = |name: &str| std::fs::read_to_string(moving.path(name)).unwrap();
    let mut file = read("passwords") + &read("upgraded") + &read("htpasswd");
    let salt = b"0123456789abcdef";
    let mut output = [0; 32];
    pbkdf2::pbkdf2_hmac::<sha2::Sha512>(PASSWORD.as_bytes(), salt, 1000, &mut output);
    let base64 = |bytes: &[u8]| base64ct::Base64::encode_string(bytes);
    file += &format!("go-auth:PBKDF2$sha512$1000${}${}\n", base64(salt), base64(&output));
    let params = argon2::Params::new(4096, 3, 2, Some(32)).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon2.hash_password_into(PASSWORD.as_bytes(), salt, &mut output).unwrap();
    let base64 = |bytes: &[u8]| base64ct::Base64Unpadded::encode_string(bytes);
    file +=
        &format!("argon2id:$argon2id$v=19$m=4096,t=3,p=2${}${}\n", base64(salt), base64(&output));
    // As mosquitto 2.1 makes them: salt and output of 64 bytes each.
    let (salt, mut output) = ([7; 64], [0; 64]);
    let params = argon2::Params::new(47_104, 1, 1, Some(64)).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon2.hash_password_into(PASSWORD.as_bytes(), &salt, &mut output).unwrap();
    file +=
        &format!("newest:$argon2id$v=19$m=47104,t=1,p=1${}${}\n", base64(&salt), base64(&output));
    file += &format!("plain:{PASSWORD}\n");
    let file = moving.write("all", &file);
    let (status, out, err) = moving.import(&["--format", "mosquitto", &file, "--dry-run"]);
    assert!(status == 0 && out.contains("It would be: 8 added"), "{out}{err}");
    for expected in [
        "device six (device), imported (sha512, one round)",
        "device apache (device), imported (bcrypt, cost 6)",
    ] {
        assert!(out.contains(expected), "{out}");
    }
    assert!(err.contains("first logins: 1 with bcrypt, cost 6, "), "{err}");
    let (status, out, err) = moving.import(&["--format", "mosquitto", &file]);
    assert!(status == 0 && out.contains("8 added"), "{out}{err}");
    let imported: String =
        fleet.value("SELECT count(*)::text FROM device_credentials WHERE kind = 'imported'").await;
    assert_eq!(imported, "7");
    for name in ["seven", "six", "upgraded", "apache", "go-auth", "argon2id", "newest", "plain"] {
        assert!(!app.lets_in(name, "correct horse u").await, "{name}");
        assert!(app.lets_in(name, PASSWORD).await, "{name}");
    }
}

#[tokio::test]
async fn users_of_emqx_log_in_as_before() {
    let (app, _fleet, database) = start_without_limits().await;
    let moving = Move::to(&database.owner_url());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let salt = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let sha256 = |text: String| hex(&sha2::Sha256::digest(text.as_bytes()));
    let mut output = [0; 20];
    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(PASSWORD.as_bytes(), salt.as_bytes(), 4096, &mut output);
    let pbkdf2 = hex(&output);
    let htpasswd = moving.text("htpasswd");
    tool("htpasswd", &["-bBc", &htpasswd, "x", PASSWORD]);
    let bcrypt = std::fs::read_to_string(&htpasswd).unwrap();
    let bcrypt = bcrypt.trim().strip_prefix("x:").unwrap();
    let csv = |name: &str, hash: &str| {
        let text =
            format!("user_id,password_hash,salt,is_superuser\r\n{name},{hash},{salt},false\r\n");
        moving.write(name, &text)
    };
    let files = [
        (csv("prefix", &sha256(format!("{salt}{PASSWORD}"))), "sha256,prefix"),
        (csv("suffix", &sha256(format!("{PASSWORD}{salt}")).to_uppercase()), "sha256,suffix"),
        (csv("unsalted", &hex(&sha2::Sha512::digest(PASSWORD.as_bytes()))), "sha512,disable"),
        (csv("bcrypt", bcrypt), "bcrypt"),
        (csv("pbkdf2", &pbkdf2), "pbkdf2,sha256,iterations=4096,dk_length=20"),
    ];
    for (file, algorithm) in &files {
        let (status, out, err) =
            moving.import(&["--format", "emqx-users", file, "--algorithm", algorithm]);
        assert!(status == 0 && out.contains("1 added"), "{algorithm}: {out}{err}");
    }
    let json = json!([
        {"user_id": "json", "password_hash": sha256(format!("{salt}{PASSWORD}")), "salt": salt, "is_superuser": true},
        {"user_id": "plain", "password": PASSWORD, "is_superuser": "false"},
    ]);
    let json = moving.write("users.json", &json.to_string());
    let rules = moving.write(
        "rules.json",
        r#"{"data": [{"username": "plain", "rules": [{"topic": "up/${username}", "permission": "allow", "action": "publish"}]}]}"#,
    );
    let arguments = [
        "--format",
        "emqx-users",
        &json,
        "--algorithm",
        "sha256,prefix",
        "--acl",
        &rules,
        "--superusers",
    ];
    let (status, out, err) = moving.import(&arguments);
    assert!(status == 0 && out.contains("2 added"), "{out}{err}");
    for name in ["prefix", "suffix", "unsalted", "bcrypt", "pbkdf2", "json", "plain"] {
        assert!(!app.lets_in(name, "correct horse u").await, "{name}");
        assert!(app.lets_in(name, PASSWORD).await, "{name}");
    }
    for (name, topic, result) in [
        ("json", "any/topic", "allow"),
        ("plain", "up/plain", "allow"),
        ("plain", "up/json", "deny"),
    ] {
        assert_eq!(app.publishes(name, topic).await, result, "{name} {topic}");
    }
}

#[tokio::test]
async fn users_of_dynamic_security_log_in_as_before() {
    let (app, fleet, database) = start_without_limits().await;
    let moving = Move::to(&database.owner_url());
    let path = moving.text("passwords");
    tool("mosquitto_passwd", &["-b", "-c", &path, "x", PASSWORD]);
    let encoded = std::fs::read_to_string(&path).unwrap();
    let encoded = encoded.trim().strip_prefix("x:").unwrap();
    let parts: Vec<&str> = encoded.split('$').collect();
    let (rounds, salt, output): (u32, _, _) = (parts[2].parse().unwrap(), parts[3], parts[4]);
    let file = json!({
        "defaultACLAccess": {"publishClientReceive": true},
        "clients": [
            {"username": "new", "encoded_password": encoded, "roles": [{"rolename": "r"}]},
            {"username": "old", "password": output, "salt": salt, "iterations": rounds, "clientid": "o-1"},
            {"username": "off", "encoded_password": encoded, "disabled": true},
        ],
        "roles": [{"rolename": "r", "acls": [{"acltype": "publishClientSend", "topic": "up/%u", "allow": true}]}],
    });
    let file = moving.write("dynsec.json", &file.to_string());
    let (status, out, err) = moving.import(&["--format", "mosquitto-dynsec", &file]);
    assert!(status == 0 && out.contains("3 added"), "{out}{err}");
    assert!(app.lets_in("new", PASSWORD).await);
    assert_eq!(app.publishes("new", "up/new").await, "allow");
    assert!(!app.lets_in("old", PASSWORD).await, "with another client id than its own");
    let body = login_body("o-1", "old", PASSWORD, "").to_string();
    assert_eq!(app.post("/emqx/authn", &body).await.result(), "allow");
    assert!(!app.lets_in("off", PASSWORD).await);
    // Who was disabled here stays so, and who is disabled there becomes so.
    fleet.batch("UPDATE devices SET enabled = name <> 'new'").await;
    let update = ["--format", "mosquitto-dynsec", &file, "--on-conflict", "update"];
    let (status, out, err) = moving.import(&update);
    assert!(status == 0 && out.contains("3 updated"), "{out}{err}");
    let enabled: String =
        fleet.value("SELECT string_agg(name || enabled, ' ' ORDER BY name) FROM devices").await;
    assert_eq!(enabled, "newfalse offfalse oldtrue");
}
