//! Values: defaults, precedence, and what is said of bad ones.

use std::path::PathBuf;
use std::time::Duration;

use fleetgate::cli::check_config::check_config;
use fleetgate::config::{LogFormat, Settings, Sources, reference};

use crate::operator::{NEEDED, Operator, TOKEN, told_of};

#[test]
fn defaults_hold_when_only_the_needed_is_given() {
    let config = Operator::writes(NEEDED).loads().config().unwrap_or_else(|p| panic!("{p}"));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.http.workers, cores);
    assert_eq!(config.http.keep_alive, Duration::from_secs(120));
    assert_eq!(config.http.max_connections, 4096);
    assert_eq!(config.http.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.database.url.expose(), "postgres://fleetgate@db/fleetgate");
    assert!(config.database.password.is_none());
    assert_eq!(config.database.ca_file, None);
    assert_eq!(config.database.pool_size, 8);
    assert_eq!(config.database.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.database.query_timeout, Duration::from_secs(2));
    assert_eq!(config.emqx.webhook_token.expose(), TOKEN);
    assert!(!config.emqx.acl_in_login);
    assert!(config.emqx.api.is_none());
    assert_eq!(config.emqx.sweep_interval, Duration::from_secs(60));
    assert_eq!(config.cache.devices, 200_000);
    assert_eq!(config.cache.unknown_names, 20_000);
    assert_eq!(config.cache.unknown_ttl, Duration::from_secs(5));
    assert_eq!(config.cache.max_staleness, Duration::from_secs(600));
    let threads = (cores / 2).clamp(1, 8);
    assert_eq!(
        (config.hashing.threads, config.hashing.queue),
        (threads, (2 * threads).clamp(4, 8))
    );
    assert!(config.logins.limits && config.logins.exempt_networks.is_empty());
    assert_eq!((config.ingest.queue, config.ingest.batch), (10_000, 512));
    assert_eq!((config.ingest.linger, config.ingest.writers), (Duration::from_millis(1), 2));
    assert_eq!(config.ingest.max_payload, 65_536);
    assert_eq!(config.ingest.keep_sessions, Duration::from_secs(7 * 86_400));
    assert_eq!(config.audit.keep, Duration::from_secs(365 * 86_400));
    assert_eq!(config.tokens.audience, "fleetgate");
    assert!(config.tokens.verification_keys.is_empty());
    assert_eq!(config.tokens.signing_key, None);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.filter, "info");
}

