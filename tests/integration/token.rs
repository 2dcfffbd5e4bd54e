//! `fleetgate token` against a real registry.

use fleetgate::authn::token::{TokenKeys, read_verification_key};
use fleetgate::clock::Clock;
use serde_json::Value;

use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, fresh_database};

/// A key pair in a directory of its own, and a database with one device.
struct Issuer {
    directory: tempfile::TempDir,
    database: TestDatabase,
    fleet: Fleet,
}

impl Issuer {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = fresh_database().await;
        let fleet = Fleet::connect(&database.url).await;
        fleet.device("thermo-1").await;
        let issuer = Self { directory, database, fleet };
        let generated = run(fleetgate(&["token", "key", "generate", "--out", &issuer.key()]));
        assert_eq!(generated.0, 0, "{}", generated.2);
        issuer
    }

    fn key(&self) -> String {
        self.directory.path().join("key.pem").to_str().unwrap().to_owned()
    }

    fn public_key(&self) -> String {
        self.directory.path().join("key.pub.pem").to_str().unwrap().to_owned()
    }

    fn issue(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = fleetgate(&[&["token", "issue"], arguments].concat());
        command.env("FLEETGATE_DATABASE_URL", &self.database.url);
        command.env("FLEETGATE_TOKENS_SIGNING_KEY", self.key());
        command.env("FLEETGATE_TOKENS_VERIFICATION_KEYS", self.public_key());
        run(command)
    }
}

#[tokio::test]
async fn an_issued_token_stands_alone_and_counts() {
    let issuer = Issuer::new().await;
    let (code, stdout, stderr) = issuer.issue(&["thermo-1", "--expires", "2d"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("shown once") && !stderr.contains("warning"), "{stderr}");
    let key = read_verification_key(issuer.public_key().as_ref()).unwrap();
    let now = Clock::System.now();
    let claims =
        TokenKeys::new("fleetgate", &[key]).verify(stdout.trim_end_matches('\n'), now).unwrap();
    assert_eq!(claims.device, "thermo-1");
    assert_eq!(claims.expires_at.duration_since(claims.issued_at).as_hours(), 48);
    let begins = "SELECT extract(epoch FROM not_before)::bigint FROM device_credentials WHERE kind = 'token'";
    assert!(claims.issued_at.as_second() >= issuer.fleet.value::<i64>(begins).await);
}

#[tokio::test]
async fn a_token_after_a_revocation_begins_after_it() {
    let issuer = Issuer::new().await;
    let (_, first, _) = issuer.issue(&["thermo-1", "--json"]);
    issuer.fleet.revoke("thermo-1").await;
    let (_, second, _) = issuer.issue(&["thermo-1", "--json"]);
    let [first, second]: [Value; 2] =
        [first, second].map(|text| serde_json::from_str(&text).unwrap());
    assert_ne!(first["credential"], second["credential"]);
    let issued = |token: &Value| token["issued_at"].as_str().unwrap().to_owned();
    assert!(issued(&first) < issued(&second), "{first} {second}");
}

#[tokio::test]
async fn an_unknown_device_gets_none() {
    let issuer = Issuer::new().await;
    let (code, stdout, stderr) = issuer.issue(&["nobody"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.contains("\"nobody\""), "{stderr}");
    assert_eq!(issuer.fleet.value::<i64>("SELECT count(*) FROM device_credentials").await, 0);
}

#[tokio::test]
async fn a_token_that_would_never_end_changes_nothing() {
    let issuer = Issuer::new().await;
    let (code, stdout, stderr) = issuer.issue(&["thermo-1", "--expires", "7990y"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("shorter --expires"), "{stderr}");
    assert_eq!(issuer.fleet.value::<i64>("SELECT count(*) FROM device_credentials").await, 0);
}

#[test]
fn without_a_signing_key_the_remedy_is_named() {
    let mut command = fleetgate(&["token", "issue", "thermo-1"]);
    command.env("FLEETGATE_DATABASE_URL", "host=/nowhere");
    let (code, _, stderr) = run(command);
    assert_eq!(code, 2);
    assert!(stderr.contains("token key generate"), "{stderr}");
}

#[test]
fn a_key_is_shown_without_its_private_half() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem").to_str().unwrap().to_owned();
    assert_eq!(run(fleetgate(&["token", "key", "generate", "--out", &file])).0, 0);
    let (code, stdout, _) = run(fleetgate(&["token", "key", "show", &file, "--json"]));
    assert_eq!(code, 0);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(shown[0]["kid"].as_str().unwrap().len(), 16);
    assert!(!stdout.contains("PRIVATE"));
}
