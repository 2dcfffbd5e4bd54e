//! The functions over the tables: what they return, and what they say when something is refused.

use std::time::Duration;

use crate::support::database::Database;
use fleetgate::domain::acl::Action;
use fleetgate::domain::credential::{CertificateUse, CredentialId};
use fleetgate::domain::device::DeviceId;
use fleetgate::registry::bindings::{self, NewBinding};
use fleetgate::registry::capabilities::{self, NewCapability};
use fleetgate::registry::credentials::{self, NewCredential, Revocation, Terms};
use fleetgate::registry::devices::{self, DeviceFilter, NewDevice};
use fleetgate::registry::error::RegistryError;
use fleetgate::registry::grants;
use jiff::Timestamp;
use tokio_postgres::Client;

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn device(name: &str) -> NewDevice {
    NewDevice {
        name: name.parse().unwrap(),
        client_id: None,
        area: Some("lab".to_owned()),
        floor: Some("2".to_owned()),
        kind: "sensor".parse().unwrap(),
        enabled: true,
        meta: serde_json::json!({"room": "101"}),
        capabilities: Vec::new(),
        bindings: Vec::new(),
    }
}

fn binding(name: &str, topic: &str) -> NewBinding {
    NewBinding {
        name: name.parse().unwrap(),
        state_topic: Some(topic.parse().unwrap()),
        command_topic: None,
        merge: false,
    }
}

async fn add_capability(client: &Client, name: &str) {
    let capability = NewCapability {
        name: name.parse().unwrap(),
        description: String::new(),
        state_schema: None,
        command_schema: None,
    };
    capabilities::add(client, &capability).await.unwrap();
}