#[test]
fn every_setting_can_be_a_variable() {
    let operator = Operator::writes("");
    let key = operator.saves("key.pem", "", 0o600);
    let key = key.to_str().expect("text");
    let paths = format!("{key}:{key}");
    let operator = operator
        .sets("FLEETGATE_HTTP_LISTEN", "[::1]:0")
        .sets("FLEETGATE_HTTP_WORKERS", "3")
        .sets("FLEETGATE_HTTP_KEEP_ALIVE", "90s")
        .sets("FLEETGATE_HTTP_MAX_CONNECTIONS", "10")
        .sets("FLEETGATE_HTTP_SHUTDOWN_GRACE", "0s")
        .sets("FLEETGATE_API_LISTEN", "[::]:8443")
        .sets("FLEETGATE_API_TLS_CERTIFICATE", key)
        .sets("FLEETGATE_API_TLS_KEY", key)
        .sets("FLEETGATE_API_PUBLIC_URL", "https://fleet.example.net")
        .sets("FLEETGATE_API_FIRST_TOKEN_FILE", "not/there/yet")
        .sets("FLEETGATE_DATABASE_URL", "host=/run/postgresql")
        .sets("FLEETGATE_DATABASE_PASSWORD", "p w")
        .sets("FLEETGATE_DATABASE_CA_FILE", key)
        .sets("FLEETGATE_DATABASE_POOL_SIZE", "2")
        .sets("FLEETGATE_DATABASE_CONNECT_TIMEOUT", "250ms")
        .sets("FLEETGATE_DATABASE_QUERY_TIMEOUT", "1s 500ms")
        .sets("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN)
        .sets("FLEETGATE_EMQX_ACL_IN_LOGIN", "true")
        .sets("FLEETGATE_EMQX_API_URL", "https://emqx:18084/")
        .sets("FLEETGATE_EMQX_API_KEY", "fleetgate")
        .sets("FLEETGATE_EMQX_API_SECRET", "top:secret")
        .sets("FLEETGATE_EMQX_API_CA_FILE", key)
        .sets("FLEETGATE_EMQX_SWEEP_INTERVAL", "5m")
        .sets("FLEETGATE_EMQX_MAX_SESSION", "4h")
        .sets("FLEETGATE_CACHE_DEVICES", "1")
        .sets("FLEETGATE_CACHE_UNKNOWN_NAMES", "2")
        .sets("FLEETGATE_CACHE_UNKNOWN_TTL", "1m")
        .sets("FLEETGATE_CACHE_MAX_STALENESS", "1h")
        .sets("FLEETGATE_HASHING_THREADS", "5")
        .sets("FLEETGATE_HASHING_QUEUE", "6")
        .sets("FLEETGATE_LOGINS_LIMITS", "false")
        .sets("FLEETGATE_LOGINS_EXEMPT_NETWORKS", "192.0.2.0/24,2001:db8::7")
        .sets("FLEETGATE_INGEST_QUEUE", "7")
        .sets("FLEETGATE_INGEST_BATCH", "8")
        .sets("FLEETGATE_INGEST_LINGER", "0s")
        .sets("FLEETGATE_INGEST_WRITERS", "3")
        .sets("FLEETGATE_EMQX_PREVIOUS_WEBHOOK_TOKEN", "the-token-of-before")
        .sets("FLEETGATE_INGEST_MAX_PAYLOAD", "9")
        .sets("FLEETGATE_INGEST_KEEP_SESSIONS", "72h")
        .sets("FLEETGATE_IMPORTS_UPGRADE", "false")
        .sets("FLEETGATE_COMMANDS_KEEP", "48h")
        .sets("FLEETGATE_COMMANDS_MAX_PAYLOAD", "1000")
        .sets("FLEETGATE_COMMANDS_MAX_DEVICES", "20")
        .sets("FLEETGATE_AUDIT_KEEP", "240h")
        .sets("FLEETGATE_TOKENS_AUDIENCE", "lab")
        .sets("FLEETGATE_TOKENS_VERIFICATION_KEYS", &paths)
        .sets("FLEETGATE_TOKENS_SIGNING_KEY", key)
        .sets("FLEETGATE_LOG_FORMAT", "json")
        .sets("FLEETGATE_LOG_FILTER", "warn");
    let settings = operator.loads();
    let config = settings.config().unwrap_or_else(|p| panic!("{p}"));
    let key = PathBuf::from(key);
    assert_eq!(config.http.listen.to_string(), "[::1]:0");
    assert_eq!((config.http.workers, config.http.max_connections), (3, 10));
    assert_eq!(config.http.keep_alive, Duration::from_secs(90));
    assert_eq!(config.http.shutdown_grace, Duration::ZERO);
    assert_eq!(config.api.listen, "[::]:8443".parse().ok());
    assert_eq!(
        (&config.api.tls_certificate, &config.api.tls_key),
        (&Some(key.clone()), &Some(key.clone()))
    );
    assert_eq!(config.api.public_url.as_deref(), Some("https://fleet.example.net"));
    assert_eq!(config.api.first_token_file, Some("not/there/yet".into()));
    assert_eq!(config.database.url.expose(), "host=/run/postgresql");
    assert!(config.database.password.is_some_and(|p| p.expose() == "p w"));
    assert_eq!(config.database.ca_file, Some(key.clone()));
    assert_eq!(config.database.pool_size, 2);
    assert_eq!(config.database.connect_timeout, Duration::from_millis(250));
    assert_eq!(config.database.query_timeout, Duration::from_millis(1500));
    assert_eq!(config.emqx.webhook_token.expose(), TOKEN);
    assert!(
        config.emqx.previous_webhook_token.is_some_and(|it| it.expose() == "the-token-of-before")
    );
    assert!(config.emqx.acl_in_login);
    let api = config.emqx.api.expect("an API");
    assert_eq!((api.url.as_str(), api.key.as_str()), ("https://emqx:18084", "fleetgate"));
    assert_eq!(api.secret.expose(), "top:secret");
    assert_eq!(api.ca_file, Some(key.clone()));
    assert_eq!(config.emqx.sweep_interval, Duration::from_secs(300));
    assert_eq!(config.emqx.max_session, Some(Duration::from_secs(4 * 3600)));
    assert_eq!((config.cache.devices, config.cache.unknown_names), (1, 2));
    assert_eq!(config.cache.unknown_ttl, Duration::from_secs(60));
    assert_eq!(config.cache.max_staleness, Duration::from_secs(3600));
    assert_eq!((config.hashing.threads, config.hashing.queue), (5, 6));
    assert!(!config.imports.upgrade && !config.logins.limits);
    let exempt: Vec<String> =
        config.logins.exempt_networks.iter().map(ToString::to_string).collect();
    assert_eq!(exempt, ["192.0.2.0/24", "2001:db8::/64"]);
    assert_eq!((config.ingest.queue, config.ingest.batch), (7, 8));
    assert_eq!((config.ingest.linger, config.ingest.max_payload), (Duration::ZERO, 9));
    assert_eq!(config.ingest.writers, 3);
    assert_eq!(config.ingest.keep_sessions, Duration::from_secs(3 * 86_400));
    assert_eq!(config.audit.keep, Duration::from_secs(10 * 86_400));
    assert_eq!(config.commands.keep, Duration::from_secs(2 * 86_400));
    assert_eq!((config.commands.max_payload, config.commands.max_devices), (1000, 20));
    assert_eq!(config.tokens.audience, "lab");
    assert_eq!(config.tokens.verification_keys, [key.clone(), key.clone()]);
    assert_eq!(config.tokens.signing_key, Some(key));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.filter, "warn");
    let variables = operator.environment.len();
    assert_eq!(settings.given.len(), variables, "check-config names every one");
    let reference = reference();
    let (table, _) = reference.split_once("## Other variables").unwrap();
    let rows = table.matches("| `FLEETGATE_").count();
    assert_eq!(rows, variables, "this test misses a setting");
}

