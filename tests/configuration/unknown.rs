//! Settings and variables that nobody knows.

use crate::operator::{NEEDED, Operator, told_of, told_of_variable};

#[test]
fn unknown_settings_are_refused_with_the_nearest_known_one() {
    let cases = [
        ("http.listn = 1", r#"unknown setting "http.listn"; did you mean http.listen?"#),
        (
            "http.query_timeout = 1",
            r#"unknown setting "http.query_timeout"; did you mean database.query_timeout?"#,
        ),
        (
            "emqx.webhook-token-file = 1",
            r#"unknown setting "emqx.webhook-token-file"; did you mean emqx.webhook_token_file?"#,
        ),
        (
            "tokens.signing_key_file = 1",
            r#"unknown setting "tokens.signing_key_file"; did you mean tokens.signing_key?"#,
        ),
        ("listen = 1", r#"unknown setting "listen"; did you mean api.listen?"#),
        ("htp.listen = 1", r#"unknown setting "htp"; did you mean http?"#),
        ("mqtt.broker = 1", r#"unknown setting "mqtt"; docs/CONFIGURATION.md lists all settings"#),
        ("http = 1", "http: is a section; write [http] and its settings below"),
    ];
    for (line, told) in cases {
        assert_eq!(told_of(line), format!("fleetgate.toml:3: {told}"), "{line}");
    }
}

#[test]
fn unknown_variables_are_refused_with_the_nearest_known_one() {
    assert_eq!(
        told_of_variable("FLEETGATE_HTTP_LISTN", "x"),
        "FLEETGATE_HTTP_LISTN: unknown variable; did you mean FLEETGATE_HTTP_LISTEN?"
    );
    assert_eq!(
        told_of_variable("FLEETGATE_MQTT_BROKER_ADDRESS", "x"),
        "FLEETGATE_MQTT_BROKER_ADDRESS: unknown variable; docs/CONFIGURATION.md lists all variables"
    );
    assert_eq!(
        told_of_variable("FLEETGATE_HTTP_WORKERS", "many"),
        "FLEETGATE_HTTP_WORKERS: \"many\" is not a whole number; write one from 1 to 1024, without quotes"
    );
}

#[test]
fn a_variable_that_is_not_utf8_is_named_and_u_fffd_is_a_character_like_others() {
    let mut operator = Operator::writes(NEEDED).sets("FLEETGATE_DATABASE_PASSWORD", "a\u{fffd}b");
    let password = operator.loads().database().ok().and_then(|database| database.password);
    assert!(password.is_some_and(|password| password.expose() == "a\u{fffd}b"));
    operator.not_utf8.push("FLEETGATE_DATABASE_PASSWORD".to_owned());
    let told = "FLEETGATE_DATABASE_PASSWORD: is not UTF-8; write it in UTF-8";
    assert_eq!(operator.is_told(), [told]);
}

#[test]
fn variables_of_others_are_passed_over() {
    let settings = Operator::writes(NEEDED)
        .sets("FLEETGATE_CONFIG", "fleetgate.toml")
        .sets("FLEETGATE_PG_BIN", "/usr/lib/postgresql/17/bin")
        .sets("FLEETGATE_HTTP_LISTN", "")
        .sets("FLEETGATES", "x")
        .sets("FLEETGATE_SERVICE_HOST", "10.0.0.1")
        .sets("FLEETGATE_SERVICE_PORT", "80")
        .sets("FLEETGATE_SERVICE_PORT_HTTP", "80")
        .sets("FLEETGATE_PORT", "tcp://10.0.0.1:80")
        .sets("FLEETGATE_DATABASE_PORT_5432_TCP", "tcp://10.0.0.1:5432")
        .sets("FLEETGATE_DATABASE_PORT_5432_TCP_ADDR", "10.0.0.1")
        .loads();
    assert_eq!(settings.given.len(), 2);
    assert!(told_of_variable("FLEETGATE_PORT", "8080").contains("unknown variable"));
}