/// The text of a refusal, which must name all of these.
fn assert_refused<T>(result: Result<T, RegistryError>, parts: &[&str]) {
    match result {
        Err(RegistryError::Refused(text)) => {
            for part in parts {
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn a_device_is_added_whole_or_not_at_all() {
    let (_database, mut client) = Database::migrated().await;
    add_capability(&client, "temperature").await;
    let mut thermo = device("thermo");
    thermo.capabilities = vec!["temperature".parse().unwrap()];
    thermo.bindings = vec![binding("temperature", "lab/t"), binding("main", "lab/m")];
    devices::insert(&mut client, &thermo).await.unwrap();
    let found = devices::find(&client, "thermo").await.unwrap().unwrap();
    assert_eq!(found.capabilities, ["temperature"]);
    assert_eq!(found.bindings.len(), 2);
    assert_eq!(found.device.client_id, "thermo");
    assert_eq!(found.device.meta, thermo.meta);

    let mut unable = device("unable");
    unable.bindings = vec![binding("main", "lab/u"), binding("fly", "lab/f")];
    assert_refused(
        devices::insert(&mut client, &unable).await,
        &["\"fly\"", "fleetgate capability list"],
    );
    assert!(devices::find(&client, "unable").await.unwrap().is_none());

    assert_refused(devices::insert(&mut client, &thermo).await, &["\"thermo\"", "another name"]);
    let mut double = device("double");
    double.client_id = Some("thermo".parse().unwrap());
    assert_refused(
        devices::insert(&mut client, &double).await,
        &["\"double\"", "another device connects with this client id"],
    );
    let mut nul = device("nul");
    nul.meta = serde_json::json!({"a": "\0"});
    assert_refused(devices::insert(&mut client, &nul).await, &["\"nul\"", "U+0000"]);
}

#[tokio::test]
async fn devices_are_listed_in_pages_by_name() {
    let (_database, mut client) = Database::migrated().await;
    for name in ["b", "a", "ä", "Z", "c"] {
        devices::insert(&mut client, &device(name)).await.unwrap();
    }
    assert!(devices::set_enabled(&client, "b", false).await.unwrap());
    assert!(!devices::set_enabled(&client, "nobody", false).await.unwrap());
    client.batch_execute("UPDATE devices SET online = true WHERE name = 'c'").await.unwrap();
    let names = async |filter: DeviceFilter, limit| {
        let rows = devices::list(&client, &filter, limit).await.unwrap();
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names(DeviceFilter::default(), 2).await, ["Z", "a"]);
    let after = DeviceFilter { after: Some("a".to_owned()), ..DeviceFilter::default() };
    assert_eq!(names(after, 10).await, ["b", "c", "ä"]);
    let disabled = DeviceFilter { enabled: Some(false), ..DeviceFilter::default() };
    assert_eq!(names(disabled, 10).await, ["b"]);
    let online = DeviceFilter {
        online: Some(true),
        area: Some("lab".to_owned()),
        floor: Some("2".to_owned()),
        kind: Some("sensor".to_owned()),
        ..DeviceFilter::default()
    };
    assert_eq!(names(online, 10).await, ["c"]);
    let elsewhere = DeviceFilter { area: Some("roof".to_owned()), ..DeviceFilter::default() };
    assert!(names(elsewhere, 10).await.is_empty());

    assert!(devices::remove(&client, "b").await.unwrap());
    assert!(!devices::remove(&client, "b").await.unwrap());
}

async fn with_device(name: &str) -> (Database, Client, DeviceId) {
    let (database, mut client) = Database::migrated().await;
    let id = devices::insert(&mut client, &device(name)).await.unwrap();
    (database, client, id)
}

#[tokio::test]
async fn revoking_twice_keeps_the_first_moment() {
    let (_database, client, id) = with_device("a").await;
    let secret = NewCredential::Secret { hash: HASH.to_owned() };
    let credential = credentials::add(&client, id, &secret, &Terms::default()).await.unwrap();
    let [row] = credentials::list(&client, id).await.unwrap().try_into().unwrap();
    assert!(row.valid);
    assert_eq!(credentials::revoke(&client, credential).await.unwrap(), Some(Revocation::Revoked));
    let [first] = credentials::list(&client, id).await.unwrap().try_into().unwrap();
    assert!(!first.valid);
    assert_eq!(
        credentials::revoke(&client, credential).await.unwrap(),
        Some(Revocation::RevokedBefore)
    );
    let [second] = credentials::list(&client, id).await.unwrap().try_into().unwrap();
    assert_eq!(first.revoked_at, second.revoked_at);
    assert_eq!(credentials::revoke(&client, CredentialId(999)).await.unwrap(), None);

    let past =
        Terms { expires_at: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..Terms::default() };
    let expired = credentials::add(&client, id, &secret, &past).await.unwrap();
    assert_eq!(credentials::revoke(&client, expired).await.unwrap(), Some(Revocation::Expired));
}

#[tokio::test]
async fn a_credential_that_breaks_a_rule_is_refused_in_words() {
    let (_database, client, id) = with_device("a").await;
    let certificate = |name: &str| NewCredential::Certificate {
        common_name: name.to_owned(),
        required: CertificateUse::Required,
    };
    let none = Terms::default();
    assert_refused(
        credentials::add(&client, id, &certificate("undefined"), &none).await,
        &["certificate", "common name"],
    );
    let backwards = Terms {
        not_before: Some("2030-01-02T00:00:00Z".parse().unwrap()),
        expires_at: Some("2030-01-01T00:00:00Z".parse().unwrap()),
        ..Terms::default()
    };
    assert_refused(
        credentials::add(&client, id, &certificate("a"), &backwards).await,
        &["certificate", "later end"],
    );
    credentials::add(&client, id, &certificate("a"), &none).await.unwrap();
    let [row] = credentials::list(&client, id).await.unwrap().try_into().unwrap();
    assert_eq!((row.common_name.as_deref(), row.certificate_required), (Some("a"), Some(true)));
    // A refused row is in PostgreSQL's detail, hash included; it must not come out.
    let secret = NewCredential::Secret { hash: format!("{HASH}=not-base64") };
    let refused = credentials::add(&client, id, &secret, &none).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("AAAA"), "{refused:?}");
}

#[tokio::test]
async fn a_token_row_begins_after_all_that_a_revoked_one_accepted() {
    let (_database, mut client, id) = with_device("a").await;
    let name = "a".parse().unwrap();
    let first = credentials::ensure_token_credential(&mut client, &name).await.unwrap().unwrap();
    assert_eq!(first.issued_at, first.not_before);
    assert_eq!(first.issued_at.subsec_nanosecond(), 0);
    let again = credentials::ensure_token_credential(&mut client, &name).await.unwrap().unwrap();
    assert_eq!((again.credential, again.not_before), (first.credential, first.not_before));

    // Revoked and made anew five times within the same second: each begins a second later.
    let mut last = again;
    for _ in 0..5 {
        credentials::revoke(&client, last.credential).await.unwrap();
        let next = credentials::ensure_token_credential(&mut client, &name).await.unwrap().unwrap();
        let revoked_at = credentials::list(&client, id)
            .await
            .unwrap()
            .iter()
            .filter_map(|row| row.revoked_at)
            .max()
            .unwrap();
        assert!(next.not_before > revoked_at);
        assert!(next.not_before > last.issued_at);
        assert!(next.issued_at >= next.not_before);
        last = next;
    }
    let nobody = "nobody".parse().unwrap();
    assert_eq!(credentials::ensure_token_credential(&mut client, &nobody).await.unwrap(), None);
}

#[tokio::test]
async fn issuers_of_tokens_share_one_row_and_a_revocation_comes_after_them() {
    let (database, mut client, id) = with_device("a").await;
    let name: fleetgate::domain::name::DeviceName = "a".parse().unwrap();
    let issuers = (0..8).map(|_| async {
        let mut client = database.connect().await;
        credentials::ensure_token_credential(&mut client, &name).await.unwrap().unwrap().credential
    });
    let rows = futures_util::future::join_all(issuers).await;
    assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");

    // A revocation that waits for an issuer is dated after it, though it began before it ended.
    let issuing = client.transaction().await.unwrap();
    issuing.batch_execute("SELECT 1 FROM device_credentials FOR UPDATE").await.unwrap();
    let revoker = database.connect().await;
    let credential = rows[0];
    let revoked = tokio::spawn(async move { credentials::revoke(&revoker, credential).await });
    let watcher = database.connect().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waited =
        async { while watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {} };
    tokio::time::timeout(Duration::from_secs(10), waited).await.expect("the revocation must wait");
    let issued: Timestamp =
        watcher.query_one("SELECT clock_timestamp()", &[]).await.unwrap().get(0);
    issuing.commit().await.unwrap();
    assert_eq!(revoked.await.unwrap().unwrap(), Some(Revocation::Revoked));
    let [row] = credentials::list(&client, id).await.unwrap().try_into().unwrap();
    assert!(row.revoked_at.unwrap() > issued);
}

#[tokio::test]
async fn bindings_bring_and_take_their_capability() {
    let (_database, mut client, id) = with_device("a").await;
    add_capability(&client, "relay").await;
    let name = "a".parse().unwrap();
    assert!(bindings::add(&mut client, &name, &binding("relay", "lab/r")).await.unwrap());
    assert_refused(
        bindings::add(&mut client, &name, &binding("relay", "lab/r")).await,
        &["\"relay\"", "remove that one first"],
    );
    let nobody = "nobody".parse().unwrap();
    assert!(!bindings::add(&mut client, &nobody, &binding("main", "lab/r")).await.unwrap());
    let nothing = NewBinding {
        name: "main".parse().unwrap(),
        state_topic: None,
        command_topic: None,
        merge: false,
    };
    assert_refused(
        bindings::add(&mut client, &name, &nothing).await,
        &["\"main\"", "at least one"],
    );
    assert_refused(
        capabilities::remove(&client, "relay").await,
        &["\"relay\"", "devices still have it"],
    );
    assert_eq!(capabilities::find(&client, "relay").await.unwrap().unwrap().devices, 1);

    assert!(bindings::remove(&client, id, "relay").await.unwrap());
    assert!(!bindings::remove(&client, id, "relay").await.unwrap());
    assert!(bindings::list(&client, id).await.unwrap().is_empty());
    assert!(capabilities::remove(&client, "relay").await.unwrap());
    assert!(!capabilities::remove(&client, "relay").await.unwrap());
}

#[tokio::test]
async fn grants_are_removed_by_row_or_by_what_they_say() {
    let (_database, client, id) = with_device("a").await;
    let filter = "lab/+/#".parse().unwrap();
    let row = grants::add(&client, id, Action::Subscribe, &filter).await.unwrap();
    assert_refused(
        grants::add(&client, id, Action::Subscribe, &filter).await,
        &["subscribe", "\"lab/+/#\"", "already"],
    );
    grants::add(&client, id, Action::Publish, &filter).await.unwrap();
    let actions: Vec<_> =
        grants::list(&client, id).await.unwrap().into_iter().map(|g| g.action).collect();
    assert_eq!(actions, ["publish", "subscribe"]);
    assert!(grants::remove(&client, row).await.unwrap());
    assert!(!grants::remove(&client, row).await.unwrap());
    assert!(!grants::remove_of(&client, id, Action::Subscribe, &filter).await.unwrap());
    assert!(grants::remove_of(&client, id, Action::Publish, &filter).await.unwrap());
}

#[tokio::test]
async fn a_database_without_the_schema_says_to_migrate() {
    let client = Database::empty().await.connect().await;
    let missing = devices::find(&client, "a").await.unwrap_err();
    assert!(matches!(missing, RegistryError::SchemaMissing), "{missing:?}");
}
