//! What is done to the fleet: what the operations return, and which rule says no.

use std::time::Duration;

use crate::support::app::eventually;
use crate::support::database::Database;
use crate::support::postgres::{as_owner, connect, fresh_database};
use fleetgate::domain::acl::Action;
use fleetgate::domain::credential::CredentialId;
use fleetgate::domain::name::{BindingName, CapabilityName, DeviceName};
use fleetgate::domain::schema::UsableSchema;
use fleetgate::domain::topic::TopicName;
use fleetgate::fleet::bindings::{self, BindingChange, NewBinding};
use fleetgate::fleet::capabilities::{self, NewCapability};
use fleetgate::fleet::credentials::{self, NewCredential, Revocation, Terms};
use fleetgate::fleet::devices::{self, DeviceChange, DeviceFilter, NewDevice};
use fleetgate::fleet::error::{ErrorKind, Field, Rule, Thing};
use fleetgate::fleet::{Actor, Added, FleetError, act, grants, tokens};
use fleetgate::registry::error::RegistryError;
use jiff::Timestamp;
use tokio_postgres::Client;

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

fn capability(text: &str) -> CapabilityName {
    text.parse().unwrap()
}

fn device(device: &str) -> NewDevice {
    NewDevice {
        area: Some("lab".parse().unwrap()),
        floor: Some("2".parse().unwrap()),
        meta: r#"{"room": "101"}"#.parse().unwrap(),
        ..NewDevice::new(name(device), "sensor".parse().unwrap())
    }
}

fn topic(text: &str) -> Option<TopicName> {
    Some(text.parse().unwrap())
}

fn binding(name: &str, state_topic: &str) -> NewBinding {
    NewBinding::exact(name.parse().unwrap(), topic(state_topic), None)
}

async fn add_capability(client: &Client, name: &str) {
    capabilities::add(client, &NewCapability::new(capability(name))).await.unwrap();
}