#[test]
fn tokens_of_the_api_are_not_sent_in_the_clear() {
    let settings = Operator::writes(NEEDED).loads();
    assert_eq!(settings.api.listen, "127.0.0.1:8090".parse().ok());
    let settings = Operator::writes(&format!("{NEEDED}\napi.listen = 'off'")).loads();
    assert_eq!(settings.api.listen, None);
    for (line, told) in [
        ("api.listen = '0.0.0.0:8090'", "api.listen: tokens would be sent in the clear"),
        ("api.listen = 'somewhere'", "or \"off\""),
        (
            "api.listen = '[::1]:1'\napi.tls_key = 'fleetgate.toml'",
            "api.tls_key: needs api.tls_certificate as well",
        ),
        (
            "api.tls_certificate = 'fleetgate.toml'",
            "api.tls_certificate: needs api.tls_key as well",
        ),
        ("api.public_url = 'https://a/b'", "write it as https://fleet.example.net"),
    ] {
        let told_of = told_of(line);
        assert!(told_of.contains(told), "{line}: {told_of}");
    }
}

#[test]
fn durations_have_days_of_24_hours() {
    let day = Duration::from_secs(86_400);
    for (text, meant) in [
        ("365d", 365 * day),
        ("8760h", 365 * day),
        ("30d 12h", 30 * day + day / 2),
        ("100 days", 100 * day),
    ] {
        let settings = Operator::writes(&format!("audit.keep = '{text}'\n")).loads();
        assert_eq!(settings.audit.keep, meant, "{text}");
    }
    for text in ["1y", "12mo", "52w", "-30d", "30d ago", "30d 12:00:00"] {
        let told = told_of(&format!("audit.keep = '{text}'"));
        assert!(told.contains("(ms, s, m, h or d)"), "{text}: {told}");
    }
    let settings = Operator::writes("http.keep_alive = '1.5s'\n").loads();
    assert_eq!(settings.http.keep_alive, Duration::from_millis(1500));
}

#[test]
fn a_url_is_kept_as_it_was_understood() {
    let settings = Operator::writes(
        "emqx.api_url = ' http://EMQX:18083/ '\nemqx.api_key = 'k'\nemqx.api_secret = 's'\n\
         api.public_url = 'https:Fl\u{f6}tte.example '\n",
    )
    .loads();
    assert_eq!(settings.emqx_api().unwrap().unwrap().url, "http://emqx:18083");
    assert_eq!(settings.api.public_url.as_deref(), Some("https://xn--fltte-kua.example"));
}

