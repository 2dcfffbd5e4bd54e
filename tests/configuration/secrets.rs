//! Secrets, given themselves and in files.

use std::fs;

use fleetgate::config::{DatabaseUrl, RootCert};

use crate::operator::{Operator, TOKEN};

#[test]
fn bad_secrets_are_named_with_the_remedy() {
    let told =
        Operator::writes("emqx.webhook_token = 'short'\ndatabase.url = 'not a url'\n").is_told();
    assert!(
        told[0].starts_with(
            "fleetgate.toml:1: emqx.webhook_token: the token has 5 characters and needs at least 16"
        ),
        "{told:?}"
    );
    assert!(
        told[1].starts_with(
            "fleetgate.toml:2: database.url: not a PostgreSQL URL; write it as postgres://"
        ),
        "{told:?}"
    );
    let told = Operator::writes("emqx.webhook_token = 1234567890123456\n").is_told();
    assert_eq!(told[0], "fleetgate.toml:1: emqx.webhook_token: is a number; write text in quotes");
}

#[test]
fn secrets_come_from_files_beside_the_configuration() {
    for (content, secret) in [
        ("0123456789abcdef", TOKEN),
        ("0123456789abcdef\n", TOKEN),
        ("0123456789abcdef\r\n", TOKEN),
    ] {
        let operator = Operator::writes("emqx.webhook_token_file = 'secrets/token'\n")
            .sets("FLEETGATE_DATABASE_URL", "host=db");
        operator.saves("secrets/token", content, 0o600);
        let config = operator.loads().config().unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(config.emqx.webhook_token.expose(), secret);
    }
    let operator = Operator::writes("database.password_file = 'password'\n");
    operator.saves("password", "two\n\n", 0o600);
    let operator = operator.sets("FLEETGATE_DATABASE_URL", "host=db");
    let database = operator.loads().database().unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(database.password.expect("a password").expose(), "two\n", "one newline goes");
}

#[test]
fn bad_secret_files_are_told() {
    let operator = Operator::writes("emqx.webhook_token_file = 'token'\n");
    let told = |content: &[u8]| {
        operator.saves("token", content, 0o600);
        operator.is_told()[0].clone()
    };
    let about = "fleetgate.toml:1: emqx.webhook_token_file: ";
    assert_eq!(
        told(b"\n"),
        format!("{about}the file named here is empty; write the secret into it")
    );
    assert_eq!(
        told(b"\xff"),
        format!("{about}the file named here is not UTF-8 text; save it as UTF-8")
    );
    assert!(
        told(b"short\n").starts_with(&format!("{about}in the file named here, the token has 5"))
    );
    assert!(told(&vec![b'x'; 65_537]).contains("longer than 65536 bytes"));
}

#[test]
fn a_secret_given_twice_in_one_place_is_refused_and_in_two_the_environment_counts() {
    let twice = Operator::writes(
        "emqx.webhook_token = '0123456789abcdef'\nemqx.webhook_token_file = 'absent'\n",
    );
    let told = twice.is_told();
    assert_eq!(
        told[0],
        "fleetgate.toml:2: emqx.webhook_token_file: emqx.webhook_token is given as well; keep one \
         of the two"
    );
    let twice = Operator::writes("")
        .sets("FLEETGATE_DATABASE_URL", "host=db")
        .sets("FLEETGATE_DATABASE_URL_FILE", "absent");
    assert!(
        twice.is_told()[0]
            .starts_with("FLEETGATE_DATABASE_URL_FILE: database.url is given as well")
    );
    let settings = Operator::writes("database.url_file = 'absent'\n")
        .sets("FLEETGATE_DATABASE_URL", "host=db")
        .loads();
    assert!(settings.database().is_ok_and(|database| database.url.expose() == "host=db"));
}

#[test]
fn a_password_belongs_in_one_place() {
    let told =
        Operator::writes("database.url = 'postgres://u:pw@db/x'\ndatabase.password = 'pw'\n")
            .is_told();
    assert_eq!(
        told[0],
        "fleetgate.toml:2: database.password: the password is also part of database.url; write it \
         in one place"
    );
}

