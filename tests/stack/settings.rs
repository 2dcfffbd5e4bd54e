//! What the compose file tells Fleetgate is what Fleetgate takes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fleetgate::config::{Settings, Sources};
use serde_json::Value;
use tempfile::TempDir;

use crate::compose::{mounts, service, texts};
use crate::secrets_of;

/// Stands for every secret, and for the keys, which are only looked for.
const STAND_IN: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456";

/// The service's environment on this machine, with secrets where its volume would be.
fn environment(secrets: &TempDir) -> Vec<(String, String)> {
    let fleetgate = service("fleetgate");
    for file in secrets_of("secrets-fleetgate") {
        let path = secrets.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, STAND_IN).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let (_, place, _) =
        mounts(&fleetgate).into_iter().find(|(what, ..)| what == "secrets-fleetgate").unwrap();
    let here = secrets.path().to_str().unwrap();
    let variables = fleetgate["environment"].as_object().unwrap();
    let text = |value: &Value| value.as_str().unwrap().replace(&place, here);
    variables.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

#[test]
fn fleetgate_takes_its_environment() {
    let secrets = tempfile::tempdir().unwrap();
    let sources = Sources { file: None, environment: environment(&secrets), ..Sources::default() };
    let settings = Settings::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(settings.warnings, []);
    let config = settings.config().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8080");
    assert!(config.emqx.acl_in_login, "rights travel with the login where sessions can be ended");
    assert_eq!(config.tokens.verification_keys.len(), 1);
    assert!(config.tokens.signing_key.is_some());
    assert_eq!(config.emqx.webhook_token.expose(), STAND_IN);
    // The API speaks TLS, on the port that is published, and its first token is written where a volume is.
    assert!(config.api.tls_certificate.is_some() && config.api.tls_key.is_some());
    let port = config.api.listen.unwrap().port();
    assert_eq!(texts(&service("fleetgate")["ports"]), [format!("127.0.0.1:{port}:{port}")]);
    let token = config.api.first_token_file.unwrap();
    let mounts = mounts(&service("fleetgate")).into_iter();
    let (_, place, _) = { mounts }.find(|(what, ..)| what == "fleetgate-data").unwrap();
    assert_eq!(token.parent(), Some(Path::new(&place)));
}

#[test]
fn it_finds_the_other_services() {
    let fleetgate = service("fleetgate");
    let of = |name: &str| fleetgate["environment"][name].as_str().unwrap().to_owned();
    let postgres = service("postgres");
    let database = postgres["environment"]["POSTGRES_DB"].as_str().unwrap();
    let place = format!("@postgres:5432/{database}");
    assert!(of("FLEETGATE_DATABASE_URL").ends_with(&place));
    let migrate = service("migrate")["environment"]["FLEETGATE_DATABASE_URL"].clone();
    assert!(migrate.as_str().unwrap().ends_with(&place));
    assert_eq!(of("FLEETGATE_EMQX_API_URL"), "http://emqx:18083");
    // The key that `secrets init` writes into `emqx/api-keys`.
    assert_eq!(of("FLEETGATE_EMQX_API_KEY"), "fleetgate");
}

#[test]
fn certificates_are_issued_with_the_same_environment() {
    assert_eq!(service("certificate")["environment"], service("fleetgate")["environment"]);
}