#[test]
fn what_is_given_and_not_used_is_told() {
    let https = API.replace("http:", "https:");
    let warnings = |text: &str| {
        let operator = Operator::writes(&format!("{NEEDED}{text}"));
        operator.saves("ca.pem", "", 0o600);
        let settings = operator.loads();
        settings.warnings.iter().map(|warning| warning.setting.clone()).collect::<Vec<_>>()
    };
    let off = "api.listen = 'off'\napi.tls_certificate = 'ca.pem'\napi.tls_key = 'ca.pem'\n\
               api.public_url = 'https://x'\napi.first_token_file = 'token'\n";
    let of_api = ["api.tls_certificate", "api.tls_key", "api.public_url", "api.first_token_file"];
    assert_eq!(warnings(off), of_api);
    let none: [&str; 0] = [];
    assert_eq!(warnings(&off.replace("'off'", "'127.0.0.1:1'")), none);
    assert_eq!(warnings("emqx.sweep_interval = '5m'"), ["emqx.sweep_interval"]);
    assert_eq!(warnings(&format!("{API}emqx.sweep_interval = '5m'")), none);
    let exempt = "logins.exempt_networks = ['192.0.2.7']\n";
    assert_eq!(warnings(&format!("{exempt}logins.limits = false")), ["logins.exempt_networks"]);
    assert_eq!(warnings(exempt), none);
    assert_eq!(warnings("database.pool_size = 2"), ["database.pool_size"]);
    assert_eq!(warnings("ingest.writers = 8"), ["ingest.writers"]);
    assert_eq!(warnings("ingest.writers = 8\ndatabase.pool_size = 9"), none);

    assert_eq!(warnings(&format!("{https}emqx.api_ca_file = 'ca.pem'")), none);
    let told = |text: &str| {
        let operator = Operator::writes(&format!("{NEEDED}{text}"));
        operator.saves("ca.pem", "", 0o600);
        operator.is_told()
    };
    let unused = told(&format!("{API}emqx.api_ca_file = 'ca.pem'"));
    assert!(unused[0].contains("emqx.api_ca_file: is not used: emqx.api_url"), "{unused:?}");
    let alone = told("emqx.api_ca_file = 'ca.pem'");
    assert!(alone[0].starts_with("emqx.api_url: is required with emqx.api_ca_file; "), "{alone:?}");
}

