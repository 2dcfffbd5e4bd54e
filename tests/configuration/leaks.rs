//! No message ever holds a secret.

use fleetgate::cli::check_config::check_config;
use fleetgate::config::{DatabaseUrl, Settings};
use proptest::prelude::*;
use tokio_postgres::config::Host;

use crate::operator::Operator;

/// Secrets of characters that mean something in URLs, keywords, paths or TOML.
const ODD: &str = "[a-z0-9!%&*_/+.@?#:=-]{16,40}";

/// Everything that can be wrong around or with a secret; `{}` is the secret.
const BAD: [&str; 25] = [
    "emqx.webhook_token = '{} with spaces'",
    "emqx.webhook_token = '{}",
    "emqx.webhook_token = {}",
    "emqx.webhook_token = ['{}']",
    "emqx.webhook_token = {x = '{}'}",
    "emqx.webhook_token = '{}' '{}'",
    "emqx.webhook_token_file = '{}'",
    "emqx.webhook_token_file = ['{}']",
    "emqx.webhook_token_file = '/{}/{}'",
    "emqx.webhok_token = '{}'",
    "emqx.webhook_token = '{}'\nemqx.webhook_token_file = '{}'",
    "emqx.webhook_token = '{}'\nemqx.webhook_token = '{}'",
    "emqx.webhook_token.x = '{}'",
    "token = '{}'",
    "database.url = 'postgres://user:{}@host:port/x'",
    "database.url = 'postgres://user:{}'",
    "database.url = 'host=h password={} {}=1'",
    "database.url = \"host=h password='{}\"",
    "database.url = 'postgres://user@h/x?{}={}'",
    "database.url = 'postgres://u:{}@h/x'\ndatabase.password = '{}'",
    "database.password = '{}\\0'\nhttp.listen = 1",
    "tokens.signing_key = '{}'",
    "emqx.api_secret = '{} with spaces'",
    "emqx.api_url = 'http://fleetgate:{}@emqx:18083'\nhttp.listen = 1",
    "emqx.api_key = 'fleetgate:{}'",
];

proptest! {
    #[test]
    fn no_message_ever_holds_a_secret(secret in ODD, bad in 0..BAD.len()) {
        let operator = Operator::writes(&BAD[bad].replace("{}", &secret));
        let problems = check_config(&operator.sources()).expect_err("a bad configuration");
        let told = format!("{problems}\n{problems:?}\n{}", serde_json::to_string(&problems).unwrap());
        prop_assert!(!told.contains(&secret), "{told}");
    }

    #[test]
    fn no_message_about_a_variable_holds_a_secret(secret in ODD) {
        let operator = Operator::writes("")
            .sets("FLEETGATE_EMQX_WEBHOOK_TOKEN", &format!("{secret} "))
            .sets("FLEETGATE_EMQX_WEBHOOK_TOKEN_FILE", &secret)
            .sets("FLEETGATE_EMQX_WEBHOK_TOKEN", &secret)
            .sets("FLEETGATE_DATABASE_URL", &format!("postgres://user:{secret}@host:port"))
            .sets("FLEETGATE_DATABASE_PASSWORD_FILE", &format!("/{secret}/"))
            .sets("FLEETGATE_TOKENS_SIGNING_KEY", &secret);
        let problems = check_config(&operator.sources()).expect_err("a bad configuration");
        prop_assert_eq!(problems.iter().count(), 7);
        let told = format!("{problems}\n{problems:?}");
        prop_assert!(!told.contains(&secret), "{told}");
    }

    // What is not the password is shown, when that host or database cannot be had.
    #[test]
    fn a_password_in_a_url_is_the_password_or_refused(secret in "[a-z0-9!&*_/+.@?#:=-]{16,40}") {
        let url = format!("postgres://user:{secret}@127.0.0.1:1/x");
        match url.parse::<DatabaseUrl>() {
            Err(told) => {
                let parts = secret.split(|c: char| !c.is_ascii_alphanumeric());
                for part in parts.filter(|part| part.len() >= 8) {
                    prop_assert!(!told.contains(part), "{told}");
                }
            }
            Ok(DatabaseUrl { config, .. }) => {
                prop_assert_eq!(config.get_password(), Some(secret.as_bytes()));
                prop_assert_eq!(config.get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);
                prop_assert_eq!((config.get_ports(), config.get_dbname()), (&[1][..], Some("x")));
            }
        }
    }

    #[test]
    fn no_report_on_a_good_configuration_holds_a_secret(secret in "[a-z0-9]{16,40}") {
        let operator = Operator::writes(&format!("emqx.webhook_token = '{secret}'\n"))
            .sets("FLEETGATE_DATABASE_URL", &format!("postgres://user:{secret}@host"));
        let report = check_config(&operator.sources()).unwrap_or_else(|p| panic!("{p}"));
        let told = format!("{report}\n{report:?}\n{}", serde_json::to_string(&report).unwrap());
        prop_assert!(!told.contains(&secret), "{told}");
    }

    #[test]
    fn no_file_makes_it_panic(text in "[\\[\\]='\"a-z.0-9\n{},#é\u{0}-]{0,200}") {
        let operator = Operator::writes(&text);
        if let Ok(settings) = Settings::load(&operator.sources()) {
            prop_assert!(settings.config().is_err(), "random text gave a whole configuration");
        }
    }
}
