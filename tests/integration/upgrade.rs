//! A database of any release comes up to the present one with what is in it.
//!
//! A new migration is tested by this without a word. A new release adds itself to [`RELEASES`], with rows in
//! the tables that it brought.

use std::collections::BTreeMap;

use fleetgate::registry::migrate::{grant_to, migrate, schema_version};
use refinery::Target;
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::app::{TestApp, action_body, config, login_body};
use crate::support::commands::{fleetgate, run};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::postgres::{SERVING_ROLE, TestDatabase, as_serving, connect, empty_database};

mod migrations {
    refinery::embed_migrations!("sql");
}

/// A release whose databases are in use.
struct Release {
    name: &'static str,
    /// Of each migration, by version from 1. None may change any more.
    checksums: &'static [u64],
    /// What such a database holds.
    rows: &'static str,
}

const RELEASES: [Release; 1] = [Release {
    name: "0.1.0",
    checksums: &[
        16_353_757_677_660_087_244,
        1_840_099_221_792_734_956,
        1_262_010_991_721_809_689,
        10_571_474_054_125_795_217,
        3_588_492_949_188_360_754,
        9_221_548_769_469_254_602,
        15_315_703_663_321_664_006,
    ],
    rows: include_str!("upgrade/0.1.0.sql"),
}];

/// The password of `lamp` in every release's rows.
const SECRET: &str = "lr0nwEFz7RETNt7nm9_mnt6-U0u0n0A_AWWwxoxy7-s";

/// How many rows each table holds.
async fn rows(client: &Client) -> BTreeMap<String, i64> {
    let tables = "SELECT relname::text FROM pg_class
                  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')";
    let mut counts = BTreeMap::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let count = format!("SELECT count(*) FROM {table}");
        counts.insert(table, client.query_one(&count, &[]).await.unwrap().get(0));
    }
    counts
}

/// A database as this release leaves it.
async fn database_of(release: &Release) -> (TestDatabase, Client) {
    let database = empty_database().await;
    let mut client = connect(&database.url).await;
    let newest = release.checksums.len().try_into().unwrap();
    let mut runner = migrations::migrations::runner().set_target(Target::Version(newest));
    runner.set_migration_table_name("fleetgate_schema_history");
    runner.run_async(&mut client).await.unwrap();
    client.batch_execute(release.rows).await.unwrap();
    (database, client)
}

/// Functions that look for tables in another schema, depending on who calls them.
async fn functions_of_whoever_calls(client: &Client) -> i64 {
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
                       AND proname LIKE 'fleetgate%' AND array_to_string(proconfig, ' ') LIKE '%$user%'";
    client.query_one(functions, &[]).await.unwrap().get(0)
}

/// As the owner's role finds a schema of its own name first, and no other role does.
#[tokio::test]
async fn a_schema_of_the_owners_name_is_one_for_everybody() {
    let database = empty_database().await;
    let mut client = connect(&database.url).await;
    client.batch_execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER").await.unwrap();
    migrate(&mut client).await.unwrap();
    grant_to(&mut client, SERVING_ROLE, None).await.unwrap();
    assert_eq!(functions_of_whoever_calls(&client).await, 0);
    let schema: String = client.query_one("SELECT current_schema()", &[]).await.unwrap().get(0);
    assert_ne!(schema, "public");
    let serving = connect(&as_serving(&database.url)).await;
    serving.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
    serving
        .batch_execute("INSERT INTO devices (name, kind) VALUES ('a', 'x'); UPDATE devices SET enabled = false")
        .await
        .unwrap();
}