#[test]
fn two_listeners_have_two_ports() {
    for (http, api, other) in [
        ("127.0.0.1:8090", "127.0.0.1:8090", true),
        ("0.0.0.0:8090", "127.0.0.1:8090", true),
        ("[::]:8090", "127.0.0.1:8090", true),
        ("127.0.0.2:8090", "127.0.0.1:8090", false),
        ("0.0.0.0:8090", "[::1]:8090", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("127.0.0.1:8090", "off", false),
    ] {
        let text = format!("{NEEDED}http.listen = '{http}'\napi.listen = '{api}'\n");
        let told = Settings::load(&Operator::writes(&text).sources()).err();
        assert_eq!(told.is_some(), other, "{http} {api}");
    }
    let told = told_of("http.listen = '0.0.0.0:8090'");
    let expected = "fleetgate.toml:3: http.listen: is the same port as api.listen; choose another";
    assert_eq!(told, expected);
}

#[test]
fn a_token_in_place_of_its_file_is_not_repeated() {
    let told = told_of("api.first_token_file = 'fg1_7_topsecret'");
    assert!(told.contains("holds a token") && !told.contains("topsecret"), "{told}");
    for (name, content) in [("key.pem", "a key"), ("directory/file", "")] {
        let name_in_setting = name.split('/').next().unwrap();
        let text = format!("{NEEDED}api.first_token_file = '{name_in_setting}'\n");
        let operator = Operator::writes(&text);
        operator.saves(name, content, 0o600);
        let told = operator.is_told();
        assert!(told[0].starts_with("fleetgate.toml:3: api.first_token_file: "), "{told:?}");
    }
}

const API: &str = "emqx.api_url = 'http://emqx:18083'\nemqx.api_key = 'fleetgate'\n\
                   emqx.api_secret = 'secret'\n";

#[test]
fn rights_travel_with_the_login_where_sessions_can_be_ended() {
    let acl_in_login = |text: String| {
        let config = Operator::writes(&(NEEDED.to_owned() + &text)).loads().config();
        config.unwrap_or_else(|p| panic!("{p}")).emqx.acl_in_login
    };
    assert!(!acl_in_login(String::new()));
    assert!(acl_in_login(API.to_owned()));
    assert!(!acl_in_login(format!("{API}emqx.acl_in_login = false\n")));
    assert!(acl_in_login("emqx.acl_in_login = true\n".to_owned()));
}

#[test]
fn half_an_api_is_a_mistake() {
    for missing in ["api_url", "api_key", "api_secret"] {
        let rest: String = API
            .lines()
            .filter(|line| !line.contains(missing))
            .fold(NEEDED.to_owned(), |text, line| text + line + "\n");
        let settings = Operator::writes(&rest).loads();
        for problems in [settings.config().err(), settings.emqx_api().err()] {
            let told = problems.expect("a problem").to_string();
            assert!(told.contains(&format!("emqx.{missing}")), "{told}");
            assert!(told.contains("is required with emqx.api_"), "{told}");
        }
    }
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    let operator = Operator::writes("emqx.api_key = 'fleetgate'\n");
    let settings: Vec<String> = check_config(&operator.sources())
        .expect_err("problems")
        .iter()
        .filter_map(|problem| problem.setting.clone())
        .collect();
    assert_eq!(settings, ["database.url", "emqx.webhook_token", "emqx.api_url", "emqx.api_secret"]);
}

#[test]
fn environment_counts_more_than_file_and_file_more_than_default() {
    let operator = Operator::writes("http.workers = 2\nhttp.max_connections = 5\n")
        .sets("FLEETGATE_HTTP_WORKERS", "3")
        .sets("FLEETGATE_HTTP_MAX_CONNECTIONS", "");
    let given: Vec<String> = operator
        .loads()
        .given
        .iter()
        .map(|g| {
            format!("{} = {} {}", g.setting, g.value, g.at)
                .replace(operator.directory.path().to_str().unwrap(), "")
        })
        .collect();
    assert_eq!(
        given,
        ["http.workers = 3 FLEETGATE_HTTP_WORKERS", "http.max_connections = 5 /fleetgate.toml:2",]
    );
}

#[test]
fn bad_values_are_named_with_the_remedy() {
    let cases = [
        (
            "http.listen = '8080'",
            r#"http.listen: "8080" is not an address; write "127.0.0.1:8080""#,
        ),
        (
            "http.listen = 'localhost:9000'",
            r#"http.listen: "localhost:9000" is not an address; write "127.0.0.1:9000""#,
        ),
        (
            "http.listen = ':9000'",
            r#"http.listen: ":9000" is not an address; write "0.0.0.0:9000""#,
        ),
        (
            "http.listen = '10.0.0.1'",
            r#"http.listen: "10.0.0.1" is not an address; write "10.0.0.1:8080""#,
        ),
        ("http.listen = '::1'", r#"http.listen: "::1" is not an address; write "[::1]:8080""#),
        (
            "http.listen = 'nonsense'",
            r#"http.listen: "nonsense" is not an address; write "127.0.0.1:8080""#,
        ),
        ("http.listen = 9000", r#"http.listen: 9000 is not an address; write "127.0.0.1:9000""#),
        (
            "http.workers = '8'",
            r#"http.workers: "8" is not a whole number; write one from 1 to 1024, without quotes"#,
        ),
        ("http.workers = 0", "http.workers: 0 is out of range; write a number from 1 to 1024"),
        ("http.workers = -1", "http.workers: -1 is out of range; write a number from 1 to 1024"),
        (
            "http.workers = 1.5",
            "http.workers: a fraction is not a whole number; write one from 1 to 1024, without quotes",
        ),
        (
            "http.keep_alive = 5",
            r#"http.keep_alive: 5 has no unit; write the unit as well, for example "5s" for seconds or "5ms" for milliseconds"#,
        ),
        (
            "http.keep_alive = '5'",
            r#"http.keep_alive: 5 has no unit; write the unit as well, for example "5s" for seconds or "5ms" for milliseconds"#,
        ),
        (
            "http.keep_alive = 'long'",
            r#"http.keep_alive: "long" is not a duration; write a number with its unit (ms, s, m, h or d), from "1s" to "1h""#,
        ),
        (
            "http.keep_alive = '-5s'",
            r#"http.keep_alive: "-5s" is not a duration; write a number with its unit (ms, s, m, h or d), from "1s" to "1h""#,
        ),
        (
            "http.keep_alive = 'inf'",
            r#"http.keep_alive: "inf" is not a duration; write a number with its unit (ms, s, m, h or d), from "1s" to "1h""#,
        ),
        (
            "http.keep_alive = '00:00:05'",
            r#"http.keep_alive: "00:00:05" is not a duration; write a number with its unit (ms, s, m, h or d), from "1s" to "1h""#,
        ),
        (
            "http.keep_alive = '1d'",
            r#"http.keep_alive: "1d" is out of range; write a duration from "1s" to "1h""#,
        ),
        (
            "http.keep_alive = '2h'",
            r#"http.keep_alive: "2h" is out of range; write a duration from "1s" to "1h""#,
        ),
        (
            "database.connect_timeout = '1ms'",
            r#"database.connect_timeout: "1ms" is out of range; write a duration from "50ms" to "1m""#,
        ),
        (
            "emqx.acl_in_login = 'yes'",
            r#"emqx.acl_in_login: "yes" is not a boolean; write true or false"#,
        ),
        ("log.format = 'xml'", r#"log.format: "xml" is not known; write "text" or "json""#),
        (
            "log.filter = 'inof'",
            r#"log.filter: "inof" is not a level; write error, warn, info, debug, trace or off, or module=level"#,
        ),
        ("log.filter = 3", "log.filter: 3 is a number; write text in quotes"),
        (
            "tokens.audience = ''",
            r#"tokens.audience: "" is not a valid audience; write 1 to 256 characters, no control characters"#,
        ),
        (
            "tokens.verification_keys = 'a.pem'",
            r#"tokens.verification_keys: "a.pem" is not a list; write ["path", "path"]"#,
        ),
        (
            "tokens.verification_keys = [1]",
            "tokens.verification_keys: 1 in the list is not a path; write text in quotes",
        ),
        (
            "tokens.verification_keys = ['a.pem']",
            "tokens.verification_keys: a.pem cannot be used: No such file or directory (os error 2); write the path of a file",
        ),
        (
            "tokens.signing_key = 'a.pem'",
            "tokens.signing_key: the file named here cannot be used: No such file or directory (os error 2); write the path of a file",
        ),
        ("tokens.signing_key = ['a.pem']", "tokens.signing_key: is a list; write text in quotes"),
        ("database.ca_file = ''", "database.ca_file: the path is empty; write the path of a file"),
        ("database.ca_file = true", "database.ca_file: true is a boolean; write text in quotes"),
        (
            "database.password = ''",
            "database.password: the password is empty; remove the setting if there is none",
        ),
        (
            "database.password_file = 'none'",
            "database.password_file: the file named here cannot be read: No such file or directory (os error 2); write the path of a file that holds only the secret",
        ),
    ];
    for (line, told) in cases {
        assert_eq!(told_of(line), format!("fleetgate.toml:3: {told}"), "{line}");
    }
}

#[test]
fn missing_settings_are_told_to_those_who_need_them() {
    let operator = Operator::writes("log.format = 'json'\n");
    let settings = operator.loads();
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.tokens.audience, "fleetgate");
    let database = settings.database().err().map(|p| p.to_string()).expect("a problem");
    assert_eq!(
        database,
        "database.url: is required; write it in the configuration file or set \
         FLEETGATE_DATABASE_URL, or name a file that holds it with database.url_file or \
         FLEETGATE_DATABASE_URL_FILE"
    );
    let told = operator.is_told();
    assert_eq!(told[0], database);
    assert!(told[1].starts_with("emqx.webhook_token: is required"), "{told:?}");
}

#[test]
fn check_config_reports_for_people_and_programs() {
    let operator = Operator::writes(NEEDED).sets("FLEETGATE_LOG_FORMAT", "json");
    let report = check_config(&operator.sources()).unwrap_or_else(|p| panic!("{p}"));
    let directory = operator.directory.path().display().to_string();
    assert_eq!(
        report.to_string().replace(&directory, ""),
        "configuration is valid\nfile: /fleetgate.toml\n  database.url = set  \
         (/fleetgate.toml:1)\n  emqx.webhook_token = set  (/fleetgate.toml:2)\n  log.format = \
         \"json\"  (FLEETGATE_LOG_FORMAT)\n"
    );
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["given"][1]["value"], "set");
    assert_eq!(json["given"][1]["at"]["line"], 2);
    assert_eq!(json["given"][2]["at"]["variable"], "FLEETGATE_LOG_FORMAT");
    let problems = check_config(&Sources::default()).expect_err("nothing is given");
    let json = serde_json::to_value(&problems).expect("JSON");
    assert_eq!(json[0]["setting"], "database.url");
    assert_eq!(json[0]["at"], serde_json::Value::Null);
}