#[test]
fn whom_to_trust_is_said_once() {
    let twice = "sslrootcert is also part of database.url; write it in one place";
    let unused = "is not used: database.url says sslmode=disable; take one of the two out";
    let operator = Operator::writes("");
    operator.saves("ca.pem", "", 0o644);
    let file = format!("sslrootcert={}", operator.path("ca.pem").display());
    for (part, message) in
        [("sslrootcert=system", twice), (file.as_str(), twice), ("sslmode=disable", unused)]
    {
        let text = format!("database.url = 'host=db {part}'\ndatabase.ca_file = 'ca.pem'\n");
        operator.saves("fleetgate.toml", text, 0o600);
        let told = operator.is_told();
        assert_eq!(told[0], format!("fleetgate.toml:2: database.ca_file: {message}"), "{part}");
    }
}

#[test]
fn paths_in_the_database_url_begin_where_other_paths_do() {
    let url =
        "host=db sslmode=verify-full sslrootcert=tls/ca.pem sslcert=tls/our.pem sslkey=tls/our.key";
    let operator = Operator::writes("");
    let [ca, cert, key] =
        ["tls/ca.pem", "tls/our.pem", "tls/our.key"].map(|name| operator.saves(name, "", 0o600));
    operator.saves("url", url, 0o600);
    for text in [format!("database.url = '{url}'\n"), "database.url_file = 'url'\n".to_owned()] {
        operator.saves("fleetgate.toml", text, 0o600);
        let database = operator.loads().database().unwrap_or_else(|problems| panic!("{problems}"));
        let tls = DatabaseUrl::of(&database).unwrap().tls;
        assert_eq!(tls.root_cert.as_ref().and_then(RootCert::file), Some(ca.as_path()));
        assert_eq!((tls.cert.as_ref(), tls.key.as_ref()), (Some(&cert), Some(&key)));
    }
    let told = operator.sets("FLEETGATE_DATABASE_URL", url).is_told();
    assert!(
        told[0].starts_with("FLEETGATE_DATABASE_URL: the file named by sslrootcert"),
        "{told:?}"
    );
}

#[test]
fn a_file_that_is_none_is_refused_in_seconds() {
    for setting in ["emqx.webhook_token_file", "database.ca_file", "tokens.signing_key"] {
        let operator = Operator::writes(&format!("{setting} = 'pipe'\n"));
        let made = std::process::Command::new("mkfifo").arg(operator.path("pipe")).status();
        assert!(made.unwrap().success());
        let told = operator.is_told();
        let named = |line: &String| line.contains(setting) && line.contains("plain file");
        assert!(told.iter().any(named), "{told:?}");
    }
    let endless = Operator::writes("database.ca_file = '/dev/zero'\n").is_told();
    assert!(endless[0].contains("/dev/zero is not a plain file"), "{endless:?}");
}

#[test]
fn secrets_that_others_can_read_give_warnings() {
    let operator = Operator::writes(
        "database.url = 'host=db'\nemqx.webhook_token_file = 'token'\ntokens.signing_key = 'key'\n",
    );
    operator.saves("token", TOKEN, 0o640);
    operator.saves("key", "", 0o604);
    assert_eq!(operator.loads().warnings.len(), 2);
    operator.saves("fleetgate.toml", fs::read(operator.path("fleetgate.toml")).unwrap(), 0o644);
    let settings = operator.loads();
    let warnings: Vec<String> = settings.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings[0].contains("database.url") && warnings[0].contains("everybody"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("its whole group (mode 0640); run: chmod 600 "), "{warnings:?}");
    assert!(
        warnings[2].contains("tokens.signing_key") && warnings[2].contains("0604"),
        "{warnings:?}"
    );
    operator.saves("fleetgate.toml", fs::read(operator.path("fleetgate.toml")).unwrap(), 0o600);
    operator.saves("token", TOKEN, 0o400);
    operator.saves("key", "", 0o600);
    assert!(operator.loads().warnings.is_empty());
}
