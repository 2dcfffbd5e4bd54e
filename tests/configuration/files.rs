//! The file as a whole.

use std::fs;
use std::time::{Duration, Instant};

use crate::operator::{NEEDED, Operator};

#[test]
fn all_problems_are_told_at_once_in_reading_order() {
    let told = Operator::writes(
        "[log]\nformat = 'xml'\n\n[http]\nlisten = '8080'\nwrokers = 3\nkeep_alive = 5\n",
    )
    .sets("FLEETGATE_CACHE_DEVICES", "none")
    .sets("FLEETGATE_CASHE_DEVICES", "1")
    .is_told();
    let places: Vec<&str> = told.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "fleetgate.toml:2",
            "fleetgate.toml:5",
            "fleetgate.toml:6",
            "fleetgate.toml:7",
            "FLEETGATE_CACHE_DEVICES",
            "FLEETGATE_CASHE_DEVICES",
            "database.url",
            "emqx.webhook_token",
        ],
        "{told:#?}"
    );
}

#[test]
fn files_that_cannot_be_used_are_told_with_the_rest_and_where_they_are_named() {
    let operator = Operator::writes(
        "log.format = 'xml'\ntokens.verification_keys = ['one.pem', 'two.pem']\n\
         database.url = 'host=db'\ndatabase.ca_file = 'ca.pem'\nemqx.api_url = 'https://emqx'\n\
         emqx.api_key = 'k'\nemqx.api_secret = 's'\nemqx.api_ca_file = 'ca.pem'\n\
         api.first_token_file = 'not/there'\n",
    );
    let key = operator.saves("key.pem", "no key", 0o600).display().to_string();
    for name in ["one.pem", "two.pem", "ca.pem"] {
        operator.saves(name, "nothing\n", 0o600);
    }
    let told = operator
        .sets("FLEETGATE_API_TLS_CERTIFICATE", &key)
        .sets("FLEETGATE_API_TLS_KEY", &key)
        .is_told();
    let expected = [
        ("fleetgate.toml:1: log.format: ", "\"xml\""),
        ("fleetgate.toml:2: tokens.verification_keys: ", "one.pem contains no Ed25519 key"),
        ("fleetgate.toml:2: tokens.verification_keys: ", "two.pem contains no Ed25519 key"),
        ("fleetgate.toml:4: database.ca_file: ", "ca.pem holds no usable certificate"),
        ("fleetgate.toml:8: emqx.api_ca_file: ", "ca.pem holds no usable certificate"),
        ("fleetgate.toml:9: api.first_token_file: ", "the directory of the file is not there"),
        ("FLEETGATE_API_TLS_KEY: ", "key.pem holds no usable private key"),
        ("emqx.webhook_token: ", "is required"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (line, (place, message)) in told.iter().zip(expected) {
        assert!(line.starts_with(place) && line.contains(message), "{line}");
    }
    let operator = Operator::writes(&format!("{NEEDED}tokens.verification_keys = ['a', 'b']\n"));
    assert_eq!(operator.is_told().len(), 2, "each file that is not there");
    let url = "postgres://db/x?sslmode=require&sslrootcert=ca.pem";
    let told = Operator::writes(&format!("database.url = '{url}'\n"));
    told.saves("ca.pem", "", 0o600);
    assert!(told.is_told()[0].starts_with("fleetgate.toml:1: database.url: "));
}

#[test]
fn a_setting_is_given_once_however_it_is_quoted() {
    let told = Operator::writes(&format!(
        "'http.listen' = '0.0.0.0:1'\n\"emqx.webhook_token\" = 'x'\n{NEEDED}http.listen = '127.0.0.1:1'\n"
    ))
    .is_told();
    assert_eq!(told.len(), 2, "{told:#?}");
    let unknown = "fleetgate.toml:1: unknown setting \"http.listen\"; a name in quotes is one name";
    assert!(told[0].starts_with(unknown), "{told:#?}");
    assert!(told[1].starts_with("fleetgate.toml:2: unknown setting \"emqx.webhook_token\""));
    Operator::writes(&format!("{NEEDED}\"http\".'listen' = '127.0.0.1:1'\n")).loads();
}

#[test]
fn however_long_a_text_is_messages_are_short_and_come_soon() {
    let long = "x".repeat(900_000);
    let began = Instant::now();
    for line in [
        format!("{long} = 1"),
        format!("http.{long} = 1"),
        format!("[{long}]"),
        format!("http.workers = '{long}'"),
        format!("http.keep_alive = '{long}'"),
        format!("http.keep_alive = '{}'", "1".repeat(900_000)),
        format!("http.keep_alive = '{}s'", "1".repeat(900_000)),
        format!("http.listen = '{long}'"),
        format!("log.filter = '{long}'"),
        format!("log.filter = 'x={long}'"),
        format!("log.format = '{long}'"),
        format!("tokens.audience = '{long}'"),
        format!("database.ca_file = '{long}'"),
        format!("tokens.verification_keys = ['{long}']"),
        format!("logins.exempt_networks = ['{long}']"),
        format!("log.format = [{}]", "1,".repeat(300_000)),
    ] {
        let told = Operator::writes(&format!("{NEEDED}{line}\n")).is_told();
        assert_eq!(told.len(), 1, "{:.200}", line);
        assert!(told[0].len() < 500, "{} of {:.200}", told[0].len(), told[0]);
    }
    let told = Operator::writes(NEEDED).sets(&format!("FLEETGATE_{long}"), "1").is_told();
    assert!(told[0].len() < 500, "{:.200}", told[0]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_file_that_is_no_configuration_is_told_with_its_line() {
    let told = Operator::writes("[http]\nlisten = '1\n[log]\nformat = \n").is_told();
    assert!(told[0].starts_with("fleetgate.toml:2: not TOML: "), "{told:?}");
    assert!(told[1].starts_with("fleetgate.toml:4: not TOML: "), "{told:?}");
    let told = Operator::writes("http.workers = 1\nhttp.workers = 2\n").is_told();
    assert!(told[0].starts_with("fleetgate.toml:2: not TOML: duplicate key"), "{told:?}");
    let operator = Operator::writes("");
    operator.saves("fleetgate.toml", b"# \n# \xff\n", 0o600);
    assert_eq!(operator.is_told()[0], "fleetgate.toml:2: not UTF-8; save the file as UTF-8");
    operator.saves("fleetgate.toml", vec![b'#'; (1 << 20) + 1], 0o600);
    assert!(operator.is_told()[0].contains("longer than 1048576 bytes"));
    fs::remove_file(operator.path("fleetgate.toml")).expect("removing");
    assert_eq!(
        operator.is_told()[0],
        "fleetgate.toml: cannot be read: No such file or directory (os error 2); name a \
         TOML file with --config or FLEETGATE_CONFIG"
    );
}