#[tokio::test]
async fn every_release_comes_up_to_date_with_what_is_in_it() {
    for release in &RELEASES {
        let name = release.name;
        let (database, mut client) = database_of(release).await;
        let before = rows(&client).await;
        let empty: Vec<_> = before.iter().filter(|(_, count)| **count == 0).collect();
        assert!(empty.is_empty(), "{name} has no rows in {empty:?}");

        migrate(&mut client).await.unwrap();
        grant_to(&mut client, SERVING_ROLE, None).await.unwrap();
        schema_version(&client).await.unwrap().require_current().unwrap();
        assert_eq!(functions_of_whoever_calls(&client).await, 0, "{name}");

        let show = |device: &str| {
            let mut command = fleetgate(&["device", "show", device, "--json"]);
            command.env("FLEETGATE_DATABASE_URL", as_serving(&database.url));
            let (code, stdout, stderr) = run(command);
            assert_eq!(code, 0, "{name}: {stderr}");
            serde_json::from_str::<Value>(&stdout).unwrap()
        };
        let lamp = show("lamp").to_string();
        for part in [
            "21.5",
            "\"dim\":40",
            "is not of type object",
            "lab/2/lamp/relay/set",
            "\"online\":true",
        ] {
            assert!(lamp.contains(part), "{name}: {part} in {lamp}");
        }

        let emqx = FakeEmqx::start().await;
        let mut settings = config(&as_serving(&database.url));
        settings.emqx.api = Some(emqx.settings());
        let app = TestApp::start(settings).await;
        app.ready().await;
        let login = login_body("lamp-1", "lamp", SECRET, "").to_string();
        assert_eq!(app.post("/emqx/authn", &login).await.result(), "allow", "{name}");
        let decide = async |client_id: &str, device: &str, action: &str, topic: &str| {
            let mut body = action_body(device, action, topic);
            body["clientid"] = client_id.into();
            app.post("/emqx/authz", &body.to_string()).await.result()
        };
        assert_eq!(decide("lamp-1", "lamp", "publish", "lab/2/lamp/relay/state").await, "allow");
        assert_eq!(decide("lamp-1", "lamp", "publish", "lab/2/lamp/relay/set").await, "deny");
        assert_eq!(decide("board", "board", "subscribe", "lab/#").await, "allow", "{name}");
        // The kick-out that waited.
        emqx.deleted("attic").await;
    }
}

#[test]
fn what_was_released_stays_as_it_was() {
    for release in &RELEASES {
        let mut checksums = vec![0; release.checksums.len()];
        for migration in migrations::migrations::runner().get_migrations() {
            let place = usize::try_from(migration.version()).unwrap() - 1;
            if let Some(checksum) = checksums.get_mut(place) {
                *checksum = migration.checksum();
            }
        }
        let name = release.name;
        assert_eq!(checksums, release.checksums, "a migration of {name} changed: add another one");
    }
}

/// The migrations were made anew once, before the first release, and the last of them once more.
#[tokio::test]
async fn a_database_of_before_the_first_release_is_told_what_to_do() {
    let (old, other_work) = (empty_database().await, empty_database().await);
    let client = connect(&old.url).await;
    client.batch_execute(include_str!("upgrade/before_first_release.sql")).await.unwrap();
    let kick_outs_alone = "UPDATE fleetgate_schema_history
        SET name = 'kick_outs', checksum = '12164906057139874778' WHERE version = 7";
    let mut client = connect(&other_work.url).await;
    migrate(&mut client).await.unwrap();
    schema_version(&client).await.unwrap().require_current().unwrap();
    client.batch_execute(kick_outs_alone).await.unwrap();
    let says = |text: &str| {
        let help = "make an empty database, run `fleetgate migrate` there, and copy devices and their rights over";
        text.contains("before the first release") && text.contains(help)
    };
    for database in [old, other_work] {
        for arguments in [&["migrate"][..], &["doctor"]] {
            let mut command = fleetgate(arguments);
            command.env("FLEETGATE_DATABASE_URL", &database.url);
            let (code, stdout, stderr) = run(command);
            assert_eq!(code, 1, "{arguments:?}: {stdout}{stderr}");
            assert!(says(&stdout) || says(&stderr), "{arguments:?}: {stdout}{stderr}");
        }
        let error = TestApp::start(config(&database.url)).await.ended().await.unwrap_err();
        assert!(says(&error.to_string()), "{error}");
    }
    let operations = include_str!("../../docs/OPERATIONS.md");
    assert!(operations.contains("## From before the first release"));
}