/// What an operation was refused for: the thing as its label, and the rule.
#[track_caller]
fn refused<T>(result: Result<T, FleetError>) -> (String, Rule) {
    match result {
        Err(FleetError::Rule { thing, rule }) => (thing.to_string(), rule),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[track_caller]
fn not_found<T>(result: Result<T, FleetError>) -> Thing {
    match result {
        Err(error @ FleetError::NotFound(_)) => {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let FleetError::NotFound(thing) = error else { unreachable!() };
            thing
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("found"),
    }
}

#[tokio::test]
async fn a_device_is_added_whole_or_not_at_all() {
    let (_database, mut client) = Database::migrated().await;
    add_capability(&client, "temperature").await;
    let mut thermo = device("thermo");
    thermo.capabilities = vec![capability("temperature")];
    thermo.bindings = vec![binding("temperature", "lab/t"), binding("main", "lab/m")];
    thermo.credential = Some((NewCredential::hashed("secret", HASH.to_owned()), Terms::default()));
    let added = devices::add(&mut client, &thermo).await.unwrap();
    assert_eq!(added.capabilities, ["temperature"]);
    assert_eq!((added.bindings.len(), added.credentials.len()), (2, 1));
    assert_eq!(added.device.client_id, "thermo");
    assert_eq!(&added.device.meta.value(), thermo.meta.as_value());
    let shown = devices::show(&client, &thermo.name).await.unwrap();
    assert_eq!(shown.bindings, added.bindings);

    let mut unable = device("unable");
    unable.bindings = vec![binding("main", "lab/u"), binding("fly", "lab/f")];
    let missing = not_found(devices::add(&mut client, &unable).await);
    assert_eq!(missing, Thing::Capability(capability("fly")));
    let missing = not_found(devices::show(&client, &unable.name).await);
    assert_eq!(missing, Thing::Device(name("unable")));

    let again = devices::add(&mut client, &thermo).await.unwrap_err();
    assert_eq!((again.kind(), again.field()), (ErrorKind::Conflict, Some(Field::Name)));
    assert_eq!(refused(Err::<(), _>(again)), ("device \"thermo\"".to_owned(), Rule::NameTaken));
    let mut double = device("double");
    double.client_id = Some("thermo".parse().unwrap());
    let (_, rule) = refused(devices::add(&mut client, &double).await);
    assert_eq!(rule, Rule::ClientIdTaken);
    let mut service = device("th");
    service.kind = "service".parse().unwrap();
    devices::add(&mut client, &device("th:1")).await.unwrap();
    let (_, rule) = refused(devices::add(&mut client, &service).await);
    assert!(matches!(&rule, Rule::IdentityTaken(words) if words.contains("th:1")), "{rule:?}");
}

/// Several operations are one transaction, and an error of whoever combines them undoes them.
#[tokio::test]
async fn operations_are_done_together_or_not_at_all() {
    #[derive(Debug)]
    enum Failure {
        Fleet,
        Own,
    }
    impl From<FleetError> for Failure {
        fn from(_: FleetError) -> Self {
            Self::Fleet
        }
    }
    let (_database, mut client) = Database::migrated().await;
    let broken: Result<(), _> = act(&mut client, &Actor::System, async |transaction| {
        devices::add(transaction, &device("a")).await?;
        Err(Failure::Own)
    })
    .await;
    assert!(matches!(broken, Err(Failure::Own)));
    let broken = act(&mut client, &Actor::System, async |transaction| {
        devices::add(transaction, &device("a")).await?;
        devices::add(transaction, &device("a")).await?;
        Ok::<_, Failure>(())
    });
    assert!(matches!(broken.await, Err(Failure::Fleet)));
    not_found(devices::show(&client, &name("a")).await);
}

/// Who acts is noted as long as the transaction lasts: the session may be handed to somebody else after it.
#[tokio::test]
async fn who_acts_is_noted_for_one_transaction() {
    let (_database, mut client) = Database::migrated().await;
    let noted = "SELECT current_setting('fleetgate.actor', true)";
    let actor = Actor::Token { id: 7, name: "grafana".to_owned() };
    let within = act(&mut client, &actor, async |transaction| {
        devices::add(transaction, &device("a")).await?;
        Ok::<String, FleetError>(transaction.query_one(noted, &[]).await.unwrap().get(0))
    });
    assert_eq!(within.await.unwrap(), "token:7:grafana");
    let after: Option<String> = client.query_one(noted, &[]).await.unwrap().get(0);
    assert_eq!(after.unwrap_or_default(), "");
}

#[tokio::test]
async fn a_device_is_changed_field_by_field_and_keeps_its_topics() {
    let (_database, mut client) = Database::migrated().await;
    let mut thermo = device("thermo");
    thermo.client_id = Some("c-1".parse().unwrap());
    thermo.bindings = vec![NewBinding::conventional("main".parse().unwrap())];
    devices::add(&mut client, &thermo).await.unwrap();
    add_capability(&client, "odd").await;
    bindings::add(&mut client, &thermo.name, &binding("odd", "x/y")).await.unwrap();

    let nothing = DeviceChange::default();
    let same = devices::set(&mut client, &thermo.name, &nothing).await.unwrap();
    assert!(same.left_behind.is_empty());
    assert_eq!(
        (same.details.device.area.as_deref(), same.details.device.client_id.as_str()),
        (Some("lab"), "c-1")
    );

    let change = DeviceChange {
        name: Some(name("thermo-2")),
        area: Some(Some("roof".parse().unwrap())),
        floor: Some(None),
        client_id: Some(None),
        kind: Some("probe".parse().unwrap()),
        enabled: Some(false),
        meta: Some(r#"{"n": 1.50}"#.parse().unwrap()),
        ..DeviceChange::default()
    };
    let changed = devices::set(&mut client, &thermo.name, &change).await.unwrap();
    let device = &changed.details.device;
    assert_eq!((device.name.as_str(), device.client_id.as_str()), ("thermo-2", "thermo-2"));
    assert_eq!((device.area.as_deref(), device.floor.as_deref()), (Some("roof"), None));
    assert_eq!((device.kind.as_str(), device.enabled), ("probe", false));
    assert_eq!(device.meta.to_string(), r#"{"n":1.50}"#);
    assert_eq!(changed.left_behind, ["main"], "the topics of \"odd\" were never conventional");
    assert_eq!(changed.details.bindings[0].state_topic.as_deref(), Some("lab/2/thermo/main/state"));

    not_found(devices::set(&mut client, &thermo.name, &nothing).await);
    devices::add(&mut client, &self::device("other")).await.unwrap();
    let taken = DeviceChange { name: Some(name("other")), ..DeviceChange::default() };
    let (_, rule) = refused(devices::set(&mut client, &name("thermo-2"), &taken).await);
    assert_eq!(rule, Rule::NameTaken);
}

#[tokio::test]
async fn devices_are_listed_in_pages_by_name() {
    let (_database, mut client) = Database::migrated().await;
    for name in ["b", "a", "ä", "Z", "c"] {
        devices::add(&mut client, &device(name)).await.unwrap();
    }
    let disable = DeviceChange { enabled: Some(false), ..DeviceChange::default() };
    devices::set(&mut client, &name("b"), &disable).await.unwrap();
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

    devices::remove(&client, &name("b")).await.unwrap();
    not_found(devices::remove(&client, &name("b")).await);
}

async fn with_device(name: &str) -> (Database, Client, DeviceName) {
    let (database, mut client) = Database::migrated().await;
    let new = device(name);
    devices::add(&mut client, &new).await.unwrap();
    (database, client, new.name)
}

#[tokio::test]
async fn revoking_twice_keeps_the_first_timestamp() {
    let (_database, client, a) = with_device("a").await;
    let secret = NewCredential::hashed("secret", HASH.to_owned());
    let credential = credentials::add(&client, &a, &secret, &Terms::default()).await.unwrap();
    let [row] = credentials::list(&client, &a).await.unwrap().try_into().unwrap();
    assert!(row.valid);
    assert_eq!(credentials::revoke(&client, credential).await.unwrap(), Revocation::Revoked);
    let [first] = credentials::list(&client, &a).await.unwrap().try_into().unwrap();
    assert!(!first.valid);
    assert_eq!(credentials::revoke(&client, credential).await.unwrap(), Revocation::RevokedBefore);
    let [second] = credentials::list(&client, &a).await.unwrap().try_into().unwrap();
    assert_eq!(first.revoked_at, second.revoked_at);
    let missing = not_found(credentials::revoke(&client, CredentialId(999)).await);
    assert_eq!(missing, Thing::Credential(CredentialId(999)));

    let past =
        Terms { expires_at: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..Terms::default() };
    let expired = credentials::add(&client, &a, &secret, &past).await.unwrap();
    assert_eq!(credentials::revoke(&client, expired).await.unwrap(), Revocation::Expired);
}

#[tokio::test]
async fn a_credential_that_breaks_a_rule_is_refused_by_it() {
    let (_database, client, a) = with_device("a").await;
    let certificate = |name: &str| NewCredential::certificate(name.to_owned(), true);
    let none = Terms::default();
    let undefined = credentials::add(&client, &a, &certificate("undefined"), &none).await;
    assert_eq!(refused(undefined), ("the new certificate".to_owned(), Rule::NotACommonName));
    let backwards = Terms {
        not_before: Some("2030-01-02T00:00:00Z".parse().unwrap()),
        expires_at: Some("2030-01-01T00:00:00Z".parse().unwrap()),
        ..Terms::default()
    };
    let (_, rule) = refused(credentials::add(&client, &a, &certificate("a"), &backwards).await);
    assert_eq!(rule, Rule::EndsBeforeItBegins);
    credentials::add(&client, &a, &certificate("a"), &none).await.unwrap();
    let [row] = credentials::list(&client, &a).await.unwrap().try_into().unwrap();
    assert_eq!((row.common_name.as_deref(), row.certificate_required), (Some("a"), Some(true)));
    // A refused row is in PostgreSQL's detail, hash included; it must not come out.
    let secret = NewCredential::hashed("secret", format!("{HASH}=not-base64"));
    let refused = credentials::add(&client, &a, &secret, &none).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("AAAA"), "{refused:?}");
}

#[tokio::test]
async fn a_token_row_begins_after_all_that_a_revoked_one_accepted() {
    let (_database, mut client, a) = with_device("a").await;
    let first = tokens::accept(&mut client, &a).await.unwrap();
    assert_eq!(first.issued_at, first.not_before);
    assert_eq!(first.issued_at.subsec_nanosecond(), 0);
    let again = tokens::accept(&mut client, &a).await.unwrap();
    assert_eq!((again.credential, again.not_before), (first.credential, first.not_before));

    // Revoked and made anew five times within the same second: each begins a second later.
    let mut last = again;
    for _ in 0..5 {
        credentials::revoke(&client, last.credential).await.unwrap();
        let next = tokens::accept(&mut client, &a).await.unwrap();
        let revoked_at = credentials::list(&client, &a)
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
    not_found(tokens::accept(&mut client, &name("nobody")).await);
}

#[tokio::test]
async fn issuers_of_tokens_share_one_row_and_a_revocation_comes_after_them() {
    let (database, mut client, a) = with_device("a").await;
    let issuers = (0..8).map(|_| async {
        let mut client = database.connect().await;
        tokens::accept(&mut client, &a).await.unwrap().credential
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
    assert_eq!(revoked.await.unwrap().unwrap(), Revocation::Revoked);
    let [row] = credentials::list(&client, &a).await.unwrap().try_into().unwrap();
    assert!(row.revoked_at.unwrap() > issued);
}

#[tokio::test]
async fn bindings_bring_and_take_their_capability() {
    let (_database, mut client, a) = with_device("a").await;
    add_capability(&client, "relay").await;
    let relay: BindingName = "relay".parse().unwrap();
    let added = bindings::add(&mut client, &a, &binding("relay", "lab/r")).await.unwrap();
    assert!(matches!(added, Added::New(_)));
    let again = bindings::add(&mut client, &a, &binding("relay", "lab/r")).await.unwrap();
    assert_eq!(again, Added::Same(added.into_inner()));
    let other = bindings::add(&mut client, &a, &binding("relay", "lab/other")).await;
    assert_eq!(refused(other), ("binding \"relay\"".to_owned(), Rule::BindingDiffers));
    let nobody = bindings::add(&mut client, &name("nobody"), &binding("main", "lab/r")).await;
    assert_eq!(not_found(nobody), Thing::Device(name("nobody")));
    let nothing = NewBinding::exact("main".parse().unwrap(), None, None);
    assert_eq!(refused(bindings::add(&mut client, &a, &nothing).await).1, Rule::NoTopic);
    let in_use = capabilities::remove(&client, &capability("relay")).await;
    assert_eq!(
        refused(in_use),
        ("capability \"relay\"".to_owned(), Rule::CapabilityInUse(Some(1)))
    );
    assert_eq!(capabilities::show(&client, &capability("relay")).await.unwrap().devices, 1);

    bindings::remove(&client, &a, &relay).await.unwrap();
    not_found(bindings::remove(&client, &a, &relay).await);
    assert!(bindings::list(&client, &a).await.unwrap().is_empty());
    capabilities::remove(&client, &capability("relay")).await.unwrap();
    not_found(capabilities::remove(&client, &capability("relay")).await);
}

#[tokio::test]
async fn a_binding_follows_the_convention_or_what_is_said() {
    let (_database, mut client, a) = with_device("a").await;
    let temperature = NewCapability {
        state_schema: Some(UsableSchema::new(serde_json::json!({"type": "number"})).unwrap()),
        ..NewCapability::new(capability("temperature"))
    };
    capabilities::add(&client, &temperature).await.unwrap();
    let temperature: BindingName = "temperature".parse().unwrap();
    let conventional = NewBinding::conventional(temperature.clone());
    let added = bindings::add(&mut client, &a, &conventional).await.unwrap().into_inner();
    assert_eq!(added.state_topic.as_deref(), Some("lab/2/a/temperature/state"));
    assert_eq!(added.command_topic, None, "it has no schema of commands");

    let change = |state_topic, command_topic, merge| BindingChange {
        state_topic,
        command_topic,
        merge,
        ..BindingChange::default()
    };
    let moved = change(Some(topic("x/state")), Some(topic("x/set")), Some(true));
    let moved = bindings::set(&mut client, &a, &temperature, &moved).await.unwrap();
    let topics = (moved.state_topic.as_deref(), moved.command_topic.as_deref());
    assert_eq!((topics, moved.merge), ((Some("x/state"), Some("x/set")), true));
    let silent = change(Some(None), None, None);
    let (_, rule) = refused(bindings::set(&mut client, &a, &temperature, &silent).await);
    assert_eq!(rule, Rule::NothingToMerge);
    let silent = change(Some(None), Some(None), Some(false));
    let (_, rule) = refused(bindings::set(&mut client, &a, &temperature, &silent).await);
    assert_eq!(rule, Rule::NoTopic);
    let back = BindingChange { conventional: true, ..BindingChange::default() };
    let back = bindings::set(&mut client, &a, &temperature, &back).await.unwrap();
    let topics = (back.state_topic.as_deref(), back.command_topic.as_deref());
    assert_eq!((topics, back.merge), ((Some("lab/2/a/temperature/state"), None), true));
    let main: BindingName = "main".parse().unwrap();
    not_found(bindings::set(&mut client, &a, &main, &change(None, None, None)).await);

    // Without a place there is no convention; with an odd one the topic is no topic.
    let mut homeless = device("homeless");
    (homeless.floor, homeless.bindings) = (None, vec![NewBinding::conventional(main.clone())]);
    let (thing, rule) = refused(devices::add(&mut client, &homeless).await);
    assert_eq!((thing.as_str(), rule), ("binding \"main\"", Rule::NoConventionalTopics));
    let mut odd = device("odd");
    (odd.area, odd.bindings) =
        (Some("eq lab".parse().unwrap()), vec![NewBinding::conventional(main)]);
    let (_, rule) = refused(devices::add(&mut client, &odd).await);
    assert!(matches!(rule, Rule::ConventionalTopic { .. }), "{rule:?}");
}

#[tokio::test]
async fn grants_are_removed_by_row_or_by_what_they_say() {
    let (database, client, a) = with_device("a").await;
    let filter = "lab/+/#".parse().unwrap();
    let Added::New(row) = grants::add(&client, &a, Action::Subscribe, &filter).await.unwrap()
    else {
        panic!("it was not there")
    };
    let again = grants::add(&client, &a, Action::Subscribe, &filter).await.unwrap();
    assert_eq!(again, Added::Same(row));
    grants::add(&client, &a, Action::Publish, &filter).await.unwrap();
    let actions: Vec<_> =
        grants::list(&client, &a).await.unwrap().into_iter().map(|g| g.action).collect();
    assert_eq!(actions, ["publish", "subscribe"]);
    grants::remove(&client, row).await.unwrap();
    assert_eq!(not_found(grants::remove(&client, row).await), Thing::GrantId(row));
    not_found(grants::remove_of(&client, &a, Action::Subscribe, &filter).await);
    grants::remove_of(&client, &a, Action::Publish, &filter).await.unwrap();

    // Many at once: one is new, and all tell the same row.
    let adding = (0..8).map(|_| async {
        let client = database.connect().await;
        grants::add(&client, &a, Action::Publish, &filter).await.unwrap()
    });
    let added = futures_util::future::join_all(adding).await;
    assert_eq!(added.iter().filter(|added| matches!(added, Added::New(_))).count(), 1);
    let rows: Vec<i64> = added.into_iter().map(Added::into_inner).collect();
    assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
}

#[tokio::test]
async fn a_database_without_the_schema_says_to_migrate() {
    let client = Database::empty().await.connect().await;
    let missing = devices::show(&client, &name("a")).await.unwrap_err();
    assert!(matches!(missing, FleetError::Registry(RegistryError::SchemaMissing)), "{missing:?}");
}

/// Somebody has written JSON in `psql` that Fleetgate cannot read: such a device can be disabled, and such a capability
/// removed, all the same.
#[tokio::test]
async fn what_cannot_be_read_can_be_disabled_and_removed() {
    let database = fresh_database().await;
    let client = connect(&as_owner(&database.url)).await;
    let deep = format!("{}1{}", "{\"a\": ".repeat(200), "}".repeat(200));
    let statements = "INSERT INTO devices (name, kind) VALUES ('t', 'sensor');
         INSERT INTO capabilities (name) VALUES ('heat')";
    client.batch_execute(statements).await.unwrap();
    client.execute("UPDATE devices SET meta = $1::text::jsonb", &[&deep]).await.unwrap();
    client
        .execute("UPDATE capabilities SET state_schema = $1::text::jsonb", &[&deep])
        .await
        .unwrap();
    let (device, heat) = (name("t"), "heat".parse().unwrap());
    assert!(devices::show(&client, &device).await.is_err());
    devices::set_enabled(&client, &device, false).await.unwrap();
    let enabled = client.query_one("SELECT enabled FROM devices", &[]).await.unwrap();
    assert!(!enabled.get::<_, bool>(0));
    let unknown = devices::set_enabled(&client, &name("nobody"), true).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(capabilities::show(&client, &heat).await.is_err());
    capabilities::remove(&client, &heat).await.unwrap();
    let gone = capabilities::remove(&client, &heat).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// A device that is removed while something is added to it: that there is no such device is what is said.
#[tokio::test]
async fn a_device_that_is_removed_meanwhile_is_not_found() {
    let database = fresh_database().await;
    let client = connect(&as_owner(&database.url)).await;
    let mut other = connect(&as_owner(&database.url)).await;
    client.batch_execute("INSERT INTO devices (name, kind) VALUES ('t', 'sensor')").await.unwrap();
    let removing = other.transaction().await.unwrap();
    removing.batch_execute("DELETE FROM devices").await.unwrap();
    let adding = tokio::spawn(async move {
        grants::add(&client, &name("t"), Action::Publish, &"a/#".parse().unwrap()).await
    });
    let watcher = connect(&as_owner(&database.url)).await;
    eventually("it waits for the removal", || async {
        let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
        watcher.query_one(waiting, &[]).await.unwrap().get(0)
    })
    .await;
    removing.commit().await.unwrap();
    let gone = adding.await.unwrap().unwrap_err();
    assert!(matches!(gone, FleetError::NotFound(Thing::Device(_))), "{gone:?}");
}
