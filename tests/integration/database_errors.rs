//! What commands say of databases that cannot be used as they are: the cause and the remedy, each time.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::cluster::Cluster;
use crate::support::commands::{fleetgate, run};
use crate::support::pgbouncer::Pgbouncer;
use crate::support::postgres::{OWNER, connect, empty_database, fresh_database, socket_path};

/// What a command says on its way to this database, and its exit code.
fn said(url: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = fleetgate(arguments);
    command.env("FLEETGATE_DATABASE_URL", url).env("FLEETGATE_DATABASE_CONNECT_TIMEOUT", "1s");
    command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef");
    command.env("FLEETGATE_HTTP_LISTEN", "127.0.0.1:0");
    let (code, printed, complained) = run(command);
    (code, format!("{printed}{complained}"))
}

/// The same of a plain command, which does not send anybody to look whether PostgreSQL runs.
fn complaint(url: &str) -> String {
    let (code, text) = said(url, &["device", "list"]);
    assert!(code == 1 || code == 4, "{code}: {text}");
    assert!(!text.contains("check that PostgreSQL runs"), "{text}");
    text
}

fn with_database(url: &str, name: &str) -> String {
    let kept = url.split_whitespace().filter(|word| !word.starts_with("dbname="));
    format!("{} dbname={name}", kept.collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn a_database_of_another_encoding_is_named_by_every_command() {
    let owner = empty_database().await.url;
    let admin = connect(&owner).await;
    for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
        let name = format!("encoded_{}", encoding.to_lowercase());
        let create =
            format!("CREATE DATABASE {name} ENCODING {encoding} TEMPLATE template0 LOCALE 'C'");
        admin.batch_execute(&create).await.unwrap();
        let url = with_database(&owner, &name);
        let commands: &[&[&str]] =
            &[&["device", "list"], &["migrate"], &["doctor"], &["serve"], &["capability", "list"]];
        for arguments in commands {
            let (code, text) = said(&url, arguments);
            let sentence = format!("has the encoding {encoding}; Fleetgate needs UTF8");
            assert!(code == 1 && text.contains(&sentence), "{arguments:?}: {code}: {text}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_used_says_what_it_is() {
    let database = fresh_database().await;
    let owner = connect(&database.owner_url()).await;
    let expected = |url: &str, words: &[&str]| {
        let text = complaint(url);
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    };
    expected(&with_database(&database.url, "nowhere"), &["nowhere", "create the database"]);
    let roles = "CREATE ROLE errors_none LOGIN CONNECTION LIMIT 0; CREATE ROLE errors_weak LOGIN";
    owner.batch_execute(roles).await.unwrap();
    let as_role = |role: &str| {
        database.owner_url().replace(&format!("user={OWNER} "), &format!("user={role} "))
    };
    expected(&as_role("errors_none"), &["too many connections", "limit of the role"]);
    expected(&as_role("errors_absent"), &["errors_absent", "pg_hba.conf"]);
    expected(&as_role("errors_weak"), &["permission denied", "GRANT"]);
    // As PostgreSQL says when its disk is full.
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE 'could not extend file \"base/1\": No space left on device' USING ERRCODE = '53100';
                END $$;
                CREATE TRIGGER full_disk BEFORE INSERT ON devices EXECUTE FUNCTION full_disk()";
    owner.batch_execute(full).await.unwrap();
    let (code, text) = said(&database.url, &["device", "add", "t", "--kind", "sensor"]);
    assert!(
        code == 4 && text.contains("the disk of the database server is full"),
        "{code}: {text}"
    );
    let (code, text) = said(&format!("{} sslmode=allow", database.url), &["device", "list"]);
    assert!(code == 2 && text.contains("\"sslmode\"") && text.contains("prefer"), "{text}");
    let unknown = format!("{} passfile=topsecret", database.url);
    let (code, text) = said(&unknown, &["device", "list"]);
    assert!(code == 2 && text.contains("passfile") && !text.contains("topsecret"), "{text}");
}

/// Answers each connection with this text.
fn answering(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut client = client;
            let _whatever = client.read(&mut [0; 256]);
            let _gone = client.write_all(answer.as_bytes());
        }
    });
    port
}

#[tokio::test]
async fn what_is_no_postgresql_is_told_apart() {
    let url = |port: u16| format!("host=127.0.0.1 port={port} user=x dbname=y");
    for answer in
        ["HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n"]
    {
        let text = complaint(&url(answering(answer)));
        assert!(text.contains("is not a PostgreSQL server"), "{text}");
    }
    let (_, text) = said(&url(answering("")), &["device", "list"]);
    assert!(text.contains("hung up"), "{text}");
    let console = [("admin_users", OWNER)];
    let pooler = Pgbouncer::start(&socket_path().await, &[OWNER], &console).await;
    let direct = fresh_database().await.owner_url();
    let console = with_database(&pooler.url(&direct), "pgbouncer");
    let text = complaint(&console);
    assert!(text.contains("is not a PostgreSQL server"), "{text}");
    let options = format!("{} options='-c work_mem=8MB'", pooler.url(&direct));
    let text = complaint(&options);
    assert!(text.contains("`options`") && text.contains("pooler"), "{text}");
}

#[tokio::test]
async fn wrong_and_missing_passwords_are_told_apart() {
    let cluster = Cluster::start("password_encryption = 'scram-sha-256'").await;
    let admin = cluster.create("fleet").await;
    admin.batch_execute("CREATE ROLE guarded LOGIN PASSWORD 'right'").await.unwrap();
    cluster.allow("local all all trust\nhost all guarded 127.0.0.1/32 scram-sha-256\n");
    cluster.reload().await;
    let url = format!("host=127.0.0.1 port={} user=guarded dbname=fleet", cluster.port);
    assert!(complaint(&url).contains("set database.password"));
    let wrong = complaint(&format!("{url} password=topsecret"));
    assert!(wrong.contains("check database.password") && !wrong.contains("topsecret"), "{wrong}");
    let right = complaint(&format!("{url} password=right"));
    assert!(right.contains("fleetgate migrate"), "logged in: {right}");
    let other = complaint(&cluster.url("fleet"));
    assert!(other.contains("pg_hba.conf"), "{other}");
}
