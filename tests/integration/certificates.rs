//! `fleetgate certificate issue` against a real registry.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fleetgate::provision::certificate::Certificate;
use serde_json::Value;

use crate::secrets::Secrets;
use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::handshake::{self, Peer};
use crate::support::postgres::{TestDatabase, fresh_database};

/// A bus's secrets, a database with one device, and a directory for its files.
struct Issuer {
    secrets: Secrets,
    out: tempfile::TempDir,
    database: TestDatabase,
    fleet: Fleet,
}

impl Issuer {
    async fn new() -> Self {
        let database = fresh_database().await;
        let fleet = Fleet::connect(&database.url).await;
        fleet.device("thermo-1").await;
        Self { secrets: Secrets::made(), out: tempfile::tempdir().unwrap(), database, fleet }
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", &self.database.url);
        // As in a container, where the one variable stands beside the other.
        command.env("FLEETGATE_TLS_NAMES", "bus.example.org");
        run(command)
    }

    fn issue(&self, device: &str, more: &[&str]) -> (i32, String, String) {
        let directory = self.secrets.path().to_str().unwrap();
        let out = self.out.path().to_str().unwrap();
        let arguments = ["certificate", "issue", "--device", device, "--directory", directory];
        self.run(&[&arguments[..], &["--out", out], more].concat())
    }

    fn credentials(&self) -> Vec<Value> {
        let (code, stdout, stderr) = self.run(&["credential", "list", "thermo-1", "--json"]);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.out.path().join(name)
    }

    fn peer(&self, device: &str) -> Peer {
        let read = |name: String| fs::read_to_string(self.file(&name)).unwrap();
        Peer {
            certificate: read(format!("{device}.pem")),
            key: read(format!("{device}.key")),
            authority: read("ca.pem".to_owned()),
        }
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.out.path()).unwrap().next().is_none()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_device_gets_a_certificate_that_a_verifying_server_accepts() {
    let issuer = Issuer::new().await;
    let (code, stdout, stderr) = issuer.issue("thermo-1", &["--days", "30"]);
    assert_eq!(code, 0, "{stderr}");
    let peer = issuer.peer("thermo-1");
    assert!(stdout.contains("credential revoke") && !stdout.contains("PRIVATE"), "{stdout}");
    assert_eq!(mode(&issuer.file("thermo-1.key")), 0o600);
    let server = Peer::server(issuer.secrets.path());
    handshake::between(&server, "localhost", Some(&peer)).unwrap();

    let certificate = Certificate::from_pem(&peer.certificate).unwrap();
    assert_eq!(certificate.common_name.as_deref(), Some("thermo-1"));
    let credentials = issuer.credentials();
    let bound = &credentials[0];
    assert_eq!(credentials.len(), 1);
    assert_eq!(bound["kind"], "certificate");
    assert_eq!(bound["common_name"], "thermo-1");
    assert_eq!(bound["certificate_required"], false);
    assert_eq!(bound["expires_at"], certificate.ends.to_string());
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_of_a_server_is_refused() {
    let issuer = Issuer::new().await;
    assert_eq!(issuer.issue("thermo-1", &[]).0, 0);
    let device = issuer.peer("thermo-1");
    let another = Secrets::made();
    let foreign = Peer::server(another.path());
    let trusting = Peer { authority: another.read("authority/ca.pem"), ..issuer.peer("thermo-1") };
    let error = handshake::between(&foreign, "localhost", Some(&trusting)).unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("UnknownCA"), "{error}");

    let server = Peer::server(issuer.secrets.path());
    let error = handshake::between(&server, "localhost", Some(&server)).unwrap_err();
    assert!(error.contains("not allow extended key usage for client"), "{error}");
    let posing = Peer { authority: server.authority, ..device };
    let error = handshake::between(&posing, "thermo-1", None).unwrap_err();
    assert!(error.contains("not allow extended key usage for server"), "{error}");
}

#[tokio::test]
async fn a_required_certificate_is_bound_as_such() {
    let issuer = Issuer::new().await;
    assert_eq!(issuer.issue("thermo-1", &["--required"]).0, 0);
    assert_eq!(issuer.credentials()[0]["certificate_required"], true);
}

#[tokio::test]
async fn nothing_is_written_for_a_device_that_is_not_there() {
    let issuer = Issuer::new().await;
    let (code, stdout, stderr) = issuer.issue("nobody", &[]);
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    assert!(stderr.contains("fleetgate device list"), "{stderr}");
    assert!(issuer.is_empty());
}

#[tokio::test]
async fn nothing_is_written_when_the_database_refuses() {
    let issuer = Issuer::new().await;
    // Refused only at the very end, when the files are there already.
    let function = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = 'check_violation'; END $$";
    let trigger = "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON device_credentials
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()";
    issuer.fleet.sql(function, &[]).await;
    issuer.fleet.sql(trigger, &[]).await;
    let (code, _, stderr) = issuer.issue("thermo-1", &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(issuer.is_empty());
    assert_eq!(issuer.credentials().len(), 0);
}

#[tokio::test]
async fn nothing_is_bound_when_a_file_cannot_be_written() {
    let issuer = Issuer::new().await;
    fs::write(issuer.file("thermo-1.pem"), "somebody's").unwrap();
    let (code, _, stderr) = issuer.issue("thermo-1", &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("thermo-1.pem exists and is not overwritten"), "{stderr}");
    assert_eq!(issuer.credentials().len(), 0);
    assert!(!issuer.file("thermo-1.key").exists() && !issuer.file("ca.pem").exists());
    assert_eq!(fs::read_to_string(issuer.file("thermo-1.pem")).unwrap(), "somebody's");
}

#[tokio::test]
async fn devices_share_a_directory_of_one_authority_only() {
    let issuer = Issuer::new().await;
    issuer.fleet.device("thermo-2").await;
    assert_eq!(issuer.issue("thermo-1", &[]).0, 0);
    assert_eq!(issuer.issue("thermo-2", &[]).0, 0);
    assert_ne!(issuer.peer("thermo-1").key, issuer.peer("thermo-2").key);
    let another = Issuer { secrets: Secrets::made(), ..issuer };
    another.fleet.device("thermo-3").await;
    let (code, _, stderr) = another.issue("thermo-3", &[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("ca.pem exists"), "{stderr}");
}

#[tokio::test]
async fn names_and_times_that_no_certificate_can_carry_are_refused() {
    let issuer = Issuer::new().await;
    let long = "x".repeat(65);
    for device in ["ca", &long] {
        issuer.fleet.device(device).await;
    }
    for (device, more, part) in [("ca", &[][..], "another name"), (&long, &[], "64 characters")] {
        let (code, _, stderr) = issuer.issue(device, more);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(issuer.issue("thermo-1", &["--days", "0"]).0, 2);
    assert!(issuer.is_empty());
}

#[tokio::test]
async fn a_certificate_does_not_outlive_the_authority() {
    let issuer = Issuer::new().await;
    let secrets = Secrets::made_days_ago(3600);
    let issuer = Issuer { secrets, ..issuer };
    let (code, _, stderr) = issuer.issue("thermo-1", &["--days", "51"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("choose fewer --days"), "{stderr}");
    assert!(issuer.is_empty() && issuer.credentials().is_empty());
    assert_eq!(issuer.issue("thermo-1", &["--days", "49"]).0, 0);
}
